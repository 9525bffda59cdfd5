"""What cannot be, and what has no effect, of optimizer, rates and schedule: sentences before anything starts."""

from collections.abc import Iterator
from typing import Any

from trainer import optimizers, schedules, tabulated
from trainer.arguments import parse_arguments
from trainer.declare import Problem, by_name
from trainer.settings import Settings
from trainer.settings.optimizer import CYCLIC

KNOWN = by_name(Settings)
WARMING = ("adafactor", "constant", "piecewise_constant")
"""Schedules that have no warm-up."""


def problem(key: str, message: str, fix: dict[str, Any] | None = None, fix_label: str = "") -> Problem:
    """A sentence about the setting `key`, under its label."""
    return Problem(key, KNOWN[key].label, message, fix, fix_label)


def arguments_of(s: Settings) -> dict[str, Any]:
    """The optimizer's extra arguments as far as they can be read; none where they cannot."""
    try:
        return parse_arguments(s.optimizer_args)
    except ValueError:
        return {}


# What stops a run.


def optimizer(s: Settings) -> Iterator[Problem]:
    """Is there such an optimizer, and can its arguments be read?"""
    why = optimizers.complaint(s.optimizer)
    if why is not None:
        yield problem("optimizer", str(why), {"optimizer": why.instead}, f"Use {why.instead}")
    try:
        complaint = optimizers.wrong_arguments(s.optimizer, parse_arguments(s.optimizer_args))
    except ValueError as error:
        complaint = str(error)
    if complaint:
        yield problem("optimizer_args", complaint)


def schedule(s: Settings) -> Iterator[Problem]:
    """Is there such a schedule, and does it take its arguments?"""
    name = s.lr_scheduler_type.strip()
    if name and schedules.function_of(s) is None:
        why = tabulated.complaint(name)
        if why is not None:
            yield _unusable(name, why)
            return
    try:
        complaint = _complaint(s, name)
    except ValueError as error:
        complaint = str(error)
    if complaint:
        yield problem("lr_scheduler_args", complaint)


def _unusable(name: str, why: tabulated.Unusable) -> Problem:
    """Why a scheduler class cannot be used; somebody may have meant one of the list above."""
    if name in schedules.SCHEDULES:
        listed = name.lower()
        message = f"{listed} is no class of PyTorch, but one of {KNOWN['lr_scheduler'].label}; choose it there."
        fix = {"lr_scheduler_type": "", "lr_scheduler": listed}
        return problem("lr_scheduler_type", message, fix, "Choose it there")
    return problem("lr_scheduler_type", str(why), {"lr_scheduler_type": why.instead}, f"Use {why.instead or 'none'}")


def _complaint(s: Settings, name: str) -> str:
    found = schedules.read_arguments(s)
    if schedules.function_of(s) is None:
        return tabulated.wrong_arguments(name, found)
    lowest = found.get("lr_end", found.get("min_lr", 0.0))
    rate = s.learning_rate if s.unet_lr is None else s.unet_lr
    if rate and lowest > rate:
        word = "lr_end" if "lr_end" in found else "min_lr"
        return f"{word} ({lowest:g}) is where the rate ends and must not be above the learning rate ({rate:g})."
    return ""


PROBLEMS = (optimizer, schedule)


# What a person should know.


def the_rate(s: Settings) -> Iterator[Problem]:
    """Optimizers that find the rate themselves want 1 (Mishchenko & Defazio 2023); the others want far less."""
    if optimizers.complaint(s.optimizer) is not None:
        return
    if optimizers.finds_its_rate(s.optimizer):
        yield from _rate_of_1(s)
        return
    highest = max(s.learning_rate, s.unet_lr or 0)
    if highest >= 0.1 and "SGD" not in s.optimizer:
        message = f"{highest:g} is far too high for {s.optimizer}; 1e-4 is usual."
        yield problem("learning_rate", message, {"learning_rate": 1e-4, "unet_lr": None}, "Use 1e-4")
    if optimizers.ignores_rate(s.optimizer, arguments_of(s)):
        text = "scale_parameter=False relative_step=False warmup_init=False"
        message = f"{s.optimizer} chooses its own rate; add {text} to keep yours."
        fix = {"optimizer_args": " ".join(filter(None, (s.optimizer_args.strip(), text)))}
        yield problem("optimizer_args", message, None if "relative_step" in s.optimizer_args else fix, "Keep my rate")


