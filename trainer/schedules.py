"""Learning-rate schedules as pure functions: a step in, the factor of the base rate out.

A rate depends on nothing but the step, so a resumed run goes on where it stopped and the page draws the same curve.
Names and shapes are those of diffusers and transformers. What a schedule takes of "LR scheduler extra arguments" are
its keyword arguments.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from trainer.arguments import parse_arguments
from trainer.declare import nearest
from trainer.registry import Registry

if TYPE_CHECKING:
    from trainer.settings import Settings


@dataclass(frozen=True)
class Span:
    """What a schedule stretches over: `steps` in all, the first `warmup` of them rising.

    `cycles` and `power` shape some schedules; `rate` is the base rate, for floors given as a rate; `arguments` are the
    extra ones of the schedule, by name.
    """

    steps: int
    warmup: int = 0
    cycles: float = 1.0
    power: float = 1.0
    rate: float = 1e-4
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def rising(self, step: int) -> float | None:
        """The factor while warming up, None afterwards."""
        return step / max(1, self.warmup) if step < self.warmup else None

    def progress(self, step: int) -> float:
        """How much of the time after warm-up has passed: 0 to 1."""
        return (step - self.warmup) / max(1, self.steps - self.warmup)


Schedule = Callable[..., float]
"""(steps that are done, span, **arguments) -> factor"""


def constant(step: int, span: Span) -> float:
    """The base rate throughout, with no warm-up."""
    return 1.0


def constant_with_warmup(step: int, span: Span) -> float:
    """The base rate after the warm-up."""
    rising = span.rising(step)
    return 1.0 if rising is None else rising


def linear(step: int, span: Span) -> float:
    """A straight line down to 0."""
    rising = span.rising(step)
    return max(0.0, 1.0 - span.progress(step)) if rising is None else rising


def cosine(step: int, span: Span) -> float:
    """Half a cosine wave down to 0 (Loshchilov & Hutter 2017, eq. 5 without restarts)."""
    rising = span.rising(step)
    return _wave(span.progress(step)) if rising is None else rising


def cosine_with_restarts(step: int, span: Span) -> float:
    """`cycles` such waves, each starting at the base rate again (Loshchilov & Hutter 2017, eq. 5)."""
    rising = span.rising(step)
    if rising is not None:
        return rising
    progress = span.progress(step)
    return 0.0 if progress >= 1 else _wave((span.cycles * progress) % 1.0)


def cosine_with_min_lr(step: int, span: Span, min_lr: float | None = None, min_lr_rate: float = 0.1) -> float:
    """`cycles` half waves down to a floor: `min_lr_rate` of the base rate (a tenth), or the rate `min_lr`."""
    rising = span.rising(step)
    if rising is not None:
        return rising
    floor = min_lr_rate if min_lr is None else _share(min_lr, span)
    return max(0.0, _wave(span.cycles * span.progress(step)) * (1 - floor) + floor)


def polynomial(step: int, span: Span, lr_end: float = 1e-7) -> float:
    """(1 - progress) to the power of `power`, down to the rate `lr_end` (1e-7)."""
    rising = span.rising(step)
    if rising is not None:
        return rising
    end = min(_share(lr_end, span), 1.0)
    left = max(0.0, 1.0 - span.progress(step))
    return (1 - end) * left**span.power + end


def inverse_sqrt(step: int, span: Span, timescale: float = 0.0) -> float:
    """Falls as 1/√step after the warm-up (Vaswani et al. 2017, eq. 3); `timescale` is the warm-up unless given."""
    rising = span.rising(step)
    if rising is not None:
        return rising
    timescale = timescale or span.warmup or 10_000
    return 1.0 / math.sqrt((step + timescale - span.warmup) / timescale)


def warmup_stable_decay(
    step: int,
    span: Span,
    num_decay_steps: float = 0.2,
    min_lr_ratio: float = 0.0,
    decay_type: str = "cosine",
    warmup_type: str = "linear",
) -> float:
    """Rise, stay, and fall over the last `num_decay_steps` (a fifth) to `min_lr_ratio` (0) (Hu et al. 2024, eq. 1).

    `num_decay_steps` below 1 are a share of the run. The types are "cosine", "linear" and "1-sqrt".
    """
    rising = span.rising(step)
    if rising is not None:
        return _falling(warmup_type, 1 - rising) * (1 - min_lr_ratio) + min_lr_ratio
    decay = int(num_decay_steps if num_decay_steps >= 1 else num_decay_steps * span.steps)
    begins = max(span.warmup, span.steps - decay)
    if step < begins:
        return 1.0
    if step >= span.steps:
        return min_lr_ratio
    progress = (step - begins) / max(1, span.steps - begins)
    fall = _falling(decay_type, span.cycles * progress if decay_type == "cosine" else progress)
    return max(0.0, fall * (1 - min_lr_ratio) + min_lr_ratio)


def piecewise_constant(step: int, span: Span, step_rules: str = "") -> float:
    """Stairs: `step_rules` "1:10,0.1:20,0.01" is 1 before step 10, 0.1 before step 20, then 0.01.

    Without rules: the whole rate for the first half of the run, a tenth for the next quarter, a hundredth at the end.
    """
    stairs, last = _stairs(step_rules or f"1:{span.steps // 2},0.1:{span.steps * 3 // 4},0.01")
    return next((factor for until, factor in stairs if step < until), last)


def adafactor(step: int, span: Span) -> float:
    """Left to the optimizer: Adafactor with a relative step has a schedule of its own (Shazeer & Stern 2018, §8)."""
    return 1.0


def cosine_annealing(step: int, span: Span, T_max: float = 0, eta_min: float = 0.0) -> float:
    """Waves of `T_max` steps down to the rate `eta_min` and up again (Loshchilov & Hutter 2017, eq. 5)."""
    floor = _share(eta_min, span)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / (T_max or max(1, span.steps))))


def _wave(progress: float) -> float:
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


FALLS: Mapping[str, Callable[[float], float]] = {
    "cosine": _wave, "linear": lambda progress: 1 - progress, "1-sqrt": lambda progress: 1 - math.sqrt(progress)
}  # fmt: skip


def _falling(kind: str, progress: float) -> float:
    return FALLS[kind](progress)


def _share(rate: float, span: Span) -> float:
    return rate / span.rate if span.rate else 0.0


def _stairs(rules: str) -> tuple[list[tuple[int, float]], float]:
    """(until which step, factor) in order, and the factor after the last; raises `ValueError`."""
    *stairs, last = rules.split(",")
    pairs = (rule.split(":") for rule in stairs)
    return sorted((int(until), float(factor)) for factor, until in pairs), float(last)


SCHEDULES: Registry[Schedule] = Registry(
    "LR scheduler",
    {
        shape.__name__: shape
        for shape in (
            constant, constant_with_warmup, linear, cosine, cosine_with_restarts, cosine_with_min_lr, polynomial,
            inverse_sqrt, warmup_stable_decay, piecewise_constant, adafactor,
        )
    },
)  # fmt: skip


CLASSES: Mapping[str, Schedule] = {"CosineAnnealingLR": cosine_annealing}
"""Scheduler classes of PyTorch that are a function of the step here; others are tabulated (`trainer.tabulated`)."""
OF_PYTORCH = "torch.optim.lr_scheduler."


# Arguments.


def _number(least: float = 0.0, most: float = math.inf, above: bool = False) -> Callable[[Any], float]:
    said = f"a number above {least:g}" if above else f"a number of at least {least:g}"
    said = said if math.isinf(most) else f"a number from {least:g} to {most:g}"

    def read(value: Any) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not least <= value <= most or (above and value == least):
            raise ValueError(f"must be {said}; {value!r} is not.")
        return float(value)

    return read


def _word(value: Any) -> str:
    if value not in FALLS:
        raise ValueError(f"must be {', '.join(FALLS)}; {value!r} is none of them.")
    return str(value)


def _rules(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    try:
        stairs, last = _stairs(text)
    except ValueError:
        raise ValueError(f"is written like 1:100,0.1:200,0.01; {text!r} is not.") from None
    if not all(math.isfinite(factor) and factor >= 0 for _, factor in [*stairs, (0, last)]):
        raise ValueError(f"holds a factor that is no rate: {text!r}.")
    return text


READ: Mapping[str, Callable[[Any], Any]] = {
    "min_lr": _number(), "min_lr_rate": _number(0, 1), "lr_end": _number(), "timescale": _number(above=True),
    "num_decay_steps": _number(above=True), "min_lr_ratio": _number(0, 1), "decay_type": _word, "warmup_type": _word,
    "step_rules": _rules, "T_max": _number(above=True), "eta_min": _number(),
}  # fmt: skip
"""How each extra argument is read; each raises `ValueError` with the end of a sentence."""

FIELDS = {"num_cycles": "LR # cycles", "power": "LR power", "num_warmup_steps": "LR warmup steps (override)"}
"""Arguments of the libraries that are settings here, by their labels."""


def function_of(s: "Settings") -> Schedule | None:
    """The schedule that the settings name; None for a class that is not a function of the step here."""
    if s.lr_scheduler_type.strip():
        return CLASSES.get(s.lr_scheduler_type.strip().removeprefix(OF_PYTORCH))
    return SCHEDULES[s.lr_scheduler]


def name_of(s: "Settings") -> str:
    """What the schedule is called."""
    return s.lr_scheduler_type.strip() or s.lr_scheduler


def arguments_of(schedule: Schedule) -> tuple[str, ...]:
    """The names of the extra arguments a schedule takes."""
    return tuple(inspect.signature(schedule).parameters)[2:]


def read_arguments(s: "Settings") -> dict[str, Any]:
    """The extra arguments as the chosen schedule takes them; raises `ValueError` with a sentence."""
    schedule, found = function_of(s), parse_arguments(s.lr_scheduler_args)
    if schedule is None:
        return found
    known, read = arguments_of(schedule), {}
    for name, value in found.items():
        if name in FIELDS:
            raise ValueError(f"{name} has a field of its own, {FIELDS[name]}; take it out of the extra arguments.")
        if name not in known:
            takes = f"it takes {', '.join(known) or 'none'}"
            others = [other for other, shape in SCHEDULES.items() if name in arguments_of(shape)]
            takes += f", {' and '.join(others)} would" if others else ""
            raise ValueError(f"{name_of(s)} has no argument {name!r}; {takes}{nearest(name, known) or '.'}")
        try:
            read[name] = READ[name](value)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    return read


# A run.


def span_of(s: "Settings", steps: int, warmup: int) -> Span:
    """The span of a run that the settings describe; raises `ValueError` about extra arguments."""
    rate = s.learning_rate if s.unet_lr is None else s.unet_lr
    cycles, power, arguments = s.lr_scheduler_num_cycles, s.lr_scheduler_power, read_arguments(s)
    return Span(steps, warmup, cycles, power, rate or s.learning_rate, arguments)


def factor(name: str, step: int, span: Span) -> float:
    """What the base rate is multiplied by for the step after `step` steps are done (0 at first)."""
    return SCHEDULES[name](step, span, **span.arguments)


def rate_at(s: "Settings", step: int, rate: float, span: Span) -> float:
    """What something of base rate `rate` learns at after `step` steps.

    The schedules of the list have one shape for all parts; a class counts for each part by itself.
    """
    if not s.lr_scheduler_type.strip():
        return rate * factor(s.lr_scheduler, step, span)
    schedule = function_of(s)
    assert schedule is not None
    return rate * schedule(step, replace(span, rate=rate), **span.arguments)


def curve(s: "Settings", steps: int, points: int = 200) -> list[tuple[int, float]]:
    """(step, rate) at up to `points` places of a run of `steps`, for a plot."""
    from trainer.plan import warmup

    span = span_of(s, steps, warmup(s, steps))
    last, count = max(0, steps - 1), min(points, steps)
    places = sorted({round(last * place / max(1, count - 1)) for place in range(count)})
    return [(step, rate_at(s, step, span.rate, span)) for step in places]
