"""What a run goes on from, looked at before it starts: what fits is not spoken of, what does not is a sentence."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.adapters.made import attached
from tests.tiny import tiny_sd2, tiny_sd15, tiny_sdxl
from tests.trainings import make_pictures
from trainer import earlier, states
from trainer.adapters import ADAPTERS
from trainer.adapters.adapter import Adapter
from trainer.report import Failure
from trainer.settings import Settings

KINDS: dict[str, Callable[[Path], Path]] = {"sd15": tiny_sd15, "sd2": tiny_sd2, "sdxl": tiny_sdxl}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make(folder / name) for name, make in KINDS.items()}


SUITED: dict[str, dict[str, Any]] = {
    "LyCORIS/BOFT": {"network_dim": 6, "conv_dim": 8}, "LyCORIS/Diag-OFT": {"network_dim": 4, "conv_dim": 4},
}  # fmt: skip
"""What else some types need on a tiny model."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of every LoRA type for SD1.5, and of the plain one for each family."""
    folder = tmp_path_factory.mktemp("files")
    found: dict[str, Path] = {}
    for name in ADAPTERS:
        found[name] = written(folder / f"{len(found)}.safetensors", attached(**chosen(name))[1])
    for family in KINDS:
        found[family] = written(folder / f"{family}.safetensors", attached(family=family, network_dim=4)[1])
    return found


def chosen(name: str) -> dict[str, Any]:
    return {"LoRA_type": name, "network_dim": 4, **SUITED.get(name, {})}


def written(path: Path, adapter: Adapter) -> Path:
    save_file(adapter.state_dict(), path)
    return path


def said(**values: Any) -> list[str]:
    return [str(found) for found in earlier.weights(Settings(**values))]


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_file_of_the_chosen_type_is_not_spoken_of(name: str, files: dict[str, Path], models: dict[str, Path]) -> None:
    values = {"network_weights": str(files[name]), **chosen(name)}
    assert said(**values, pretrained_model_name_or_path=str(models["sd15"])) == []


KIN = (
    "Standard", "Kohya LoCon", "LyCORIS/LoCon", "LyCORIS/LoHa", "LyCORIS/LoKr", "LyCORIS/GLoRA", "LyCORIS/iA3",
    "LyCORIS/Diag-OFT", "LyCORIS/Native Fine-Tuning",
)  # fmt: skip
"""One of each kind of file."""


@pytest.mark.parametrize("name", ["Standard", "LyCORIS/LoCon", "LyCORIS/LoKr", "LyCORIS/iA3"])
def test_whatever_is_said_of_a_type_is_what_the_run_would_refuse(name: str, files: dict[str, Path]) -> None:
    """No file is refused beforehand that a run could go on from, and hardly any is let through that it could not."""
    for other in KIN:
        values = {"network_weights": str(files[other]), **chosen(name), "dim_from_weights": True}
        try:
            attached(**values)
            refused = ""
        except Failure as failure:
            refused = failure.reason
        if not refused:
            assert said(**values) == [], other
        elif "cannot go on from" in refused:
            assert said(**values), other


@pytest.mark.parametrize("of", KINDS)
@pytest.mark.parametrize("on", KINDS)
def test_another_family_is_named(of: str, on: str, files: dict[str, Path], models: dict[str, Path]) -> None:
    """Tiny models of 1.5 and 2 have layers of the same names; real ones differ in width."""
    found = said(network_weights=str(files[of]), pretrained_model_name_or_path=str(models[on]), dim_from_weights=True)
    assert bool(found) == ((of == "sdxl") != (on == "sdxl")), found
    assert all("was made for Stable Diffusion" in text for text in found)


@pytest.mark.parametrize(("width", "family"), [(768, "1.5"), (1024, "2"), (2048, "XL")])
def test_real_files_are_told_apart_by_their_width(
    width: int, family: str, models: dict[str, Path], tmp_path: Path
) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{name}.lora_down.weight": torch.zeros(4, width), f"{name}.lora_up.weight": torch.zeros(320, 4)}
    save_file(tensors, tmp_path / "real.safetensors")
    for on in ("sd15", "sd2"):
        found = said(
            network_weights=str(tmp_path / "real.safetensors"), pretrained_model_name_or_path=str(models[on]),
            dim_from_weights=True,
        )  # fmt: skip
        assert bool(found) == (family != {"sd15": "1.5", "sd2": "2"}[on])
        assert all(f"made for Stable Diffusion {family};" in text for text in found)