def _rate_of_1(s: Settings) -> Iterator[Problem]:
    """All parts learn at one rate: the U-Net's, or where that is not trained the text encoder's."""
    own = {"unet_lr": s.unet_lr, "text_encoder_lr": s.text_encoder_lr}
    trained = [key for key, rate in own.items() if rate != 0]
    counts = trained[0] if trained and own[trained[0]] is not None else "learning_rate"
    rate = getattr(s, counts)
    fix = {"learning_rate": 1.0, **dict.fromkeys(trained)}
    if rate and rate != 1:
        result = "would train almost nothing" if rate < 0.1 else f"makes that {rate:g} times as much"
        message = f"{s.optimizer} finds the rate itself and expects 1 here; {rate:g} {result}."
        yield problem(counts, message, fix, "Use 1")
    elif len(trained) > 1 and s.text_encoder_lr not in (None, rate):
        message = f"{s.optimizer} knows one rate for all parts; {s.text_encoder_lr:g} does not count, {rate:g} does."
        yield problem("text_encoder_lr", message, {"text_encoder_lr": None}, "Empty it")


def warm_up(s: Settings) -> Iterator[Problem]:
    """Schedules and optimizers that have none."""
    key = "lr_warmup_steps" if s.lr_warmup_steps else "lr_warmup"
    if not getattr(s, key) or optimizers.complaint(s.optimizer) is not None:
        return
    nothing, off = {"lr_warmup": 0.0, "lr_warmup_steps": 0}, "Set to 0"
    if optimizers.has_own_schedule(s.optimizer, arguments_of(s)):
        if not optimizers.warms_up(s.optimizer):
            yield problem(key, f"{s.optimizer} has no warm-up of this kind, so this has no effect.", nothing, off)
    elif optimizers.ignores_rate(s.optimizer, arguments_of(s)):
        yield problem(key, f"has no effect: {s.optimizer} chooses its own rate.", nothing, off)
    elif s.lr_scheduler_type.strip():
        yield problem(key, f"has no effect: {schedules.name_of(s)} knows no warm-up of its own.", nothing, off)
    elif s.lr_scheduler == "constant":
        message = "the constant schedule has no warm-up; choose constant_with_warmup to have one."
        yield problem(key, message, {"lr_scheduler": "constant_with_warmup"}, "Use constant_with_warmup")
    elif s.lr_scheduler in WARMING:
        yield problem(key, f"has no effect: the {s.lr_scheduler} schedule has no warm-up.", nothing, off)


def no_effect(s: Settings) -> Iterator[Problem]:
    """What the chosen schedule does not look at."""
    if optimizers.has_own_schedule(s.optimizer, arguments_of(s)) and (s.lr_scheduler_type or s.lr_scheduler_args):
        key = "lr_scheduler_type" if s.lr_scheduler_type else "lr_scheduler_args"
        fix = {"lr_scheduler_type": "", "lr_scheduler_args": ""}
        yield problem(key, f"has no effect: {s.optimizer} has a schedule of its own.", fix, "Empty it")
    elif s.lr_scheduler == "adafactor" and not s.lr_scheduler_type and not _relative(s):
        message = "adafactor leaves the rate to an Adafactor that chooses its own; here the rate stays constant."
        yield problem("lr_scheduler", message, {"lr_scheduler": "constant"}, "Use constant")
    text = s.learning_rate if s.text_encoder_lr is None else s.text_encoder_lr
    if s.stop_text_encoder_training > 0 and not text:
        message = f"has no effect: {KNOWN['text_encoder_lr'].label} is 0, so it is not trained at all."
        yield problem("stop_text_encoder_training", message, {"stop_text_encoder_training": 0}, "Set to 0")
    users = {"lr_scheduler_num_cycles": CYCLIC, "lr_scheduler_power": ("polynomial",)}
    for key, names in users.items():
        default = KNOWN[key].default
        if getattr(s, key) != default and (s.lr_scheduler_type or s.lr_scheduler not in names):
            message = f"has no effect with {schedules.name_of(s)}; it is for {', '.join(names)}."
            yield problem(key, message, {key: default}, f"Set to {default:g}")


def _relative(s: Settings) -> bool:
    return optimizers.ignores_rate(s.optimizer, arguments_of(s))


NOTES = (the_rate, warm_up, no_effect)
