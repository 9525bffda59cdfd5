"""What is said about optimizer, rates and schedule before a run: each case a sentence under the right label."""

from typing import Any

import pytest

from trainer import checks, learning
from trainer.settings import Settings

GOOD = {"optimizer": "AdamW", "learning_rate": 1e-4}


def said(values: dict[str, Any], finders: Any) -> list[str]:
    s = Settings(**{**GOOD, **values})
    return [str(item) for find in finders for item in find(s)]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"optimizer": "Adamm"}, "Optimizer: there is no optimizer Adamm; did you mean Adam?"),
        ({"optimizer": "torch.optim.LBFGS"}, "Optimizer: torch.optim.LBFGS needs the loss several times"),
        ({"optimizer_args": "betas=0.9,0.99,"}, ""),
        ({"optimizer_args": "betas=0.9,"}, "Optimizer extra arguments: betas takes 2 numbers"),
        ({"optimizer_args": "betas="}, "Optimizer extra arguments: at character 7: the value is missing for betas"),
        ({"optimizer_args": "beta=1"}, "Optimizer extra arguments: AdamW has no argument 'beta'"),
        (
            {"optimizer": "RMSprop", "optimizer_args": "alfa=1"},
            "Optimizer extra arguments: RMSprop has no argument 'alfa'",
        ),
        ({"lr_scheduler_type": "StepLR"}, "LR scheduler extra arguments: StepLR needs step_size"),
        ({"lr_scheduler_type": "ReduceLROnPlateau"}, "LR Scheduler type: ReduceLROnPlateau follows the loss"),
        ({"lr_scheduler_type": "Cosine"}, "LR Scheduler type: cosine is no class of PyTorch, but one of LR Scheduler"),
        ({"lr_scheduler_args": "T_max=3"}, "LR scheduler extra arguments: cosine has no argument 'T_max'"),
        (
            {"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_args": "min_lr=1e-3"},
            "LR scheduler extra arguments: min_lr (0.001) is where the rate ends and must not be above the learning rate",
        ),
    ],
)
def test_what_stops_a_run(values: dict[str, Any], sentence: str) -> None:
    found = said(values, learning.PROBLEMS)
    assert [text[: len(sentence)] for text in found] == ([sentence] if sentence else [])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"optimizer": "Prodigy"},
            "Learning rate: Prodigy finds the rate itself and expects 1 here; 0.0001 would train almost",
        ),
        (
            {"optimizer": "Prodigy", "learning_rate": 0.5},
            "Learning rate: Prodigy finds the rate itself and expects 1 here; 0.5 makes",
        ),
        (
            {"optimizer": "DAdaptLion", "learning_rate": 1, "unet_lr": 1e-4},
            "Unet learning rate: DAdaptLion finds the rate",
        ),
        (
            {"optimizer": "prodigyplus.ProdigyPlusScheduleFree", "lr_warmup": 0},
            "Learning rate: prodigyplus.ProdigyPlusScheduleFree finds the rate itself",
        ),
        ({"optimizer": "pytorch_optimizer.Prodigy"}, "Learning rate: pytorch_optimizer.Prodigy finds the rate itself"),
        (
            {"optimizer": "Prodigy", "learning_rate": 1, "text_encoder_lr": 0.5},
            "Text Encoder learning rate: Prodigy knows one rate for all parts; 0.5 does not count, 1 does.",
        ),
        ({"learning_rate": 1}, "Learning rate: 1 is far too high for AdamW"),
        ({"optimizer": "Adafactor", "lr_warmup": 0}, "Optimizer extra arguments: Adafactor chooses its own rate; add"),
        ({"lr_scheduler": "constant"}, "LR warmup (% of total steps): the constant schedule has no warm-up"),
        (
            {"lr_scheduler": "constant", "lr_warmup": 0, "lr_warmup_steps": 9},
            "LR warmup steps (override): the constant",
        ),
        (
            {"lr_scheduler": "piecewise_constant"},
            "LR warmup (% of total steps): has no effect: the piecewise_constant schedule",
        ),
        (
            {"lr_scheduler_type": "CosineAnnealingLR"},
            "LR warmup (% of total steps): has no effect: CosineAnnealingLR knows no",
        ),
        (
            {"optimizer": "RAdamScheduleFree"},
            "LR warmup (% of total steps): RAdamScheduleFree has no warm-up of this kind",
        ),
        ({"lr_scheduler": "adafactor", "lr_warmup": 0}, "LR Scheduler: adafactor leaves the rate to an Adafactor that"),
        (
            {"lr_scheduler_num_cycles": 3},
            "LR # cycles: has no effect with cosine; it is for cosine_with_restarts,",
        ),
        ({"lr_scheduler_power": 3}, "LR power: has no effect with cosine; it is for polynomial."),
        (
            {"stop_text_encoder_training": 50, "text_encoder_lr": 0},
            "Stop TE (% of total steps): has no effect: Text Encoder learning rate is 0",
        ),
        (
            {"optimizer": "AdamWScheduleFree", "lr_scheduler_type": "CosineAnnealingLR"},
            "LR Scheduler type: has no effect: AdamWScheduleFree has a schedule of its own.",
        ),
    ],
)
def test_what_surprises(values: dict[str, Any], sentence: str) -> None:
    found = said(values, learning.NOTES)
    assert [text[: len(sentence)] for text in found] == [sentence]


