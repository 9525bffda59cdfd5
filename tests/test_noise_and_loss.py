"""Every setting of "Noise and loss" in a training step: what it changes, what it leaves alone, and by which formula."""

import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import trainings
from tests.tiny import SCHEDULER, tiny_sd2, tiny_sd15
from trainer import diffusion
from trainer.report import Failure
from trainer.settings import Settings
from trainer.settings.noise import Loss
from trainer.train import Objective

X0 = torch.randn(8, 4, 10, 6, generator=torch.Generator().manual_seed(3)) + torch.linspace(-1, 1, 4).view(1, 4, 1, 1)
PLAIN: dict[str, Any] = {"seed": 5}


def look(prediction: str = "epsilon", masks: Tensor | None = None, **values: Any) -> dict[str, Tensor]:
    """One step of a model that says half of what it sees: the noise asked for, timesteps, mixture, and the loss."""
    seen: dict[str, Tensor] = {}

    def predict(noisy: Tensor, t: Tensor, told: Any, sizes: Any) -> Tensor:
        seen.update(t=t, mixed=noisy)
        return noisy / 2

    s: Any = Settings(**{**PLAIN, **values})
    model: Any = SimpleNamespace(prediction_type=prediction, scheduler_config=SCHEDULER, predict=predict)
    precision: Any = SimpleNamespace(autocast=nullcontext)
    conditioning: Any = lambda captions: None  # noqa: E731
    objective = Objective(model, conditioning, s, precision)
    weights = torch.ones(len(X0))
    batch: Any = SimpleNamespace(
        latents=X0,
        size=len(X0),
        captions=[],
        sizes=None,
        loss_weights=weights,
        inpainting=None,
        loss_masks=masks,
    )
    loss = objective(batch, 7, 0)
    noise, _ = objective.draw(X0, diffusion.generator(s.seed, 7, 0))
    return {**seen, "noise": noise, "loss": loss}


MULTIRES = {"noise_offset_type": "Multires", "multires_noise_iterations": 4}
NOISE, MIXTURE, LOSS = {"noise", "mixed", "loss"}, {"mixed", "loss"}, {"loss"}

CHANGES: list[tuple[dict[str, Any], dict[str, Any], set[str]]] = [
    ({}, {"noise_offset": 0.1}, {"noise", "t", "mixed", "loss"}),
    ({"noise_offset": 0.1}, {"noise_offset_random_strength": True}, {"noise", "t", "mixed", "loss"}),
    ({"noise_offset": 0.1, "noise_offset_random_strength": True}, {"adaptive_noise_scale": 0.1}, NOISE),
    ({"noise_offset": 0.1, "adaptive_noise_scale": 0.1}, {"adaptive_noise_scale": -0.1}, NOISE),
    ({"noise_offset_type": "Multires"}, {"multires_noise_iterations": 4}, NOISE),
    (MULTIRES, {"multires_noise_iterations": 2}, NOISE),
    (MULTIRES, {"multires_noise_discount": 0.6}, NOISE),
    (MULTIRES, {"noise_offset_type": "Original"}, NOISE),
    ({}, {"ip_noise_gamma": 0.2}, MIXTURE),
    ({"ip_noise_gamma": 0.2}, {"ip_noise_gamma_random_strength": True}, MIXTURE),
    ({}, {"min_timestep": 600}, {"t", "mixed", "loss"}),
    ({}, {"max_timestep": 400}, {"t", "mixed", "loss"}),
    ({}, {"zero_terminal_snr": True}, MIXTURE),
    ({}, {"loss_type": "l1"}, LOSS),
    ({}, {"loss_type": "huber"}, LOSS),
    ({"loss_type": "huber"}, {"loss_type": "smooth_l1"}, LOSS),
    ({"loss_type": "huber"}, {"huber_schedule": "constant"}, LOSS),
    ({"loss_type": "huber"}, {"huber_schedule": "exponential"}, LOSS),
    ({"loss_type": "smooth_l1"}, {"huber_c": 0.3}, LOSS),
    ({"loss_type": "huber", "huber_schedule": "constant"}, {"huber_scale": 2.0}, LOSS),
    ({"loss_type": "huber", "huber_schedule": "exponential"}, {"huber_scale": 2.0}, LOSS),
    ({}, {"min_snr_gamma": 1.0}, LOSS),
    ({}, {"debiased_estimation_loss": True}, LOSS),
    ({}, {"v_pred_like_loss": 0.3}, LOSS),
]


