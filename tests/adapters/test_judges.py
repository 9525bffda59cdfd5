"""Saved files in the hands of other programs: diffusers and LyCORIS draw what the live adapter draws."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.adapters.made import drawn, read, taught
from tests.tiny import tiny_model
from trainer import formats
from trainer.models import Model

SETTINGS: dict[str, dict[str, Any]] = {
    "standard": {"network_dim": 4, "network_alpha": 2},
    "locon": {"LoRA_type": "Kohya LoCon", "network_dim": 6, "network_alpha": 3, "conv_dim": 2, "conv_alpha": 5},
    "locon without large convolutions": {"LoRA_type": "Kohya LoCon", "network_dim": 4, "conv_dim": 0},
}
kinds = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def assert_same(found: Any, live: Any, plain: Any) -> None:
    """`found` is what the live adapter gives, which is far from what the model gives without it."""
    assert (live - plain).abs().max() > 0.05
    torch.testing.assert_close(found, live, atol=1e-4, rtol=1e-4)


def pipeline_of(model: Model) -> Any:
    """A diffusers pipeline around the parts of a model."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=model.vae, text_encoder=model.text_encoders[0], tokenizer=model.tokenizers[0], unet=model.unet,
        scheduler=PNDMScheduler.from_config(model.scheduler_config), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@kinds
def test_pictures_made_with_the_file_are_those_of_the_live_adapter(tmp_path: Path, settings: dict[str, Any]) -> None:
    live, adapter = taught(**settings)
    file = formats.save(tmp_path / "a.safetensors", adapter.state_dict(), {"ss_network_dim": "4"})
    loaded = pipeline_of(tiny_model())
    loaded.load_lora_weights(file.parent, weight_name=file.name)

    def picture(pipeline: Any) -> Any:
        source = torch.Generator().manual_seed(5)
        made = pipeline(
            "a cat", width=64, height=64, num_inference_steps=4, guidance_scale=3.0, generator=source, output_type="pt"
        )
        return made.images[0]

    with torch.no_grad():
        plain = picture(pipeline_of(tiny_model()))
        found, wanted = picture(loaded), picture(pipeline_of(live))
    assert (wanted - plain).abs().max() > 0.01
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


@kinds
@pytest.mark.parametrize("parts", [("lora_unet_", "lora_te_"), ("lora_unet_",)], ids=["both", "unet only"])
def test_diffusers_draws_the_same(tmp_path: Path, settings: dict[str, Any], parts: tuple[str, ...]) -> None:
    live, adapter = taught(**settings)
    state = {key: value for key, value in adapter.state_dict().items() if key.startswith(parts)}
    file = formats.save(tmp_path / "a.safetensors", state, {"ss_network_dim": "4"})

    plain = tiny_model()
    pipeline = pipeline_of(tiny_model())
    pipeline.load_lora_weights(file.parent, weight_name=file.name)
    assert_same(drawn(pipeline.unet), drawn(live.unet), drawn(plain.unet))
    if "lora_te_" in parts:
        text = read(live.text_encoders[0])
        assert_same(read(pipeline.text_encoder), text, read(plain.text_encoders[0]))
    else:
        assert torch.equal(read(pipeline.text_encoder), read(plain.text_encoders[0]))