@pytest.mark.parametrize(
    "values",
    [
        {}, {"optimizer": "Prodigy", "learning_rate": 1}, {"optimizer": "AdamWScheduleFree"}, {"unet_lr": 0},
        {"optimizer": "Prodigy", "learning_rate": 1, "unet_lr": 1, "text_encoder_lr": 0}, {"lr_scheduler": "polynomial"},
        {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 3}, {"optimizer": "SGDScheduleFree", "learning_rate": 1},
        {"optimizer": "prodigyplus.ProdigyPlusScheduleFree", "learning_rate": 1, "optimizer_args": "use_schedulefree=False"},
        {"lr_scheduler_type": "StepLR", "lr_scheduler_args": "step_size=30", "lr_warmup": 0},
    ],
    ids=str,
)  # fmt: skip
def test_what_goes_together_is_not_remarked_on(values: dict[str, Any]) -> None:
    nothing = {"lr_warmup": 0} if "SGD" in str(values) else {}
    assert said({**values, **nothing}, (*learning.PROBLEMS, *learning.NOTES)) == []


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer": "Adamm"}, {"optimizer": "fancy.Fancy"}, {"optimizer": "Prodigy"}, {"lr_scheduler": "constant"},
        {"optimizer": "DAdaptAdam", "unet_lr": 1e-4, "text_encoder_lr": 5e-5}, {"lr_scheduler_type": "Cosine"},
        {"lr_scheduler_type": "CosineAnnealing"}, {"optimizer": "RAdamScheduleFree"}, {"learning_rate": 3, "unet_lr": 2},
        {"lr_scheduler": "adafactor", "lr_warmup": 0}, {"lr_scheduler_num_cycles": 2, "lr_scheduler_power": 2},
        {"optimizer": "Adafactor", "lr_warmup": 0},
    ],
    ids=str,
)  # fmt: skip
def test_one_click_puts_it_right(values: dict[str, Any]) -> None:
    """Every fix that is offered leads, one after the other, to settings that nothing is said about."""
    s = Settings(**{**GOOD, **values})
    for _ in range(4):
        found = [item for find in (*learning.PROBLEMS, *learning.NOTES) for item in find(s)]
        if not found:
            return
        assert found[0].fix is not None, found[0]
        s = s.changed(**found[0].fix)
    pytest.fail(f"{found[0]}")


def test_the_checks_ask_for_all_of_them() -> None:
    assert {*learning.PROBLEMS} <= {*checks.CHECKS}
    assert {*learning.NOTES} <= {*checks.NOTES}