@pytest.mark.parametrize(
    ("base", "option", "changes"), CHANGES, ids=lambda value: ",".join(sorted(map(str, value))) or "plain"
)
def test_a_setting_changes_what_it_should_and_nothing_else(
    base: dict[str, Any], option: dict[str, Any], changes: set[str]
) -> None:
    before, after = look(**base), look(**{**base, **option})
    assert {name for name in before if not torch.equal(before[name], after[name])} == changes


def test_no_setting_of_the_section_is_missing_here() -> None:
    elsewhere = {
        "masked_loss", "conditioning_data_dir", "alpha_mask", "prior_loss_weight", "scale_v_pred_loss_like_noise_pred"
    }  # fmt: skip
    shown = {name for _, option, _ in CHANGES for name in option} | elsewhere
    assert shown >= set(Loss.model_fields)


@pytest.mark.parametrize(
    ("base", "option"),
    [
        ({}, {"multires_noise_iterations": 4, "multires_noise_discount": 0.6}),
        (
            {},
            {"adaptive_noise_scale": 0.1, "noise_offset_random_strength": True, "ip_noise_gamma_random_strength": True},
        ),
        (MULTIRES, {"noise_offset": 0.1, "adaptive_noise_scale": 0.1, "noise_offset_random_strength": True}),
        ({}, {"huber_schedule": "constant", "huber_c": 0.5, "huber_scale": 2.0}),
        ({"loss_type": "huber"}, {"huber_scale": 2.0}),
    ],
    ids=lambda value: ",".join(sorted(map(str, value))) or "plain",
)
def test_what_does_not_apply_changes_nothing(base: dict[str, Any], option: dict[str, Any]) -> None:
    before, after = look(**base), look(**{**base, **option})
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_weights_are_by_the_models_own_schedule_with_zero_terminal_snr() -> None:
    """As in the reference, and as it must be: an SNR of 0 would make some of them infinite."""
    values: dict[str, Any] = {"zero_terminal_snr": True, "min_timestep": 999, "max_timestep": 1000}
    plain = look("v_prediction", **values)["loss"]
    alpha_bar = diffusion.alpha_bars(SCHEDULER)[999:]
    for option, weight in (
        ({"min_snr_gamma": 5.0}, diffusion.min_snr_weight(alpha_bar, 5.0, "v_prediction")),
        ({"debiased_estimation_loss": True}, diffusion.debiased_weight(alpha_bar, "v_prediction")),
        ({"scale_v_pred_loss_like_noise_pred": True}, diffusion.noise_like_weight(alpha_bar)),
    ):
        assert look("v_prediction", **values, **option)["loss"] == pytest.approx((plain * weight).item(), rel=1e-5)
        assert weight.item() > 0


def test_the_last_step_of_zero_terminal_snr_shows_nothing_of_the_picture() -> None:
    seen = look("v_prediction", zero_terminal_snr=True, min_timestep=999, max_timestep=1000)
    assert torch.equal(seen["mixed"], seen["noise"])


def test_timesteps_keep_to_the_range() -> None:
    t = torch.cat([look(seed=seed, min_timestep=300, max_timestep=305)["t"] for seed in range(20)])
    assert set(t.tolist()) == set(range(300, 305))


def test_an_adaptive_offset_grows_with_the_brightness_of_a_channel() -> None:
    """The offset is 0.2 + 0.5·|mean|, with the same draws as one of 0.2 + 0·|mean|."""
    adaptive = look(noise_offset=0.2, noise_offset_random_strength=False, adaptive_noise_scale=0.5)["noise"]
    tiny = look(noise_offset=0.2, adaptive_noise_scale=1e-12)["noise"]
    source = diffusion.generator(5, 7, 0)
    plain = torch.randn(X0.shape, generator=source)
    torch.randint(0, 1000, (8,), generator=source)
    draws = torch.randn(8, 4, 1, 1, generator=source)
    strength = 0.2 + 0.5 * X0.mean(dim=(2, 3), keepdim=True).abs()
    assert torch.allclose(tiny, plain + 0.2 * draws, atol=1e-6)
    assert torch.allclose(adaptive, plain + strength * draws, atol=1e-6)


