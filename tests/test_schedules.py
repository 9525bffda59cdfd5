"""Every schedule against its namesake in diffusers or transformers, and what a plot is drawn from."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from diffusers import optimization as diffusers
from transformers import optimization as transformers

from trainer.schedules import SCHEDULES, Span, arguments_of, curve, factor, rate_at, read_arguments, span_of
from trainer.settings import Settings

RATE = 3e-4


def judged(make: Any, **options: Any) -> list[float]:
    """The factors that a library's schedule gives for 120 steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    schedule = make(optimizer, **options)
    factors = []
    for _ in range(120):
        factors.append(optimizer.param_groups[0]["lr"] / RATE)
        optimizer.step()
        schedule.step()
    return factors


def ours(name: str, **options: Any) -> list[float]:
    span = Span(steps=100, rate=RATE, **options)
    return [factor(name, step, span) for step in range(120)]


WARM = {"num_warmup_steps": 10}
BOTH = {**WARM, "num_training_steps": 100}
CASES: list[tuple[str, dict[str, Any], Any, dict[str, Any]]] = [
    ("constant", {}, diffusers.get_constant_schedule, {}),
    ("constant_with_warmup", {"warmup": 10}, diffusers.get_constant_schedule_with_warmup, WARM),
    ("linear", {"warmup": 10}, diffusers.get_linear_schedule_with_warmup, BOTH),
    ("linear", {}, transformers.get_linear_schedule_with_warmup, {**BOTH, "num_warmup_steps": 0}),
    (
        "cosine_with_restarts",
        {"warmup": 10, "cycles": 3},
        diffusers.get_cosine_with_hard_restarts_schedule_with_warmup,
        {**BOTH, "num_cycles": 3},
    ),
    (
        "polynomial",
        {"warmup": 10, "power": 2.0},
        transformers.get_polynomial_decay_schedule_with_warmup,
        {**BOTH, "power": 2.0},
    ),
    (
        "polynomial",
        {"power": 0.5, "arguments": {"lr_end": 1e-5}},
        diffusers.get_polynomial_decay_schedule_with_warmup,
        {**BOTH, "num_warmup_steps": 0, "power": 0.5, "lr_end": 1e-5},
    ),
    ("inverse_sqrt", {"warmup": 10}, transformers.get_inverse_sqrt_schedule, WARM),
    ("inverse_sqrt", {}, transformers.get_inverse_sqrt_schedule, {"num_warmup_steps": 0}),
    (
        "cosine_with_min_lr",
        {"warmup": 10, "cycles": 1},
        transformers.get_cosine_with_min_lr_schedule_with_warmup,
        {**BOTH, "num_cycles": 0.5, "min_lr_rate": 0.1},
    ),
    (
        "cosine_with_min_lr",
        {"warmup": 10, "cycles": 3, "arguments": {"min_lr": 6e-5}},
        transformers.get_cosine_with_min_lr_schedule_with_warmup,
        {**BOTH, "num_cycles": 1.5, "min_lr": 6e-5},
    ),
    (
        "warmup_stable_decay",
        {"warmup": 10},
        transformers.get_wsd_schedule,
        {**BOTH, "num_decay_steps": 20},
    ),
    (
        "warmup_stable_decay",
        {"warmup": 10, "arguments": {"num_decay_steps": 40, "decay_type": "1-sqrt", "min_lr_ratio": 0.2}},
        transformers.get_wsd_schedule,
        {**BOTH, "num_decay_steps": 40, "decay_type": "1-sqrt", "min_lr_ratio": 0.2},
    ),
    (
        "warmup_stable_decay",
        {"warmup": 30, "cycles": 3, "arguments": {"num_decay_steps": 0.4, "warmup_type": "1-sqrt"}},
        transformers.get_wsd_schedule,
        {**BOTH, "num_warmup_steps": 30, "num_decay_steps": 40, "warmup_type": "1-sqrt", "num_cycles": 1.5},
    ),
    (
        "warmup_stable_decay",
        {"warmup": 30, "arguments": {"num_decay_steps": 40, "warmup_type": "cosine", "decay_type": "linear"}},
        transformers.get_wsd_schedule,
        {**BOTH, "num_warmup_steps": 30, "num_decay_steps": 40, "warmup_type": "cosine", "decay_type": "linear"},
    ),
    (
        "inverse_sqrt",
        {"warmup": 10, "arguments": {"timescale": 50.0}},
        transformers.get_inverse_sqrt_schedule,
        {**WARM, "timescale": 50},
    ),
    (
        "piecewise_constant",
        {"arguments": {"step_rules": "1:10,0.1:20,0.01:30,0.005"}},
        diffusers.get_piecewise_constant_schedule,
        {"step_rules": "1:10,0.1:20,0.01:30,0.005"},
    ),
]


@pytest.mark.parametrize(("name", "options", "make", "theirs"), CASES)
def test_a_schedule_equals_its_namesake(name: str, options: dict[str, Any], make: Any, theirs: dict[str, Any]) -> None:
    assert ours(name, **options) == pytest.approx(judged(make, **theirs), abs=1e-12)


def test_cosine_equals_its_namesake_within_the_run() -> None:
    theirs = judged(diffusers.get_cosine_schedule_with_warmup, **BOTH)
    assert ours("cosine", warmup=10)[:101] == pytest.approx(theirs[:101], abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 1, 7, 100])
def test_factors_stay_between_nothing_and_the_whole_rate(name: str, warmup: int) -> None:
    for steps in (0, 1, 100):
        span = Span(steps, warmup)
        assert all(0 <= factor(name, step, span) <= 1 for step in range(steps + 5))


