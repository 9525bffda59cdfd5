"""The LyCORIS types while they train: starts, gradients, dropouts, precision, norms, going on from a file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.adapters.compatibility import CASES, SIZES, Case
from tests.adapters.made import attached, drawn, read, taught
from tests.tiny import Listener, listener, tiny_model
from trainer import formats
from trainer.adapters import ADAPTERS, attach, types_with
from trainer.adapters.lycoris.engine import Lycoris
from trainer.adapters.lycoris.update import Update, decompose
from trainer.report import Failure
from trainer.settings import Settings

OURS = [row for row in CASES if ADAPTERS[row.type].path.endswith("Lycoris")]
rows = pytest.mark.parametrize("row", OURS, ids=[row.name for row in OURS])
TYPES = {row.type: row for row in reversed(OURS)}
SPECIAL = ("Tucker", "both decomposed", "rescaled, constrained", "on outputs", "norms")
few = [*TYPES.values(), *(row for row in OURS if row.words in SPECIAL)]
some = pytest.mark.parametrize("row", few, ids=[row.name for row in few])
types = pytest.mark.parametrize("row", TYPES.values(), ids=TYPES)

OUTPUTS = next(row for row in OURS if row.words == "on outputs")

LINEAR = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_mid_block_resnets_0_conv1"
LOHA: dict[str, Any] = {"LoRA_type": "LyCORIS/LoHa", **SIZES}
LOKR: dict[str, Any] = {"LoRA_type": "LyCORIS/LoKr", **SIZES, "network_dim": 1, "conv_dim": 1}
LOCON: dict[str, Any] = {"LoRA_type": "LyCORIS/LoCon", **SIZES}


def update_of(adapter: Any, name: str) -> Update:
    found: Update = adapter.updates[name]
    return found


def outputs(model: Any) -> list[Tensor]:
    return [drawn(model.unet), *(read(encoder) for encoder in model.text_encoders)]


# Starts


@rows
def test_it_changes_nothing_at_the_start(row: Case) -> None:
    """Bit for bit, but for DoRA, which divides by lengths and multiplies by them again."""
    family = row.families[-1]
    plain, (model, adapter) = tiny_model(family=family), attached(family=family, **row.settings)
    exact = not row.settings.get("dora_wd")
    for found, wanted in zip(outputs(model), outputs(plain), strict=True):
        torch.testing.assert_close(found, wanted, atol=0 if exact else 1e-5, rtol=0)
    assert all(adapter.delta(name).abs().max() <= (0 if exact else 1e-6) for name in adapter.layers)


@types
def test_the_same_seed_starts_alike_and_disturbs_nobody(row: Case) -> None:
    _, first = attached(seed=5, **row.settings)
    torch.rand(17)
    state = torch.get_rng_state()
    _, second = attached(seed=5, **row.settings)
    assert torch.equal(torch.get_rng_state(), state)
    a, b = first.state_dict(whole=True), second.state_dict(whole=True)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_what_is_not_zero_at_the_start_is_spread_as_in_the_papers() -> None:
    """Kaiming uniform is within 1 / √inputs; LoHa is Gaussian of 0.1 and 1; DoRA has the lengths of the weights."""
    _, adapter = attached(**{**LOHA, "network_dim": 64})
    weights = adapter.weights(LINEAR)
    assert weights["hada_w1_a"].std().item() == pytest.approx(0.1, rel=0.1)
    assert weights["hada_w1_b"].std().item() == pytest.approx(1, rel=0.1)
    assert not weights["hada_w2_a"].any()
    _, adapter = attached(**LOCON, dora_wd=True)
    for name in (LINEAR, CONV):
        weights, layer = adapter.weights(name), adapter.layers[name]
        assert weights["lora_down.weight"].abs().max() <= weights["lora_down.weight"][0].numel() ** -0.5
        assert not weights["lora_up.weight"].any()
        lengths = layer.weight.flatten(1).norm(dim=1)
        torch.testing.assert_close(weights["dora_scale"].flatten(), lengths)


def test_with_a_scalar_the_factors_are_random_and_the_scalar_is_zero() -> None:
    for settings in (LOCON, LOHA, LOKR):
        _, adapter = attached(**settings, use_scalar=True)
        trained = adapter.trained(LINEAR)
        assert trained["scalar"] == 0
        assert all(weight.any() for ending, weight in trained.items() if ending != "scalar")
        assert "scalar" not in adapter.weights(LINEAR)
        assert not any("scalar" in key for key in adapter.state_dict())


# Gradients


def gradients(row: Case, more: dict[str, float], checkpointing: bool = False) -> tuple[Any, Tensor]:
    """The adapter after a backward pass through U-Net and text encoder, and the loss."""
    model, adapter = taught(**{**row.settings, **more})
    model.unet.train()
    model.text_encoders[0].train()
    if checkpointing:
        model.unet.enable_gradient_checkpointing()
        model.text_encoders[0].gradient_checkpointing_enable({"use_reentrant": False})
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(4)
    states = model.text_encoders[0](torch.tensor([[49406, 320, 2368, *([49407] * 74)]] * 2)).last_hidden_state
    loss = model.unet(latents, torch.tensor([10, 700]), states).sample.square().mean()
    loss.backward()
    return adapter, loss.detach()


def learned(adapter: Any) -> Iterator[tuple[str, nn.Parameter]]:
    for name in adapter.layers:
        for ending, weights in adapter.learns(name).items():
            for number, weight in enumerate(weights):
                yield f"{name}.{ending}.{number}", weight


@some
def test_gradients_reach_every_trained_tensor_and_survive_checkpointing(row: Case) -> None:
    """With the dropouts that the type has, whose draws checkpointing must repeat."""
    dropouts = {"network_dropout": 0.2, "rank_dropout": 0.2, "module_dropout": 0.1}
    more = {name: p for name, p in dropouts.items() if name in ADAPTERS[row.type].options}
    plain, loss = gradients(row, more)
    recomputed, again = gradients(row, more, checkpointing=True)
    torch.testing.assert_close(again, loss, rtol=1e-5, atol=1e-6)
    for (key, one), (_, other) in zip(learned(plain), learned(recomputed), strict=True):
        assert one.requires_grad
        assert (one.grad is None) == (other.grad is None), key
        if one.grad is not None and other.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, atol=1e-5 * one.grad.abs().max().item() + 1e-9, rtol=1e-3)
    reached = {key for key, weight in learned(plain) if weight.grad is not None and weight.grad.any()}
    assert any(key.startswith("lora_te_text_model_encoder_layers_0_mlp_fc1") for key in reached)
    share = len(reached) / sum(1 for _ in learned(plain))
    assert share > (0.3 if plain.rests else 0.95)


@pytest.mark.parametrize("settings", [LOHA, LOKR, {**LOCON, "dora_wd": True}], ids=["loha", "lokr", "dora"])
def test_gradients_are_those_of_the_formula(settings: dict[str, Any]) -> None:
    """One layer against torch's own differentiation of the change, without the engine's recomputation."""
    _, adapter = taught(**settings)
    for name, shape in ((LINEAR, (2, 5, 24)), (CONV, (2, 24, 4, 4))):
        update, layer = update_of(adapter, name), adapter.layers[name]
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1), requires_grad=True)
        weights = list(update.trained().values())
        found = torch.autograd.grad(layer(x).square().sum(), [x, *weights])
        W = layer.weight
        merged = W + update.diff(W)
        if update.has("dora_scale"):
            merged = decompose(merged, update.tensor("dora_scale"))
        y = nn.functional.linear(x, merged, layer.bias) if name == LINEAR else nn.functional.conv2d(x, merged, layer.bias, padding=1)  # fmt: skip
        wanted = torch.autograd.grad(y.square().sum(), [x, *weights])
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


# Precision


@pytest.mark.parametrize("row", [*TYPES.values(), OUTPUTS], ids=[*TYPES, "on outputs"])
def test_half_precision_comes_close_and_gradients_are_float32(row: Case) -> None:
    """On a frozen model in bfloat16, and under autocast: small changes are not rounded away."""
    exact, whole = taught(**row.settings)
    whole.train(False)
    wanted = drawn(exact.unet)
    model = tiny_model()
    model.unet.bfloat16()
    adapter = attach(model, Settings(seed=0, **row.settings), listener())
    adapter.load(whole.state_dict())
    assert {weight.dtype for _, weight in learned(adapter)} == {torch.float32}
    adapter.train(False)
    with torch.autocast("cpu", torch.bfloat16):
        found = drawn(model.unet).float()
    assert (found - wanted).abs().mean() < 0.1 * wanted.abs().mean()
    adapter.train(True)
    latents, states = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 16)
    with torch.autocast("cpu", torch.bfloat16):
        model.unet(latents, torch.tensor([5]), states).sample.float().sum().backward()
    grads = [weight.grad for weight in adapter.unet_parameters if weight.grad is not None]
    assert grads
    assert {grad.dtype for grad in grads} == {torch.float32}


def test_a_small_change_is_not_lost_beside_a_large_weight() -> None:
    """Added to a weight in bfloat16, a change of a thousandth would round to nothing."""
    model = tiny_model()
    model.unet.to(torch.bfloat16)
    adapter: Any = attach(model, Settings(seed=0, **LOHA), listener())
    with torch.no_grad():
        for weight in adapter.weights(LINEAR).values():
            weight.normal_(generator=torch.Generator().manual_seed(1))
        adapter.weights(LINEAR)["hada_w1_a"].mul_(2e-4)
    layer, x = adapter.layers[LINEAR], torch.randn(4, 3, 24).bfloat16()
    with torch.no_grad():
        gained = layer(x).float() - update_of(adapter, LINEAR).plain(x).float()
        wanted = nn.functional.linear(x.float(), adapter.delta(LINEAR))
    assert wanted.abs().mean() < 0.01
    assert nn.functional.cosine_similarity(gained.flatten(), wanted.flatten(), dim=0) > 0.7


# Dropouts


@types
def test_dropouts_rest_while_sampling(row: Case) -> None:
    names = [
        name for name in ("network_dropout", "rank_dropout", "module_dropout") if name in ADAPTERS[row.type].options
    ]
    model, adapter = taught(**row.settings, **dict.fromkeys(names, 0.5))
    plain, other = taught(**row.settings)
    other.train(False)
    adapter.train(False)
    assert torch.equal(drawn(model.unet), drawn(plain.unet))
    adapter.train(True)
    assert torch.equal(drawn(model.unet), drawn(plain.unet)) == (not names)


@pytest.mark.parametrize(
    "settings", [LOHA, LOKR, LOCON, {**LOCON, "dora_wd": True}], ids=["loha", "lokr", "locon", "dora"]
)
@pytest.mark.parametrize("name", [LINEAR, CONV])
def test_rank_dropout_leaves_out_the_changes_of_whole_outputs(settings: dict[str, Any], name: str) -> None:
    _, adapter = taught(**settings, rank_dropout=0.4)
    update = update_of(adapter, name)
    x = torch.randn(300, 24) if name == LINEAR else torch.randn(300, 24, 2, 2)
    with torch.no_grad():
        plain = update.plain(x)
        shares = []
        for _ in range(40):
            changes = (adapter.layers[name](x) - plain).abs()
            changes = changes.flatten(2).amax(-1) if changes.ndim == 4 else changes
            if settings.get("dora_wd"):
                return  # its lengths count in any case
            kept = (changes > 1e-5).float().mean(0)
            assert ((kept > 0.9) | (kept == 0)).all(), "an output's change is left out for all pictures or for none"
            shares.append((kept > 0).float().mean().item())
    assert sum(shares) / len(shares) == pytest.approx(0.6, abs=0.06)


def test_rank_dropout_scale_keeps_the_sum() -> None:
    _, adapter = taught(**LOHA, rank_dropout=0.5, rank_dropout_scale=True)
    update = update_of(adapter, LINEAR)
    torch.manual_seed(0)
    masks = torch.stack([update._kept(0.5, torch.device("cpu")) for _ in range(50)])
    assert torch.allclose(masks.mean(1), torch.ones(50))
    assert set((masks == 0).float().unique().tolist()) == {0.0, 1.0}


def test_in_bypass_mode_rank_dropout_of_locon_leaves_out_ranks() -> None:
    _, adapter = taught(**{**LOCON, "network_dim": 2}, bypass_mode=True, rank_dropout=0.5)
    update = update_of(adapter, LINEAR)
    x, weights = torch.randn(6, 24), adapter.weights(LINEAR)
    down, up = weights["lora_down.weight"].detach(), weights["lora_up.weight"].detach()
    parts = [(x @ down[k : k + 1].T) @ up[:, k : k + 1].T * update.scale for k in range(2)]
    combinations = [torch.zeros(6, 24), parts[0], parts[1], parts[0] + parts[1]]
    seen = set()
    with torch.no_grad():
        for _ in range(30):
            change = adapter.layers[LINEAR](x) - update.plain(x)
            seen |= {n for n, wanted in enumerate(combinations) if torch.allclose(change, wanted, atol=1e-4)}
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize("settings", [LOHA, LOCON, {**LOCON, "dora_wd": True}], ids=["loha", "locon", "dora"])
def test_network_dropout_drops_values_of_the_update(settings: dict[str, Any]) -> None:
    _, adapter = taught(**settings, network_dropout=0.3)
    update, x = update_of(adapter, LINEAR), torch.randn(200, 24)
    with torch.no_grad():
        plain, change = update.plain(x), nn.functional.linear(x, adapter.delta(LINEAR))
        found = adapter.layers[LINEAR](x) - plain
    kept = found.abs() > 1e-5
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.03)
    torch.testing.assert_close(found[kept], change[kept] / 0.7, atol=1e-4, rtol=1e-3)


def test_module_dropout_leaves_out_whole_layers() -> None:
    _, adapter = taught(**LOKR, module_dropout=0.3)
    update, x = update_of(adapter, LINEAR), torch.randn(3, 24)
    torch.manual_seed(0)
    with torch.no_grad():
        plain = update.plain(x)
        gone = [torch.equal(adapter.layers[LINEAR](x), plain) for _ in range(500)]
    assert sum(gone) / len(gone) == pytest.approx(0.3, abs=0.06)


def test_options_of_other_types_do_not_count() -> None:
    """What the page hides for a type is as if it were not set."""
    _, plain = taught(LoRA_type="Kohya LoHa", **SIZES)
    _, other = taught(LoRA_type="Kohya LoHa", **SIZES, dora_wd=True, use_scalar=True, train_norm=True,
                      network_dropout=0.5, LyCORIS_preset="attn-mlp", factor=3)  # fmt: skip
    a, b = plain.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    assert update_of(other, LINEAR).drops == (0.0, 0.0, 0.0)


# DyLoRA


def test_dylora_cuts_off_at_a_rank_and_only_its_block_learns() -> None:
    """y = W x + alpha / r · B[:, :r] A[:r] x, r a multiple of the unit; gradients for ranks r - unit to r alone."""
    settings = {"LoRA_type": "LyCORIS/DyLoRA", "network_dim": 6, "network_alpha": 3, "unit": 2, "conv_dim": 4}
    _, adapter = taught(**settings)
    update, x = update_of(adapter, LINEAR), torch.randn(5, 24)
    down, up = adapter.weights(LINEAR)["lora_down.weight"], adapter.weights(LINEAR)["lora_up.weight"]
    wanted = {r: (x @ down[:r].T) @ up[:, :r].T * (3 / r) for r in (2, 4, 6)}
    seen: dict[int, int] = {2: 0, 4: 0, 6: 0}
    for _ in range(60):
        for weights in update.learns().values():
            for weight in weights:
                weight.grad = None
        y = adapter.layers[LINEAR](x) - update.plain(x)
        rank = next(r for r in wanted if torch.allclose(y, wanted[r], atol=1e-4))
        seen[rank] += 1
        y.sum().backward()
        reached = {
            ending: [weight.grad is not None for weight in weights] for ending, weights in update.learns().items()
        }
        assert all(moved == [r == rank for r in (2, 4, 6)] for moved in reached.values())
    assert min(seen.values()) > 8
    adapter.train(False)
    torch.testing.assert_close(adapter.layers[LINEAR](x) - update.plain(x), wanted[6], atol=1e-4, rtol=1e-4)


# Norms


@pytest.mark.parametrize("name", [name for name in types_with("scale_weight_norms") if name.startswith("LyCORIS")])
def test_norms_are_limited_and_keep_their_direction(name: str) -> None:
    row = TYPES[name]
    _, adapter = taught(**{**row.settings, "train_norm": True})
    before = {key: adapter.delta(key) for key in adapter.layers}
    kept = [weight for _, weight in learned(adapter)]
    norms = torch.cat(adapter.scale_norms(0.5))
    ranked = [key for key in adapter.layers if not key.endswith("norm") and "norm" not in key.rsplit("_", 1)[1]]
    assert len(norms) == sum(adapter.sizes[key].rank > 0 for key in adapter.layers)
    for key in ranked:
        if not adapter.sizes[key].rank:
            continue
        old, new = before[key], adapter.delta(key)
        assert new.norm() <= 0.5001
        torch.testing.assert_close(new, old * min(1.0, 0.5 / old.norm().item()), atol=1e-5, rtol=1e-3)
    assert all(one is other for one, (_, other) in zip(kept, learned(adapter), strict=True))


# Files


@some
def test_a_file_is_taken_over_bit_for_bit(tmp_path: Path, row: Case) -> None:
    """With the same settings, and with others when rank and alpha come from the file."""
    family = row.families[0]
    _, before = taught(family=family, **row.settings)
    file, state = tmp_path / "a.safetensors", before.state_dict()
    formats.save(file, state, {})
    heard: Any = Listener()
    after = attach(tiny_model(family=family), Settings(network_weights=str(file), **row.settings), heard)
    assert all(torch.equal(value, state[key]) for key, value in after.state_dict().items())
    assert heard.notes == [
        f"Goes on from a.safetensors: {len(before.layers)} of {len(before.layers)} layers taken over."
    ]
    if "dim_from_weights" not in ADAPTERS[row.type].options:
        return
    kept = {
        name: row.settings[name]
        for name in ("train_norm", "LyCORIS_preset", "unit", "bypass_mode")
        if name in row.settings
    }
    other = Settings(LoRA_type=row.type, network_weights=str(file), dim_from_weights=True, **kept)
    again = attach(tiny_model(family=family), other, heard)
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    assert {name: size.rank for name, size in again.sizes.items()} == {
        name: size.rank for name, size in before.sizes.items()
    }


@pytest.mark.parametrize("settings", [LOCON, LOHA, LOKR], ids=["locon", "loha", "lokr"])
def test_a_training_state_keeps_the_scalar_apart(settings: dict[str, Any]) -> None:
    """A file has it multiplied in; a state must give back the very tensors that the optimizer moves."""
    _, before = taught(**settings, use_scalar=True)
    _, after = attached(**settings, use_scalar=True)
    whole = before.state_dict(whole=True)
    loaded = after.load(whole)
    assert (loaded.missing, loaded.unexpected) == ((), ())
    assert all(torch.equal(value, whole[key]) for key, value in after.state_dict(whole=True).items())
    file = before.state_dict()
    after.load(file)
    assert after.trained(LINEAR)["scalar"] == 1
    assert all(torch.equal(value, file[key]) for key, value in after.state_dict().items())


def test_a_file_without_text_encoders(tmp_path: Path) -> None:
    _, before = taught(**LOHA)
    state = {key: value for key, value in before.state_dict().items() if key.startswith("lora_unet")}
    formats.save(tmp_path / "unet.safetensors", state, {})
    heard: Any = Listener()
    after = attach(tiny_model(), Settings(network_weights=str(tmp_path / "unet.safetensors"), **LOHA), heard)
    assert "18 start from nothing" in heard.notes[0]
    found = after.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in state.items())


def refused(file: Path, **settings: Any) -> Failure:
    with pytest.raises(Failure) as error:
        attach(tiny_model(), Settings(network_weights=str(file), **settings), listener())
    assert error.value.key == "network_weights"
    assert error.value.advice
    return error.value


@pytest.mark.parametrize(
    ("made", "asked", "words"),
    [
        (LOHA, LOKR, "is a LoHa, which LyCORIS/LoKr cannot go on from"),
        (LOCON, LOHA, "is a LoRA, which LyCORIS/LoHa cannot go on from"),
        ({"LoRA_type": "LyCORIS/iA3"}, LOHA, "is an IA3, which"),
        (LOHA, {**LOHA, "network_dim": 8}, "was trained with Network Rank (Dimension) 4, and it is set to 8"),
        (LOHA, {**LOHA, "conv_alpha": 1}, "was trained with Convolution Alpha 5, and it is set to 1"),
        (LOHA, {**LOHA, "dora_wd": True}, "another value of DoRA Weight Decompose"),
        (LOHA, {**LOHA, "use_tucker": True}, "another value of Use Tucker decomposition"),
        (LOKR, {**LOKR, "factor": 2}, "another value of LoKr factor"),
        (LOHA, {**LOHA, "LyCORIS_preset": "attn-mlp"}, "LyCORIS Preset attn-mlp does not train"),
        (
            {"LoRA_type": "LyCORIS/Diag-OFT", **SIZES, "constrain": 0.01},
            {"LoRA_type": "LyCORIS/Diag-OFT", **SIZES},
            "was trained with Constrain OFT 0.01, and it is set to 0",
        ),
        ({"LoRA_type": "LyCORIS/iA3"}, {"LoRA_type": "LyCORIS/iA3", "train_on_input": False}, "was trained with iA3 train on input on, and it is set to off"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_named(tmp_path: Path, made: Any, asked: Any, words: str) -> None:
    formats.save(tmp_path / "a.safetensors", taught(**made)[1].state_dict(), {})
    assert words in refused(tmp_path / "a.safetensors", **asked).reason


def test_a_file_of_another_family_or_size_is_named(tmp_path: Path) -> None:
    formats.save(tmp_path / "xl.safetensors", taught(family="sdxl", **LOHA)[1].state_dict(), {})
    assert "was made for Stable Diffusion XL" in refused(tmp_path / "xl.safetensors", **LOHA).reason
    state = taught(**LOHA)[1].state_dict()
    state[f"{LINEAR}.hada_w1_b"] = torch.zeros(4, 99)
    formats.save(tmp_path / "b.safetensors", state, {})
    assert f"the parts of {LINEAR} do not fit together" in refused(tmp_path / "b.safetensors", **LOHA).reason
    del state[f"{LINEAR}.hada_w1_b"]
    formats.save(tmp_path / "c.safetensors", state, {})
    assert f"is incomplete: {LINEAR} lacks a part" in refused(tmp_path / "c.safetensors", **LOHA).reason


# Merging


def test_merging_into_another_model_is_refused_before_anything_changes() -> None:
    _, adapter = taught(**LOHA)
    other = tiny_model(family="sdxl")
    before = {key: value.clone() for key, value in other.unet.state_dict().items()}
    with pytest.raises(ValueError, match=r"no layer|is \["):
        adapter.merge_into(other)
    assert all(torch.equal(value, before[key]) for key, value in other.unet.state_dict().items())


def test_merged_is_the_weight_with_the_change() -> None:
    _, adapter = taught(**LOHA)
    assert isinstance(adapter, Lycoris)
    layer = adapter.targets[CONV].layer
    torch.testing.assert_close(adapter.merged(CONV), layer.weight + adapter.delta(CONV))
