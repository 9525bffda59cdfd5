"""The table of optimizers: name -> where its class is, and what it is like; a class is imported when it is chosen.

Nothing here loads torch before `make_optimizer` is called, so that checks and the page can ask questions cheaply.
"""

import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trainer import sources
from trainer.arguments import parse_arguments
from trainer.declare import closest, nearest
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
    `on_cpu` is the same one without pages between a graphics card and the processor, where the library has no pages.
    """

    path: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fused: tuple[str, ...] = ()
    finds_rate: bool = False
    averages: bool = False
    elementwise: bool = True
    eight_bit: bool = False
    on_cpu: str = ""


MIN_8BIT_SIZE = 4096
"""Values a tensor must have for an 8-bit optimizer to save memory on it: the library's own limit."""
FUSED = ("cpu", "cuda", "mps", "xpu")
NESTEROV = {"momentum": 0.9, "nesterov": True}

PREPRINT = "dadaptation.experimental.dadapt_adam_preprint.DAdaptAdamPreprint"
BASE = "torch.optim.optimizer.Optimizer"
"""What every optimizer is made of."""

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
        "prodigyplus.ProdigyPlusScheduleFree": OptimizerType(
            "prodigyplus.prodigy_plus_schedulefree.ProdigyPlusScheduleFree",
            finds_rate=True, averages=True, elementwise=False,
        ),
        "DAdaptation": OptimizerType(PREPRINT, finds_rate=True),
        "DAdaptAdamPreprint": OptimizerType(PREPRINT, finds_rate=True),
        "DAdaptAdam": OptimizerType("dadaptation.dadapt_adam.DAdaptAdam", finds_rate=True),
        "DAdaptAdaGrad": OptimizerType("dadaptation.dadapt_adagrad.DAdaptAdaGrad", finds_rate=True),
        "DAdaptAdan": OptimizerType("dadaptation.dadapt_adan.DAdaptAdan", finds_rate=True),
        "DAdaptAdanIP": OptimizerType("dadaptation.experimental.dadapt_adan_ip.DAdaptAdanIP", finds_rate=True),
        "DAdaptLion": OptimizerType("dadaptation.dadapt_lion.DAdaptLion", finds_rate=True),
        "DAdaptSGD": OptimizerType("pytorch_optimizer.optimizer.dadapt.DAdaptSGD", finds_rate=True),
        "bitsandbytes.optim.AdEMAMix8bit": OptimizerType("bitsandbytes.optim.ademamix.AdEMAMix8bit", eight_bit=True),
        "bitsandbytes.optim.PagedAdEMAMix8bit": OptimizerType(
            "bitsandbytes.optim.ademamix.PagedAdEMAMix8bit",
            eight_bit=True, on_cpu="bitsandbytes.optim.ademamix.AdEMAMix8bit",
        ),
        "pytorch_optimizer.CAME": OptimizerType("pytorch_optimizer.optimizer.came.CAME", elementwise=False),
        "SGDNesterov": OptimizerType("torch.optim.sgd.SGD", NESTEROV, fused=("cpu", "cuda", "mps")),
        "SGDNesterov8bit": OptimizerType("bitsandbytes.optim.sgd.SGD8bit", NESTEROV, eight_bit=True),
        "SGDScheduleFree": OptimizerType("schedulefree.sgd_schedulefree.SGDScheduleFree", averages=True),
    },
)  # fmt: skip


# Any other class.


class Unusable(ValueError):
    """Why an optimizer cannot be used, as a sentence; `instead` is one that can."""

    def __init__(self, sentence: str, instead: str = "AdamW") -> None:
        super().__init__(sentence)
        self.instead = instead


def optimizer_type(name: str) -> OptimizerType:
    """The row of a name: of the table, of a class of torch.optim, or of one of any installed package by dotted path.

    What a class of no row is like is read in its source. Raises `Unusable`.
    """
    name = name.strip()
    if name in OPTIMIZERS:
        row = OPTIMIZERS[name]
        package = row.path.partition(".")[0]
        if not sources.is_installed(package):
            raise Unusable(_not_installed(name, package))
        return row
    return _derived(name)


