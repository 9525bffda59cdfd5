"""The demo, from pictures without captions to a LoRA, and what can be seen of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from trainer.demo.measure import concept_score, look
from trainer.events import Ended, Item, Sample, read
from trainer.workspace import PROJECT, VARIABLE


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(workspace, what was printed) of one run of the demo."""
    work = tmp_path_factory.mktemp("demo workspace")
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "demo"], cwd=PROJECT, env={**os.environ, VARIABLE: str(work)},
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return work, done.stdout


def runs(work: Path) -> tuple[Path, Path]:
    """The run folders of captioning and of training."""
    captioning, training = sorted((work / "runs").iterdir())
    return captioning, training


def pictures(work: Path, prompt: str) -> tuple[list[Image.Image], list[Image.Image]]:
    """Samples of the prompts that match `prompt`, before the first step and after the last."""
    training = runs(work)[1]
    events, _ = read(training / "events.jsonl")
    found = [event for event in events if isinstance(event, Sample) and re.search(prompt, event.prompt)]
    last = max(event.step for event in found)

    def at(step: int) -> list[Image.Image]:
        return [Image.open(training / event.path).convert("RGB") for event in found if event.step == step]

    return at(0), at(last)


def test_it_captions_and_trains_and_says_where_the_samples_are(demo: tuple[Path, str]) -> None:
    work, said = demo
    captioning, training = runs(work)
    items = [event for event in read(captioning / "events.jsonl")[0] if isinstance(event, Item)]
    assert all(item.status == "written" and "creature" in item.text for item in items)
    assert len(items) == 14
    ends = [event for folder in (captioning, training) for event in read(folder / "events.jsonl")[0] if isinstance(event, Ended)]
    assert [event.state for event in ends] == ["finished", "finished"]
    assert f"Samples: {training / 'samples'}" in said
    assert list((training / "samples").glob("*.png"))
    with safe_open(work / "output" / "demo-creature.safetensors", "pt") as file:
        assert file.metadata()["ss_network_module"] == "networks.lora"


def test_the_samples_visibly_show_the_new_concept(demo: tuple[Path, str]) -> None:
    before, after = pictures(demo[0], "creature")
    scores = [sum(map(concept_score, images)) / len(images) for images in (before, after)]
    assert scores[0] < 0.1, scores
    assert scores[1] > 0.3, scores


def test_what_the_model_knew_is_still_there(demo: tuple[Path, str]) -> None:
    _, after = pictures(demo[0], "red circle on a blue")
    seen = look(after[0])
    assert (seen.background, seen.colour) == ("blue", "red")