def broken(path: Path) -> Iterator[tuple[str, bytes, str]]:
    whole = path.read_bytes()
    yield "cut.safetensors", whole[: len(whole) // 2], "is cut off"
    yield "empty.safetensors", b"", "is empty"
    yield "page.safetensors", b"<html>", "is a web page"


def test_what_is_no_lora_is_a_sentence_with_a_way_out(
    files: dict[str, Path], models: dict[str, Path], tmp_path: Path
) -> None:
    for name, data, words in broken(files["sd15"]):
        (tmp_path / name).write_bytes(data)
        (found,) = earlier.weights(Settings(network_weights=str(tmp_path / name)))
        assert words in found.message
        assert found.fix == {"network_weights": "", "dim_from_weights": False}
    vae = models["sd15"] / "vae" / "diffusion_pytorch_model.safetensors"
    assert said(network_weights=str(vae))[0].endswith("is a VAE, not a LoRA.")
    assert said(network_weights="no such file") == said(network_weights="") == []


def test_another_rank_is_one_click_away(files: dict[str, Path]) -> None:
    values = {"network_weights": str(files["sd15"]), "network_dim": 8}
    (found,) = earlier.weights(Settings(**values))
    assert "with Network Rank (Dimension) 4, and it is set to 8" in found.message
    assert found.fix == {"dim_from_weights": True}
    assert said(**values, dim_from_weights=True) == []


# States.


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "cat-step00000004-state"
    folder.mkdir()
    for name in (states.MODEL, states.OPTIMIZER):
        (folder / name).write_bytes(b"whole")
    about = {
        "program": states.PROGRAM, "format": states.FORMAT, "current_step": 4, "current_epoch": 0,
        "optimizer": "AdamW", "network": {"type": "Standard", "dim": 4, "alpha": 2.0, "modules": 7},
        "base_model": {"name": "tiny", "family": "sd15"},
    }  # fmt: skip
    (folder / states.PROGRESS).write_text(json.dumps(about), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("values", "words", "fix"),
    [
        ({}, "", None),
        ({"network_dim": 8}, "Network Rank (Dimension) 4; it is 8 here", {"network_dim": 4}),
        ({"network_alpha": 1}, "Network Alpha 2.0; it is 1.0 here", {"network_alpha": 2.0}),
        ({"network_dim": 8, "dim_from_weights": True}, "", None),
        ({"LoRA_type": "Kohya LoCon"}, "LoRA type Standard; it is Kohya LoCon", {"LoRA_type": "Standard"}),
        ({"optimizer": "Prodigy"}, "with the optimizer AdamW; Prodigy cannot", {"optimizer": "AdamW"}),
        ({"pretrained_model_name_or_path": "sdxl"}, "a model of another family", {"resume": ""}),
        ({"max_train_steps": 4}, "nothing is left to train", {"resume": ""}),
        ({"max_train_steps": 4, "train_data_dir": ""}, "", None),
    ],
)
def test_a_state_of_something_else_is_said_before_the_run(
    values: dict[str, Any], words: str, fix: dict[str, Any] | None, state: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    base = {
        "resume": str(state), "pretrained_model_name_or_path": "sd15", "network_dim": 4, "network_alpha": 2,
        "optimizer": "AdamW", "train_data_dir": str(make_pictures(tmp_path / "data")),
    }  # fmt: skip
    together = {**base, **values}
    together["pretrained_model_name_or_path"] = str(models[together["pretrained_model_name_or_path"]])
    found = list(earlier.resume(Settings(**together)))
    assert [problem.fix for problem in found] == ([fix] if words else [])
    assert all(words in problem.message for problem in found)
    if fix and fix != {"resume": ""}:
        assert not list(earlier.resume(Settings(**together).changed(**fix))), "one click puts it right"


def test_a_state_that_is_not_whole_is_said_before_the_run(state: Path) -> None:
    (state / states.OPTIMIZER).unlink()
    (found,) = earlier.resume(Settings(resume=str(state)))
    assert "is incomplete: optimizer.bin is missing" in found.message
    (state / states.PROGRESS).write_text('{"program": "another"}', encoding="utf-8")
    (found,) = earlier.resume(Settings(resume=str(state)))
    assert "is not a training state of this program" in found.message
