"""Which texts the text encoders are asked for in a run, when, and what is remembered."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests import trainings
from tests.tiny import tiny_folder, tiny_sd15
from tests.trainings import make_pictures
from trainer.conditioning import Conditioning
from trainer.events import Event, Note, Sample, Step
from trainer.models import text
from trainer.runfolder import PROMPTS, write_text
from trainer.settings import Settings

Make = Callable[..., Settings]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd15(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"), family="sdxl", tokenizer=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four pictures with captions like "a cat, number 0, in noise"."""
    return make_pictures(tmp_path / "img")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every caption of every batch, in the order of the run."""
    heard: list[str] = []
    real = Conditioning.__call__

    def listen(self: Conditioning, captions: list[str]) -> Any:
        heard.extend(captions)
        return real(self, captions)

    monkeypatch.setattr(Conditioning, "__call__", listen)
    return heard


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every caption that an encoder had to read."""
    asked: list[str] = []
    real = text.encode

    def encode(model: Any, captions: Any, s: Any, **more: Any) -> Any:
        asked.extend(captions)
        return real(model, captions, s, **more)

    monkeypatch.setattr(text, "encode", encode)
    return asked


FRAMED = {"caption_prefix": "sks,", "caption_suffix": "!", "secondary_separator": "in"}


def test_captions_that_stay_the_same_are_read_once_as_they_are_used(
    model: Path, data: Path, tmp_path: Path, encoded: list[str]
) -> None:
    s = trainings.settings(
        model, data, tmp_path / "out", epoch=2, text_encoder_lr=0, caption_dropout_rate=0.2, **FRAMED
    )
    trainings.run(s, tmp_path / "run")
    assert sorted(encoded) == ["", *(f"sks, a cat, number {number}, , noise !" for number in range(4))]


def test_cached_outputs_of_xl_are_those_of_whole_captions(
    xl: Path, data: Path, tmp_path: Path, told: list[str]
) -> None:
    s = trainings.settings(xl, data, tmp_path / "out", epoch=1, text_encoder_lr=0, bucket_reso_steps=32,
                           sdxl_cache_text_encoder_outputs=True, **FRAMED)  # fmt: skip
    trainings.run(s, tmp_path / "run")
    assert set(told) == {f"sks, a cat, number {number}, , noise !" for number in range(4)}
    assert len(told) == 8


def test_prompts_that_are_changed_on_the_way_are_read_by_encoders_that_come_back_for_it(
    xl: Path, data: Path, tmp_path: Path
) -> None:
    """With cached outputs the encoders are gone; a sample shows what it would have shown without the cache."""
    small = "--w 64 --h 64 --s 1 --d 5"
    s = trainings.settings(xl, data, tmp_path / "out", text_encoder_lr=0, bucket_reso_steps=32, max_train_steps=2, unet_lr=1e-12,
                           sample_prompts=f"a cat {small}", sample_every_n_steps=1)  # fmt: skip

    def listen(event: Event) -> None:
        if isinstance(event, Step) and event.step == 1:
            write_text(folder / PROMPTS, f"a (dog:1.4) {small}")

    pictures = {}
    for name in ("plain", "cached"):
        folder = tmp_path / name
        found = trainings.run(s.changed(sdxl_cache_text_encoder_outputs=name == "cached"), folder, listen=listen)
        samples = [event for event in found if isinstance(event, Sample)]
        assert {event.prompt for event in samples[-1:]} == {"a (dog:1.4)"}
        assert not [event for event in found if isinstance(event, Note) and event.level != "info"]
        pictures[name] = Image.open(folder / samples[-1].path).tobytes()
    assert pictures["plain"] == pictures["cached"]


VARIED: dict[str, dict[str, Any]] = {
    "wildcards": {"enable_wildcard": True}, "tags left out": {"caption_tag_dropout_rate": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("way", VARIED)
def test_captions_that_vary_are_another_text_each_time(
    model: Path, data: Path, tmp_path: Path, told: list[str], way: str
) -> None:
    for number in range(4):
        (data / "2_cat" / f"cat{number}.txt").write_text(
            f"{number}, a {{red|blue}} cat, on a mat, in noise\n{number}, b"
        )
    s = trainings.settings(model, data, tmp_path / "out", text_encoder_lr=0, epoch=2, keep_tokens=1, **VARIED[way])
    trainings.run(s, tmp_path / "run")
    shown = told[-16:]
    assert sorted(caption[0] for caption in shown) == sorted("01230123" * 2), "the first part is kept"
    assert len(set(shown)) > 6
    assert all(("{" in caption) != (way == "wildcards") for caption in shown if "red" in caption or "blue" in caption)


def test_captions_grow_with_the_steps_of_the_run(model: Path, data: Path, tmp_path: Path, told: list[str]) -> None:
    """Steps of two batches of one picture; all five parts are there from step 4 on, which is half of the longer run."""
    for number in range(4):
        (data / "2_cat" / f"cat{number}.txt").write_text("a, b, c, d, e")
    s = trainings.settings(model, data, tmp_path / "out", gradient_accumulation_steps=2, network_dim=1)
    trainings.run(s.changed(epoch=2, token_warmup_step=0.5), tmp_path / "run")
    sizes = [caption.count(",") + 1 for caption in told]
    assert sizes == [1, 1, 2, 2, 3, 3, 4, 4, *[5] * 8]
    del told[:]
    trainings.run(s.changed(max_train_steps=5, token_warmup_step=4), tmp_path / "shorter")
    assert [caption.count(",") + 1 for caption in told] == sizes[:10]
