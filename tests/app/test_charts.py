"""Curves: the arithmetic behind them, and SVG that a parser accepts."""

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from app import charts
from trainer.settings import Settings


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def line(svg: str, kind: str) -> list[tuple[float, float]]:
    found = next(item for item in parsed(svg).iter("polyline") if item.get("class") == kind)
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in (found.get("points") or "").split())]


def test_the_average_of_a_constant_is_that_constant_from_the_first_value_on() -> None:
    assert charts.smooth([0.25] * 40, window=10) == pytest.approx([0.25] * 40)


def test_the_average_is_the_weighted_mean_of_its_definition() -> None:
    values, beta = [3.0, 1.0, 4.0, 1.0, 5.0], 1 - 1 / 4
    for t, found in enumerate(charts.smooth(values, window=4), start=1):
        weights = [beta ** (t - 1 - i) for i in range(t)]
        assert found == pytest.approx(sum(w * x for w, x in zip(weights, values, strict=False)) / sum(weights))


def test_a_long_curve_is_thinned_and_keeps_its_mean() -> None:
    points = [(float(step), math.sin(step)) for step in range(100_000)]
    few = charts.thin(points)
    assert 300 < len(few) <= charts.MOST_POINTS
    assert sum(y for _, y in few[:-1]) / len(few[:-1]) == pytest.approx(
        sum(y for _, y in points) / len(points), abs=1e-3
    )
    assert [x for x, _ in few] == sorted(x for x, _ in few)


def test_a_short_curve_is_not_changed() -> None:
    points = [(1.0, 0.5), (2.0, 0.25)]
    assert charts.thin(points) == points


def test_points_lie_where_their_numbers_say() -> None:
    svg = charts.loss_curve([(0, 0.0), (50, 0.2), (100, 0.1)], steps=200)
    raw = line(svg, "loom-raw")
    assert [x for x, _ in raw] == [0, 250, 500]
    heights = [1000 - y for _, y in raw]
    assert heights[0] == 0
    assert heights[1] == pytest.approx(2 * heights[2], abs=0.2)


def test_the_curve_is_as_wide_as_the_run_will_be_long() -> None:
    assert line(charts.loss_curve([(10, 1.0), (20, 1.0)], steps=40), "loom-bold")[-1][0] == 500
    assert line(charts.loss_curve([(10, 1.0), (20, 1.0)]), "loom-bold")[-1][0] == 1000


def test_steps_without_a_finite_loss_are_left_out_and_counted() -> None:
    svg = charts.loss_curve([(1, 0.1), (2, float("nan")), (3, float("inf")), (4, 0.1)])
    assert len(line(svg, "loom-raw")) == 2
    assert "2 steps had no finite loss" in (parsed(svg).findtext("desc") or "")


def test_one_point_is_drawn_and_none_is_nothing() -> None:
    assert len(line(charts.loss_curve([(1, 0.5)]), "loom-raw")) == 2
    assert charts.loss_curve([]) == ""
    assert charts.loss_curve([(1, float("nan"))]) == ""


def test_zero_loss_and_step_zero_divide_nothing() -> None:
    drawn = charts.loss_curve([(0, 0.0)])
    parsed(drawn)
    assert not re.search(r"\b(nan|inf)\b", drawn)


def test_epochs_are_marked_but_never_too_many() -> None:
    def marks(ends: range) -> int:
        svg = charts.loss_curve([(1, 1.0), (1000, 1.0)], 1000, ends)
        return sum(item.get("class") == "loom-epoch" for item in parsed(svg).iter("line"))

    assert marks(range(100, 1001, 100)) == 10
    assert marks(range(1, 1001)) == 40


def test_every_chart_has_a_title_and_says_its_numbers() -> None:
    svg = parsed(charts.loss_curve([(1, 0.5), (2, 0.25)], 10))
    assert svg.get("role") == "img"
    assert svg.findtext("title") == "Loss"
    assert "Step 2 of 10" in (svg.findtext("desc") or "")


def test_the_pointer_can_read_the_numbers() -> None:
    svg = parsed(charts.loss_curve([(1, 0.5), (2, 0.25)], 10))
    assert (svg.get("data-x"), svg.get("data-raw"), svg.get("data-right")) == ("1 2", "0.5 0.25", "10")


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-4, "1e-4"), (2.5e-5, "2.5e-5"), (0, "0"), (1.0, "1"), (0.05, "0.05"), (1.234567e-4, "1.23e-4")],
)
def test_rates_are_written_as_people_write_them(value: float, text: str) -> None:
    assert charts.rate(value) == text


