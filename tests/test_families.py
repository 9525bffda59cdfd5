"""Training Stable Diffusion 2, XL and inpainting models from start to end, on tiny ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import trainings
from tests.tiny import listener, tiny_components, tiny_folder, tiny_model
from tests.trainings import losses, make_pictures, tensors
from trainer import events
from trainer.adapters import attach
from trainer.formats import read_metadata
from trainer.models.text import encode
from trainer.report import Failure
from trainer.settings import Settings

Make = Callable[..., Settings]

KINDS: dict[str, dict[str, Any]] = {
    "sd2": {"family": "sd2"},
    "sd2 v": {"family": "sd2", "prediction": "v_prediction"},
    "sdxl": {"family": "sdxl"},
    "sdxl v": {"family": "sdxl", "prediction": "v_prediction"},
    "inpainting": {"inpainting": True},
    "sd2 inpainting": {"family": "sd2", "inpainting": True},
    "sdxl inpainting": {"family": "sdxl", "inpainting": True},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tiny_folder(tmp_path_factory.mktemp("model"), **KINDS[kind], tokenizer=False)
        return made[kind]

    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture
def make(folders: Callable[[str], Path], data: Path, tmp_path: Path) -> Make:
    def settings(kind: str, **values: Any) -> Settings:
        masks = {"train_inpainting": True} if "inpainting" in kind else {}
        small = {"bucket_reso_steps": 32, "min_bucket_reso": 64, "max_train_steps": 3}
        return trainings.settings(folders(kind), data, tmp_path / "out", **{**small, **masks, **values})

    return settings


GOLDEN = {
    "sd2": [1.1373641, 1.1546304, 1.1485468, 1.0870893, 1.0808258, 1.033953],
    "sd2 v": [0.0485186, 0.0273435, 0.0155322, 0.1920414, 0.2969947, 0.2441166],
    "sdxl": [1.1051133, 1.1341194, 1.1164615, 1.1020908, 1.1006987, 0.994556],
    "sdxl v": [0.0431134, 0.024712, 0.0136629, 0.1921128, 0.3085589, 0.2454316],
    "inpainting": [1.1863372, 1.2229911, 1.1618302, 1.1222341, 1.1379223, 1.0512391],
    "sd2 inpainting": [1.1921561, 1.2272921, 1.1633341, 1.1217761, 1.1431698, 1.061799],
    "sdxl inpainting": [1.1841314, 1.1601347, 1.1797069, 1.1294453, 1.1989191, 1.1546817],
}


@pytest.mark.parametrize("kind", KINDS)
def test_golden_losses(kind: str, make: Make, tmp_path: Path) -> None:
    """A change that should not alter results must not alter these."""
    s = make(kind, max_train_steps=6, train_batch_size=2, learning_rate=2e-3, min_snr_gamma=5)
    assert losses(trainings.run(s, tmp_path / "run")) == pytest.approx(GOLDEN[kind], abs=1e-5)


@pytest.mark.parametrize("kind", ["sd2 v", "sdxl", "sdxl v", "inpainting"])
def test_the_loss_is_the_one_diffusers_would_compute(kind: str, make: Make, tmp_path: Path) -> None:
    """Noise, velocity and conditioning put together by diffusers' scheduler and a direct call of the U-Net."""
    from diffusers import DDPMScheduler

    from trainer.conditioning import Conditioning
    from trainer.data.loader import Batch
    from trainer.devices import Precision
    from trainer.diffusion import draw_noise, draw_timesteps, generator
    from trainer.train import Objective

    model, s = tiny_model(**KINDS[kind]), Settings(seed=3)
    precision = Precision(model.device)
    torch.manual_seed(0)
    x0, sizes = torch.randn(2, 4, 8, 8), torch.tensor([[64.0, 96, 0, 8, 64, 64], [64, 64, 0, 0, 64, 64]])
    beside = torch.randn(2, 5, 8, 8) if "inpainting" in kind else None
    batch = Batch(x0, ["a cat", "a dog"], torch.ones(2), [None, None], 1, 0, sizes, beside)  # type: ignore[list-item]
    found = Objective(model, Conditioning(model, s, precision), s, precision)(batch, 5, 0)

    source = generator(3, 5, 0)
    noise, t = draw_noise(x0.shape, 0.0, source), draw_timesteps(2, 1000, source)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    noisy = scheduler.add_noise(x0, noise, t)
    if beside is not None:
        noisy = torch.cat([noisy, beside], 1)
    told = encode(model, ["a cat", "a dog"], s)
    added = {"text_embeds": told.pooled, "time_ids": sizes} if "sdxl" in kind else None
    prediction = model.unet(noisy, t, told.states, added_cond_kwargs=added).sample
    wanted = scheduler.get_velocity(x0, noise, t) if kind.endswith(" v") else noise
    torch.testing.assert_close(found, torch.nn.functional.mse_loss(prediction, wanted), atol=1e-5, rtol=1e-5)