def test_a_random_strength_is_one_for_the_whole_batch_and_never_more_than_the_offset() -> None:
    strengths = []
    for seed in range(40):
        moved = look(seed=seed, noise_offset=0.5, noise_offset_random_strength=True)["noise"]
        source = diffusion.generator(seed, 7, 0)
        difference = moved - torch.randn(X0.shape, generator=source)
        torch.randint(0, 1000, (8,), generator=source)
        torch.rand((), generator=source)
        share = difference / torch.randn(8, 4, 1, 1, generator=source)
        strengths.append(share.median().item())
        assert torch.allclose(share, torch.full_like(share, strengths[-1]), rtol=1e-2, atol=1e-3)
    assert 0 <= min(strengths) < 0.1
    assert 0.4 < max(strengths) <= 0.5


@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_what_is_mixed_in_is_noisier_than_what_is_asked_for(gamma: float) -> None:
    plain, found = look(), look(ip_noise_gamma=gamma)
    a = diffusion.alpha_bars(SCHEDULER)[plain["t"]].view(-1, 1, 1, 1)
    added = (found["mixed"] - plain["mixed"]) / (1 - a).sqrt()
    assert added.std().item() == pytest.approx(gamma, rel=0.1)
    assert torch.equal(found["noise"], plain["noise"])


# The loss in numbers: Kohya's weights once more, one sample at a time.

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("epsilon", {}), ("epsilon", {"min_snr_gamma": 5}), ("epsilon", {"debiased_estimation_loss": True}),
    ("epsilon", {"v_pred_like_loss": 0.4}), ("epsilon", {"loss_type": "l1"}), ("epsilon", {"loss_type": "huber"}),
    ("epsilon", {"loss_type": "smooth_l1", "huber_schedule": "exponential", "huber_c": 0.2, "huber_scale": 1.5}),
    ("epsilon", {"loss_type": "huber", "huber_schedule": "constant", "huber_scale": 2.0}),
    ("epsilon", {"min_snr_gamma": 1, "v_pred_like_loss": 0.4, "debiased_estimation_loss": True, "loss_type": "huber"}),
    ("epsilon", {"ip_noise_gamma": 0.3}), ("epsilon", {"zero_terminal_snr": True, "loss_type": "huber"}),
    ("v_prediction", {"zero_terminal_snr": True, "loss_type": "smooth_l1", "min_snr_gamma": 5}),
    ("v_prediction", {}), ("v_prediction", {"min_snr_gamma": 5}), ("v_prediction", {"debiased_estimation_loss": True}),
    ("v_prediction", {"scale_v_pred_loss_like_noise_pred": True}),
    ("v_prediction", {"min_snr_gamma": 2, "scale_v_pred_loss_like_noise_pred": True, "debiased_estimation_loss": True}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("prediction", "values"), KINDS, ids=lambda value: value if isinstance(value, str) else ",".join(value)
)
def test_the_loss_of_a_batch_in_numbers(prediction: str, values: dict[str, Any]) -> None:
    found, s, total = look(prediction, **values), Settings(**values), 0.0
    own = diffusion.alpha_bars(SCHEDULER)
    mixing = diffusion.zero_terminal_snr(own) if s.zero_terminal_snr else own
    for x0, noise, mixed, t in zip(X0, found["noise"], found["mixed"], found["t"].tolist(), strict=True):
        a = mixing[t].item()
        wanted = noise if prediction == "epsilon" else math.sqrt(a) * noise - math.sqrt(1 - a) * x0
        d = mixed / 2 - wanted
        sigma = math.sqrt((1 - a) / a)
        c = {
            "constant": s.huber_c * s.huber_scale,
            "exponential": math.exp(math.log(s.huber_c) * t / 1000) * s.huber_scale,
            "snr": (1 - s.huber_c) / (1 + sigma) ** 2 + s.huber_c,
        }[s.huber_schedule]
        rounded = 2 * ((d**2 + c**2) ** 0.5 - c)
        loss = {"l2": d**2, "l1": d.abs(), "huber": c * rounded, "smooth_l1": rounded}[s.loss_type].mean().item()
        snr = own[t].item() / (1 - own[t].item())
        capped, is_v = min(snr, 1000), prediction == "v_prediction"
        if s.min_snr_gamma:
            loss *= min(snr, s.min_snr_gamma) / (snr + 1 if is_v else snr)
        if s.scale_v_pred_loss_like_noise_pred:
            loss *= capped / (capped + 1)
        if s.v_pred_like_loss:
            loss += loss / (capped / (capped + 1)) * s.v_pred_like_loss
        if s.debiased_estimation_loss:
            loss *= 1 / (capped + 1) if is_v else 1 / math.sqrt(capped)
        total += loss / len(X0)
    assert found["loss"].item() == pytest.approx(total, rel=1e-4)


