"""The sample wall: every sample in its place, everything escaped, nothing from outside the run."""

import re
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from app import wall
from trainer.events import Sample


def samples(
    folder: Path, *places: tuple[int, int], prompt: str = "a cat"
) -> dict[tuple[int, int], tuple[Path, Sample]]:
    return {
        (step, index): (
            folder,
            Sample(
                step=step, epoch=0, index=index, prompt=prompt, seed=7, path=f"samples/{step}-{index}.png", time=5.0
            ),
        )
        for step, index in places
    }


def test_a_row_a_prompt_and_a_column_a_step(tmp_path: Path) -> None:
    html = wall.wall(samples(tmp_path, (0, 0), (0, 1), (40, 0), (40, 1)))
    assert re.findall(r'<th scope="col"[^>]*>(\d+)<', html) == ["0", "40"]
    assert html.count("<tr data-key") == 2
    assert re.findall(r'data-step="(\d+)" data-index="(\d+)"', html) == [
        ("0", "0"),
        ("40", "0"),
        ("0", "1"),
        ("40", "1"),
    ]


def test_a_sample_that_is_missing_leaves_its_place_free(tmp_path: Path) -> None:
    html = wall.wall(samples(tmp_path, (0, 0), (40, 0), (40, 1)))
    assert html.count("<td") == 4
    assert html.count("<img") == 3


def test_prompts_are_text_and_nothing_else(tmp_path: Path) -> None:
    prompt = "<img src=x onerror=alert(1)> \"quoted\" 'single' & ü"
    html = wall.wall(samples(tmp_path, (0, 0), prompt=prompt))
    assert "<img src=x" not in html
    assert unescape(re.search(r'data-prompt="([^"]*)"', html).group(1)) == prompt  # type: ignore[union-attr]


def test_addresses_survive_odd_folder_names(tmp_path: Path) -> None:
    folder = tmp_path / "ümlaut & ? # 100% 🐈"
    html = wall.wall(samples(folder, (3, 0)))
    address = unescape(re.search(r'<img src="([^"]*)"', html).group(1))  # type: ignore[union-attr]
    assert urlsplit(address).path == "/loom/thumb"
    assert parse_qs(urlsplit(address).query)["path"] == [str(folder / "samples" / "3-0.png")]


def test_a_path_out_of_the_run_is_not_shown(tmp_path: Path) -> None:
    sample = Sample(step=0, epoch=0, index=0, prompt="", seed=0, path="../../secret.png")
    assert wall.wall({(0, 0): (tmp_path / "runs" / "one", sample)}) == ""
    absolute = Sample(step=0, epoch=0, index=0, prompt="", seed=0, path=str(tmp_path / "secret.png"))
    assert wall.wall({(0, 0): (tmp_path / "runs" / "one", absolute)}) == ""


def test_no_samples_no_wall() -> None:
    assert wall.wall({}) == ""
