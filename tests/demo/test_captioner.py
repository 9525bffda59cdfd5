"""The embedded captioner is an ordinary BLIP folder and describes the demo's pictures."""

import itertools

import pytest
import torch
from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from trainer.demo import CAPTIONER
from trainer.demo.creature import describe_creature, draw_creature
from trainer.demo.dataset import BACKGROUNDS
from trainer.demo.make_captioner import exact_matches, examples


@pytest.fixture(scope="module")
def model() -> BlipForConditionalGeneration:
    return BlipForConditionalGeneration.from_pretrained(CAPTIONER, dtype=torch.float32, local_files_only=True)


def test_it_describes_pictures_it_has_not_seen(model: BlipForConditionalGeneration) -> None:
    assert exact_matches(model, list(itertools.islice(examples(31), 120))) >= 0.88


def test_it_describes_the_data_set_as_any_blip(model: BlipForConditionalGeneration) -> None:
    tokenizer = AutoTokenizer.from_pretrained(CAPTIONER, local_files_only=True)
    processor = BlipProcessor(BlipImageProcessorPil.from_pretrained(CAPTIONER, local_files_only=True), tokenizer)
    pictures = [draw_creature(background, number) for number, background in enumerate(BACKGROUNDS, 1)]
    inputs = processor(images=pictures, return_tensors="pt")
    ids = model.generate(**inputs, num_beams=3, max_length=75, min_length=5)
    captions = processor.batch_decode(ids, skip_special_tokens=True)
    assert captions == [describe_creature(background) for background in BACKGROUNDS]


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in CAPTIONER.iterdir()) < 3_000_000
