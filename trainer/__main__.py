"""The command line: `python -m trainer JOB ...`, where the page's runs and those of a terminal begin."""

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from trainer import runfolder
from trainer.declare import Problem, Section
from trainer.jobs import Job, jobs
from trainer.processes import here
from trainer.report import speak_plainly
from trainer.workspace import VARIABLE

CANNOT_START, UNREADABLE = 1, 2


def main(argv: list[str]) -> int:
    """Run one command; returns the exit code."""
    speak_plainly()
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if argv else UNREADABLE
    word, rest = argv[0], argv[1:]
    if word in COMMANDS:
        return COMMANDS[word][0](rest)
    job = jobs().get(word)
    if job is None:
        from trainer.declare import nearest

        print(f"There is no job or command named {word!r}{nearest(word, [*jobs(), *COMMANDS])}", file=sys.stderr)
        print("`python -m trainer --help` lists them.", file=sys.stderr)
        return UNREADABLE
    if len(rest) == 1 and (Path(rest[0]) / runfolder.RUN).is_file():
        from trainer.execution import run
        from trainer.progress import Diary

        return run(job, Path(rest[0]), listen=Diary(sys.stdout))
    return start(job, rest)


def overview() -> str:
    """What there is to run."""
    lines = ["usage: python -m trainer JOB [FILE.json] [--set key=value ...] [--setting value ...]", "", "jobs:"]
    lines += [f"  {job.name:<20} {_first_line(job)}" for job in jobs().values()]
    lines += ["", "commands:"]
    lines += [f"  {name:<20} {text}" for name, (_, text) in COMMANDS.items()]
    lines += ["", "`python -m trainer JOB --help` lists a job's settings. JOB FOLDER runs a run folder made before."]
    return "\n".join(lines)


def _first_line(job: Job) -> str:
    return (job.__doc__ or job.label or job.name).strip().splitlines()[0]


def start(job: Job, argv: list[str]) -> int:
    """Run a job from a terminal: read its settings, check them, make a run folder and show a progress bar."""
    from trainer import commandline
    from trainer.settings.kohya import Loaded, Unreadable

    arguments = vars(commandline.parser(job).parse_args(argv))
    file, words = arguments.pop("FILE"), arguments.pop("set", [])
    if "workspace" in arguments:
        os.environ[VARIABLE] = arguments.pop("workspace")
    try:
        loaded = commandline.read_file(job, file) if file else Loaded()
        settings, problems = commandline.resolve(job, loaded, {**commandline.pairs(words), **arguments})
    except (Unreadable, ValueError) as error:
        print(error, file=sys.stderr)
        return UNREADABLE
    for change in loaded.changed:
        print(f"{change.key}: {change.before!r} became {change.after!r} ({change.why})", file=sys.stderr)
    for ignored in loaded.ignored:
        print(f"{ignored.key}: ignored ({ignored.why})", file=sys.stderr)
    problems = problems or list(job.check(settings))
    if problems:
        return refuse(problems)
    for note in job.notes(settings):
        print(note, file=sys.stderr)
    return run_here(job, settings)


def refuse(problems: list[Problem]) -> int:
    """Say what is wrong, a line each. Nothing was made or changed."""
    print(*problems, sep="\n", file=sys.stderr)
    return CANNOT_START


def run_here(job: Job, settings: Section) -> int:
    """Run a job in a new run folder of the workspace; prints the folder first, then shows a progress bar."""
    from trainer.execution import run
    from trainer.progress import Bar, Both, Diary, Tee

    place = here()
    if place is not None and not place.is_main:  # under torchrun: the main process makes the run folder
        with tempfile.TemporaryDirectory() as nowhere:
            return run(job, Path(nowhere), settings)
    folder = runfolder.create(job.name, getattr(settings, "output_name", "") or job.name, settings)
    print(folder, flush=True)
    bar = Bar(sys.stderr)
    with (
        (folder / runfolder.LOG).open("a", encoding="utf-8", buffering=1) as log,
        redirect_stdout(Tee(sys.stdout, log)),  # type: ignore[type-var]
        redirect_stderr(Tee(sys.stderr, log)),  # type: ignore[type-var]
    ):
        return run(job, folder, settings, Both(bar, Diary(log)))


def _check(argv: list[str]) -> int:
    from trainer.check import main as check

    return check(argv)


def _demo(argv: list[str]) -> int:
    from trainer.demo.run import main as demo

    return demo(argv)


def _cache(argv: list[str]) -> int:
    from trainer.data.cache_size import main as cache

    return cache(argv)


COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "cache": (_cache, "says how large the caches are, and empties them"),
    "check": (_check, "says what a settings file would do, and what is wrong with it, as JSON"),
    "demo": (_demo, "trains the embedded demo"),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
