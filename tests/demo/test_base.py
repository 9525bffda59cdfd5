"""The embedded base model has Stable Diffusion 1.5's structure and obeys its prompts."""

import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from trainer.demo.creature import draw_creature
from trainer.demo.denoiser import some_scenes
from trainer.demo.evaluate import load_pipeline, obeyed, sample
from trainer.demo.measure import concept_score, look
from trainer.demo.pictures import COLOURS, draw, scenes
from trainer.demo.vae import psnr, to_tensor


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return load_pipeline()


def test_blocks_are_those_of_stable_diffusion(pipeline: StableDiffusionPipeline) -> None:
    config = pipeline.unet.config
    assert list(config.down_block_types) == [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"]
    assert list(config.up_block_types) == ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3]
    assert (config.layers_per_block, pipeline.vae.config.scaling_factor) == (2, 0.18215)
    assert pipeline.text_encoder.config.vocab_size == 49408
    assert pipeline.scheduler.config.prediction_type == "epsilon"


def test_samples_have_the_background_that_was_asked_for(pipeline: StableDiffusionPipeline) -> None:
    for background in ("red", "yellow", "blue", "white"):
        picture = sample(pipeline, f"a circle on a {background} background", seed=1, steps=8)
        assert look(picture).background == background


def test_samples_show_what_was_asked_for(pipeline: StableDiffusionPipeline) -> None:
    right, _ = obeyed(pipeline, itertools.islice(scenes(41), 8))
    assert min(right["background"], right["colour"], right["size"]) >= 0.75
    assert right["kind"] >= 0.6


def test_the_creature_is_unknown_to_it(pipeline: StableDiffusionPipeline) -> None:
    pictures = [
        sample(pipeline, f"a sks creature on a {name} background", seed=2, steps=10) for name in ("red", "white")
    ]
    assert max(concept_score(picture) for picture in pictures) < 0.25


@torch.no_grad()
def test_its_vae_keeps_pictures_and_the_creature(pipeline: StableDiffusionPipeline) -> None:
    vae = pipeline.vae
    images = to_tensor([draw(scene) for scene in some_scenes(51, 8)])
    assert psnr(vae, images) > 25
    latents = vae.encode(images).latent_dist.mean * vae.config.scaling_factor
    assert math.isclose(latents.std().item(), 1, abs_tol=0.25)
    creatures = to_tensor([draw_creature(background, 52) for background in list(COLOURS)[:4]])
    decoded = vae.decode(vae.encode(creatures).latent_dist.mean).sample
    for picture in np.asarray(((decoded.clamp(-1, 1) + 1) * 127.5).byte().permute(0, 2, 3, 1)):
        assert concept_score(Image.fromarray(picture)) > 0.6
