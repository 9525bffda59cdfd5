"""Make the demo's base model from nothing: `python -m trainer.demo.make_base WORK_FOLDER`.

Stop it at any time: the same command goes on from the checkpoints in the work folder. With `--export-only` the state
of a training in progress is written out.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL

from trainer.demo import BASE_MODEL
from trainer.demo.denoiser import make_scheduler, some_scenes, train_denoiser, trained
from trainer.demo.pictures import draw
from trainer.demo.team import work_together
from trainer.demo.vae import make_vae, psnr, standardise, to_tensor, train_vae

PARTS = {
    "vae": ("diffusers", "AutoencoderKL"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "scheduler": ("diffusers", "DDIMScheduler"),
}


def finished_vae(checkpoint: Path) -> AutoencoderKL:
    """The trained VAE with standardised latents."""
    vae = make_vae()
    vae.load_state_dict(torch.load(checkpoint, weights_only=True)["vae"])
    standardise(vae.eval(), to_tensor([draw(scene) for scene in some_scenes(2, 256)]))
    return vae


def export(vae: AutoencoderKL, denoiser_checkpoint: Path, folder: Path) -> None:
    """Write a diffusers folder in half precision, but for the tokenizer, which the program embeds anyway."""
    denoiser = trained(denoiser_checkpoint)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary) / folder.name
        vae.half().save_pretrained(new / "vae")
        denoiser.unet.half().save_pretrained(new / "unet")
        denoiser.text_encoder.half().save_pretrained(new / "text_encoder")
        make_scheduler().save_pretrained(new / "scheduler")
        index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": diffusers.__version__, **PARTS}
        (new / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(new, folder)


def main() -> None:
    """Train the VAE, then U-Net and text encoder, and export the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for checkpoints")
    parser.add_argument("--processes", type=int, default=2, help="one-thread processes that train together")
    parser.add_argument("--vae-minutes", type=float, default=17)
    parser.add_argument("--unet-minutes", type=float, default=65)
    parser.add_argument("--export-only", action="store_true", help="train nothing, write what is there")
    parser.add_argument("--output", type=Path, default=BASE_MODEL)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    vae_checkpoint, denoiser_checkpoint = options.work / "vae.pt", options.work / "denoiser.pt"

    if not options.export_only:
        work_together(train_vae, options.processes, options.vae_minutes, vae_checkpoint)
    vae = finished_vae(vae_checkpoint)
    print(f"vae: {psnr(vae, to_tensor([draw(scene) for scene in some_scenes(3, 64)])):.1f} dB on the demo's pictures")
    if not options.export_only:
        work_together(train_denoiser, options.processes, options.unet_minutes, vae, denoiser_checkpoint)
    export(vae, denoiser_checkpoint, options.output)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
