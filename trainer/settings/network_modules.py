"""Network modules of sd-scripts with their arguments: each is a LoRA type with its settings."""

from collections.abc import Mapping
from typing import Any

from trainer.adapters import ADAPTERS
from trainer.adapters.arguments import LYCORIS, MEANT, meant
from trainer.settings.loaded import KNOWN, Changed, Ignored, Loaded, number
from trainer.settings.unread import why_ignored

Raw = dict[str, Any]


def network(raw: Raw, report: Loaded) -> None:
    """Network modules are LoRA types, their arguments settings."""
    if raw.get("LoRA_type") == "LoCon":
        report.change(raw, "LoRA_type", "LyCORIS/LoCon", "it is called LyCORIS/LoCon now")
    if "network_module" not in raw and "network_args" not in raw:
        return
    module, arguments = raw.pop("network_module", None), _pairs(raw.pop("network_args", None))
    if module is not None and "LoRA_type" in raw:
        report.ignored.append(Ignored("network_module", "LoRA type, which the file also holds, says it all"))
        if arguments:
            report.ignored.append(Ignored("network_args", "every network option has a field of its own"))
        return
    before = module
    if module is None and "algo" in arguments:
        module, before = LYCORIS, f"algo={arguments['algo']}"
        raw.pop("LoRA_type", None)
    if module is None:
        _arguments_alone(arguments, raw, report)
        return
    kind, named = meant(str(module), arguments, raw.get("network_dim"), raw.get("network_alpha"))
    raw["LoRA_type"] = kind or str(module)
    if kind:
        report.changed.append(Changed("LoRA_type", before, kind, "the type that this network module is"))
    said = {MEANT.get(argument, argument) for argument in arguments}
    for key, value in named.items():
        if key in KNOWN:
            raw[key] = value if key in said else raw.get(key, value)
        else:
            report.ignored.append(Ignored(f"network_args {key}", why_ignored(key, value)))


def _arguments_alone(arguments: Mapping[str, str], raw: Raw, report: Loaded) -> None:
    """Arguments without a module are about the type that is chosen."""
    kind = str(raw.get("LoRA_type", KNOWN["LoRA_type"].default))
    if kind == "Standard" and arguments.get("conv_dim"):
        report.change(raw, "LoRA_type", "Kohya LoCon", "a Standard LoRA with convolutions is called so")
        kind = "Kohya LoCon"
    for argument, value in arguments.items():
        key = MEANT.get(argument, argument)
        if key in KNOWN and kind in ADAPTERS and key in ADAPTERS[kind].options:
            raw[key] = value
            report.changed.append(Changed(key, f"{argument}={value}", value, "moved here from network_args"))
        else:
            why = f"it means nothing to the LoRA type {kind}" if key in KNOWN else why_ignored(key, value)
            report.ignored.append(Ignored(f"network_args {argument}", why))


def _pairs(arguments: Any) -> dict[str, str]:
    """Network arguments by name, from a list of name=value or one line of them."""
    words = arguments.split() if isinstance(arguments, str) else arguments if isinstance(arguments, list) else ()
    return dict(str(word).strip("\"' ").partition("=")[::2] for word in words)


def unused_rank(raw: Raw, report: Loaded) -> None:
    """LoRA-FA's convolution rank."""
    if raw.get("LoRA_type") == "LoRA-FA" and number(raw.get("conv_dim")):
        why = "the Kohya GUI shows it for LoRA-FA and trains no convolutions; here it would"
        report.change(raw, "conv_dim", 0, why)


def unused_alpha(raw: Raw, report: Loaded) -> None:
    """DyLoRA's convolution alpha."""
    rank, alpha = number(raw.get("conv_dim")), raw.get("network_alpha", KNOWN["network_alpha"].default)
    if raw.get("LoRA_type") != "Kohya DyLoRA" or not rank or rank != number(raw.get("network_dim")):
        return
    if number(raw.get("conv_alpha", KNOWN["conv_alpha"].default)) != number(alpha):
        report.change(raw, "conv_alpha", alpha, "Kohya's DyLoRA has Network Alpha for convolutions too")
