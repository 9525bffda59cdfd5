"""Answers of text encoders on the disk: found again by later runs, and never those of something else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import tiny_model
from trainer import answers
from trainer.answers import Answers
from trainer.conditioning import Conditioning
from trainer.devices import Precision
from trainer.models.text import Told
from trainer.report import Reporter
from trainer.settings import Settings

CPU = torch.device("cpu")
ON = {"sdxl_cache_text_encoder_outputs": True, "cache_text_encoder_outputs_to_disk": True, "text_encoder_lr": 0.0}
TEXTS = ["a cat", "a dog, running", ""]


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reporter]:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path / "workspace"))
    with Reporter(tmp_path / "run") as reporter:
        yield reporter


def told(report: Reporter, texts: list[str] = TEXTS, seed: int = 0, **values: object) -> tuple[Told, str]:
    """What a run is told of the texts, and what it says of its cache."""
    model = tiny_model(seed, family="sdxl")
    conditioning = Conditioning(model, Settings(**{**ON, **values}), Precision(CPU))
    conditioning.replace_encoders(texts, [], report)
    assert model.text_encoders == []
    said = (report.folder / "events.jsonl").read_text().splitlines()[-1]
    return conditioning(texts), said


def same(one: Told, other: Told) -> bool:
    assert one.pooled is not None
    assert other.pooled is not None
    return torch.equal(one.states, other.states) and torch.equal(one.pooled, other.pooled)


def test_a_later_run_finds_the_same_bits_and_encodes_nothing(
    report: Reporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, said = told(report, cache_text_encoder_outputs_to_disk=False)
    assert "3 encoded captions: " in said
    assert "on disk" not in said
    assert not (tmp_path / "workspace").exists()
    first, said = told(report)
    assert "0 of 3 were there already" in said
    monkeypatch.setattr("trainer.models.text.encode", None)
    again, said = told(report)
    assert "3 of 3 were there already" in said
    assert same(plain, first)
    assert same(first, again)


@pytest.mark.parametrize("change", ["weights", "length", "weighted", "program"])
def test_whatever_matters_makes_another_answer(report: Reporter, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    values: Any = {"length": {"max_token_length": 150}, "weighted": {"weighted_captions": True}}.get(change, {})
    texts = ["a (cat:1.5)", "a dog"]
    before, _ = told(report, texts)
    if change == "program":
        monkeypatch.setattr(answers, "READERS", ())
    after, said = told(report, texts, seed=1 if change == "weights" else 0, **values)
    assert "0 of 2 were there already" in said
    assert same(before, after) == (change == "program")
    fresh, _ = told(
        report, texts, seed=1 if change == "weights" else 0, **values, cache_text_encoder_outputs_to_disk=False
    )
    assert same(after, fresh)


def test_torn_files_are_made_anew_and_a_full_disk_costs_nothing(report: Reporter, tmp_path: Path) -> None:
    first, _ = told(report)
    folder = tmp_path / "workspace" / "cache" / "captions"
    files = sorted(folder.rglob("*.safetensors"))
    assert len(files) == 3
    assert not list(folder.rglob("*.tmp"))
    files[0].write_bytes(b"torn")
    files[1].unlink()
    again, said = told(report)
    assert "1 of 3 were there already" in said
    assert same(first, again)
    model = tiny_model(family="sdxl")
    blocked = tmp_path / "a file"
    blocked.write_text("")
    kept = Answers(blocked / "below", model, Settings(), torch.float32, "cpu")
    kept.keep({("a cat", False): Told(torch.zeros(77, 4))})
    assert kept.among([("a cat", False)]) == {}