# Files.


VERSIONS = {
    "sd2": ("sd_v2", "stable-diffusion-v2-512/lora", "epsilon", "True", "diffusers"),
    "sd2 v": ("sd_v2_v", "stable-diffusion-v2-768-v/lora", "v", "True", "diffusers"),
    "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "epsilon", "False",
             "https://github.com/Stability-AI/generative-models"),
    "inpainting": ("sd_v1", "stable-diffusion-v1/lora", "epsilon", "False", "diffusers"),
}  # fmt: skip


@pytest.mark.parametrize("kind", VERSIONS)
def test_the_file_says_what_it_is_for(kind: str, make: Make, tmp_path: Path, folders: Callable[[str], Path]) -> None:
    trainings.run(make(kind, max_train_steps=1, vae=str(folders(kind) / "vae")), tmp_path / "run")
    found = read_metadata(tmp_path / "out" / "small.safetensors")
    keys = ("ss_base_model_version", "modelspec.architecture", "modelspec.prediction_type", "ss_v2",
            "modelspec.implementation")  # fmt: skip
    assert tuple(found[key] for key in keys) == VERSIONS[kind]
    assert found["ss_vae_name"] == "vae"
    assert found["ss_cache_latents"] == str("inpainting" not in kind)


def test_the_names_of_an_xl_file_are_the_references(make: Make, tmp_path: Path) -> None:
    trainings.run(make("sdxl", max_train_steps=1), tmp_path / "run")
    names = {key.split(".")[0] for key in tensors(tmp_path / "out" / "small.safetensors")}
    assert {name[:9] for name in names} == {"lora_te1_", "lora_te2_", "lora_unet"}
    assert "lora_te1_text_model_encoder_layers_0_self_attn_q_proj" in names
    assert "lora_te2_text_model_encoder_layers_3_mlp_fc2" in names
    blocks = {
        name.split("_transformer_blocks")[0] for name in names if name.startswith("lora_unet") and "transf" in name
    }
    expected = [f"input_blocks_{number}_1" for number in (4, 5, 7, 8)]
    expected += ["middle_block_1", *(f"output_blocks_{number}_1" for number in range(6))]
    assert blocks == {f"lora_unet_{name}" for name in expected}


@torch.no_grad()
def answers(unet: Any, states: torch.Tensor, pooled: torch.Tensor | None) -> torch.Tensor:
    source = torch.Generator().manual_seed(0)
    latents = torch.randn(2, unet.config.in_channels, 8, 8, generator=source)
    sizes = torch.tensor([[64.0, 96, 0, 8, 64, 64]] * 2)
    added = None if pooled is None else {"text_embeds": pooled, "time_ids": sizes}
    return unet(latents, torch.tensor([10, 700]), states, added_cond_kwargs=added).sample


