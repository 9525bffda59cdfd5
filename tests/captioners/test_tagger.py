"""Pictures reach a tagger as it was trained, and its answers are those of the formula."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import ExifTags, Image

from tests.captioners.tiny_tagger import SIDE, TAGS, Weights, logistic, onnx, tagger
from tests.tiny import Listener, listener
from trainer.captioners import tagger as taggers
from trainer.captioners.tagger import Tagger, prepared
from trainer.captioners.tags import read_tags
from trainer.report import Failure


def load(folder: Path) -> Tagger:
    return Tagger(folder, read_tags(folder / "selected_tags.csv"), listener(), "repo_id")


def likely(folder: Path, *pictures: Path) -> list[dict[str, float]]:
    """How likely each tag is, by name, for each picture."""
    model = load(folder)
    rows = model.probabilities([model.read(picture) for picture in pictures])
    return [dict(zip(TAGS, map(float, row), strict=True)) for row in rows]


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def halves(size: tuple[int, int], left: str, right: str) -> Image.Image:
    image = Image.new("RGB", size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image


def test_channels_are_blue_green_red_from_0_to_255() -> None:
    pixels = prepared(Image.new("RGB", (SIDE, SIDE), (10, 20, 30)), SIDE)
    assert pixels.dtype == np.float32
    assert pixels.shape == (SIDE, SIDE, 3)
    assert (pixels == (30, 20, 10)).all()


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [((32, 16), slice(2, 6), slice(0, 8)), ((16, 32), slice(0, 8), slice(2, 6)), ((4, 2), slice(2, 6), slice(0, 8))],
    ids=["wide", "tall", "small"],
)
def test_a_picture_lies_in_the_middle_of_a_white_square(size: tuple[int, int], rows: slice, columns: slice) -> None:
    pixels = prepared(Image.new("RGB", size, "black"), SIDE)
    expected = np.full((SIDE, SIDE, 3), 255.0)
    expected[rows, columns] = 0
    if size[0] < SIDE:  # growing is smooth
        assert pixels[0].min() > 240
        assert pixels[3:5].max() < 15
    else:
        assert (pixels == expected).all()


def test_shrinking_averages_areas() -> None:
    checks = np.indices((16, 16)).sum(0) % 2 * 200
    pixels = prepared(Image.fromarray(np.repeat(checks[..., None], 3, -1).astype(np.uint8)), SIDE)
    assert (pixels == 100).all()


def test_answers_are_those_of_the_formula(tmp_path: Path) -> None:
    folder = tagger(tmp_path / "tagger")
    red = saved(tmp_path / "red.png", Image.new("RGB", (16, 16), (255, 0, 0)))
    blue = saved(tmp_path / "blue.png", Image.new("RGB", (16, 16), (0, 0, 255)))
    clear = saved(tmp_path / "clear.png", Image.new("RGBA", (16, 16), (0, 0, 0, 0)))
    wide = saved(tmp_path / "wide.png", Image.new("RGB", (16, 8), (255, 0, 0)))
    on_red, on_blue, on_clear, on_wide = likely(folder, red, blue, clear, wide)
    assert on_red["red_theme"] == pytest.approx(logistic(1))
    assert on_red["blue_theme"] == pytest.approx(logistic(-0.5), abs=1e-5)
    assert on_red["white_background"] == pytest.approx(logistic(1 / 3, 0.75), abs=1e-5)
    assert on_blue["blue_theme"] == pytest.approx(logistic(1))
    assert on_blue["red_theme"] == pytest.approx(logistic(-0.5), abs=1e-5)
    assert on_clear["white_background"] == pytest.approx(logistic(1, 0.75)), "transparency lies on white"
    assert on_wide["white_background"] == pytest.approx(logistic(2 / 3, 0.75), abs=1e-5), "half of it is white"
    assert on_wide["red_theme"] == pytest.approx(0.5, abs=1e-5)
    assert on_red["^_^"] == pytest.approx(0.4)


def test_a_picture_that_is_stored_sideways_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = halves((16, 16), "red", "black")
    straight = saved(tmp_path / "straight.png", image)
    turned = saved(tmp_path / "turned.png", image, exif=exif)
    on_straight, on_turned = likely(tagger(tmp_path / "tagger"), straight, turned)
    assert on_straight["red_left"] == pytest.approx(logistic(1))
    assert on_straight["red_top"] == pytest.approx(0.5, abs=1e-5)
    assert on_turned["red_top"] == pytest.approx(logistic(1))
    assert on_turned["red_left"] == pytest.approx(0.5, abs=1e-5)


def test_a_model_with_a_fixed_batch_gives_the_same(tmp_path: Path) -> None:
    paths = [
        saved(tmp_path / f"{at}.png", Image.new("RGB", (9, 9), color))
        for at, color in enumerate(["red", "lime", "blue"])
    ]
    assert likely(tagger(tmp_path / "any"), *paths) == likely(tagger(tmp_path / "two", batch=2), *paths)


def test_the_model_says_how_large_pictures_are(tmp_path: Path) -> None:
    folder = tagger(tmp_path)
    (folder / "model.onnx").write_bytes(onnx(np.zeros((12, 12, 3, len(TAGS))), np.zeros(len(TAGS))))
    model = load(folder)
    assert model.side == 12
    picture = model.read(saved(tmp_path / "a.png", Image.new("RGB", (30, 20), "red")))
    assert picture.shape == (12, 12, 3)
    assert (model.probabilities([picture]) == 0.5).all()


def test_it_says_on_what_it_works(tmp_path: Path) -> None:
    folder, heard = tagger(tmp_path), Listener()
    Tagger(folder, read_tags(folder / "selected_tags.csv"), heard, "repo_id")  # type: ignore[arg-type]
    assert heard.notes[0].startswith("The tagger works on the ")


@pytest.mark.parametrize(
    ("used", "note"),
    [
        ("CUDAExecutionProvider", "The tagger works on the graphics card (CUDA)."),
        (
            "CPUExecutionProvider",
            "The tagger works on the processor. For the graphics card, replace the package onnxruntime",
        ),
    ],
)
def test_a_graphics_card_is_asked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: str, note: str) -> None:
    """There is none here, so the library is asked what it would be given; it falls back by itself where the card fails."""
    real, asked, heard = onnxruntime.InferenceSession, [], Listener()

    def session(model: Path, providers: list[str]) -> Any:
        asked.append(providers)
        opened = real(model, providers=["CPUExecutionProvider"])
        monkeypatch.setattr(opened, "get_providers", lambda: [used])
        return opened

    there = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: asked.append(["libraries"]))
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(taggers.shutil, "which", lambda name: f"/usr/bin/{name}")
    folder = tagger(tmp_path)
    Tagger(folder, read_tags(folder / "selected_tags.csv"), heard, "repo_id")  # type: ignore[arg-type]
    assert asked == [["libraries"], ["CUDAExecutionProvider", "CPUExecutionProvider"]]
    assert heard.notes[0].startswith(note)


def zeros(*shape: int) -> Weights:
    return np.zeros(shape)


@pytest.mark.parametrize(("bias", "said"), [(3.0, "gives 3 to 3"), (np.nan, "gives nan to nan")], ids=["logits", "nan"])
def test_what_is_no_probability_is_said(tmp_path: Path, bias: float, said: str) -> None:
    folder = tagger(tmp_path)
    (folder / "model.onnx").write_bytes(onnx(zeros(8, 8, 3, 14), np.full(14, bias), last="Identity"))
    with pytest.raises(Failure, match=f"{said}, which are no probabilities"):
        load(folder).probabilities([np.zeros((8, 8, 3), np.float32)])


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (onnx(zeros(8, 8, 3, 5), zeros(5)), r"selected_tags.csv has 14 tags, and model.onnx has 5 outputs"),
        (onnx(zeros(3, 8, 8, 14), zeros(14)), r"is no WD14 tagger: its input is batch × 3 × 8 × 8, not"),
        (onnx(zeros(192, 14), zeros(14)), r"is no WD14 tagger: its input is batch × 192"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"model.onnx cannot be loaded: "),
        (b"", r"model.onnx cannot be loaded: "),
    ],
    ids=["tags of another", "channels first", "no pictures", "pointer", "empty"],
)
def test_what_is_no_tagger_is_said(tmp_path: Path, model: bytes, sentence: str) -> None:
    folder = tagger(tmp_path)
    (folder / "model.onnx").write_bytes(model)
    with pytest.raises(Failure, match=sentence) as failure:
        load(folder)
    assert failure.value.key == "repo_id"
    assert failure.value.advice