def test_the_schedule_is_drawn_from_the_formula_that_trains() -> None:
    settings = Settings(lr_scheduler="linear", lr_warmup=10, learning_rate=1e-4)
    svg = charts.schedule_plot(settings, 101)
    heights = [1000 - y for _, y in line(svg, "loom-bold loom-group-0")]
    assert heights[0] == 0
    assert heights.index(max(heights)) == 10
    fall = [a - b for a, b in itertools.pairwise(heights[10:])]
    assert fall == pytest.approx([fall[0]] * len(fall), abs=0.11)
    assert "over 1e-4" in (parsed(svg).findtext("desc") or "")


def test_the_text_encoder_has_a_line_of_its_own_where_it_differs() -> None:
    def lines(**values: object) -> list[str | None]:
        svg = charts.schedule_plot(Settings(lr_scheduler="constant", **values), 200)
        return [item.get("class") for item in parsed(svg).iter("polyline")]

    assert len(lines()) == 1
    assert len(lines(text_encoder_lr=5e-5)) == 2
    assert len(lines(stop_text_encoder_training=50)) == 2
    svg = charts.schedule_plot(Settings(lr_scheduler="constant", stop_text_encoder_training=50), 200)
    heights = [1000 - y for _, y in line(svg, "loom-bold loom-group-1")]
    assert [height > 0 for height in heights] == [True] * 100 + [False] * 100


def test_the_schedule_is_drawn_with_its_arguments() -> None:
    plain = charts.schedule_plot(Settings(lr_scheduler="cosine_with_min_lr"), 100)
    floor = charts.schedule_plot(Settings(lr_scheduler="cosine_with_min_lr", lr_scheduler_args="min_lr_rate=0.5"), 100)
    assert "to 1e-5" in (parsed(plain).findtext("desc") or "")
    assert "to 5e-5" in (parsed(floor).findtext("desc") or "")
    annealing = charts.schedule_plot(Settings(lr_scheduler_type="CosineAnnealingLR", lr_scheduler_args="T_max=25"), 101)
    heights = [1000 - y for _, y in line(annealing, "loom-bold loom-group-0")]
    assert [heights[place] > 900 for place in (0, 25, 50, 75, 100)] == [True, False, True, False, True]


def test_what_cannot_be_drawn_is_said_in_its_place() -> None:
    """PyTorch would have to be loaded to ask the class, and the page loads none."""
    by_class = charts.schedule_plot(Settings(lr_scheduler_type="StepLR", lr_scheduler_args="step_size=3"), 100)
    assert (
        by_class == '<p class="loom-muted">StepLR is asked for its rates when the run starts; the run shows them.</p>'
    )
    assert "Adafactor chooses its own rate" in charts.schedule_plot(Settings(optimizer="Adafactor"), 100)
    assert charts.schedule_plot(Settings(lr_scheduler_args="min_lr="), 100) == ""


def test_an_optimizer_with_a_schedule_of_its_own_has_a_straight_line() -> None:
    svg = charts.schedule_plot(Settings(optimizer="AdamWScheduleFree", lr_scheduler="cosine"), 50)
    assert len({y for _, y in line(svg, "loom-bold loom-group-0")}) == 1


def test_no_steps_no_schedule() -> None:
    assert charts.schedule_plot(Settings(), 0) == ""
    assert charts.schedule_curve([]) == ""
    parsed(charts.schedule_plot(Settings(), 1))


def test_a_very_long_schedule_has_few_points_with_the_first_and_the_last() -> None:
    svg = charts.schedule_plot(Settings(lr_scheduler="cosine", lr_warmup=0), 1_000_000)
    points = line(svg, "loom-bold loom-group-0")
    assert len(points) == charts.MOST_POINTS
    assert (points[0][0], points[-1][0]) == (0, 1000)


def test_buckets_are_bars_as_long_as_their_counts() -> None:
    svg = charts.bucket_chart({(512, 512): 10, (768, 512): 5})
    shares = [float(found) for found in re.findall(r"\* ([0-9.]+)\)", svg)]
    assert shares == [1.0, 0.5]
    assert [text.text for text in parsed(svg).iter("text")] == ["512 × 512", "10", "768 × 512", "5"]
    assert charts.bucket_chart({}) == ""


def test_a_loss_far_from_zero_is_not_squeezed_and_the_edge_is_named() -> None:
    svg = charts.loss_curve([(step, 1.1 + 0.1 * math.sin(step)) for step in range(1, 100)])
    heights = [1000 - y for _, y in line(svg, "loom-raw")]
    assert max(heights) - min(heights) > 700
    assert "0.98" in [text.text for text in parsed(svg).iter("text")]
