"""Captions as the trainer uses them, shown beforehand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.data.made import tiny_vae
from tests.trainings import make_pictures
from trainer.data.dataset import scan
from trainer.data.examples import examples
from trainer.data.loader import Batches
from trainer.plan import summary
from trainer.report import Reporter
from trainer.settings import Settings


def test_they_are_those_of_the_first_epoch(tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "img", count=7)
    s = Settings(train_data_dir=str(data), max_resolution="64,64", bucket_reso_steps=8, seed=5, shuffle_caption=True,
                 caption_prefix="sks,", keep_tokens=1, caption_tag_dropout_rate=0.3, train_batch_size=3)  # fmt: skip
    shown = examples(s, scan(s), 10)
    assert [example["picture"] for example in shown] == ["cat0.bmp", "cat3.bmp", "cat6.bmp"]
    model: Any = SimpleNamespace(vae=tiny_vae())
    with Reporter(tmp_path / "run") as report, Batches(s, scan(s), model, report, "cpu") as batches:
        used = {(picture.path.name, caption) for batch in batches.epoch(1) for picture, caption in
                zip(batch.pictures, batch.captions, strict=True)}  # fmt: skip
    assert {(example["picture"], example["caption"]) for example in shown} <= used
    assert summary(s)["captions"] == shown


def test_there_may_be_fewer(tmp_path: Path) -> None:
    s = Settings(train_data_dir=str(make_pictures(tmp_path / "img", count=1)), max_resolution="64,64")
    assert examples(s, scan(s), 1) == [{"picture": "cat0.bmp", "caption": "a cat, number 0, in noise"}]
    assert examples(Settings(), scan(Settings()), 1) == []
