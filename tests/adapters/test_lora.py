"""LoRA and LoCon: what they start as, what they add, what is trained, dropouts, norms and key names."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.adapters.made import attached, drawn, read, taught
from tests.tiny import listener, tiny_model
from trainer.adapters import attach
from trainer.adapters.lora import DOWN, UP
from trainer.report import Failure
from trainer.settings import Settings

LOCON: dict[str, Any] = {
    "LoRA_type": "Kohya LoCon",
    "network_dim": 6,
    "network_alpha": 3,
    "conv_dim": 2,
    "conv_alpha": 5,
}
KINDS: list[dict[str, Any]] = [{"network_dim": 4, "network_alpha": 2}, LOCON]
kinds = pytest.mark.parametrize("settings", KINDS, ids=["standard", "locon"])


@kinds
def test_it_changes_nothing_at_the_start(settings: dict[str, Any]) -> None:
    plain = tiny_model()
    model, adapter = attached(**settings)
    assert torch.equal(drawn(model.unet), drawn(plain.unet))
    assert torch.equal(read(model.text_encoders[0]), read(plain.text_encoders[0]))
    assert all(adapter.delta(name).abs().max() == 0 for name in adapter.layers)


def test_layers_ranks_and_alphas() -> None:
    _, standard = attached(**KINDS[0])
    assert len(standard.layers) == 192 + 18
    assert {(size.rank, size.alpha) for size in standard.sizes.values()} == {(4, 2)}
    assert (standard.dim, standard.alpha) == (4, 2)

    _, locon = attached(**LOCON)
    assert len(locon.layers) == 192 + 86 + 18
    assert (locon.dim, locon.alpha) == (6, 3)
    for name, size in locon.sizes.items():
        spatial = name.endswith(("conv1", "conv2", "samplers_0_conv"))
        assert (size.rank, size.alpha) == ((2, 5) if spatial else (6, 3)), name


def test_convolution_rank_zero_leaves_large_convolutions_alone() -> None:
    _, adapter = attached(**{**LOCON, "conv_dim": 0})
    assert len(adapter.layers) == 192 + 22 + 14 + 18


def test_modules_give_the_kohya_name_of_each_path() -> None:
    _, adapter = attached()
    assert adapter.modules["unet.mid_block.attentions.0.proj_in"] == "lora_unet_mid_block_attentions_0_proj_in"
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    assert adapter.modules["text.encoder.layers.0.mlp.fc1"] == name
    assert set(adapter.modules.values()) == set(adapter.layers)


def test_the_start_is_kaiming_uniform_and_zero() -> None:
    """kaiming_uniform(a = √5) is uniform in ±1 / √(inputs × kernel)."""
    _, adapter = attached(**{**LOCON, "network_dim": 32})
    for name in adapter.layers:
        down, up = adapter.weights(name)[DOWN], adapter.weights(name)[UP]
        bound = 1 / math.sqrt(down[0].numel())
        assert not up.any()
        assert down.abs().max() <= bound
        if down.numel() > 400:
            assert down.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)


@kinds
def test_the_same_seed_starts_alike_whatever_happened_before(settings: dict[str, Any]) -> None:
    _, first = attached(seed=5, **settings)
    torch.rand(17)
    state = torch.get_rng_state()
    _, second = attached(seed=5, **settings)
    _, other = attached(seed=6, **settings)
    assert torch.equal(torch.get_rng_state(), state), "nobody else's random numbers are disturbed"
    a, b, c = (adapter.state_dict() for adapter in (first, second, other))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


@kinds
def test_outputs_are_those_of_merged_weights(settings: dict[str, Any]) -> None:
    """W + (alpha / rank) B A, put into a plain model by hand, draws the same."""
    model, adapter = taught(**settings)
    plain = tiny_model()
    with torch.no_grad():
        for name, target in adapter.targets.items():
            root = plain.unet if target.part == "unet" else plain.text_encoders[0]
            weights, size = adapter.weights(name), adapter.sizes[name]
            delta = torch.einsum("or,ri->oi", weights[UP].flatten(1), weights[DOWN].flatten(1))
            layer = root.get_submodule(target.path)
            delta = delta.view(layer.weight.shape) * size.alpha / size.rank
            torch.testing.assert_close(adapter.delta(name), delta)
            layer.weight += delta
    assert (drawn(plain.unet) - drawn(tiny_model().unet)).abs().max() > 0.1
    torch.testing.assert_close(drawn(model.unet), drawn(plain.unet), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(read(model.text_encoders[0]), read(plain.text_encoders[0]), atol=1e-4, rtol=1e-4)


# Files


@kinds
def test_a_state_has_kohyas_keys_and_comes_back_bit_for_bit(settings: dict[str, Any]) -> None:
    model, adapter = taught(**settings)
    state = adapter.state_dict()
    assert {key.split(".", 1)[1] for key in state} == {DOWN, UP, "alpha"}
    assert len(state) == 3 * len(adapter.layers)
    assert all(value.is_contiguous() and value.device.type == "cpu" for value in state.values())
    for name, size in adapter.sizes.items():
        assert state[f"{name}.alpha"].shape == ()
        assert state[f"{name}.alpha"] == size.alpha
        layer = adapter.targets[name].layer
        kernel = layer.weight.shape[2:]
        assert state[f"{name}.{DOWN}"].shape == (size.rank, layer.weight.shape[1], *kernel)
        assert state[f"{name}.{UP}"].shape == (layer.weight.shape[0], size.rank, *(1 for _ in kernel))

    again, other = attached(**settings)
    loaded = other.load(state)
    assert (len(loaded.matched), loaded.missing, loaded.unexpected) == (len(state), (), ())
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
    assert torch.equal(drawn(again.unet), drawn(model.unet))


def test_a_state_is_a_copy() -> None:
    _, adapter = taught()
    state = adapter.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    with torch.no_grad():
        for weight in adapter.unet_parameters:
            weight.zero_()
    assert all(torch.equal(state[key], before[key]) for key in state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_state_in_half_precision(dtype: torch.dtype) -> None:
    _, adapter = taught()
    full, half = adapter.state_dict(), adapter.state_dict(dtype)
    assert {value.dtype for value in half.values()} == {dtype}
    assert all(torch.equal(half[key], full[key].to(dtype)) for key in full)


def test_loading_says_what_found_its_place() -> None:
    _, adapter = taught()
    state = adapter.state_dict()
    name = next(iter(adapter.layers))
    gone = state.pop(f"{name}.{DOWN}")
    state["stranger.weight"] = gone
    loaded = adapter.load(state)
    assert loaded.missing == (f"{name}.{DOWN}",)
    assert loaded.unexpected == ("stranger.weight",)


def test_loading_another_shape_changes_nothing() -> None:
    _, adapter = taught(network_dim=4)
    _, other = taught(network_dim=8)
    before = adapter.state_dict()
    with pytest.raises(ValueError, match=r"lora_down\.weight is \[8, 16\], the adapter's is \[4, 16\]"):
        adapter.load({key: value + 1 for key, value in other.state_dict().items()})
    assert all(torch.equal(value, before[key]) for key, value in adapter.state_dict().items())


# What is trained


@pytest.mark.parametrize(
    ("settings", "unet", "text"),
    [
        ({}, True, True),
        ({"text_encoder_lr": 0}, True, False),
        ({"unet_lr": 0}, False, True),
        ({"learning_rate": 0, "unet_lr": 1e-4}, True, False),
        ({"learning_rate": 0, "text_encoder_lr": 1e-4}, False, True),
        ({"stop_text_encoder_training": -1}, True, False),
        ({"stop_text_encoder_training": 30}, True, True),
    ],
)
def test_a_part_whose_rate_is_zero_is_left_out_of_the_file(settings: dict[str, Any], unet: bool, text: bool) -> None:
    model, adapter = attached(**settings)
    assert (adapter.trains_unet, adapter.trains_text) == (unet, text)
    assert (len(adapter.unet_parameters), len(adapter.text_parameters)) == (192 * 2 * unet, 18 * 2 * text)
    learn = [
        weight for part in (model.unet, *model.text_encoders) for weight in part.parameters() if weight.requires_grad
    ]
    assert len(learn) == 192 * 2 * unet + 18 * 2 * text
    assert len(adapter.state_dict()) == 3 * (192 * unet + 18 * text)


def test_nothing_to_train_is_a_sentence() -> None:
    with pytest.raises(Failure, match="Nothing would be trained") as error:
        attached(unet_lr=0, text_encoder_lr=0)
    assert error.value.key == "learning_rate"


def test_only_the_adapter_is_trained() -> None:
    model, adapter = attached(**LOCON)
    trained = {id(weight) for weight in (*adapter.unet_parameters, *adapter.text_parameters)}
    for module in (model.unet, model.text_encoders[0]):
        assert {id(weight) for weight in module.parameters() if weight.requires_grad} <= trained
    assert len(trained) == 2 * len(adapter.layers)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_float32_on_a_model_in_half_precision(dtype: torch.dtype) -> None:
    model = tiny_model()
    for module in (model.unet, model.text_encoders[0]):
        module.to(dtype)
    adapter = attach(model, Settings(seed=0, **LOCON), listener())
    _, full = attached(**LOCON)
    assert {weight.dtype for weight in (*adapter.unet_parameters, *adapter.text_parameters)} == {torch.float32}
    a, b = adapter.state_dict(), full.state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a), "the start must not be rounded"
    assert {weight.dtype for weight in model.unet.parameters() if not weight.requires_grad} == {dtype}


def test_under_autocast_no_input_is_blown_up_to_float32() -> None:
    model, made = taught(**LOCON)
    adapter: Any = made
    seen: set[torch.dtype] = set()
    for name in adapter.layers:
        adapter.inner(name)[0].register_forward_pre_hook(lambda module, args: seen.add(args[0].dtype))
    latents, states = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 16)
    with torch.autocast("cpu", torch.bfloat16):
        model.unet(latents, torch.tensor([5]), states).sample.float().sum().backward()
    assert torch.bfloat16 in seen
    assert all(weight.grad is not None and weight.grad.dtype == torch.float32 for weight in adapter.unet_parameters)


def test_no_gradient_below_the_first_trained_layer() -> None:
    """Nothing before the first adapted layer takes part in the backward pass."""
    model, _ = attached()
    kept: dict[str, bool] = {}
    for name in ("conv_in", "time_embedding", "down_blocks.0.resnets.0"):
        module = model.unet.get_submodule(name)
        module.register_forward_hook(lambda m, a, output, name=name: kept.update({name: output.requires_grad}))
    model.unet(torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 77, 16)).sample.sum().backward()
    assert kept == {"conv_in": False, "time_embedding": False, "down_blocks.0.resnets.0": False}
    frozen = [weight for weight in model.unet.parameters() if not weight.requires_grad]
    assert all(weight.grad is None for weight in frozen)


@pytest.mark.parametrize("dropouts", [{}, {"network_dropout": 0.3, "rank_dropout": 0.3, "module_dropout": 0.3}])
def test_gradient_checkpointing_gives_the_same_gradients(dropouts: dict[str, float]) -> None:
    gradients = []
    for checkpointing in (False, True):
        model, adapter = taught(**LOCON, **dropouts)
        model.unet.train()
        model.text_encoders[0].train()
        if checkpointing:
            model.unet.enable_gradient_checkpointing()
            model.text_encoders[0].gradient_checkpointing_enable({"use_reentrant": False})
        generator = torch.Generator().manual_seed(3)
        latents = torch.randn(2, 4, 8, 8, generator=generator)
        torch.manual_seed(4)
        states = model.text_encoders[0](torch.tensor([[49406, 320, 2368, *([49407] * 74)]] * 2)).last_hidden_state
        model.unet(latents, torch.tensor([10, 700]), states).sample.square().mean().backward()
        gradients.append([weight.grad for weight in (*adapter.unet_parameters, *adapter.text_parameters)])
    for plain, recomputed in zip(*gradients, strict=True):
        assert (plain is None) == (recomputed is None)
        if plain is not None and recomputed is not None:
            torch.testing.assert_close(recomputed, plain, atol=1e-6, rtol=1e-4)


# Dropouts


class Caught:
    """The inputs and outputs of one layer's A and B."""

    def __init__(self, adapter: Any, name: str) -> None:
        self.name = name
        _, up = adapter.inner(name)
        self.up_in: list[Tensor] = []
        self.up_out: list[Tensor] = []
        self.handles = [
            up.register_forward_pre_hook(lambda m, args: self.up_in.append(args[0].detach())),
            up.register_forward_hook(lambda m, args, output: self.up_out.append(output.detach())),
        ]


