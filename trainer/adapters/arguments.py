"""Network arguments: what Kohya's scripts call a LoRA type and its options, as `name=value`, in both directions.

`network_args` writes them as those scripts would be given them, into the metadata of a file; `meant` reads them from a
settings file.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.adapters import ADAPTERS, CONV, SIZE
from trainer.adapters.lycoris.presets import algorithm

if TYPE_CHECKING:
    from trainer.settings import Settings

LYCORIS = "lycoris.kohya"
CALLED = {"LyCORIS_preset": "preset", "constrain": "constraint"}
"""Settings that have another name as an argument."""
MEANT = {
    **{argument: name for name, argument in CALLED.items()}, "block_size": "unit", "dropout": "network_dropout",
    "weight_decompose": "dora_wd", "use_conv_cp": "use_tucker",
}  # fmt: skip
"""Arguments that have another name as a setting."""

BESIDE = SIZE | {"network_dropout", "scale_weight_norms"}
"""Settings that Kohya's scripts take beside the network arguments."""
ALWAYS = {"LyCORIS_preset", "unit", "train_on_input"}
"""Those whose default is another one there."""


def network_args(s: "Settings") -> dict[str, Any]:
    """Arguments of the network beyond rank and alpha: all that mean something to the type and are not off."""
    from trainer.declare import by_name

    row, known = ADAPTERS[s.LoRA_type], by_name(type(s))
    of_lycoris = row.network_module == LYCORIS
    given: dict[str, Any] = {"algo": row.algo} if of_lycoris else {}
    if s.conv_dim or not _has_no_convolutions(s.LoRA_type):
        given |= {name: str(getattr(s, name)) for name in ("conv_dim", "conv_alpha") if name in row.options}
    for name in known:
        value = getattr(s, name)
        if name not in row.options - BESIDE - CONV or (name not in ALWAYS and value in (known[name].default, "")):
            continue
        called = "block_size" if of_lycoris and name == "unit" else CALLED.get(name, name)
        given[called] = "".join(value.split()) if name.endswith(BLOCKWISE) else str(value)
    if given and s.network_dropout and "network_dropout" in row.options:
        given["dropout"] = s.network_dropout
    return given


BLOCKWISE = ("_lr_weight", "block_dims", "block_alphas")


def _has_no_convolutions(kind: str) -> bool:
    """Whether a convolution rank of 0 means no convolutions at all: not so for LoCon, which adapts those of 1x1."""
    row = ADAPTERS[kind]
    return row.network_module != LYCORIS and kind != "Kohya LoCon"


def meant(module: str, arguments: Mapping[str, str], rank: Any, alpha: Any) -> tuple[str | None, dict[str, Any]]:
    """(LoRA type, settings by name) of a network module with its arguments; the type is None when it is not offered.

    `rank` and `alpha` are what stands beside them, None if nothing does: what is not said has the default that the
    scripts give it, which may be another than that of the page.
    """
    kind = _type_of(module, arguments)
    named: dict[str, Any] = {MEANT.get(key, key): value for key, value in arguments.items() if key != "algo"}
    if rank is None:
        named["network_dim"] = rank = 4
    if kind is not None and "conv_dim" in ADAPTERS[kind].options:
        of_lycoris = module == LYCORIS
        named.setdefault("conv_dim", rank if of_lycoris else 0)
        if of_lycoris and alpha is not None:
            named.setdefault("conv_alpha", alpha)
    if kind == "LyCORIS/DyLoRA":
        named.setdefault("unit", 4)
    return kind, named


def _type_of(module: str, arguments: Mapping[str, str]) -> str | None:
    if module == "networks.lora":
        return "Kohya LoCon" if arguments.get("conv_dim", "") not in ("", "None") else "Standard"
    algo = algorithm(arguments.get("algo") or "lora") if module == LYCORIS else None
    rows = (name for name, row in ADAPTERS.items() if row.network_module == module and algo in (None, row.algo))
    return None if module == LYCORIS and algo is None else next(rows, None)
