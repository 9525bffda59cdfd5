"""`demo`: trains the embedded demo without the page, as its two buttons would: caption the pictures, then train."""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from trainer.demo.dataset import CONCEPT, install_demo
from trainer.jobs import jobs
from trainer.settings import Settings
from trainer.settings.kohya import load
from trainer.workspace import PROJECT, VARIABLE, workspace

PRESET = PROJECT / "presets" / "demo.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Caption and train the demo in the workspace; returns the exit code."""
    parser = argparse.ArgumentParser(prog="launch.py demo", description=__doc__)
    parser.add_argument("--workspace", metavar="DIR", help="where the pictures, the run and the result go")
    arguments = parser.parse_args(argv)
    if arguments.workspace:
        os.environ[VARIABLE] = arguments.workspace
    from trainer.__main__ import refuse, run_here

    for job, settings in ((jobs()["caption-blip"], caption_settings()), (jobs()["train"], train_settings())):
        problems = list(job.check(settings))
        if problems:
            return refuse(problems)
        code = run_here(job, settings)
        if code:
            return code
    newest = max(workspace().runs.iterdir(), key=lambda folder: folder.name)
    print(f"Samples: {newest / 'samples'}")
    return 0


def train_settings() -> Settings:
    """The demo filled in: its preset, its pictures in the workspace, and a place for the result."""
    return Settings(**{**train_values(), "overwrite_output": True})


def train_values() -> dict[str, Any]:
    """What the training form holds on a first visit."""
    folders = install_demo(workspace().datasets / "demo")
    places = {
        "train_data_dir": folders.images,
        "reg_data_dir": folders.regularisation,
        "output_dir": workspace().output,
    }
    return {**load(PRESET).values, **{key: str(path) for key, path in places.items()}}


def caption_settings() -> Any:
    """The captioner filled in for the demo's pictures."""
    return jobs()["caption-blip"].Settings(**caption_values())


def caption_values() -> dict[str, Any]:
    """What a captioning form holds on a first visit."""
    folders = install_demo(workspace().datasets / "demo")
    return {"image_folder": str(folders.images), "model": "demo", "prefix": CONCEPT}
