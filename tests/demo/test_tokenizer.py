"""The embedded tokenizer gives the ids of the original CLIP."""

import pytest
from transformers import CLIPTokenizer

from trainer.demo.make_tokenizer import TOKENIZER, byte_letters, make_tokenizer

# Ids of the original byte-pair encoder.
KNOWN = {
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "hello world": [3306, 1002],
    "A Photo, of a CAT!": [320, 1125, 267, 539, 320, 2368, 256],
    "": [],
}


@pytest.mark.parametrize("text", KNOWN)
def test_ids_are_those_of_clip(text: str) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    ids = tokenizer(text, padding="max_length", truncation=True)["input_ids"]
    assert ids[: len(KNOWN[text]) + 2] == [49406, *KNOWN[text], 49407]
    assert ids[len(KNOWN[text]) + 1 :] == [49407] * (77 - len(KNOWN[text]) - 1)
    assert len(tokenizer) == 49408


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in TOKENIZER.iterdir()) < 1_600_000


def test_it_is_made_from_merges() -> None:
    letters = byte_letters()
    assert len(set(letters)) == 256
    tokenizer = make_tokenizer([("c", "a"), ("ca", "t</w>")])
    assert tokenizer.tokenize("cat") == ["cat</w>"]
    assert tokenizer("cat")["input_ids"] == [514, 513, 515]