def test_a_mask_leaves_out_what_it_hides_and_the_mean_is_over_everything() -> None:
    masks = torch.rand(8, 1, 10, 6, generator=diffusion.generator(1)).round()
    plain, found = look(), look(masks=masks)
    d = (plain["mixed"] / 2 - plain["noise"]) * masks
    assert found["loss"].item() == pytest.approx(d.square().sum().item() / d.numel(), rel=1e-5)
    assert look(masks=torch.ones_like(masks))["loss"] == plain["loss"]
    assert look(masks=torch.zeros_like(masks))["loss"] == 0


@pytest.mark.parametrize(
    ("prediction", "option"),
    [("epsilon", {"scale_v_pred_loss_like_noise_pred": True}), ("v_prediction", {"v_pred_like_loss": 0.4})],
)
def test_weights_for_another_kind_of_model_never_train(prediction: str, option: dict[str, Any]) -> None:
    """Of a model of the hub it is known only when it was fetched what it predicts."""
    with pytest.raises(Failure, match="it is for models that predict"):
        look(prediction, **option)


# Whole runs. A change that should not alter results must not alter these.

GOLDEN: dict[str, tuple[dict[str, Any], list[float]]] = {
    "plain": ({}, [1.1426897, 1.167171]),
    "noise offset": ({"noise_offset": 0.1}, [1.1372049, 1.1816876]),
    "random noise offset": ({"noise_offset": 0.1, "noise_offset_random_strength": True}, [1.1425269, 1.186271]),
    "adaptive noise offset": ({"noise_offset": 0.1, "adaptive_noise_scale": 0.05}, [1.1488545, 1.256577]),
    "multires": (MULTIRES | {"multires_noise_iterations": 6}, [1.1555347, 1.1223942]),
    "ip noise": ({"ip_noise_gamma": 0.2}, [1.132829, 1.1653254]),
    "random ip noise": ({"ip_noise_gamma": 0.2, "ip_noise_gamma_random_strength": True}, [1.1429765, 1.1708128]),
    "timesteps": ({"min_timestep": 200, "max_timestep": 600}, [1.1449016, 1.1885121]),
    "l1": ({"loss_type": "l1"}, [0.832625, 0.8510411]),
    "huber, snr": ({"loss_type": "huber"}, [0.2344447, 0.2164366]),
    "huber, constant": ({"loss_type": "huber", "huber_schedule": "constant", "huber_c": 0.2}, [0.2712502, 0.278757]),
    "huber, exponential": ({"loss_type": "huber", "huber_schedule": "exponential", "huber_scale": 2.0}, [0.4949076, 0.4565065]),
    "smooth_l1": ({"loss_type": "smooth_l1"}, [1.3994598, 1.4612813]),
    "min snr": ({"min_snr_gamma": 0.05}, [0.609367, 0.7468392]),
    "debiased": ({"debiased_estimation_loss": True}, [3.474483, 5.0794058]),
    "v-pred like": ({"v_pred_like_loss": 0.3}, [5.1416984, 9.5750589]),
    "v plain": ({}, [0.3081671, 0.2566772]),
    "v scaled": ({"scale_v_pred_loss_like_noise_pred": True}, [0.0485186, 0.0274856]),
    "v debiased": ({"debiased_estimation_loss": True}, [0.2596486, 0.2291982]),
    "v zero terminal snr": ({"zero_terminal_snr": True, "min_timestep": 800}, [0.1729229, 0.1802031]),
    "v min snr": ({"min_snr_gamma": 0.05}, [0.0129824, 0.0089906]),
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"epsilon": tiny_sd15(folder / "sd15"), "v": tiny_sd2(folder / "sd2")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trainings.make_pictures(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_losses(name: str, models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    option, expected = GOLDEN[name]
    kind: dict[str, Any] = {"v2": True, "v_parameterization": True} if name.startswith("v ") else {}
    s = trainings.settings(
        models["v" if kind else "epsilon"], data, tmp_path / "out", max_train_steps=2, train_batch_size=2,
        learning_rate=2e-3, text_encoder_lr=0, **kind, **option,
    )  # fmt: skip
    assert trainings.losses(trainings.run(s, tmp_path / "run")) == pytest.approx(expected, abs=1e-5)
