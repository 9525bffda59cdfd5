"""Every LyCORIS type trains on Stable Diffusion 1.5 and XL, from start to end, and goes on after a stop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import trainings
from tests.adapters.compatibility import SIZES
from tests.adapters.test_lycoris import TYPES
from tests.tiny import tiny_folder
from tests.trainings import losses, tensors
from trainer.adapters import ADAPTERS
from trainer.formats import read_metadata
from trainer.settings import Settings

Make = Callable[..., Settings]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    folder = tmp_path_factory.mktemp("trainings")
    data = trainings.make_pictures(folder / "data")
    models: dict[str, Path] = {}

    def settings(family: str, output: Path, **values: Any) -> Settings:
        if family not in models:
            models[family] = tiny_folder(folder / family, family=family, tokenizer=False)
        small = {"seed": 7, "max_train_steps": 3, "learning_rate": 4e-3, "bucket_reso_steps": 32, "output_name": "a"}
        return trainings.settings(models[family], data, output, **{**small, **values})

    return settings


GOLDEN: dict[tuple[str, str], list[float]] = {
    ("LyCORIS/Native Fine-Tuning", "sd15"): [1.2728634, 0.943755, 1.0764636],
    ("LyCORIS/Native Fine-Tuning", "sdxl"): [1.2516931, 0.9470152, 1.0839946],
    ("LyCORIS/Diag-OFT", "sd15"): [1.2728634, 1.0755267, 1.2343847],
    ("LyCORIS/Diag-OFT", "sdxl"): [1.2516931, 0.9995992, 1.1694299],
    ("LyCORIS/BOFT", "sd15"): [1.2728634, 1.0307143, 1.1728407],
    ("LyCORIS/BOFT", "sdxl"): [1.2516931, 0.9919814, 1.1437054],
    ("LyCORIS/iA3", "sd15"): [1.2728634, 1.0750554, 1.2450994],
    ("LyCORIS/iA3", "sdxl"): [1.2516931, 0.9913887, 1.1644654],
    ("LyCORIS/GLoRA", "sd15"): [1.2728634, 1.0211012, 1.1409377],
    ("LyCORIS/GLoRA", "sdxl"): [1.2516931, 0.9776747, 1.1062684],
    ("LyCORIS/DyLoRA", "sd15"): [1.2728634, 1.0702138, 1.2445679],
    ("LyCORIS/DyLoRA", "sdxl"): [1.2516931, 0.9917428, 1.161324],
    ("LyCORIS/LoKr", "sd15"): [1.2728634, 1.0513383, 1.2258414],
    ("LyCORIS/LoKr", "sdxl"): [1.2516931, 0.9940162, 1.1564459],
    ("LyCORIS/LoHa", "sd15"): [1.2728634, 1.0646929, 1.2265966],
    ("LyCORIS/LoHa", "sdxl"): [1.2516931, 0.9912468, 1.1648039],
    ("LyCORIS/LoCon", "sd15"): [1.2728634, 1.0683039, 1.2409558],
    ("LyCORIS/LoCon", "sdxl"): [1.2516931, 0.9939732, 1.1625359],
    ("Kohya LoKr", "sd15"): [1.2728634, 1.0632988, 1.2404742],
    ("Kohya LoKr", "sdxl"): [1.2516931, 0.9897377, 1.149518],
    ("Kohya LoHa", "sd15"): [1.2728634, 1.0696006, 1.2309606],
    ("Kohya LoHa", "sdxl"): [1.2516931, 0.9912468, 1.1648039],
}


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("name", TYPES)
def test_golden_losses(name: str, family: str, make: Make, tmp_path: Path) -> None:
    """A change that should not alter results must not alter these; and every layer's update has moved."""
    s = make(family, tmp_path / "out", **TYPES[name].settings)
    found = losses(trainings.run(s, tmp_path / "run"))
    assert found == pytest.approx(GOLDEN[name, family], abs=2e-5)
    saved = tensors(tmp_path / "out" / "a.safetensors")
    layers = {key.split(".", 1)[0] for key in saved}
    assert layers >= {
        "lora_unet_mid_block_resnets_0_conv1" if family == "sd15" else "lora_unet_middle_block_0_in_layers_2"
    }
    about = read_metadata(tmp_path / "out" / "a.safetensors")
    assert about["ss_network_module"] == ADAPTERS[name].network_module
    assert (f'"algo": "{ADAPTERS[name].algo}"' in about["ss_network_args"]) == name.startswith("LyCORIS")


@pytest.mark.parametrize(
    "options",
    [
        {"LoRA_type": "LyCORIS/LoHa", "use_scalar": True, "rank_dropout": 0.2, "dora_wd": True},
        {"LoRA_type": "LyCORIS/DyLoRA", "unit": 2, "scale_weight_norms": 0.5},
    ],
    ids=["loha", "dylora"],
)
def test_stopped_and_resumed_is_the_same_as_at_once(options: dict[str, Any], make: Make, tmp_path: Path) -> None:
    """Bit for bit: a state keeps the tensors as they are trained, also what a file holds folded together."""
    s = make("sd15", tmp_path / "out", **SIZES, **options, max_train_steps=4, lr_scheduler="constant")
    trainings.run(s, tmp_path / "whole")
    whole = tensors(tmp_path / "out" / "a.safetensors")
    half = s.changed(output_name="half", max_train_steps=2, save_state=True)
    trainings.run(half, tmp_path / "half")
    state = next((tmp_path / "out").glob("half*-state"))
    trainings.run(s.changed(output_name="rest", resume=str(state)), tmp_path / "rest")
    rest = tensors(tmp_path / "out" / "rest.safetensors")
    assert whole.keys() == rest.keys()
    assert all(torch.equal(value, rest[key]) for key, value in whole.items())
