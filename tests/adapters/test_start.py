"""Going on from an earlier file: taken over bit for bit, or refused with a sentence that names the field."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.adapters.made import taught
from tests.tiny import Listener, tiny_model
from trainer import formats
from trainer.adapters import attach
from trainer.adapters.adapter import Adapter
from trainer.report import Failure
from trainer.settings import Settings

LOCON: dict[str, Any] = {
    "LoRA_type": "Kohya LoCon",
    "network_dim": 6,
    "network_alpha": 3,
    "conv_dim": 2,
    "conv_alpha": 5,
}


def saved(path: Path, dtype: torch.dtype = torch.float32, **settings: Any) -> Adapter:
    """A file of an adapter that has learned something, and the adapter."""
    _, adapter = taught(**settings)
    formats.save(path, adapter.state_dict(dtype), {}, as_ckpt=path.suffix != ".safetensors")
    return adapter


def gone_on(path: Path | str, **settings: Any) -> tuple[Adapter, list[str]]:
    heard: Any = Listener()
    adapter = attach(tiny_model(), Settings(network_weights=str(path), **settings), heard)
    return adapter, heard.notes


def refusal(path: Path | str, **settings: Any) -> Failure:
    with pytest.raises(Failure) as error:
        gone_on(path, **settings)
    assert error.value.key == "network_weights"
    assert error.value.reason.startswith("LoRA network weights: ")
    assert error.value.advice
    return error.value


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt", "a.pt"])
@pytest.mark.parametrize("settings", [{"network_dim": 4, "network_alpha": 2}, LOCON], ids=["standard", "locon"])
def test_a_file_is_taken_over_bit_for_bit(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    before = saved(tmp_path / name, **settings)
    after, notes = gone_on(tmp_path / name, **settings)
    old, new = before.state_dict(), after.state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key], new[key]) for key in old)
    assert notes == [f"Goes on from {name}: {len(old) // 3} of {len(old) // 3} layers taken over."]


def test_rank_and_alpha_of_the_file(tmp_path: Path) -> None:
    """Each layer keeps its own; the fields of the page do not matter."""
    file = tmp_path / "a.safetensors"
    before = saved(file, **LOCON)
    chosen = {"LoRA_type": "Kohya LoCon", "network_dim": 99, "conv_dim": 77, "dim_from_weights": True}
    after, _ = gone_on(file, **chosen)
    assert after.sizes == before.sizes
    assert (after.dim, after.alpha) == (6, 3)
    assert all(torch.equal(value, after.state_dict()[key]) for key, value in before.state_dict().items())


def test_every_layer_may_have_its_own_rank(tmp_path: Path) -> None:
    _, adapter = taught(network_dim=4, network_alpha=2)
    state = adapter.state_dict()
    for rank, name in enumerate(adapter.layers, start=1):
        for end in ("lora_down.weight", "lora_up.weight"):
            shape = list(state[f"{name}.{end}"].shape)
            shape[0 if "down" in end else 1] = rank
            state[f"{name}.{end}"] = torch.rand(shape)
        state[f"{name}.alpha"] = torch.tensor(rank / 2)
    save_file(state, tmp_path / "mixed.safetensors")
    after, _ = gone_on(tmp_path / "mixed.safetensors", dim_from_weights=True)
    assert [size.rank for size in after.sizes.values()] == list(range(1, len(adapter.layers) + 1))
    assert all(torch.equal(value, state[key]) for key, value in after.state_dict().items())


def test_a_file_without_alpha_counts_its_updates_once(tmp_path: Path) -> None:
    state = {key: value for key, value in taught(network_dim=4)[1].state_dict().items() if not key.endswith("alpha")}
    save_file(state, tmp_path / "a.safetensors")
    after, _ = gone_on(tmp_path / "a.safetensors", dim_from_weights=True)
    assert {(size.rank, size.alpha) for size in after.sizes.values()} == {(4, 4)}


@pytest.mark.parametrize("alpha", [0.3, 1, 2.7, 20.1])
def test_half_precision_rounds_alpha_and_is_still_known(tmp_path: Path, alpha: float) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        saved(tmp_path / "a.safetensors", dtype, network_dim=4, network_alpha=alpha)
        after, _ = gone_on(tmp_path / "a.safetensors", network_dim=4, network_alpha=alpha)
        assert {size.alpha for size in after.sizes.values()} == {alpha}


def test_a_file_of_the_unet_alone(tmp_path: Path) -> None:
    state = {key: value for key, value in taught()[1].state_dict().items() if key.startswith("lora_unet")}
    save_file(state, tmp_path / "unet.safetensors")
    after, notes = gone_on(tmp_path / "unet.safetensors")
    assert notes == ["Goes on from unet.safetensors: 192 of 210 layers taken over, 18 start from nothing."]
    assert all(torch.equal(value, after.state_dict()[key]) for key, value in state.items())

    only, _ = gone_on(tmp_path / "unet.safetensors", dim_from_weights=True)
    assert len(only.layers) == 192
    assert not only.trains_text


def test_a_part_that_rests_keeps_what_the_file_holds_of_it(tmp_path: Path) -> None:
    before = saved(tmp_path / "a.safetensors", network_dim=4)
    after, _ = gone_on(tmp_path / "a.safetensors", network_dim=4, text_encoder_lr=0)
    assert not after.trains_text
    assert all(torch.equal(value, after.state_dict()[key]) for key, value in before.state_dict().items())


# Refusals


def test_another_rank_or_alpha(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    saved(file, **LOCON)
    error = refusal(file, **{**LOCON, "network_dim": 8})
    assert "was trained with Network Rank (Dimension) 6, and it is set to 8" in error.reason
    assert error.advice == "Tick DIM from weights, or set Network Rank (Dimension) to 6."
    error = refusal(file, **{**LOCON, "network_alpha": 1})
    assert "was trained with Network Alpha 3, and it is set to 1" in error.reason
    error = refusal(file, **{**LOCON, "conv_dim": 4})
    assert "was trained with Convolution Rank (Dimension) 2, and it is set to 4" in error.reason
    error = refusal(file, **{**LOCON, "conv_dim": 0})
    assert "was trained with Convolution Rank (Dimension) 2, and it is set to 0" in error.reason
    error = refusal(file, **{**LOCON, "conv_alpha": 5.5})
    assert "was trained with Convolution Alpha 5, and it is set to 5.5" in error.reason


def test_another_rank_or_alpha_of_a_block(tmp_path: Path) -> None:
    """Both ways: blocks have sizes in the file and not in the settings, or others in the settings."""
    file = tmp_path / "a.safetensors"
    own: dict[str, Any] = {"network_dim": 4, "block_dims": ",".join(["2"] * 12 + ["6"] * 13)}
    saved(file, **own)
    error = refusal(file, network_dim=6)
    assert "Network Rank (Dimension) 4 in lora_te_text_model_encoder_layers_0" in error.reason
    assert error.advice == "Tick DIM from weights, or set Block dims as it was for that file."
    error = refusal(file, network_dim=4, block_dims=",".join(["6"] * 25))
    assert "Block dims 2 in lora_unet_down_blocks_0_" in error.reason
    assert error.reason.endswith("and it is set to 6.")
    gone_on(file, **own)


@pytest.mark.parametrize("dim_from_weights", [True, False])
def test_convolutions_for_a_type_without_them(tmp_path: Path, dim_from_weights: bool) -> None:
    saved(tmp_path / "locon.safetensors", **LOCON)
    error = refusal(tmp_path / "locon.safetensors", network_dim=6, network_alpha=3, dim_from_weights=dim_from_weights)
    assert "also holds convolutions, which Standard does not train" in error.reason
    assert error.advice == "Set LoRA type to Kohya LoCon."


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (["lora_unet_x.hada_w1_a", "lora_unet_x.hada_w1_b", "lora_unet_x.alpha"], "a LoHa"),
        (["lora_unet_x.lokr_w1", "lora_unet_x.lokr_w2"], "a LoKr"),
        (["lora_unet_x.lora_down.weight", "lora_unet_x.lora_up.weight", "lora_unet_x.dora_scale"], "a DoRA"),
        (["lora_unet_x.lora_down.weight", "lora_unet_x.lora_mid.weight"], "a LoCon with a Tucker core"),
        (["unet.mid_block.attentions.0.lora_A.weight"], "a LoRA in the diffusers format"),
        (["oft_unet_x.oft_blocks"], "an OFT"),
    ],
)
def test_other_adapter_types_are_named(tmp_path: Path, keys: list[str], what: str) -> None:
    save_file({key: torch.zeros(2, 2) for key in keys}, tmp_path / "a.safetensors")
    error = refusal(tmp_path / "a.safetensors")
    assert f"a.safetensors is {what}, which Standard cannot go on from." in error.reason


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "Stable Diffusion XL"),
        ("lora_unet_input_blocks_4_1_proj_in", "Stable Diffusion XL"),
        ("lora_unet_double_blocks_0_img_attn_qkv", "Flux"),
        ("lora_te_text_model_encoder_layers_22_mlp_fc1", "Stable Diffusion 2"),
        ("lora_something", "another model"),
    ],
)
def test_other_families_are_named(tmp_path: Path, name: str, family: str) -> None:
    save_file({f"{name}.lora_down.weight": torch.zeros(4, 8), f"{name}.lora_up.weight": torch.zeros(8, 4)},
              tmp_path / "a.safetensors")  # fmt: skip
    error = refusal(tmp_path / "a.safetensors")
    assert f"a.safetensors was made for {family}: this model has no layer {name}." in error.reason
    assert "Choose a LoRA for Stable Diffusion 1.5" in error.advice


def test_layers_of_another_size(tmp_path: Path) -> None:
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file({f"{name}.lora_down.weight": torch.zeros(4, 1024), f"{name}.lora_up.weight": torch.zeros(24, 4)},
              tmp_path / "a.safetensors")  # fmt: skip
    error = refusal(tmp_path / "a.safetensors")
    assert f"its {name} turns 1024 values into 24, this model's turns 16 into 24" in error.reason


def test_files_that_are_no_lora(tmp_path: Path) -> None:
    save_file({"decoder.conv_in.weight": torch.zeros(2)}, tmp_path / "vae.safetensors")
    assert "vae.safetensors is a VAE, not a LoRA." in refusal(tmp_path / "vae.safetensors").reason
    (tmp_path / "empty.safetensors").touch()
    assert "empty.safetensors is empty" in refusal(tmp_path / "empty.safetensors").reason
    (tmp_path / "text.safetensors").write_text("hello, world")
    assert "text.safetensors is not a model" in refusal(tmp_path / "text.safetensors").reason
    assert "there is no file" in refusal(tmp_path / "none.safetensors").reason
    assert "there is no file" in refusal(tmp_path).reason


def test_damaged_files(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    adapter = saved(file)
    file.write_bytes(file.read_bytes()[:-100])
    assert "a.safetensors is cut off" in refusal(file).reason
    state = adapter.state_dict()
    name = next(iter(adapter.layers))
    save_file({key: value for key, value in state.items() if key != f"{name}.lora_up.weight"}, file)
    assert f"is incomplete: {name} lacks a part" in refusal(file).reason
    save_file({**state, f"{name}.lora_up.weight": torch.zeros(16, 5)}, file)
    assert f"the parts of {name} do not fit together" in refusal(file, dim_from_weights=True).reason


def test_a_refusal_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors", **LOCON)
    model = tiny_model()
    before = [name for name, _ in model.unet.named_modules()]
    heard: Any = Listener()
    with pytest.raises(Failure):
        attach(model, Settings(network_weights=str(tmp_path / "a.safetensors")), heard)
    assert [name for name, _ in model.unet.named_modules()] == before


def test_an_earlier_lora_cannot_run_code(tmp_path: Path) -> None:
    import os

    from tests.models.test_pickled import Evil

    mark = tmp_path / "ran"
    state = taught()[1].state_dict()
    torch.save({**state, "x": Evil(os.mkdir, str(mark))}, tmp_path / "evil.pt")
    gone_on(tmp_path / "evil.pt")
    assert not mark.exists()
