"""The plan is arithmetic: what the page says is what the loop does."""

from pathlib import Path

import pytest

from trainer.data.dataset import Dataset, Picture, Subset
from trainer.plan import due, duration, make_plan, stop_text_encoder_at, warmup
from trainer.settings import Settings


def dataset(*folders: tuple[int, int], reg: int = 0, size: tuple[int, int] = (512, 512)) -> Dataset:
    """Folders of (pictures, repeats), and `reg` regularisation pictures."""
    subsets = [
        subset(f"{repeats}_thing{number}", count, repeats, size) for number, (count, repeats) in enumerate(folders)
    ]
    return Dataset((*subsets, *([subset("1_any", reg, 1, size, True)] if reg else [])))


def subset(name: str, count: int, repeats: int, size: tuple[int, int], is_reg: bool = False) -> Subset:
    folder = Path(name)
    pictures = [Picture(folder / f"{i}.png", size, "", None, name, repeats, is_reg) for i in range(count)]
    return Subset(folder, name, repeats, is_reg, tuple(pictures))


def test_the_sentence_of_the_page() -> None:
    plan = make_plan(Settings(train_batch_size=2, epoch=4), dataset((12, 10)))
    assert plan.sentence == "12 images × 10 repeats × 4 epochs / batch 2 = 240 steps"
    assert (plan.steps, plan.epochs, plan.steps_per_epoch) == (240, 4, 60)


@pytest.mark.parametrize(
    ("values", "folders", "reg", "steps", "words"),
    [
        ({}, [(1, 1)], 0, 1, "1 image × 1 repeat × 1 epoch = 1 step"),
        (
            {"epoch": 3, "train_batch_size": 2},
            [(7, 10)],
            0,
            105,
            "7 images × 10 repeats × 3 epochs / batch 2 = 105 steps",
        ),
        ({"epoch": 3, "train_batch_size": 2}, [(7, 10)], 70, 210, "× 2 (regularisation)"),
        ({"epoch": 3, "train_batch_size": 2}, [(7, 10)], 3, 210, "× 2 (regularisation)"),
        ({"epoch": 2}, [(12, 10), (8, 5)], 0, 320, "(12 × 10 + 8 × 5) images × repeats × 2 epochs = 320 steps"),
        ({"train_batch_size": 4}, [(7, 1)], 0, 2, "= 2 steps"),
        ({"train_batch_size": 4, "gradient_accumulation_steps": 2, "epoch": 3}, [(9, 1)], 0, 6, "2 more for batches"),
        (
            {"max_train_steps": 30},
            [(10, 2)],
            0,
            30,
            "30 steps, as set: 10 images × 2 repeats are 20 steps an epoch, so 1.5 epochs",
        ),
        ({"max_train_steps": 50_000}, [(10, 2)], 0, 50_000, "are 20 steps an epoch, so 2,500 epochs"),
        ({"max_train_steps": 30, "max_train_epochs": 2}, [(10, 2)], 0, 40, "× 2 epochs = 40 steps"),
        ({"max_train_steps": 30}, [], 0, 0, "0 images × 1 repeat × 0 epochs / batch 1 = 0 steps"),
    ],
)
def test_steps_and_words(
    values: dict[str, int], folders: list[tuple[int, int]], reg: int, steps: int, words: str
) -> None:
    plan = make_plan(Settings(**values), dataset(*folders, reg=reg))
    assert plan.steps == steps
    assert words in plan.sentence


def test_short_batches_of_each_bucket_count() -> None:
    wide, tall = subset("1_a", 3, 1, (640, 384)), subset("1_b", 3, 1, (384, 640))
    plan = make_plan(Settings(train_batch_size=2, epoch=5), Dataset((wide, tall)))
    assert plan.buckets == {"384x640": 3, "640x384": 3}
    assert plan.steps == 5 * (2 + 2)
    assert "more for batches that are not full" in plan.sentence


def test_no_pictures_is_no_steps() -> None:
    plan = make_plan(Settings(), Dataset())
    assert (plan.steps, plan.images) == (0, 0)


@pytest.mark.parametrize(("percent", "steps", "expected"), [(10, 240, 24), (0, 240, 0), (100, 7, 7), (10, 7, 0)])
def test_warm_up_is_a_share_of_the_run(percent: float, steps: int, expected: int) -> None:
    assert warmup(Settings(lr_warmup=percent), steps) == expected
    assert warmup(Settings(lr_warmup=percent, lr_warmup_steps=5), steps) == 5


@pytest.mark.parametrize(("percent", "expected"), [(0, None), (-1, 0), (50, 120), (1, 3), (100, 240)])
def test_where_the_text_encoder_stops(percent: int, expected: int | None) -> None:
    assert stop_text_encoder_at(Settings(stop_text_encoder_training=percent), 240) == expected


def test_epochs_win_over_steps_win_over_epoch() -> None:
    assert duration(Settings(epoch=3), 10) == (3, 30)
    assert duration(Settings(epoch=3, max_train_steps=25), 10) == (3, 25)
    assert duration(Settings(epoch=3, max_train_steps=25, max_train_epochs=2), 10) == (2, 20)


def test_due() -> None:
    assert [step for step in range(13) if due(step, 4)] == [4, 8, 12]
    assert not any(due(step, 0) for step in range(13))