NAME = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_mid_block_resnets_0_conv1"


def run_layer(adapter: Any, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """What reaches B, and what B hands on, for an input of the layer."""
    caught = Caught(adapter, name)
    adapter.layers[name](x)
    for handle in caught.handles:
        handle.remove()
    return caught.up_in[-1], caught.up_out[-1]


def test_network_dropout_drops_inner_values() -> None:
    _, adapter = taught(network_dim=8, network_dropout=0.4)
    x = torch.randn(4, 500, 24)
    plain = adapter.weights(NAME)[DOWN].detach() @ x.mT
    inner, _ = run_layer(adapter, NAME, x)
    kept = inner != 0
    assert kept.float().mean().item() == pytest.approx(0.6, abs=0.03)
    torch.testing.assert_close(inner[kept], plain.mT[kept] / 0.6, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "shape"), [(NAME, (400, 3, 24)), (CONV, (400, 24, 2, 2))])
def test_rank_dropout_drops_a_rank_for_a_whole_picture(name: str, shape: tuple[int, ...]) -> None:
    _, adapter = taught(LoRA_type="Kohya LoCon", network_dim=8, conv_dim=8, rank_dropout=0.25)
    x = torch.randn(shape)
    inner, _ = run_layer(adapter, name, x)
    adapter.train(False)
    plain, _ = run_layer(adapter, name, x)
    ranks = inner.flatten(2) if inner.ndim == 4 else inner.mT
    kept = (ranks != 0).all(-1)
    assert torch.equal(kept, (ranks != 0).any(-1)), "a rank is dropped for all places at once, or for none"
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert kept.float().mean(0).min() > 0.6, "each picture draws for itself"
    factor = (kept.float() / 0.75)[..., None]
    expected = (plain.flatten(2) if plain.ndim == 4 else plain.mT) * factor
    torch.testing.assert_close(ranks, expected, atol=1e-5, rtol=1e-4)


