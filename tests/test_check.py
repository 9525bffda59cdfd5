"""`check` says everything about a file, and touches nothing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trainer.check import main


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """(exit code, the JSON object that was printed)."""
    code = main(words)
    return code, json.loads(capsys.readouterr().out)


def everything_in(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder below with size and time of change."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures" / "5_cat"
    folder.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (128, 128), (60 * number, 90, 30)).save(folder / f"{number}.png")
    return folder.parent


def write(path: Path, **values: Any) -> str:
    path.write_text(json.dumps(values), encoding="utf-8")
    return str(path)


def test_a_file_that_could_be_trained(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "good.json", train_data_dir=str(pictures), optimizer="AdamW", epoch="3", train_batch_size=2,
                 max_resolution="128,128", seed=0, no_token_padding=True)  # fmt: skip
    code, told = answer(capsys, file)
    assert code == (1 if told["problems"] else 0)
    assert [item for item in told["problems"] if item["key"] != "pretrained_model_name_or_path"] == []
    assert told["settings"]["epoch"] == 3
    assert told["loaded"] == ["epoch", "max_resolution", "optimizer", "train_batch_size", "train_data_dir"]
    assert told["changed"][0]["key"] == "seed"
    assert (told["changed"][0]["from"], told["changed"][0]["to"]) == (0, None)
    assert told["ignored"][0]["key"] == "no_token_padding"
    assert (told["plan"]["images"], told["plan"]["steps"], told["plan"]["epochs"]) == (4, 30, 3)
    assert told["plan"]["buckets"] == {"128x128": 20}


def test_wrong_values_are_named_by_label_and_nothing_changes(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "cat.safetensors").write_bytes(b"precious")
    file = write(
        tmp_path / "wrong.json", train_data_dir=str(pictures / "5_cat"), output_dir=str(out), output_name="cat", learning_rate="fast",
        optimizer="AdamX", clip_skip=99, max_resolution="wide", network_weights="/no/such.safetensors", LoRA_type="Standart",
        color_aug=True,
    )  # fmt: skip
    before = everything_in(tmp_path)
    code, told = answer(capsys, file)
    assert code == 1
    labels = {item["label"] for item in told["problems"]}
    wanted = {
        "Image folder", "Trained Model output name", "Learning rate", "Optimizer", "Clip skip", "Max resolution", "LoRA network weights", "LoRA type",
        "Color augmentation",
    }  # fmt: skip
    assert wanted <= labels
    assert all(item["message"].endswith((".", "?")) for item in told["problems"])
    assert everything_in(tmp_path) == before


def test_changes_on_the_command_line_win(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "x.json", train_data_dir=str(pictures), learning_rate="fast", epoch=2)
    _, told = answer(capsys, file, "--set", "learning_rate=1e-3", "epoch=4")
    assert (told["settings"]["learning_rate"], told["settings"]["epoch"]) == (1e-3, 4)
    assert "learning_rate" not in {item["key"] for item in told["problems"]}
    _, told = answer(capsys, file, "--set", "epohc=4")
    assert any("did you mean epoch?" in item["message"] for item in told["problems"])


@pytest.mark.parametrize(("content", "words"), [("{", "not valid JSON"), ("[]", "holds a list")])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.json"
    file.write_text(content, encoding="utf-8")
    code, told = answer(capsys, str(file))
    assert code == 2
    assert words in told["error"]
    assert answer(capsys, str(tmp_path / "none.json"))[0] == 2


def test_checking_loads_neither_torch_nor_gradio(tmp_path: Path, pictures: Path) -> None:
    file = write(tmp_path / "x.json", train_data_dir=str(pictures), optimizer="AdamW")
    code = f"import sys; from trainer.check import main; main([{file!r}]); print([m for m in ('torch', 'gradio') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
