"""Make the demo's captioner, a small BLIP (Li et al. 2022), from nothing: `python -m trainer.demo.make_captioner`.

It describes the demo's pictures, shapes and creatures, and knows no other words.
"""

import argparse
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from trainer.demo import CAPTIONER
from trainer.demo.creature import TEAL, describe_creature, draw_creature
from trainer.demo.pictures import COLOURS, KINDS, RGB, describe, draw, scenes
from trainer.demo.team import Clock, learning_rate

SIDE, PATCH, WIDTH = 64, 8, 96
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]")
WORDS = ("a", "an", "on", "background", "small", "big", *COLOURS, "teal", *KINDS, "creature")
VOCABULARY = {word: index for index, word in enumerate(SPECIAL + WORDS)}
CREATURES = 0.25  # share of the pictures
POOL, BATCH, PEAK_RATE = 20_000, 64, 1.5e-3

Example = tuple[Image.Image, str]


def examples(seed: int) -> Iterator[Example]:
    """Endless pictures with their full captions, held-out combinations among them."""
    rng = np.random.default_rng(seed)
    shapes, held_out = scenes(seed), scenes(seed, held_out=True)
    colours: dict[str, RGB] = {**COLOURS, "teal": TEAL}
    while True:
        if rng.random() < CREATURES:
            background = str(rng.choice(list(COLOURS)))
            colour = "teal" if rng.random() < 0.5 else str(rng.choice([name for name in COLOURS if name != background]))
            picture = draw_creature(background, int(rng.integers(2**31)), colours[colour])
            yield picture, describe_creature(background, colour)
        else:
            scene = next(held_out if rng.random() < 0.1 else shapes)
            yield draw(scene), describe(scene)


def make_model() -> BlipForConditionalGeneration:
    """The untrained BLIP: 64 patches of 8 x 8 pixels, three layers each for pictures and words."""
    layers = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4}
    text = {
        **layers,
        "vocab_size": len(VOCABULARY),
        "max_position_embeddings": 96,
        "pad_token_id": VOCABULARY["[PAD]"],
        "bos_token_id": VOCABULARY["[DEC]"],
        "eos_token_id": VOCABULARY["[SEP]"],
        "sep_token_id": VOCABULARY["[SEP]"],
        "projection_dim": WIDTH,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "label_smoothing": 0.0,
    }
    vision = {**layers, "image_size": SIDE, "patch_size": PATCH, "projection_dim": WIDTH}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=WIDTH, image_text_hidden_size=WIDTH)
    return BlipForConditionalGeneration(config)


def make_processor() -> BlipImageProcessorPil:
    """Pictures are resized to 64 x 64 and normalised as for any BLIP."""
    return BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})


def token_ids(text: str) -> list[int]:
    """[DEC], the words, [SEP], padded to a common length."""
    ids = [VOCABULARY[word] for word in text.split()]
    return [VOCABULARY["[DEC]"], *ids, VOCABULARY["[SEP]"]] + [VOCABULARY["[PAD]"]] * (10 - len(ids))


def tensors(some: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels as bytes (n, 3, 64, 64) and token ids (n, 12)."""
    resized = [np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image, _ in some]
    pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)
    return pixels, torch.tensor([token_ids(text) for _, text in some])


def train(minutes: float) -> BlipForConditionalGeneration:
    """Train on one core for the given time."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, processor, clock = make_model().train(), make_processor(), Clock(minutes)
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    optimizer = torch.optim.AdamW(model.parameters(), PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    source = examples(0)
    pixels, ids = tensors(list(itertools.islice(source, POOL)))
    fraction, recent = clock.tick(), 0.0
    for step in itertools.count(1):
        fresh = slice(step * 8 % POOL, step * 8 % POOL + 8)  # the pool is renewed little by little
        pixels[fresh], ids[fresh] = tensors(list(itertools.islice(source, 8)))
        chosen = torch.randint(0, POOL, (BATCH,))
        labels = ids[chosen].masked_fill(ids[chosen] == VOCABULARY["[PAD]"], -100)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(PEAK_RATE, fraction, warmup=0.03)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(
                pixel_values=(pixels[chosen] / 255 - mean) / std,
                input_ids=ids[chosen],
                attention_mask=(ids[chosen] != VOCABULARY["[PAD]"]).long(),
                labels=labels,
            ).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent += 0.02 * (loss.item() - recent)
        fraction = clock.tick()
        if step % 200 == 0 or fraction == 1:
            right = exact_matches(model, list(itertools.islice(examples(1), 64)))
            print(f"captioner: step {step}, {100 * fraction:.0f} %, loss {recent:.4f}, right {right:.2f}", flush=True)
        if fraction == 1:
            break
    return model.eval()


@torch.no_grad()
def exact_matches(model: BlipForConditionalGeneration, some: list[Example]) -> float:
    """The share of pictures whose caption comes out word for word."""
    model.eval()
    inputs = make_processor()(images=[image for image, _ in some], return_tensors="pt")
    written = model.generate(**inputs, max_length=20)
    names, right = list(VOCABULARY), 0
    for ids, (_, text) in zip(written.tolist(), some, strict=True):
        right += " ".join(names[index] for index in ids if index >= len(SPECIAL)) == text
    model.train()
    return right / len(some)


def export(model: BlipForConditionalGeneration, folder: Path) -> None:
    """Write model, image processor and tokenizer as one folder, in half precision."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary) / folder.name
        model.half().save_pretrained(new)
        make_processor().save_pretrained(new)
        BertTokenizer(vocab=VOCABULARY, model_max_length=96, bos_token="[DEC]").save_pretrained(new)
        (new / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(new, folder)


def main() -> None:
    """Train, measure and write the captioner."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--output", type=Path, default=CAPTIONER)
    options = parser.parse_args()
    model = train(options.minutes)
    print(f"captioner: {exact_matches(model, list(itertools.islice(examples(2), 500))):.3f} of 500 captions exact")
    export(model, options.output)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