def test_module_dropout_leaves_out_whole_layers() -> None:
    _, adapter = taught(module_dropout=0.3)
    x = torch.randn(1, 3, 24)
    torch.manual_seed(0)
    outputs = [run_layer(adapter, NAME, x)[1] for _ in range(600)]
    dropped = [not output.any() for output in outputs]
    assert sum(dropped) / len(dropped) == pytest.approx(0.3, abs=0.06)
    adapter.train(False)
    expected = run_layer(adapter, NAME, x)[1]
    assert all(torch.equal(output, expected) for output, gone in zip(outputs, dropped, strict=True) if not gone)


def test_dropouts_rest_while_sampling() -> None:
    model, adapter = taught(**LOCON, network_dropout=0.5, rank_dropout=0.5, module_dropout=0.5)
    plain, _ = taught(**LOCON)
    assert not torch.equal(drawn(model.unet), drawn(plain.unet))
    adapter.train(False)
    assert torch.equal(drawn(model.unet), drawn(plain.unet))
    adapter.train(True)
    assert not torch.equal(drawn(model.unet), drawn(plain.unet))


def test_without_dropouts_there_are_no_hooks() -> None:
    _, adapter = attached(**LOCON)
    assert not any(module._forward_hooks for layer in adapter.layers.values() for module in layer.modules())


