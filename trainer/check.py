"""`check FILE [--set key=value …]`: what a settings file means, as one JSON object; starts and writes nothing.

Exit code 0 when it could be trained, 1 when there are problems, 2 when the file cannot be read.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from trainer.commandline import pairs, resolve
from trainer.declare import Problem
from trainer.jobs import jobs
from trainer.settings.kohya import Loaded, Unreadable, load


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report for a file; returns the exit code."""
    parser = argparse.ArgumentParser(prog="launch.py check", description=__doc__, allow_abbrev=False)
    parser.add_argument("file", help="a JSON preset of this program or the Kohya GUI, or a TOML of sd-scripts")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="changes")
    arguments = parser.parse_args(argv)
    try:
        answer = report(load(arguments.file), pairs(arguments.changes))
    except (Unreadable, ValueError) as error:
        print(json.dumps({"error": str(error)}, indent=2, ensure_ascii=False))
        return 2
    print(json.dumps(answer, indent=2, ensure_ascii=False))
    return 1 if answer["problems"] else 0


def report(loaded: Loaded, given: Mapping[str, Any]) -> dict[str, Any]:
    """What `check` prints: the resolved settings, what was done with the file, problems, notes and the plan."""
    job = jobs()["train"]
    settings, problems = resolve(job, loaded, given)
    problems += job.check(settings)
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
