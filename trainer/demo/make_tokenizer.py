"""Make the embedded CLIP tokenizer from CLIP's own list of merges: `python -m trainer.demo.make_tokenizer FILE`.

FILE is `bpe_simple_vocab_16e6.txt.gz` of the CLIP release (MIT), or an open_clip_torch wheel, which has it inside:
`pip download --no-deps open_clip_torch`.
"""

import argparse
import gzip
import json
import os
import tempfile
import zipfile
from pathlib import Path

from transformers import CLIPTokenizer

TOKENIZER = Path(__file__).parent.parent / "models" / "configs" / "tokenizer"
MEMBER = "open_clip/bpe_simple_vocab_16e6.txt.gz"
WORDS = 49152 - 256 - 2  # merges that CLIP uses of the longer list
START, END = "<|startoftext|>", "<|endoftext|>"

Merge = tuple[str, str]


def byte_letters() -> list[str]:
    """A printable character for each byte, in CLIP's order: printable bytes stand for themselves and come first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def read_merges(file: Path) -> list[Merge]:
    """The merges in order of precedence; the file's first line is a heading."""
    packed = zipfile.ZipFile(file).read(MEMBER) if file.suffix == ".whl" else file.read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")[1 : 1 + WORDS]
    return [(left, right) for left, right in (line.split() for line in lines)]


def make_tokenizer(merges: list[Merge]) -> CLIPTokenizer:
    """The tokenizer with the ids of the original: letters, letters that end a word, merged pieces, start, end."""
    letters = byte_letters()
    pieces = [*letters, *(letter + "</w>" for letter in letters), *(left + right for left, right in merges), START, END]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocabulary, merges, model_max_length=77)


def save_small(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Save without the white space that makes up a third of tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        tokenizer.save_pretrained(temporary)
        for file in Path(temporary).glob("*.json"):
            content = json.loads(file.read_text(encoding="utf-8"))
            if "model" in content:
                content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
            file.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
            os.replace(file, folder / file.name)


def main() -> None:
    """Read the list of merges and write the tokenizer's two files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="bpe_simple_vocab_16e6.txt.gz or an open_clip_torch wheel")
    save_small(make_tokenizer(read_merges(parser.parse_args().file)), TOKENIZER)


if __name__ == "__main__":
    main()