# Norms


def reference_norms(adapter: Any, limit: float) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Kohya's loop, module by module: both factors times the square root of min(n, limit) / n, n at least limit / 2."""
    for name, size in adapter.sizes.items():
        down, up = (adapter.weights(name)[key].detach().double() for key in (DOWN, UP))
        if down.ndim == 4 and down.shape[2:] == (3, 3):
            updown = nn.functional.conv2d(down.permute(1, 0, 2, 3), up).permute(1, 0, 2, 3)
        elif down.ndim == 4:
            updown = (up.flatten(1) @ down.flatten(1))[..., None, None]
        else:
            updown = up @ down
        n = (updown * size.alpha / size.rank).norm().clamp(min=limit / 2)
        root = (n.clamp(max=limit) / n).sqrt()
        yield name, down * root, up * root


@kinds
@pytest.mark.parametrize("limit", [0.05, 0.5, 1.0, 100.0])
def test_norms_are_limited_as_the_reference_does(settings: dict[str, Any], limit: float) -> None:
    _, adapter = taught(**settings)
    expected = list(reference_norms(adapter, limit))
    before = adapter.state_dict()
    norms = adapter.scale_norms(limit)
    assert sum(len(group) for group in norms) == len(adapter.layers)
    for name, down, up in expected:
        torch.testing.assert_close(adapter.weights(name)[DOWN].double(), down, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(adapter.weights(name)[UP].double(), up, atol=1e-6, rtol=1e-4)
        assert adapter.delta(name).norm() <= limit * 1.0001
    if limit == 100:
        assert all(torch.equal(value, before[key]) for key, value in adapter.state_dict().items())


def test_limiting_norms_at_the_start_changes_nothing() -> None:
    _, adapter = attached(**LOCON)
    before = adapter.state_dict()
    adapter.scale_norms(1.0)
    assert all(torch.equal(value, before[key]) for key, value in adapter.state_dict().items())


def test_limiting_norms_keeps_the_parameters_themselves() -> None:
    """The optimizer holds the parameters: they must be changed in place."""
    _, adapter = taught()
    weights = [*adapter.unet_parameters, *adapter.text_parameters]
    before = [weight.clone() for weight in weights]
    adapter.scale_norms(0.01)
    assert all(
        weight is mine
        for weight, mine in zip(weights, (*adapter.unet_parameters, *adapter.text_parameters), strict=True)
    )
    assert not any(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))
    assert all(weight.requires_grad for weight in weights)


def test_the_files_layout_is_the_documented_one() -> None:
    """One layer's keys, spelt out."""
    _, adapter = taught(network_dim=3, network_alpha=1.5)
    state = adapter.state_dict()
    assert state["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"].shape == (3, 8, 1, 1)
    assert state["lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight"].shape == (8, 3, 1, 1)
    assert state["lora_unet_down_blocks_0_attentions_0_proj_in.alpha"] == 1.5
    assert state["lora_te_text_model_encoder_layers_2_self_attn_out_proj.lora_down.weight"].shape == (3, 16)