@cache
def _derived(name: str) -> OptimizerType:
    if not re.fullmatch(r"[A-Za-z_][\w.]*", name, re.ASCII):
        raise Unusable(f"{name!r} is no optimizer's name; choose one of the list." if name else "choose an optimizer.")
    path = name if "." in name else f"torch.optim.{name}"
    try:
        source = sources.find(path)
    except sources.Missing as error:
        raise _missing(name, path, error) from None
    except sources.NoClass:
        raise Unusable(f"{name} is not a class.") from None
    except sources.Unclear:  # only importing it will tell
        return OptimizerType(path, elementwise=False)
    same = [row for row in OPTIMIZERS.values() if row.path == source.path and not row.defaults]
    if same:
        return same[0]
    if sources.is_a(source, BASE) is False or source.path == BASE:
        raise Unusable(f"{name} is not an optimizer (a class made of torch.optim.Optimizer).")
    _demand_a_plain_step(name, source)
    takes = _takes(path)
    first = takes.names[0] if takes and takes.names else "params"
    if not first.startswith("param"):
        what = "a model" if "model" in first else "another optimizer"
        raise Unusable(f"{name} is put around {what} and cannot be chosen here.")
    averages = bool(sources.method(source, "train") and sources.method(source, "eval"))
    finds = bool(takes and "d0" in takes.names)
    return OptimizerType(path, finds_rate=finds, averages=averages, elementwise=False)


def _demand_a_plain_step(name: str, source: sources.Source) -> None:
    """Some optimizers calculate the loss several times in a step; a training step here gives it once."""
    step = sources.method(source, "step")
    told = sources.call(step) if step else None
    raises = r"if (closure is None|not closure)\b[^\n]*:\s+raise"
    if (step and re.search(raises, sources.text(step))) or (told and "closure" in told.required):
        raise Unusable(f"{name} needs the loss several times in a step (a closure), which training here does not give.")


def _missing(name: str, path: str, error: sources.Missing) -> Unusable:
    """A name that leads to no class, with the nearest one that there is."""
    package, _, word = path.rpartition(".")
    if error.package:
        bare = closest(name, OPTIMIZERS)
        return Unusable(_not_installed(name, error.package), bare or "AdamW")
    if "." not in name:
        known = [*OPTIMIZERS, *sources.classes(error.module, BASE)]
        question = nearest(name, known) or "."
        return Unusable(f"there is no optimizer {name}{question}", closest(name, known) or "AdamW")
    if error.module != package:
        return Unusable(f"there is no {package}.", "AdamW")
    known = list(sources.classes(package, BASE))
    close, question = closest(word, known), nearest(word, known) or "."
    return Unusable(f"{package} has no class {word}{question}", f"{package}.{close}" if close else "AdamW")


def _not_installed(name: str, package: str) -> str:
    if importlib.util.find_spec(package) is not None and not sources.is_installed(package):
        return f"{name} is not of a package that was installed with pip; only these are used."
    return (
        f"{name} needs the package {package}, which is not installed here; "
        f"install it with: pip install {PIP.get(package, package.replace('_', '-'))}"
    )


PIP = {"prodigyplus": "prodigy-plus-schedule-free"}
"""What pip calls a package, where that is another name."""


# Questions that checks and the page ask.


def complaint(name: str) -> "Unusable | None":
    """Why an optimizer cannot be used, if so."""
    try:
        optimizer_type(name)
    except Unusable as error:
        return error
    return None


def is_listed(name: str) -> bool:
    """Whether an optimizer is one of the table, and so tried and tested."""
    return name.strip() in OPTIMIZERS


def finds_its_rate(name: str) -> bool:
    """Whether the optimizer estimates the learning rate and wants 1 from the user."""
    return complaint(name) is None and optimizer_type(name).finds_rate


