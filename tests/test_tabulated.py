"""Scheduler classes as a table: against the class itself, step by step, and what cannot be tabulated."""

import warnings
from typing import Any

import pytest
import torch

from trainer import tabulated
from trainer.settings import Settings
from trainer.tabulated import Tabulated

STEPS = 40
RATES = {"unet": 1e-3, "unet plus": 4e-3, "textencoder": 5e-4}


def optimizer(kind: Any = torch.optim.AdamW, **options: Any) -> torch.optim.Optimizer:
    groups = [
        {"params": [torch.nn.Parameter(torch.ones(2))], "name": name, "rate": rate, "lr": rate}
        for name, rate in RATES.items()
    ]
    return kind(groups, lr=1e-3, **options)


def settings(name: str, text: str = "") -> Settings:
    return Settings(lr_scheduler_type=name, lr_scheduler_args=text)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "StepLR": ("step_size=7 gamma=0.5", {"step_size": 7, "gamma": 0.5}),
    "MultiStepLR": ("milestones=5,20 gamma=0.1", {"milestones": [5, 20], "gamma": 0.1}),
    "ExponentialLR": ("gamma=0.9", {"gamma": 0.9}),
    "CosineAnnealingWarmRestarts": ("T_0=8 T_mult=2 eta_min=1e-5", {"T_0": 8, "T_mult": 2, "eta_min": 1e-5}),
    "OneCycleLR": ("pct_start=0.25", {"pct_start": 0.25, "total_steps": STEPS, "max_lr": list(RATES.values())}),
    "CyclicLR": ("base_lr=1e-4 max_lr=1e-2 step_size_up=6", {"base_lr": 1e-4, "max_lr": 1e-2, "step_size_up": 6}),
    "torch.optim.swa_utils.SWALR": ("swa_lr=1e-4 anneal_epochs=9", {"swa_lr": 1e-4, "anneal_epochs": 9}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_table_is_what_the_class_does(name: str, kind: Any) -> None:
    """Rates of every group, and the momentum that some schedulers move against them."""
    text, options = CASES[name]
    momentum = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    ours, theirs = optimizer(kind, **momentum), optimizer(kind, **momentum)
    table = Tabulated(settings(name, text), ours, STEPS)
    scheduler = tabulated.load(name)(theirs, **options)
    for step in range(STEPS):
        table.set(ours, step)
        for mine, other in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert all(mine[key] == pytest.approx(other[key]) for key in tabulated.SET if key in other)
        theirs.step()
        if step + 1 < STEPS:
            scheduler.step()


def test_a_rate_follows_from_the_step_alone() -> None:
    """So that a resumed run, which asks for later steps first, goes on with the same rates."""
    ours = optimizer()
    table = Tabulated(settings("StepLR", "step_size=7 gamma=0.5"), ours, STEPS)
    table.set(ours, 30)
    late = [group["lr"] for group in ours.param_groups]
    table.set(ours, 3)
    table.set(ours, 30)
    assert [group["lr"] for group in ours.param_groups] == late == [rate * 0.5**4 for rate in RATES.values()]
    ours.param_groups.pop()  # the text encoder rests
    table.set(ours, 31)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("OneCycleLR", "total_steps=10", "OneCycleLR does not accept total_steps=10: Tried to step 11 times"),
        ("ExponentialLR", "gamma=1e300", "the rate becomes inf"),
        ("ExponentialLR", "gamma=-1", "the rate becomes -0.001"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_fails_on_the_way_is_found_before_the_run(name: str, text: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        Tabulated(settings(name, text), optimizer(), STEPS)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said", "instead"),
    [
        (
            "CosineAnealingLR",
            "PyTorch has no scheduler CosineAnealingLR; did you mean CosineAnnealingLR?",
            "CosineAnnealingLR",
        ),
        (
            "torch.optim.lr_scheduler.StepRL",
            "has no class StepRL; did you mean StepLR?",
            "torch.optim.lr_scheduler.StepLR",
        ),
        ("fancy_schedules.Fancy", "needs the package fancy_schedules, which is not installed here", ""),
        ("torch.optim.AdamW", "is not a scheduler", ""),
        ("LRScheduler", "is not a scheduler", ""),
        ("diffusers.optimization.get_scheduler", "is not a class", ""),
        ("ReduceLROnPlateau", "ReduceLROnPlateau follows the loss", ""),
        ("LambdaLR", "LambdaLR needs lr_lambda, a function, which cannot be written as text", ""),
        ("SequentialLR", "SequentialLR needs schedulers, a list of schedulers", ""),
    ],
)
def test_what_cannot_be_used_is_a_sentence(name: str, said: str, instead: str) -> None:
    found = tabulated.complaint(name)
    assert found is not None
    assert said in str(found)
    assert found.instead == instead
    with pytest.raises(tabulated.Unusable):
        Tabulated(settings(name), optimizer(), STEPS)


def test_arguments_are_checked_in_the_source() -> None:
    assert tabulated.wrong_arguments("StepLR", {}) == "StepLR needs step_size; write step_size=… here."
    assert tabulated.wrong_arguments("StepLR", {"step_size": 3}) == ""
    assert "did you mean gamma?" in tabulated.wrong_arguments("ExponentialLR", {"gama": 0.9})
    assert tabulated.wrong_arguments("OneCycleLR", {}) == ""


def test_no_warning_of_torch_reaches_the_log() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Tabulated(settings("ExponentialLR", "gamma=0.9"), optimizer(), 5)
