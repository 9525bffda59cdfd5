"""When memory runs out: the phase is named, and what to try, cheapest first."""

from typing import Any

import pytest
import torch

from trainer.memory import LOADING, PREPARING, TRAINING, memory_advice, memory_for
from trainer.report import Failure
from trainer.settings import Settings

CARD, CPU = torch.device("meta"), torch.device("cpu")


def advice(doing: str = TRAINING, device: torch.device = CARD, **values: Any) -> list[str]:
    text = memory_advice(Settings(**values), device, doing)
    assert text.startswith("Try in this order: ")
    return text.removeprefix("Try in this order: ").rstrip(".").split("; ")


def test_first_what_costs_nothing_then_time_then_exactness_then_the_result() -> None:
    found = advice(train_batch_size=4, cache_latents=False, highvram=True, xformers="none", mixed_precision="no",
                   optimizer="AdamW", network_dim=64, max_resolution="1024,1024")  # fmt: skip
    order = ["highvram", "CrossAttention", "Cache latents", "Mixed precision", "Train batch size", "Gradient checkpointing",
             "AdamW8bit", "fp8 base", "lowvram", "Text Encoder learning rate", "Network Rank", "Max resolution", "close"]  # fmt: skip
    assert [next(place for place, text in enumerate(found) if word in text) for word in order] == list(
        range(len(order))
    )
    assert len(found) == len(order)


def test_nothing_is_advised_twice_over() -> None:
    found = advice(gradient_checkpointing=True, fp8_base=True, lowvram=True, optimizer="AdamW8bit", text_encoder_lr=0)
    assert found == ["close other programs that use the graphics card"]
    assert (
        advice(device=CPU, gradient_checkpointing=True, fp8_base=True, text_encoder_lr=0)[-1] == "close other programs"
    )


def test_each_phase_has_its_own_advice() -> None:
    loading, preparing = advice(LOADING, train_batch_size=8), advice(PREPARING, train_batch_size=8)
    assert any("fp8 base" in text for text in loading)
    assert not any("batch" in text for text in loading)
    assert "set VAE batch size to 1" in preparing
    assert not any("checkpointing" in text for text in preparing)


def test_sdxl_can_drop_its_text_encoders() -> None:
    assert any("Cache text encoder outputs" in text for text in advice(sdxl=True))
    assert not any("Cache text encoder outputs" in text for text in advice())
    assert not any(
        "Cache text encoder outputs" in text for text in advice(sdxl=True, sdxl_cache_text_encoder_outputs=True)
    )


def test_several_pictures_at_once_become_several_batches() -> None:
    found = advice(train_batch_size=3, gradient_accumulation_steps=2)
    assert "set Train batch size to 1 and Gradient accumulate steps to 6 (the result is the same)" in found


def test_the_sentence_names_the_phase() -> None:
    with (
        pytest.raises(Failure, match=r"^There was not enough memory for preparing the pictures\.") as failed,
        memory_for(PREPARING, Settings(), CPU),
    ):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
    assert "Try in this order" in failed.value.advice


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="a bug"), memory_for(TRAINING, Settings(), CPU):
        raise RuntimeError("a bug")
