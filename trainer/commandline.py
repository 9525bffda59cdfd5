"""Settings from the command line: a flag for every setting, a settings file, and `--set key=value`."""

import argparse
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trainer.declare import Problem, Section, Setting, by_name, settings_of, validate
from trainer.jobs import Job
from trainer.settings import kohya
from trainer.settings.decoding import decode


def parser(job: Job) -> argparse.ArgumentParser:
    """The parser of one job, drawn from the declaration of its settings and grouped by section."""
    root = argparse.ArgumentParser(
        prog=f"python -m trainer {job.name}",
        usage=f"python -m trainer {job.name} [FILE] [--set KEY=VALUE ...] [--SETTING VALUE ...]",
        description=textwrap.dedent(job.__doc__ or "").strip(),
        epilog="Exit codes: 0 finished, 1 failed or cannot start, 2 the command or file cannot be read, 3 stopped.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    root.add_argument("FILE", nargs="?", default=None, help="a settings file (.json or .toml); flags win over it")
    root.add_argument("--set", nargs="+", action="extend", metavar="KEY=VALUE", help="settings by name, as the flags")
    root.add_argument("--workspace", metavar="DIR", help="where the run folder is made")
    groups: dict[type[Section], argparse._ArgumentGroup] = {}
    for item in settings_of(job.Settings):
        if item.section not in groups:
            groups[item.section] = root.add_argument_group(_heading(item.section), item.section.__doc__)
        _add(groups[item.section], item)
    return root


def _heading(section: type[Section]) -> str:
    return " > ".join(filter(None, (section.tab, section.title))) or section.__name__


def _add(group: argparse._ArgumentGroup, item: Setting) -> None:
    if item.type is bool:
        group.add_argument(f"--{item.name}", nargs="?", const="true", metavar="true|false", help=_help(item))
    else:
        group.add_argument(f"--{item.name}", metavar=_metavar(item), help=_help(item))


def _metavar(item: Setting) -> str:
    return item.about.kind.upper() or {str: "TEXT", int: "N", float: "X"}.get(item.type, "VALUE")


def _help(item: Setting) -> str:
    facts = [f"one of: {', '.join(item.choices)}" if item.choices else "", item.bounds]
    default = "" if item.default in (None, "") or item.about.secret else f"default: {item.default}"
    brackets = "; ".join(filter(None, (*facts, default)))
    return f"{item.label}. {item.about.help}{f' [{brackets}]' if brackets else ''}".replace("%", "%%")


def pairs(words: Iterable[str]) -> dict[str, str]:
    """{"network_dim": "16"} from ["network_dim=16"]; raises `ValueError` with a sentence for a word without "="."""
    values = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key.strip():
            raise ValueError(f"--set takes key=value; {word!r} is not.")
        values[key.strip()] = value
    return values


def read_file(job: Job, path: str | Path) -> kohya.Loaded:
    """A settings file for `job`; raises `kohya.Unreadable` with a sentence. Other programs' files are for training."""
    if job.name == "train":
        return kohya.load(path)
    values = decode(Path(path)).values
    known = by_name(job.Settings)
    used = {key: value for key, value in values.items() if key in known}
    ignored = [kohya.Ignored(key, "there is no such setting") for key in values if key not in known]
    return kohya.Loaded(values=used, loaded=list(used), ignored=ignored)


def resolve(job: Job, loaded: kohya.Loaded, given: Mapping[str, Any]) -> tuple[Section, list[Problem]]:
    """The settings of a file with those `given` on the command line in place of its own, and what is wrong with them.

    What a file holds wrongly does not matter where the command line says something else.
    """
    settings, problems = validate(job.Settings, {**loaded.values, **given})
    return settings, [problem for problem in loaded.problems if problem.key not in given] + problems