@pytest.mark.parametrize("kind", ["sdxl", "sd2 v"])
@pytest.mark.parametrize("conv", [False, True])
def test_diffusers_reads_the_file_and_gives_the_same(
    kind: str, conv: bool, make: Make, tmp_path: Path, folders: Callable[[str], Path]
) -> None:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from transformers import CLIPTokenizer

    from trainer.models.configs import TOKENIZER

    more = {"LoRA_type": "Kohya LoCon", "conv_dim": 4, "conv_alpha": 2} if conv else {}
    s = make(kind, network_dim=4, network_alpha=2, learning_rate=2e-2, save_precision="float", **more)
    trainings.run(s, tmp_path / "run")
    file = tmp_path / "out" / "small.safetensors"

    live = tiny_model(**KINDS[kind])
    adapter = attach(live, s, listener())
    assert not adapter.load(tensors(file)).missing
    adapter.train(False)

    parts = tiny_components(family=KINDS[kind]["family"])
    tokenizer = CLIPTokenizer.from_pretrained(str(TOKENIZER), local_files_only=True)
    if kind == "sdxl":
        pipeline: Any = StableDiffusionXLPipeline(
            **parts, tokenizer=tokenizer, tokenizer_2=tokenizer, scheduler=None, force_zeros_for_empty_prompt=False
        )
    else:
        pipeline = StableDiffusionPipeline(
            **parts, tokenizer=tokenizer, scheduler=None, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
    plain = encode(tiny_model(**KINDS[kind]), ["a cat"] * 2, s)
    before = answers(tiny_model(**KINDS[kind]).unet, plain.states, plain.pooled)
    pipeline.load_lora_weights(str(file))
    with torch.no_grad():
        told = encode(live, ["a cat"] * 2, s)
        read = tiny_model(**KINDS[kind])
        read.text_encoders = [pipeline.text_encoder, *([pipeline.text_encoder_2] if kind == "sdxl" else [])]
        theirs = encode(read, ["a cat"] * 2, s)
    torch.testing.assert_close(theirs.states, told.states, atol=1e-4, rtol=1e-4)
    if told.pooled is not None:
        torch.testing.assert_close(theirs.pooled, told.pooled, atol=1e-4, rtol=1e-4)
    ours = answers(live.unet, told.states, told.pooled)
    torch.testing.assert_close(answers(pipeline.unet, told.states, told.pooled), ours, atol=1e-4, rtol=1e-4)
    assert (ours - before).abs().max() > 1e-3


# Cached text encoder outputs.


def test_cached_text_trains_the_same_without_its_encoders(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The U-Net is told exactly what resting encoders would tell it, and these are gone by then; in the file, too."""
    import gc
    import weakref

    from trainer import train

    watched: list[weakref.ref[Any]] = []
    seen: list[tuple[int, bool]] = []
    real_load, real_call = train.load_model, train.Objective.__call__

    def load(*args: Any) -> Any:
        model = real_load(*args)
        watched.extend(weakref.ref(encoder) for encoder in model.text_encoders)
        return model

    def call(self: Any, batch: Any, *place: int) -> torch.Tensor:
        gc.collect()
        seen.append((len(self.model.text_encoders), any(encoder() is not None for encoder in watched)))
        return real_call(self, batch, *place)

    monkeypatch.setattr(train, "load_model", load)
    s = make("sdxl", text_encoder_lr=0, sample_prompts="a dog --w 64 --h 64 --s 1", sample_every_n_steps=2)
    plain = losses(trainings.run(s, tmp_path / "plain"))
    monkeypatch.setattr(train.Objective, "__call__", call)
    watched.clear()
    found = trainings.run(s.changed(sdxl_cache_text_encoder_outputs=True), tmp_path / "cached")
    assert seen == [(0, False)] * 3
    assert losses(found)[0] == plain[0]  # the layers of the U-Net start from other random values: later ones differ
    assert {key[:9] for key in tensors(tmp_path / "out" / "small.safetensors")} == {"lora_unet"}
    assert [event.prompt for event in found if isinstance(event, events.Sample)] == ["a dog"]
    assert not [event.text for event in found if isinstance(event, events.Note) and event.level != "info"]


def test_what_was_not_read_before_is_a_sentence() -> None:
    from trainer.conditioning import Conditioning
    from trainer.devices import Precision
    from trainer.report import Reporter

    model = tiny_model(family="sdxl")
    conditioning = Conditioning(model, Settings(), Precision(model.device))

    class Quiet(Reporter):
        def __init__(self) -> None: ...
        def track(self, items: Any, name: str, total: Any = None) -> Any:
            return items

    conditioning.replace_encoders(["a cat", ""], Quiet())
    assert model.text_encoders == []
    told = conditioning(["", "a cat", ""])
    assert torch.equal(told.states[0], told.states[2])
    with pytest.raises(Failure, match="“a dog” was not read before") as error:
        conditioning(["a dog"])
    assert error.value.key == "sdxl_cache_text_encoder_outputs"


# What goes on.


def test_a_state_of_another_family_is_a_sentence(make: Make, tmp_path: Path) -> None:
    trainings.run(make("sdxl", max_train_steps=1, save_state=True), tmp_path / "one")
    state = next((tmp_path / "out").glob("*-state"))
    with pytest.raises(Failure, match="was trained on a model of another family"):
        trainings.run(make("sd2", resume=str(state)), tmp_path / "two")


@pytest.mark.parametrize("kind", ["sdxl", "inpainting"])
def test_a_stopped_run_goes_on_exactly(kind: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.report import Stopped

    monkeypatch.setattr("trainer.report.LOOK_EVERY", 0.0)
    s = make(kind, max_train_steps=4, flip_aug=True)
    whole = losses(trainings.run(s.changed(output_name="whole"), tmp_path / "whole"))
    with pytest.raises(Stopped):
        trainings.run(s, tmp_path / "first", at={2: "stop"})
    first = losses(events.read(tmp_path / "first" / "events.jsonl")[0])
    state = next((tmp_path / "out").glob("small-*-state"))
    assert first + losses(trainings.run(s.changed(resume=str(state)), tmp_path / "second")) == whole


def test_checkpointing_changes_nothing_for_xl(make: Make, tmp_path: Path) -> None:
    plain = losses(trainings.run(make("sdxl"), tmp_path / "plain"))
    saving = losses(trainings.run(make("sdxl", gradient_checkpointing=True), tmp_path / "saving"))
    assert saving == pytest.approx(plain, abs=1e-6)
