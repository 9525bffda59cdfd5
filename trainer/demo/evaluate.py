"""Measure the embedded demo models: `python -m trainer.demo.evaluate`; docs/demo.md quotes what it prints."""

import argparse
import itertools
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from transformers import BlipForConditionalGeneration, CLIPTextModel, CLIPTokenizer

from trainer.demo import BASE_MODEL, CAPTIONER
from trainer.demo.denoiser import Denoiser, encode, held_back_loss, some_scenes
from trainer.demo.make_captioner import exact_matches, examples
from trainer.demo.make_tokenizer import TOKENIZER
from trainer.demo.measure import look
from trainer.demo.pictures import Scene, describe, draw, scenes
from trainer.demo.vae import psnr, to_tensor

GUIDANCE, STEPS = 3.0, 20
QUESTIONS = ("background", "colour", "size", "kind")


def load_pipeline(folder: Path = BASE_MODEL) -> StableDiffusionPipeline:
    """The base model in float32, with the tokenizer that the program embeds."""
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
        tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER),
        unet=UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(pipeline: StableDiffusionPipeline, prompt: str, seed: int, steps: int = STEPS) -> Image.Image:
    """One picture of 128 x 128."""
    generator = torch.Generator().manual_seed(seed)
    made: Any = pipeline(
        prompt, height=128, width=128, num_inference_steps=steps, guidance_scale=GUIDANCE, generator=generator
    )
    picture: Image.Image = made.images[0]
    return picture


def obeyed(pipeline: StableDiffusionPipeline, wanted: Iterable[Scene]) -> tuple[dict[str, float], list[Image.Image]]:
    """How often each part of the prompt is what the picture shows, 0 to 1, and the pictures."""
    pictures, right = [], dict.fromkeys((*QUESTIONS, "everything"), 0)
    for seed, scene in enumerate(wanted):
        pictures.append(sample(pipeline, describe(scene), seed))
        seen = look(pictures[-1])
        answers = {question: getattr(seen, question) == getattr(scene, question) for question in QUESTIONS}
        for question, answer in {**answers, "everything": all(answers.values())}.items():
            right[question] += answer
    return {question: round(count / len(pictures), 3) for question, count in right.items()}, pictures


def wall(pictures: list[Image.Image], columns: int = 10) -> Image.Image:
    """The pictures side by side."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * 130 - 2, rows * 130 - 2), "grey")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * 130, index // columns * 130))
    return sheet


def evaluate(base: Path, captioner: Path, count: int, output: Path | None) -> dict[str, Any]:
    """All measures of docs/demo.md."""
    torch.set_num_threads(1)
    pipeline = load_pipeline(base)
    denoiser = Denoiser()
    denoiser.text_encoder, denoiser.unet = pipeline.text_encoder, pipeline.unet
    held_back = some_scenes(1, 256)
    start = time.perf_counter()
    seen, pictures = obeyed(pipeline, itertools.islice(scenes(5), count))
    seconds = (time.perf_counter() - start) / count
    unseen, others = obeyed(pipeline, itertools.islice(scenes(6, held_out=True), count))
    if output is not None:
        wall(pictures + others).save(output)
    blip = BlipForConditionalGeneration.from_pretrained(captioner, dtype=torch.float32)
    return {
        "prompts": count,
        "obeyed": seen,
        "obeyed, combinations never seen": unseen,
        "noise error on pictures never seen": round(
            held_back_loss(denoiser, held_back, encode(pipeline.vae, held_back)[0]), 4
        ),
        "VAE, dB": round(psnr(pipeline.vae, to_tensor([draw(scene) for scene in some_scenes(3, 64)])), 1),
        "captions exact": round(exact_matches(blip, list(itertools.islice(examples(2), 500))), 3),
        "seconds a picture, one thread": round(seconds, 2),
    }


def main() -> None:
    """Print the measures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=BASE_MODEL)
    parser.add_argument("--captioner", type=Path, default=CAPTIONER)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--pictures", type=Path, help="also save the pictures, as one PNG")
    options = parser.parse_args()
    print(json.dumps(evaluate(options.base, options.captioner, options.prompts, options.pictures), indent=2))


if __name__ == "__main__":
    main()
