"""`check FILE [--set key=value …]`: what a settings file means, as one JSON object; starts and writes nothing.

Exit code 0 when it could be trained, 1 when there are problems, 2 when the file cannot be read.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from trainer.declare import Problem, validate
from trainer.jobs import jobs
from trainer.settings import Settings
from trainer.settings.kohya import Loaded, Unreadable, load, read


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report for a file; returns the exit code."""
    parser = argparse.ArgumentParser(prog="launch.py check", description=__doc__)
    parser.add_argument("file", help="a JSON preset of this program or the Kohya GUI, or a TOML of sd-scripts")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    arguments = parser.parse_args(argv)
    try:
        loaded = load_with(arguments.file, arguments.changes)
    except Unreadable as error:
        print(json.dumps({"error": str(error)}, indent=2, ensure_ascii=False))
        return 2
    answer = report(loaded)
    print(json.dumps(answer, indent=2, ensure_ascii=False))
    return 1 if answer["problems"] else 0


def load_with(path: str, changes: Iterable[str]) -> Loaded:
    """The file with `key=value` changes on top; raises `Unreadable` when the file or a change cannot be read."""
    loaded = load(path)
    pairs = dict(_pair(change) for change in changes)
    extra = read(pairs)
    unknown = [item.key for item in extra.ignored if item.key in pairs]
    if unknown:
        raise Unreadable(f"--set: {next(item.why for item in extra.ignored if item.key == unknown[0])}: {unknown[0]}.")
    loaded.problems = [item for item in loaded.problems if item.key not in pairs or not item.key] + extra.problems
    loaded.values.update(extra.values)
    loaded.changed += extra.changed
    return loaded


def _pair(change: str) -> tuple[str, str]:
    key, sign, value = change.partition("=")
    if not sign:
        raise Unreadable(f"--set {change}: write it as key=value, such as epoch=4.")
    return key.strip().removeprefix("--"), value


def report(loaded: Loaded) -> dict[str, Any]:
    """What `check` prints: the resolved settings, what was done with the file, problems, notes and the plan."""
    settings, wrong = validate(Settings, loaded.values)
    job = jobs()["train"]
    problems = [*loaded.problems, *wrong, *job.check(settings)]
    return {
        "settings": settings.public(),
        "loaded": loaded.loaded,
        "changed": [{"key": c.key, "from": c.before, "to": c.after, "why": c.why} for c in loaded.changed],
        "ignored": [asdict(item) for item in loaded.ignored],
        "problems": [_plain(item) for item in problems],
        "notes": [_plain(item) for item in job.notes(settings)],
        "plan": dict(job.plan(settings)),
    }


def _plain(item: Problem) -> dict[str, str]:
    return {"key": item.key, "label": item.label, "message": item.message}
