"""How long it takes from Start to the first step of the demo, and where the time goes.

    .venv/bin/python -m benchmarks.first_step     on Windows: .venv\\Scripts\\python

Starts the run as the page does: through the queue and the supervisor, in processes of their own.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

from trainer.events import Ended, Event, Phase, Started, Step, read
from trainer.workspace import VARIABLE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="how often to start; the median is what counts")
    arguments = parser.parse_args()
    busy = psutil.getloadavg()[0]
    measured = [start_once() for _ in range(arguments.runs)]
    print(f"{'':<22}{'median':>9}")
    for name in measured[0]:
        print(f"{name:<22}{statistics.median(times.get(name, 0.0) for times in measured):8.2f}s")
    if busy > 0.5:
        print(f"{busy:.1f} other programs were at work on {psutil.cpu_count()} processors: these figures say little.")
    return 0


def start_once() -> dict[str, float]:
    """Start the demo in a workspace of its own and stop it after its first step; seconds by phase, and in all."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ[VARIABLE] = folder
        from app import runs
        from trainer.demo.run import train_settings

        settings = train_settings().changed(sample_at_first=False)
        began = time.time()
        run = runs.queue_run("train", settings, "first step")
        events = Path(folder) / "runs" / run / "events.jsonl"
        found: list[Event] = []
        while not any(isinstance(event, Step | Ended) for event in found):
            time.sleep(0.02)
            found, _ = read(events)
        runs.command(run, "kill")
        times = moments(found, began)
        while (snapshot := runs.snapshot(run)) is not None and snapshot.state in runs.GOING:
            time.sleep(0.1)
    return times


def moments(found: list[Event], began: float) -> dict[str, float]:
    """Seconds that each phase took, from the events of a run that was asked for at `began`."""
    marks: list[tuple[str, float]] = [("process and imports", began)]
    for event in found:
        if isinstance(event, Phase) and event.name not in ("starting", marks[-1][0]):
            marks.append((event.name, event.time))
        elif isinstance(event, Started):
            marks.append(("settings and folders", event.time))
        elif isinstance(event, Step | Ended):
            marks.append(("", event.time))
            break
    times: dict[str, float] = {}
    for (name, start), (_, end) in itertools.pairwise(marks):
        times[name] = times.get(name, 0.0) + end - start
    return {**times, "in all": marks[-1][1] - began}


if __name__ == "__main__":
    sys.exit(main())
