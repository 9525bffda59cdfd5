"""Charts as SVG text: numbers in, a picture out. Colours and line widths come from `static/monitor.css`.

Each chart fills the width it is given: lines are drawn in a square of 1000 units that is stretched, letters are not.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TypeVar

from trainer.settings import Settings

MOST_POINTS = 600
"""A curve never has more points than this; more cannot be seen."""
UNITS = 1000
SIDE, FOOT = 6, 18
"""Pixels left free beside the plot, and below it for the numbers of the steps."""

Point = tuple[float, float]
T = TypeVar("T")


def smooth(values: Sequence[float], window: float) -> list[float]:
    """Exponential moving average of about `window` values, without the pull towards zero of its first values.

    m_t = β m_(t-1) + (1 - β) x_t and m̂_t = m_t / (1 - β^t), with β = 1 - 1 / window (Kingma & Ba 2015, section 3).
    """
    beta = 1 - 1 / max(window, 1)
    average, found = 0.0, []
    for t, value in enumerate(values, start=1):
        average = beta * average + (1 - beta) * value
        found.append(average / (1 - beta**t))
    return found


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points: neighbours are replaced by their mean. Values that are no finite numbers are left out."""
    good = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    group = math.ceil(len(good) / most)
    if group <= 1:
        return good
    groups = (good[start : start + group] for start in range(0, len(good), group))
    return [(sum(x for x, _ in some) / len(some), sum(y for _, y in some) / len(some)) for some in groups]


def loss_curve(points: Sequence[Point], steps: int = 0, epoch_ends: Iterable[int] = (), height: int = 150) -> str:
    """The loss of each step, faint, with its moving average, bold; `steps` is where the run will end.

    `points` are (step, loss) in order of steps; `epoch_ends` are the steps at which epochs ended.
    """
    shown = thin(points)
    if not shown:
        return ""
    xs, raw = [x for x, _ in shown], [y for _, y in shown]
    bold = smooth(raw, window=max(8, len(raw) / 16))
    lost = sum(not math.isfinite(y) for _, y in points)
    right = max(steps, xs[-1], 1)
    bottom, top = _limits(raw, bold)
    said = f"Step {xs[-1]:.0f} of {right:.0f}: loss {bold[-1]:.3g}, lowest {min(bold):.3g}"
    said += f"; {lost} steps had no finite loss" if lost else ""
    plot = [
        *(_upright(end / right, "loom-epoch") for end in _some(list(epoch_ends), 40)),
        _line(_placed(xs, raw, right, top, bottom), "loom-raw"),
        _line(_placed(xs, bold, right, top, bottom), "loom-bold"),
    ]
    data = {"x": _numbers(xs, 0), "raw": _numbers(raw), "bold": _numbers(bold), "right": f"{right:.0f}"}
    return _chart("Loss", said, plot, [*_levels(bottom, top, height), *_feet(right)], height, data)


def schedule_curve(rates: Sequence[float] | Mapping[str, Sequence[float]], height: int = 64) -> str:
    """Learning rates over a run, a line a group; each sequence holds one rate a step, or fewer at even distances."""
    groups = rates if isinstance(rates, Mapping) else {"": rates}
    groups = {name: _some(list(values), MOST_POINTS) for name, values in groups.items() if len(values)}
    if not groups:
        return ""
    top = max(max(values) for values in groups.values()) or 1.0
    lines = [
        _line(
            _placed(range(len(values)), values, max(len(values) - 1, 1), top * 1.08),
            f"loom-bold loom-group-{index % 3}",
        )
        for index, values in enumerate(groups.values())
    ]
    said = "; ".join(
        f"{name or 'Rate'}: from {rate(values[0])} over {rate(max(values))} to {rate(values[-1])}"
        for name, values in groups.items()
    )
    return _chart("Learning rate", said, lines, [_letters(SIDE, 12, rate(top))], height, foot=2)


def schedule_plot(settings: Settings, steps: int) -> str:
    """The learning rate over a run of `steps` steps with these settings, or why it cannot be drawn; "" for nothing."""
    from trainer.arguments import parse_arguments
    from trainer.optimizers import has_own_schedule, ignores_rate
    from trainer.plan import stop_text_encoder_at, warmup
    from trainer.schedules import function_of, name_of, rate_at, span_of

    if steps < 1:
        return ""
    try:
        arguments = parse_arguments(settings.optimizer_args)
        span = span_of(settings, steps, warmup(settings, steps))
    except ValueError:  # the sentence stands under the arguments
        return ""
    if ignores_rate(settings.optimizer, arguments):
        return _sentence(f"{settings.optimizer} chooses its own rate; the run shows it.")
    own = has_own_schedule(settings.optimizer, arguments)
    if not own and function_of(settings) is None:
        return _sentence(f"{name_of(settings)} is asked for its rates when the run starts; the run shows them.")
    places = _some(list(range(steps)), MOST_POINTS)
    unet = settings.learning_rate if settings.unet_lr is None else settings.unet_lr
    text = settings.learning_rate if settings.text_encoder_lr is None else settings.text_encoder_lr
    end = stop_text_encoder_at(settings, steps)

    def over_the_run(rate: float) -> list[float]:
        return [rate if own else rate_at(settings, place, rate, span) for place in places]

    groups = {"U-Net": over_the_run(unet)}
    if text != unet or end is not None:
        rests = steps if end is None else end
        groups["Text encoder"] = [
            rate if place < rests else 0.0 for place, rate in zip(places, over_the_run(text), strict=True)
        ]
    return schedule_curve(groups)


