"""The table of optimizers: name -> where its class is, and what it is like; a class is imported when it is chosen.

Nothing here loads torch before `make_optimizer` is called, so that checks and the page can ask questions cheaply.
"""

import ast
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trainer.registry import Registry

if TYPE_CHECKING:
    import torch

    from trainer.settings import Settings

    Groups = Mapping[str, list[torch.nn.Parameter]]


@dataclass(frozen=True)
class OptimizerType:
    """A row: the class and its defaults, and what the loop and the checks must know about it.

    `fused` lists device types that have a kernel for everything at once. With `finds_rate` it estimates the rate
    itself, wants 1 from the user, and knows one rate for all parts. With `averages` the weights to use are an average
    of those that are trained (Defazio et al. 2024), and the schedule is built in. Without `elementwise` the shape of a
    tensor matters to it. With `eight_bit` its memory of large tensors is kept in 8 bits (Dettmers et al. 2022).
    """

    path: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fused: tuple[str, ...] = ()
    finds_rate: bool = False
    averages: bool = False
    elementwise: bool = True
    eight_bit: bool = False


MIN_8BIT_SIZE = 4096
"""Values a tensor must have for an 8-bit optimizer to save memory on it: the library's own limit."""
FUSED = ("cpu", "cuda", "mps", "xpu")
NESTEROV = {"momentum": 0.9, "nesterov": True}

OPTIMIZERS: Registry[OptimizerType] = Registry(
    "optimizer",
    {
        "AdamW": OptimizerType("torch.optim.adamw.AdamW", fused=FUSED),
        "AdamW8bit": OptimizerType("bitsandbytes.optim.adamw.AdamW8bit", eight_bit=True),
        "PagedAdamW": OptimizerType("bitsandbytes.optim.adamw.PagedAdamW"),
        "PagedAdamW8bit": OptimizerType("bitsandbytes.optim.adamw.PagedAdamW8bit", eight_bit=True),
        "PagedAdamW32bit": OptimizerType("bitsandbytes.optim.adamw.PagedAdamW32bit"),
        "AdamWScheduleFree": OptimizerType("schedulefree.adamw_schedulefree.AdamWScheduleFree", averages=True),
        "RAdamScheduleFree": OptimizerType("schedulefree.radam_schedulefree.RAdamScheduleFree", averages=True),
        "Adafactor": OptimizerType("transformers.optimization.Adafactor", elementwise=False),
        "Lion": OptimizerType("lion_pytorch.lion_pytorch.Lion"),
        "Lion8bit": OptimizerType("bitsandbytes.optim.lion.Lion8bit", eight_bit=True),
        "PagedLion8bit": OptimizerType("bitsandbytes.optim.lion.PagedLion8bit", eight_bit=True),
        "Prodigy": OptimizerType("prodigyopt.prodigy.Prodigy", finds_rate=True),
        "DAdaptation": OptimizerType(
            "dadaptation.experimental.dadapt_adam_preprint.DAdaptAdamPreprint", finds_rate=True
        ),
        "DAdaptAdam": OptimizerType("dadaptation.dadapt_adam.DAdaptAdam", finds_rate=True),
        "DAdaptAdaGrad": OptimizerType("dadaptation.dadapt_adagrad.DAdaptAdaGrad", finds_rate=True),
        "DAdaptAdan": OptimizerType("dadaptation.dadapt_adan.DAdaptAdan", finds_rate=True),
        "DAdaptAdanIP": OptimizerType("dadaptation.experimental.dadapt_adan_ip.DAdaptAdanIP", finds_rate=True),
        "DAdaptLion": OptimizerType("dadaptation.dadapt_lion.DAdaptLion", finds_rate=True),
        "SGDNesterov": OptimizerType("torch.optim.sgd.SGD", NESTEROV, fused=("cpu", "cuda", "mps")),
        "SGDNesterov8bit": OptimizerType("bitsandbytes.optim.sgd.SGD8bit", NESTEROV, eight_bit=True),
        "SGDScheduleFree": OptimizerType("schedulefree.sgd_schedulefree.SGDScheduleFree", averages=True),
    },
    aliases={"DAdaptAdamPreprint": "DAdaptation"},
)


# Questions that checks and the page ask.


def module_of(name: str) -> str:
    """The package that an optimizer needs."""
    return OPTIMIZERS[name].path.partition(".")[0]


def finds_its_rate(name: str) -> bool:
    """Whether the optimizer estimates the learning rate and wants 1 from the user."""
    return OPTIMIZERS[name].finds_rate


