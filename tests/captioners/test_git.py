"""GIT describes pictures: with a tiny model of chance weights, whose words a plain loop over its answers must find too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer, GitConfig, GitForCausalLM
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.tiny import listener
from trainer.captioners import git
from trainer.captioners.git import MODELS, SOURCE, Git, GitCaptions
from trainer.events import Item, Note, Phase, read
from trainer.report import Failure, Reporter
from trainer.workspace import VARIABLE

SIDE = 16
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    *["a", "red", "green", "blue", "big", "small", "round", "square", "cat", "dog", "house", "on", "under", "sky"],
]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's pictures, by channel."""


def tiny_git(folder: Path, safe: bool = True) -> GitForCausalLM:
    """A model with two layers of 32 and a vocabulary of 18 words, saved to `folder`."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size, do_center_crop=True).save_pretrained(folder)
    layers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = GitConfig(
        vision_config={**layers, "image_size": SIDE, "patch_size": 8, "initializer_range": 0.5},
        **layers, vocab_size=len(WORDS), bos_token_id=2, eos_token_id=3, pad_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(3)
    model = GitForCausalLM(config).eval()
    model.save_pretrained(folder)
    if not safe:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "git"
    tiny_git(place)
    return place


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    place = tmp_path / "10_cat"
    place.mkdir()
    noise = np.random.default_rng(1)
    for number in range(3):
        Image.fromarray(noise.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(place / f"{number}.png")
    return place


def run(tmp_path: Path, model: Path, name: str = "run", **values: Any) -> tuple[dict[str, Item], list[str], list[str]]:
    """(result by picture name, notes, phases) of a run over `tmp_path`'s pictures."""
    settings = GitCaptions(
        **{"image_folder": str(tmp_path / "10_cat"), "model_id": str(model), "max_length": 8, **values}
    )
    assert [str(problem) for problem in Git().check(settings)] == []
    with Reporter(tmp_path / name) as report:
        Git().run(settings, report)
        report.flush()
    events, _ = read(tmp_path / name / "events.jsonl")
    items = {Path(event.path).stem: event for event in events if isinstance(event, Item)}
    phases = [event.name for event in events if isinstance(event, Phase)]
    return items, [event.text for event in events if isinstance(event, Note)], phases


def likeliest(model: GitForCausalLM, picture: Path, length: int) -> str:
    """The sentence word by word: the likeliest next one, `length` tokens at most."""
    pixels = (np.asarray(Image.open(picture), np.float32) / 255 - MEAN) / STD
    seen = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32))[None]
    ids = [2]
    while len(ids) < length and ids[-1] != 3:
        with torch.no_grad():
            answer = model(input_ids=torch.tensor([ids]), pixel_values=seen, use_cache=False).logits
        ids.append(int(answer[0, -1].argmax()))
    return " ".join(WORDS[at] for at in ids if at > 3)


def test_says_the_likeliest_words(tmp_path: Path, folder: Path, pictures: Path) -> None:
    items, notes, phases = run(tmp_path, folder, prefix="sks", postfix="photo")
    model = GitForCausalLM.from_pretrained(folder).eval()
    said = {name: likeliest(model, pictures / f"{name}.png", 8) for name in items}
    assert {name: item.text for name, item in items.items()} == {
        name: f"sks, {text}, photo" for name, text in said.items()
    }
    assert len(set(said.values())) > 1, "another picture, other words"
    assert (pictures / "0.txt").read_text(encoding="utf-8") == items["0"].text + "\n"
    assert notes == ["3 captions written."]
    assert phases[0] == "loading GIT"


def test_batches_give_the_same_and_max_length_is_obeyed(tmp_path: Path, folder: Path, pictures: Path) -> None:
    one, _, _ = run(tmp_path, folder, "1")
    three, _, _ = run(tmp_path, folder, "2", batch_size=3, overwrite_captions=True)
    assert {item.status for item in three.values()} == {"same"}
    short, _, _ = run(tmp_path, folder, "3", max_length=4, overwrite_captions=True)
    assert all(len(item.text.split()) <= 3 for item in short.values())
    assert all(one[name].text.startswith(item.text) for name, item in short.items())


def test_weights_of_torch_are_read_too(tmp_path: Path, folder: Path, pictures: Path) -> None:
    tiny_git(tmp_path / "bin", safe=False)
    items, _, _ = run(tmp_path, tmp_path / "bin", "1")
    again, _, _ = run(tmp_path, folder, "2", overwrite_captions=True)
    assert {name: item.text for name, item in items.items()} == {name: item.text for name, item in again.items()}


def test_a_broken_picture_is_named_and_the_others_go_on(tmp_path: Path, folder: Path, pictures: Path) -> None:
    (pictures / "1.png").write_bytes(b"")
    items, notes, _ = run(tmp_path, folder, batch_size=3)
    assert {name: item.status for name, item in items.items()} == {"0": "written", "1": "unreadable", "2": "written"}
    assert "1.png is empty (0 bytes)." in notes


@pytest.mark.parametrize("lost", ["model.safetensors", "vocab.txt"])
def test_a_damaged_model_is_named(tmp_path: Path, lost: str) -> None:
    tiny_git(tmp_path / "git")
    (tmp_path / "git" / lost).write_bytes(b"\x00" * 20)
    (tmp_path / "git" / "tokenizer.json").write_bytes(
        b"{" if lost == "vocab.txt" else (tmp_path / "git" / "tokenizer.json").read_bytes()
    )
    with pytest.raises(Failure, match=r"^The GIT model mine cannot be loaded: ") as failure:
        git.load("mine", tmp_path / "git")
    assert failure.value.key == "model_id"


def test_without_a_connection_it_says_what_to_download_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(Failure) as failure:
        SOURCE.folder(MODELS[0], listener())
    assert "config.json" in failure.value.advice
    assert str(tmp_path / "models" / "git-large-textcaps") in failure.value.advice


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"model_id": ""}, "Model: choose a model."),
        ({"model_id": "/no/such"}, "Model: /no/such is not the folder of a GIT model; it must hold config.json"),
        ({"image_folder": ""}, "Image folder to caption: choose the folder"),
    ],
    ids=["no model", "no folder", "no pictures"],
)
def test_bad_input_is_named(folder: Path, pictures: Path, values: dict[str, Any], sentence: str) -> None:
    settings = GitCaptions(**{"image_folder": str(pictures), "model_id": str(folder), **values})
    (problem,) = Git().check(settings)
    assert str(problem).startswith(sentence)


def test_the_files_to_fetch_are_those_of_the_hub() -> None:
    """microsoft/git-large-textcaps, as it is listed there."""
    there = [".gitattributes", "README.md", "config.json", "generation_config.json", "preprocessor_config.json", "pytorch_model.bin",
             "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]  # fmt: skip
    found = SOURCE.choose(there)
    assert found is not None
    assert found[-1] == "pytorch_model.bin"
    assert set(found) == set(there) - {".gitattributes", "README.md"}
    assert (SOURCE.choose([*there, "model.safetensors"]) or [])[-1] == "model.safetensors"
    assert SOURCE.choose(["config.json", "model.safetensors"]) is None
