"""Learning-rate schedules as pure functions: a step in, the factor of the base rate out.

A rate depends on nothing but the step, so a resumed run goes on where it stopped and the page draws the same curve.
Names and shapes are those of diffusers and transformers.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainer.registry import Registry

if TYPE_CHECKING:
    from trainer.settings import Settings


@dataclass(frozen=True)
class Span:
    """What a schedule stretches over: `steps` in all, the first `warmup` of them rising.

    `cycles` and `power` shape some schedules; `rate` is the base rate, for floors given as a rate; `arguments` are
    the extra ones: `min_lr_rate`, `lr_end`, `timescale`, `num_decay_steps`, `decay_type`, `step_rules`.
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


Schedule = Callable[[int, Span], float]


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


def cosine_with_min_lr(step: int, span: Span) -> float:
    """`cycles` half waves down to a floor: `min_lr_rate` of the base rate (a tenth), or the rate `min_lr`."""
    rising = span.rising(step)
    if rising is not None:
        return rising
    floor = float(span.arguments.get("min_lr_rate", 0.1))
    if "min_lr" in span.arguments:
        floor = float(span.arguments["min_lr"]) / span.rate if span.rate else 0.0
    return max(0.0, _wave(span.cycles * span.progress(step)) * (1 - floor) + floor)


def polynomial(step: int, span: Span) -> float:
    """(1 - progress) to the power of `power`, down to the rate `lr_end` (1e-7)."""
    rising = span.rising(step)
    if rising is not None:
        return rising
    end = min(float(span.arguments.get("lr_end", 1e-7)) / span.rate, 1.0) if span.rate else 0.0
    left = max(0.0, 1.0 - span.progress(step))
    return (1 - end) * left**span.power + end


def inverse_sqrt(step: int, span: Span) -> float:
    """Falls as 1/√step after the warm-up (Vaswani et al. 2017, eq. 3); `timescale` is the warm-up unless given."""
    rising = span.rising(step)
    if rising is not None:
        return rising
    timescale = float(span.arguments.get("timescale") or span.warmup or 10_000)
    return 1.0 / math.sqrt((step + timescale - span.warmup) / timescale)


def warmup_stable_decay(step: int, span: Span) -> float:
    """Rise, stay, and fall over the last `num_decay_steps` (a fifth) to `min_lr_ratio` (0) (Hu et al. 2024, eq. 1).

    `decay_type` is "cosine", "linear" or "1-sqrt".
    """
    floor = float(span.arguments.get("min_lr_ratio", 0.0))
    rising = span.rising(step)
    if rising is not None:
        return rising * (1 - floor) + floor
    decay = int(span.arguments.get("num_decay_steps", span.steps // 5))
    begins = max(span.warmup, span.steps - decay)
    if step < begins:
        return 1.0
    if step >= span.steps:
        return floor
    progress = (step - begins) / max(1, span.steps - begins)
    fall = {
        "cosine": _wave(span.cycles * progress), "linear": 1 - progress, "1-sqrt": 1 - math.sqrt(progress)
    }[str(span.arguments.get("decay_type", "cosine"))]  # fmt: skip
    return max(0.0, fall * (1 - floor) + floor)


def piecewise_constant(step: int, span: Span) -> float:
    """Stairs: `step_rules` "1:10,0.1:20,0.01" is 1 before step 10, 0.1 before step 20, then 0.01.

    Without rules: the whole rate for the first half of the run, a tenth for the next quarter, a hundredth at the end.
    """
    rules = str(span.arguments.get("step_rules") or f"1:{span.steps // 2},0.1:{span.steps * 3 // 4},0.01")
    *stairs, last = rules.split(",")
    for stair in sorted((int(until), float(factor)) for factor, until in (rule.split(":") for rule in stairs)):
        if step < stair[0]:
            return stair[1]
    return float(last)


def adafactor(step: int, span: Span) -> float:
    """Left to the optimizer: Adafactor with a relative step has a schedule of its own (Shazeer & Stern 2018, §8)."""
    return 1.0


def _wave(progress: float) -> float:
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


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


def span_of(s: "Settings", steps: int, warmup: int) -> Span:
    """The span of a run that the settings describe."""
    rate = s.learning_rate if s.unet_lr is None else s.unet_lr
    return Span(steps, warmup, s.lr_scheduler_num_cycles, s.lr_scheduler_power, rate or s.learning_rate)


def factor(name: str, step: int, span: Span) -> float:
    """What the base rate is multiplied by for the step after `step` steps are done (0 at first)."""
    return SCHEDULES[name](step, span)


def curve(s: "Settings", steps: int, points: int = 200) -> list[tuple[int, float]]:
    """(step, rate) at up to `points` places of a run of `steps`, for a plot."""
    from trainer.plan import warmup

    span = span_of(s, steps, warmup(s, steps))
    last, count = max(0, steps - 1), min(points, steps)
    places = sorted({round(last * place / max(1, count - 1)) for place in range(count)})
    return [(step, span.rate * factor(s.lr_scheduler, step, span)) for step in places]
