"""Fetching from the hub: which files, what is said without a connection, and that an earlier download is used."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.tiny import Listener, listener, tiny_sd15
from trainer.models import hub, identify, load_model
from trainer.models.hub import needed
from trainer.report import Failure
from trainer.settings import Settings

EVERYTHING = [
    "README.md", "model_index.json", "v1-5-pruned.safetensors", "safety_checker/model.safetensors",
    "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt",
    *(
        f"{part}/{file}"
        for part, stem in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"))
        for file in ("config.json", f"{stem}.bin", f"{stem}.safetensors", f"{stem}.fp16.bin", f"{stem}.fp16.safetensors")
    ),
    "text_encoder/config.json", "text_encoder/pytorch_model.bin", "text_encoder/model.safetensors",
]  # fmt: skip


def test_only_what_training_needs_is_fetched() -> None:
    found = needed(EVERYTHING)
    assert found is not None
    weights = [file for file in found if file.endswith((".bin", ".safetensors"))]
    assert weights == [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.safetensors",
    ]
    assert set(found) - set(weights) == {
        "model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json",
        "text_encoder/config.json", "tokenizer/vocab.json", "tokenizer/merges.txt",
    }  # fmt: skip


def test_safetensors_come_before_half_precision() -> None:
    files = [file for file in EVERYTHING if file != "unet/diffusion_pytorch_model.fp16.safetensors"]
    assert "unet/diffusion_pytorch_model.safetensors" in (needed(files) or [])


@pytest.mark.parametrize("lost", ["model_index.json", "unet/config.json"])
def test_a_model_with_a_part_missing_is_none(lost: str) -> None:
    assert needed([file for file in EVERYTHING if file != lost]) is None
    assert needed([file for file in EVERYTHING if not file.startswith("vae/diffusion")]) is None


def test_without_a_connection_it_says_what_to_get_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path))
    settings = Settings(pretrained_model_name_or_path="runwayml/stable-diffusion-v1-5")
    heard = Listener()
    with pytest.raises(Failure) as error:
        load_model(settings, heard, torch.device("cpu"), torch.float32)  # type: ignore[arg-type]
    assert heard.notes == [
        "runwayml/stable-diffusion-v1-5 has moved; stable-diffusion-v1-5/stable-diffusion-v1-5 is used."
    ]
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5 could not be downloaded" in error.value.reason
    assert str(tmp_path / "models" / "stable-diffusion-v1-5") in error.value.advice
    assert "unet, vae, text_encoder" in error.value.advice
    assert error.value.key == "pretrained_model_name_or_path"


def test_the_place_it_names_is_where_it_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path))
    tiny_sd15(tmp_path / "models" / "stable-diffusion-v1-5", tokenizer=False)
    heard = Listener()
    settings = Settings(pretrained_model_name_or_path="runwayml/stable-diffusion-v1-5")
    model = load_model(settings, heard, torch.device("cpu"), torch.float32)  # type: ignore[arg-type]
    assert model.source == tmp_path / "models" / "stable-diffusion-v1-5"


def test_only_configs_of_another_family_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for InstructPix2Pix by an unknown name need not wait for its weights to be told no."""
    import json

    there = tiny_sd15(tmp_path / "there")
    config = there / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "in_channels": 8}))
    asked = hub_of(there, tmp_path / "here", monkeypatch)
    with pytest.raises(Failure, match=r"^some/thing is InstructPix2Pix; only Stable Diffusion 1\.5, "):
        load_model(Settings(pretrained_model_name_or_path="some/thing"), listener(), torch.device("cpu"), torch.float32)
    assert asked == ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json"]


def hub_of(there: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub made of the folder `there`: what is asked for is copied to `here`, and remembered in the returned list."""
    import huggingface_hub

    files = {str(file.relative_to(there)).replace("\\", "/"): file for file in there.rglob("*") if file.is_file()}
    asked: list[str] = []

    def fetch(name: str, file: str, revision: str, tqdm_class: Any) -> str:
        asked.append(file)
        target = here / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(files[file].read_bytes())
        with tqdm_class(total=files[file].stat().st_size) as bar:
            bar.update(files[file].stat().st_size)
        return str(target)

    siblings = [SimpleNamespace(rfilename=name, size=file.stat().st_size) for name, file in files.items()]
    info = SimpleNamespace(siblings=siblings, sha="1")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(model_info=lambda *a, **k: info))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.setattr(hub, "_receive", lambda *asked: None)  # test_download.py has a server for it
    return asked


def test_a_download_is_followed_and_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    there, here = tiny_sd15(tmp_path / "there"), tmp_path / "here"
    asked = hub_of(there, here, monkeypatch)
    heard = Listener()
    assert hub.download("somebody/something", heard) == here  # type: ignore[arg-type]
    assert identify(str(here)).problem is None
    total = sum((there / name).stat().st_size for name in asked)
    assert heard.phases[-1] == ("downloading model", total, total)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(here))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    assert hub.download("somebody/something", listener()) == here
