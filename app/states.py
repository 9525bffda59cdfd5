"""The picker of training states: those of all runs with step, date and name, and any folder. (no gradio)"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from app import paths, runs
from trainer import runfolder, states
from trainer.states import Found

PLACE = "States found"


def listing(path: str, near: str = "") -> dict[str, Any]:
    """What the picker shows: of a folder as `paths.listing` does, its states marked; of no path all states known.

    These are the states in the folders of the runs, in their output folders, and in `near`. States outside the folders
    that the page may show are left out.
    """
    found = {str(state.folder): state for state in known(near)}
    if path.strip() or not found:
        shown = paths.listing(path)
        shown["entries"] = [_marked(entry) for entry in shown["entries"]]
    else:
        shown = {**paths.listing(""), "path": "", "parent": "", "images": 0, "repeated": 0, "model": False}
        shown["entries"] = [_entry(state) for state in found.values()]
    if found:
        shown["places"] = [{"name": PLACE, "path": ""}, *shown["places"]]
    return {**shown, "state": states.about(Path(shown["path"])) is not None if shown["path"] else False}


def known(near: str = "") -> list[Found]:
    """The states of all runs and those in the folder `near`, the one saved last first."""
    folders = [Path(near).expanduser()] if near.strip() else []
    for run in runs.list_runs():
        output = str(runfolder.read_json(run.folder / runfolder.SETTINGS).get("output_dir") or "")
        folders += [run.folder / runfolder.STATE, *([Path(output).expanduser()] if output else [])]
    allowed = [folder for folder in dict.fromkeys(folders) if paths.is_allowed(folder)]
    return [replace(state, folder=state.folder.absolute()) for state in states.newest(allowed)]


def _marked(entry: dict[str, Any]) -> dict[str, Any]:
    state = None if entry["file"] else states.look(Path(entry["path"]))
    return entry if state is None else {**entry, **_entry(state)}


def _entry(state: Found) -> dict[str, Any]:
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(state.saved))
    about = f"step {state.step}, epoch {state.epoch} · {day} · {state.optimizer} · {Path(state.model).name}"
    return {
        "name": state.folder.name, "path": str(state.folder),
        "file": False, "bytes": 0, "repeats": False, "state": about,
    }  # fmt: skip
