"""The sample wall: pictures made while training, a row a prompt, a column a step; monitor.js brings it to life."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from urllib.parse import urlencode

from trainer.events import Sample

THUMB = 320
"""Pixels of the longer side of a thumbnail; the enlarged picture is the file itself."""

Samples = Mapping[tuple[int, int], tuple[Path, Sample]]


def wall(samples: Samples) -> str:
    """The grid as HTML; `samples` are by (step, prompt) and come with the run folder they lie in."""
    places = {key: place for key, value in samples.items() if (place := _inside(*value)) is not None}
    if not places:
        return ""
    steps = sorted({step for step, _ in places})
    prompts = sorted({index for _, index in places})
    head = "".join(f'<th scope="col" data-key="{step}">{step}</th>' for step in steps)
    rows = "".join(_row(index, steps, samples, places) for index in prompts)
    return (
        f'<h3>Samples</h3><div class="loom-wall" data-wall data-steps="{len(steps)}">'
        '<div class="loom-wall-now" data-local></div>'
        '<div class="loom-strip" tabindex="0" role="group" aria-label="All samples, by prompt and step"><table>'
        f'<thead><tr><th class="loom-unseen">Prompt</th>{head}</tr></thead><tbody>{rows}</tbody></table></div></div>'
    )


def thumb_url(path: Path | str, size: int = THUMB, version: float = 0) -> str:
    """Where the page finds a small picture of the image file `path`; another `version` is fetched anew."""
    return "/loom/thumb?" + urlencode({"path": str(path), "size": size, **({"v": int(version)} if version else {})})


def file_url(path: Path | str, version: float = 0) -> str:
    """Where the page finds the file `path` itself."""
    return "/loom/file?" + urlencode({"path": str(path), **({"v": int(version)} if version else {})})


def _row(index: int, steps: list[int], samples: Samples, places: Mapping[tuple[int, int], Path]) -> str:
    prompt = next(sample.prompt for key, (_, sample) in samples.items() if key[1] == index)
    cells = "".join(
        _cell(samples[step, index][1], places[step, index])
        if (step, index) in places
        else f'<td data-key="{step}"></td>'
        for step in steps
    )
    return f'<tr data-key="{index}"><th scope="row" class="loom-unseen">{escape(prompt)}</th>{cells}</tr>'


def _cell(sample: Sample, path: Path) -> str:
    said = f"Step {sample.step}, seed {sample.seed}: {sample.prompt}"
    return (
        f'<td data-key="{sample.step}"><button type="button" class="loom-sample" data-step="{sample.step}" '
        f'data-index="{sample.index}" data-seed="{sample.seed}" data-prompt="{escape(sample.prompt)}" '
        f'data-full="{escape(file_url(path, sample.time))}" title="{escape(said)}">'
        f'<img src="{escape(thumb_url(path, THUMB, sample.time))}" alt="{escape(said)}" loading="lazy"></button></td>'
    )


def _inside(folder: Path, sample: Sample) -> Path | None:
    """The sample's file; None when the event names something outside the run's folder."""
    path = (folder / sample.path).resolve()
    return path if path.is_relative_to(folder.resolve()) else None