def _sentence(text: str) -> str:
    return f'<p class="loom-muted">{escape(text)}</p>'


def bucket_chart(counts: Mapping[tuple[int, int], int]) -> str:
    """How many pictures go into each size: a row a bucket, with its shape, its name and a bar."""
    if not counts:
        return ""
    most, row = max(counts.values()), 22
    longest = max(max(size) for size in counts)
    rows = []
    for index, ((width, height), count) in enumerate(sorted(counts.items(), key=lambda item: (-item[1], item[0]))):
        y, w, h = index * row, 16 * width / longest, 16 * height / longest
        rows.append(
            f'<rect class="loom-shape" x="{10 - w / 2:.1f}" y="{y + 10 - h / 2:.1f}" width="{w:.1f}" height="{h:.1f}"/>'
            + _letters(28, y + 14, f"{width} × {height}")
            + f'<rect class="loom-bar-fill" x="106" y="{y + 4}" height="12" rx="2" '
            f'style="width:calc((100% - 146px) * {count / most:.4f})"/>' + _letters("100%", y + 14, str(count), "end")
        )
    said = ", ".join(f"{count} of {width} by {height}" for (width, height), count in sorted(counts.items()))
    return (
        f'<svg class="loom-chart-svg" role="img" width="100%" height="{row * len(counts)}">'
        f"<title>Pictures by size</title><desc>{escape(said)}</desc>{''.join(rows)}</svg>"
    )


def rate(value: float) -> str:
    """A learning rate as people write it: 1e-4, 2.5e-05 as 2.5e-5, 0."""
    if not value:
        return "0"
    if 0.01 <= abs(value) < 1000:
        return f"{value:.3g}"
    digits, power = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(power)}"


def _chart(
    title: str,
    said: str,
    plot: list[str],
    letters: list[str],
    height: int,
    data: Mapping[str, str] | None = None,
    foot: int = FOOT,
) -> str:
    """The frame of every chart: title and description for those who do not see it, the stretched plot, the letters."""
    attributes = "".join(f' data-{name}="{escape(value)}"' for name, value in (data or {}).items())
    return (
        f'<svg class="loom-chart-svg" role="img" width="100%" height="{height}"{attributes}>'
        f"<title>{escape(title)}</title><desc>{escape(said)}</desc>"
        f'<svg class="loom-curve" height="{height - foot}" viewBox="0 0 {UNITS} {UNITS}" preserveAspectRatio="none">'
        f"{''.join(plot)}</svg>{''.join(letters)}</svg>"
    )


def _placed(xs: Iterable[float], ys: Iterable[float], right: float, top: float, bottom: float = 0.0) -> list[Point]:
    """Points in units of the plot; what lies outside touches its edge."""
    return [
        (x / right * UNITS, UNITS - min(max((y - bottom) / (top - bottom), 0), 1) * UNITS)
        for x, y in zip(xs, ys, strict=True)
    ]


def _line(points: Sequence[Point], kind: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    if len(points) == 1:
        path = f"{path} {points[0][0] + 0.1:.1f},{points[0][1]:.1f}"
    return f'<polyline class="{kind}" points="{path}"/>'


def _upright(share: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{share * UNITS:.1f}" x2="{share * UNITS:.1f}" y1="0" y2="{UNITS}"/>'


def _letters(x: float | str, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="loom-letters" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _levels(bottom: float, top: float, height: int) -> list[str]:
    """The loss at the upper edge, and at the lower one where that is not zero."""
    low = [_letters("100%", height - FOOT - 4, f"{bottom:.3g}", "end")] if bottom else []
    return [_letters("100%", 10, f"{top:.2g}", "end"), *low]


def _feet(right: float) -> list[str]:
    return [_letters(0, "100%", "0"), _letters("100%", "100%", f"{right:.0f}", "end")] if right else []  # type: ignore[arg-type]


def _limits(raw: Sequence[float], bold: Sequence[float]) -> tuple[float, float]:
    """The edges of the plot: around the average and all but the wildest steps, from zero up unless that is far away."""
    order = sorted(raw)
    low, high = order[int(len(order) * 0.02)], order[min(len(order) - 1, int(len(order) * 0.98))]
    low, high = min(low, *bold), max(high, *bold, 1e-12)
    return (low - (high - low) * 0.1 if low > high / 2 and high > low else 0.0), high + (high - low) * 0.08


def _some(values: list[T], most: int) -> list[T]:
    """At most `most` of the values, at even distances, with the first and the last."""
    if len(values) <= most:
        return list(values)
    return [values[round(index * (len(values) - 1) / (most - 1))] for index in range(most)]


def _numbers(values: Iterable[float], digits: int | None = None) -> str:
    return " ".join(f"{value:.3g}" if digits is None else f"{value:.{digits}f}" for value in values)