def test_piecewise_constant_without_rules_steps_down_twice() -> None:
    factors = ours("piecewise_constant")
    assert (factors[49], factors[50], factors[74], factors[75], factors[99]) == (1, 0.1, 0.1, 0.01, 0.01)


def test_a_rate_of_zero_does_not_divide() -> None:
    for name, shape in SCHEDULES.items():
        arguments: dict[str, Any] = {word: 1e-6 for word in ("min_lr", "lr_end") if word in arguments_of(shape)}
        assert 0 <= factor(name, 5, Span(10, 2, rate=0.0, arguments=arguments)) <= 1


def test_curve_is_what_the_loop_uses() -> None:
    s = Settings(learning_rate=2e-4, lr_scheduler="cosine", lr_warmup=10)
    points = curve(s, 100, points=1000)
    assert [step for step, _ in points] == list(range(100))
    span = span_of(s, 100, 10)
    assert [rate for _, rate in points] == [2e-4 * factor("cosine", step, span) for step in range(100)]
    few = curve(s, 1000, points=50)
    assert len(few) == 50
    assert (few[0][0], few[-1][0]) == (0, 999)
    assert curve(s, 0) == []
    assert curve(s, 1) == [(0, 2e-4)]


# Extra arguments.


def told(**values: Any) -> dict[str, Any]:
    return read_arguments(Settings(**values))


@pytest.mark.parametrize(
    ("schedule", "text", "expected"),
    [
        ("cosine_with_min_lr", "min_lr=2e-5", {"min_lr": 2e-5}),
        ("cosine_with_min_lr", '"min_lr_rate=0.05"', {"min_lr_rate": 0.05}),
        ("polynomial", "lr_end=1e-6", {"lr_end": 1e-6}),
        ("inverse_sqrt", "timescale=1000", {"timescale": 1000.0}),
        (
            "warmup_stable_decay",
            "num_decay_steps=10%, decay_type=linear min_lr_ratio=0.1",
            {"num_decay_steps": 0.1, "decay_type": "linear", "min_lr_ratio": 0.1},
        ),
        ("piecewise_constant", 'step_rules="1:100,0.1"', {"step_rules": "1:100,0.1"}),
        ("piecewise_constant", "step_rules=0.5", {"step_rules": "0.5"}),
        ("cosine", "", {}),
    ],
)
def test_extra_arguments_reach_the_schedule(schedule: str, text: str, expected: dict[str, Any]) -> None:
    assert told(lr_scheduler=schedule, lr_scheduler_args=text) == expected
    s = Settings(lr_scheduler=schedule, lr_scheduler_args=text, lr_warmup=0, learning_rate=1e-4)
    plain = curve(s.changed(lr_scheduler_args=""), 100)
    assert (curve(s, 100) != plain) == bool(expected)


@pytest.mark.parametrize(
    ("schedule", "text", "said"),
    [
        ("cosine", "min_lr=1e-5", "cosine has no argument 'min_lr'; it takes none, cosine_with_min_lr would."),
        ("polynomial", "lr_ende=1", "it takes lr_end; did you mean lr_end?"),
        ("polynomial", "power=2", "power has a field of its own, LR power"),
        ("cosine_with_restarts", "num_cycles=2", "num_cycles has a field of its own, LR # cycles"),
        ("cosine_with_min_lr", "min_lr_rate=2", "min_lr_rate must be a number from 0 to 1; 2 is not."),
        ("cosine_with_min_lr", "min_lr=low", "min_lr must be a number of at least 0; 'low' is not."),
        ("inverse_sqrt", "timescale=0", "timescale must be a number above 0; 0 is not."),
        (
            "warmup_stable_decay",
            "decay_type=cubic",
            "decay_type must be cosine, linear, 1-sqrt; 'cubic' is none of them.",
        ),
        ("piecewise_constant", "step_rules=1:a,2", "at character 12: '1:a,2' is not a value for step_rules"),
        ("piecewise_constant", "step_rules=1,2:30", "step_rules is written like 1:100,0.1:200,0.01; '1,2:30' is not."),
        ("cosine", "0.1", "at character 1: '0.1' is not a name=value pair"),
    ],
)
def test_wrong_arguments_are_sentences(schedule: str, text: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        told(lr_scheduler=schedule, lr_scheduler_args=text)
    assert said in str(caught.value)


# Classes.


@pytest.mark.parametrize("name", ["CosineAnnealingLR", "torch.optim.lr_scheduler.CosineAnnealingLR"])
@pytest.mark.parametrize("options", [{"T_max": 30, "eta_min": 1e-5}, {"T_max": 120}], ids=str)
def test_cosine_annealing_equals_pytorchs(name: str, options: dict[str, Any]) -> None:
    text = " ".join(f"{word}={value}" for word, value in options.items())
    s = Settings(lr_scheduler="linear", lr_scheduler_type=name, lr_scheduler_args=text, learning_rate=RATE)
    theirs = judged(torch.optim.lr_scheduler.CosineAnnealingLR, **options)
    span = span_of(s, 120, 0)
    assert [rate_at(s, step, RATE, span) / RATE for step in range(120)] == pytest.approx(theirs, abs=1e-12)
    assert rate_at(s, 30, 3 * RATE, span) >= (
        1e-5 if options["T_max"] == 30 else 0
    )  # the floor is a rate, for each part


def test_cosine_annealing_takes_the_length_of_the_run() -> None:
    s = Settings(lr_scheduler_type="CosineAnnealingLR", learning_rate=1e-4)
    assert curve(s, 100)[50][1] == pytest.approx(5e-5)


def test_the_tables_load_without_torch() -> None:
    code = "import sys, trainer.schedules, trainer.optimizers, trainer.tabulated, trainer.learning, trainer.samplers; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