def knows_one_rate(name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether all parameters learn at one rate that the optimizer finds, so that no group can have its own."""
    return finds_its_rate(name) or ignores_rate(name, arguments)


def ignores_rate(name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether the learning rate counts for nothing (Shazeer & Stern 2018, section 8: relative step size)."""
    return OPTIMIZERS.name(name) == "Adafactor" and bool(arguments.get("relative_step", True))


@cache
def argument_names(name: str) -> tuple[str, ...] | None:
    """The names of the extra arguments an optimizer takes, read from its source; None when that cannot be found."""
    package, *middle, class_name = OPTIMIZERS[name].path.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    source = Path(spec.submodule_search_locations[0], *middle).with_suffix(".py")
    if not source.is_file():
        return None
    classes = [node for node in ast.parse(source.read_bytes()).body if isinstance(node, ast.ClassDef)]
    for node in classes:
        for method in node.body:
            if node.name == class_name and isinstance(method, ast.FunctionDef) and method.name == "__init__":
                names = [item.arg for item in (*method.args.args, *method.args.kwonlyargs)]
                return tuple(word for word in names if word not in ("self", "params", "lr"))
    return None


def unknown_arguments(name: str, arguments: Mapping[str, Any]) -> str:
    """A sentence about arguments that the optimizer does not take, "" when it takes them all."""
    known = argument_names(name)
    wrong = [word for word in arguments if known is not None and word not in known]
    if not wrong:
        return ""
    if "lr" in wrong:
        return "the learning rate has fields of its own; take lr out of the extra arguments."
    return f"{name} has no argument {wrong[0]!r}; it takes {', '.join(known or ())}."


NAME = re.compile(r"""(?:^|(?<=[\s,;"']))([A-Za-z_]\w*)\s*=(?!=)\s*""")
WORDS = {"true": True, "false": False, "none": None}


def parse_arguments(text: str) -> dict[str, Any]:
    """`name=value` pairs in any spelling people use: quoted or not, separated by spaces, commas or lines.

    Values are numbers, True/False/None, words, and lists of these: `weight_decay=0.1 "betas=0.9,0.99" fused=true`.
    Only literals are read, nothing is evaluated. Raises `ValueError` with a sentence that says where it stopped.
    """
    found = list(NAME.finditer(text))
    lead = text[: found[0].start()] if found else text
    if lead.strip(" \t\r\n,;\"'"):
        raise ValueError(f"{lead.strip()!r} is not a name=value pair; write it like weight_decay=0.1.")
    arguments: dict[str, Any] = {}
    for place, match in enumerate(found):
        end = found[place + 1].start() if place + 1 < len(found) else len(text)
        name = match[1]
        if name in arguments:
            raise ValueError(f"{name} is given twice.")
        arguments[name] = _value(name, text[match.end() : end])
    return arguments


def _value(name: str, text: str) -> Any:
    word = text.strip(" \t\r\n,;\"'")
    if word.lower() in WORDS:
        return WORDS[word.lower()]
    try:
        value = ast.literal_eval(re.sub(r"\b(true|false|none)\b", lambda found: found[1].capitalize(), word))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        if re.fullmatch(r"[A-Za-z][\w.-]*", word):
            return word
        said = f"{word!r} is not a value" if word else "the value is missing"
        raise ValueError(f"{said} for {name}; write it like {name}=0.1 or {name}=0.9,0.99.") from None
    return tuple(value) if isinstance(value, list) else value


# Making and using one.


def make_optimizer(
    s: "Settings",
    groups: "Groups",
    device: "torch.device",
    warmup_steps: int = 0,
    small: "Sequence[torch.nn.Parameter]" = (),
    scales: Mapping[str, float] = MappingProxyType({}),
) -> "torch.optim.Optimizer":
    """The chosen optimizer over groups of parameters by name, which begins with their part: "unet", "textencoder plus".

    A group's `rate` is what the user set for its part times its number in `scales`, and its `lr` what a schedule made
    of it. `warmup_steps` are for optimizers with a schedule of their own, `small` is as `lay_out` gives it. Raises
    `ValueError` with a sentence about the extra arguments, `ImportError` when the package is missing.
    """
    row, arguments = OPTIMIZERS[s.optimizer], parse_arguments(s.optimizer_args)
    complaint = unknown_arguments(s.optimizer, arguments)
    if complaint:
        raise ValueError(complaint)
    module, _, class_name = row.path.rpartition(".")
    kind = getattr(importlib.import_module(module), class_name)
    options = {**row.defaults, **arguments}
    if device.type in row.fused and not {"fused", "foreach"} & set(arguments):
        options["fused"] = True
    if row.averages and "warmup_steps" in (argument_names(s.optimizer) or ()):
        options.setdefault("warmup_steps", warmup_steps)
    rates = {name: rate_of(s, name) * scales.get(name, 1.0) for name in groups}
    lists = [
        {"params": parameters, "name": name, "rate": rates[name], "lr": rates[name]}
        for name, parameters in groups.items()
    ]
    if ignores_rate(s.optimizer, arguments):
        options["lr"] = None
        for group in lists:
            group["lr"] = None
    elif "lr" in inspect.signature(kind).parameters:
        options["lr"] = max(rates.values())
    try:
        optimizer: torch.optim.Optimizer = kind(lists, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"{s.optimizer} does not accept {s.optimizer_args or 'these rates'}: {error}") from error
    if row.eight_bit:
        keep_in_32_bits(small)
    return optimizer


def lay_out(s: "Settings", groups: "Groups", rests: bool = False) -> "tuple[Groups, list[torch.nn.Parameter]]":
    """The groups as few long vectors where the chosen optimizer gives the same result on them, else as they are.

    Also returns the vectors that an 8-bit optimizer shall keep in 32 bits: those of tensors too small for 8 bits. With
    `rests` some tensors have no gradient in some steps and must not move then, not even by the momentum they have: a
    layer left out by module dropout, the ranks of a DyLoRA that were not drawn. A vector could not say that.
    """
    from trainer.flat import by_size, flatten

    row = OPTIMIZERS[s.optimizer]
    if not row.elementwise or rests:
        return groups, []
    least = int(parse_arguments(s.optimizer_args).get("min_8bit_size", MIN_8BIT_SIZE)) if row.eight_bit else 0
    vectors: dict[str, list[torch.nn.Parameter]] = {}
    small: list[torch.nn.Parameter] = []
    for name, parameters in groups.items():
        sorted_by_size = by_size(parameters, least)
        vectors[name] = [flatten(some) for some in sorted_by_size]
        small += [vector for vector, some in zip(vectors[name], sorted_by_size, strict=True) if some[0].numel() < least]
    return vectors, small


def keep_in_32_bits(parameters: "Sequence[torch.nn.Parameter]") -> None:
    """Tell bitsandbytes to use 32 bits for these, whatever their size."""
    from bitsandbytes.optim import GlobalOptimManager

    manager = GlobalOptimManager.get_instance()
    manager.pid2config.clear()  # it knows tensors by their address, and addresses are used again
    manager.override_config(list(parameters), "optim_bits", 32)


def rate_of(s: "Settings", group: str) -> float:
    """The learning rate the user chose for the part whose name a group begins with; an empty field means Learning rate.

    Optimizers that find the rate themselves know only one: the U-Net's, or where that is not trained the other's.
    """
    part = part_of(group)
    rates = {"unet": s.unet_lr, "textencoder": s.text_encoder_lr}
    own = {name: s.learning_rate if rate is None else rate for name, rate in rates.items()}
    if finds_its_rate(s.optimizer) and own[part]:
        return own["unet"] or own["textencoder"]
    return own[part]


def part_of(group: str) -> str:
    """The part of the model that a group is of, by its name: "unet" or "textencoder"."""
    return group.partition(" ")[0]


def set_rates(optimizer: "torch.optim.Optimizer", factor: float) -> None:
    """Let every group learn at `factor` times its rate. An optimizer that chooses its own (lr None) is left alone."""
    for group in optimizer.param_groups:
        if not group.get("relative_step"):
            group["lr"] = group["rate"] * factor


def rates(optimizer: "torch.optim.Optimizer") -> dict[str, float]:
    """What is being learnt at, by group; for optimizers that find the rate also "d*lr/…", the rate that results."""
    found: dict[str, float] = {}
    for group in optimizer.param_groups:
        name = group["name"]
        if group.get("relative_step"):
            state = optimizer.state.get(group["params"][0])
            found[name] = float(optimizer._get_lr(group, state)) if state else 0.0  # type: ignore[attr-defined]
        else:
            found[name] = float(group.get("scheduled_lr") or group["lr"])
        if "d" in group:
            found[f"d*lr/{name}"] = float(group["d"]) * found[name]
    return found


@contextmanager
def averaged(optimizer: "torch.optim.Optimizer") -> Iterator[None]:
    """Inside, parameters hold the weights to use and to save; afterwards exactly those that were being trained."""
    if not callable(getattr(optimizer, "eval", None)):
        yield
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trained = [parameter.detach().clone() for parameter in parameters]
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        optimizer.train()  # type: ignore[attr-defined]
        for parameter, values in zip(parameters, trained, strict=True):
            parameter.data.copy_(values)
