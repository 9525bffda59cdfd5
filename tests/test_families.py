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
    "sd2": [1.1373641, 1.1546304, 1.1489906, 1.0882356],
    "sd2 v": [0.0485186, 0.0273435, 0.0155594, 0.1924158],
    "sdxl": [1.1051133, 1.1341194, 1.1165098, 1.1018255],
    "sdxl v": [0.0431134, 0.024712, 0.0136657, 0.1921212],
    "inpainting": [1.1863372, 1.2229911, 1.1620023, 1.1229746],
    "sdxl inpainting": [1.1841314, 1.1601347, 1.1799076, 1.1304357],
}


VERSIONS = {
    "sd2": ("sd_v2", "stable-diffusion-v2-512/lora", "epsilon", "True", "diffusers"),
    "sd2 v": ("sd_v2_v", "stable-diffusion-v2-768-v/lora", "v", "True", "diffusers"),
    "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "epsilon", "False",
             "https://github.com/Stability-AI/generative-models"),
    "sdxl v": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "v", "False",
             "https://github.com/Stability-AI/generative-models"),
    "sdxl inpainting": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "epsilon", "False",
             "https://github.com/Stability-AI/generative-models"),
    "inpainting": ("sd_v1", "stable-diffusion-v1/lora", "epsilon", "False", "diffusers"),
}  # fmt: skip
"""What the files of the reference say: base model version, architecture, prediction type, v2, implementation."""


@pytest.mark.parametrize("kind", KINDS)
def test_golden_losses_and_what_the_file_says(
    kind: str, make: Make, tmp_path: Path, folders: Callable[[str], Path]
) -> None:
    """A change that should not alter results must not alter these."""
    own = {"vae": str(folders(kind) / "vae")}
    s = make(kind, max_train_steps=4, train_batch_size=2, learning_rate=2e-3, min_snr_gamma=5, **own)
    assert losses(trainings.run(s, tmp_path / "run")) == pytest.approx(GOLDEN[kind], abs=1e-5)

    found = read_metadata(tmp_path / "out" / "small.safetensors")
    keys = ("ss_base_model_version", "modelspec.architecture", "modelspec.prediction_type", "ss_v2",
            "modelspec.implementation")  # fmt: skip
    assert tuple(found[key] for key in keys) == VERSIONS[kind]
    assert found["ss_vae_name"] == "vae"
    assert found["ss_cache_latents"] == str("inpainting" not in kind)
    if kind == "sdxl":
        assert_names_of_xl({key.split(".")[0] for key in tensors(tmp_path / "out" / "small.safetensors")})


def assert_names_of_xl(names: set[str]) -> None:
    """The names are those of the reference; the tiny model has the real one's blocks."""
    assert {name[:9] for name in names} == {"lora_te1_", "lora_te2_", "lora_unet"}
    assert "lora_te1_text_model_encoder_layers_0_self_attn_q_proj" in names
    assert "lora_te2_text_model_encoder_layers_3_mlp_fc2" in names
    blocks = {name.split("_transformer_blocks")[0] for name in names if "_transformer_blocks" in name}
    expected = [f"input_blocks_{number}_1" for number in (4, 5, 7, 8)]
    expected += ["middle_block_1", *(f"output_blocks_{number}_1" for number in range(6))]
    assert blocks == {f"lora_unet_{name}" for name in expected}


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


@torch.no_grad()
def answers(unet: Any, states: torch.Tensor, pooled: torch.Tensor | None) -> torch.Tensor:
    source = torch.Generator().manual_seed(0)
    latents = torch.randn(2, unet.config.in_channels, 8, 8, generator=source)
    sizes = torch.tensor([[64.0, 96, 0, 8, 64, 64]] * 2)
    added = None if pooled is None else {"text_embeds": pooled, "time_ids": sizes}
    return unet(latents, torch.tensor([10, 700]), states, added_cond_kwargs=added).sample


@pytest.mark.parametrize("kind", ["sdxl", "sd2 v"])
def test_diffusers_reads_the_file_and_gives_the_same(kind: str, make: Make, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from transformers import CLIPTokenizer

    from trainer.models.configs import TOKENIZER

    more = {"LoRA_type": "Kohya LoCon", "conv_dim": 4, "conv_alpha": 2}
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

        def note(self, text: str, level: str = "info", key: str = "") -> None: ...

    conditioning.replace_encoders(["a cat", ""], [], Quiet())
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


def test_a_stopped_run_goes_on_exactly(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.report import Stopped

    monkeypatch.setattr("trainer.report.LOOK_EVERY", 0.0)
    s = make("sdxl inpainting", max_train_steps=4, flip_aug=True)
    whole = losses(trainings.run(s.changed(output_name="whole"), tmp_path / "whole"))
    with pytest.raises(Stopped):
        trainings.run(s, tmp_path / "first", at={2: "stop"})
    first = losses(events.read(tmp_path / "first" / "events.jsonl")[0])
    state = next((tmp_path / "out").glob("small-*-state"))
    assert first + losses(trainings.run(s.changed(resume=str(state)), tmp_path / "second")) == whole


def test_checkpointing_changes_nothing_for_xl(make: Make, tmp_path: Path) -> None:
    plain = losses(trainings.run(make("sdxl", max_train_steps=2), tmp_path / "plain"))
    saving = losses(trainings.run(make("sdxl", max_train_steps=2, gradient_checkpointing=True), tmp_path / "saving"))
    assert saving == pytest.approx(plain, abs=1e-6)