def has_own_schedule(name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether it averages instead of lowering the rate (Defazio et al. 2024), so that no LR scheduler counts."""
    return complaint(name) is None and optimizer_type(name).averages and arguments.get("use_schedulefree", True)


def warms_up(name: str) -> bool:
    """Whether an optimizer with a schedule of its own knows a warm-up."""
    return "warmup_steps" in (argument_names(name) or ())


def knows_one_rate(name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether all parameters learn at one rate that the optimizer finds, so that no group can have its own."""
    return finds_its_rate(name) or ignores_rate(name, arguments)


def ignores_rate(name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether the learning rate counts for nothing (Shazeer & Stern 2018, section 8: relative step size)."""
    same = complaint(name) is None and optimizer_type(name) is OPTIMIZERS["Adafactor"]
    return same and bool(arguments.get("relative_step", True))


def argument_names(name: str) -> tuple[str, ...] | None:
    """The names of the extra arguments an optimizer takes, read from its source; None when that cannot be told."""
    takes = _takes(optimizer_type(name).path) if complaint(name) is None else None
    if takes is None or takes.takes_more:
        return None
    return tuple(word for word in takes.names[1:] if word != "lr")


@cache
def _takes(path: str) -> sources.Call | None:
    try:
        made = sources.method(sources.find(path), "__init__")
    except LookupError:
        return None
    return sources.call(made) if made else None


def wrong_arguments(name: str, arguments: Mapping[str, Any]) -> str:
    """A sentence about arguments that the optimizer does not take, or needs and has not; "" when all is well."""
    if complaint(name) is not None:
        return ""
    if "lr" in arguments:
        return "the learning rate has fields of its own; take lr out of the extra arguments."
    known = argument_names(name)
    wrong = [word for word in arguments if known is not None and word not in known]
    if wrong:
        return f"{name} has no argument {wrong[0]!r}; it takes {', '.join(known or ())}."
    takes = _takes(optimizer_type(name).path)
    needed = [word for word in takes.required[1:] if word not in ("lr", *arguments)] if takes else []
    if needed:
        return f"{name} needs {' and '.join(needed)}; write {needed[0]}=… here."
    usual = takes.defaults if takes else {}
    return next(filter(None, (_wrong_value(key, value, usual.get(key)) for key, value in arguments.items())), "")


NOT_BELOW_0 = ("weight_decay", "eps", "momentum")


def _wrong_value(key: str, value: Any, usual: Any) -> str:
    """A sentence about a value of another kind than the argument's default; "" when it may be meant."""
    if isinstance(usual, bool):
        return "" if value in (True, False) else f"{key} is True or False; {_shown(value)} is neither."
    if isinstance(usual, tuple) and usual and all(isinstance(part, float) for part in usual):
        parts = value if isinstance(value, tuple) else (value,)
        numbers = len(parts) == len(usual) and all(_is_number(part) for part in parts)
        if numbers and (key != "betas" or all(0 <= part < 1 for part in parts)):
            return ""
        within = " from 0 to below 1" if key == "betas" else ""
        example = ",".join(f"{part:g}" for part in usual)
        return f"{key} takes {len(usual)} numbers{within}, such as {key}={example}; {_shown(value)} is not."
    if _is_number(usual) and not (_is_number(value) or value is None):
        return f"{key} is a number, such as {key}={usual:g}; {_shown(value)} is not."
    if key in NOT_BELOW_0 and _is_number(value) and value < 0:
        return f"{key} is at least 0; {value:g} is not."
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


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
    `Unusable` about the optimizer, `ValueError` about its extra arguments, both with a sentence.
    """
    row, arguments = optimizer_type(s.optimizer), parse_arguments(s.optimizer_args)
    complaint = wrong_arguments(s.optimizer, arguments)
    if complaint:
        raise ValueError(complaint)
    kind = load(s.optimizer, row.on_cpu if row.on_cpu and device.type == "cpu" else row.path)
    options = {**row.defaults, **arguments}
    if device.type in row.fused and not {"fused", "foreach"} & set(arguments):
        options["fused"] = True
    if row.averages and warms_up(s.optimizer):
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
    except Exception as error:  # whatever a class of any package raises
        raise ValueError(
            f"{s.optimizer} does not accept {s.optimizer_args or 'these rates and weights'}: {error}"
        ) from error
    if row.eight_bit:
        keep_in_32_bits(small)
    return optimizer


def load(name: str, path: str) -> "type[torch.optim.Optimizer]":
    """Import the class that a path names; raises `Unusable`."""
    from torch.optim import Optimizer

    module, _, class_name = path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), class_name)
    except Exception as error:  # a package that is broken, or built for another machine
        raise Unusable(f"{name} cannot be loaded here ({error}).") from error
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise Unusable(f"{name} is not an optimizer (a class made of torch.optim.Optimizer).")
    return kind


def lay_out(s: "Settings", groups: "Groups", rests: bool = False) -> "tuple[Groups, list[torch.nn.Parameter]]":
    """The groups as few long vectors where the chosen optimizer gives the same result on them, else as they are.

    Also returns the vectors that an 8-bit optimizer shall keep in 32 bits: those of tensors too small for 8 bits. With
    `rests` some tensors have no gradient in some steps and must not move then, not even by the momentum they have: a
    layer left out by module dropout, the ranks of a DyLoRA that were not drawn. A vector could not say that.
    """
    from trainer.flat import by_size, flatten

    row = optimizer_type(s.optimizer)
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


def set_rates(optimizer: "torch.optim.Optimizer", now: "Callable[[float], float]") -> None:
    """Let every group learn at what `now` makes of its rate; who chooses its own (a relative step) is left alone."""
    for group in optimizer.param_groups:
        if not group.get("relative_step"):
            group["lr"] = now(group["rate"])


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
