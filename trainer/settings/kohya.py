"""Reads settings files of the Kohya GUI and of sd-scripts, and our own, and reports what it did with every key.

Loading starts from the defaults, never from what was there before. Three things can happen to a key: it is *loaded*, it
is *changed* (its meaning is kept under another name or value, with the reason), or it is *ignored* (with the reason). A
value that cannot be used is a *problem* under the setting's label, and the default stands in its place.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainer.declare import Problem, parse, validate, visible
from trainer.settings import Settings, sd_scripts
from trainer.settings.decoding import decode
from trainer.settings.foreign import FAMILIES, OF_TABS, RECOGNISERS, refuse_other_programs
from trainer.settings.loaded import KNOWN, Changed, Ignored, Loaded, Unreadable, label_of
from trainer.settings.meanings import OLD_VALUES, RENAMED, REWRITES, additional, is_ours
from trainer.settings.saved import take_back
from trainer.settings.unread import UNKNOWN, WHY_IGNORED, is_secret, why_ignored

__all__ = ["KNOWN", "Changed", "Ignored", "Loaded", "Unreadable", "label_of", "load", "read"]

GUI_WORDS = {"LoRA_type", "optimizer", "max_resolution"}
"""Keys that sd-scripts calls otherwise: a TOML with one of them is not for it."""

MEANT = frozenset({*KNOWN, *RENAMED, *sd_scripts.DEFAULTS, *WHY_IGNORED, *FAMILIES, *OF_TABS})
"""Keys of files that are about training, whether they have a field here or not."""


def load(path: str | Path, may_read: Callable[[Path], bool] = lambda path: True) -> Loaded:
    """Settings from a JSON or TOML file; raises `Unreadable` with a sentence when it is not a settings file at all.

    `may_read` says whether a file that this one names (of sample prompts) may be looked into.
    """
    path = Path(path)
    found = decode(path)
    if isinstance(found.tables.get("datasets"), list):
        return _data_set(path)
    refuse_other_programs(found.tables, MEANT, path.name)
    report = read(found.values, may_read, sd_scripts_file=found.toml and not GUI_WORDS & found.values.keys())
    report.ignored += [Ignored(key, "the file says it twice; the last one counts") for key in found.twice]
    unknown = [item for item in report.ignored if item.why.startswith(UNKNOWN)]
    if not report.problems and len(unknown) > len(report.loaded):
        message = f"Most of {path.name} is unknown here: is it of another program? What could be used was read."
        report.problems.append(Problem("", "", message))
    return report


def _data_set(path: Path) -> Loaded:
    """A file that describes a data set is the value of one setting."""
    key, value = "dataset_config", str(path.expanduser().absolute())
    why = f"the file describes a data set, which is what {label_of(key)} takes; the other settings stay as they are"
    return Loaded(values={key: value}, changed=[Changed(key, None, value, why)], keeps_the_rest=True)


def read(
    raw: Mapping[str, Any],
    may_read: Callable[[Path], bool] = lambda path: True,
    sd_scripts_file: bool = False,
    moves_flags: bool = False,
) -> Loaded:
    """Settings from the keys and values of a file, whatever they are; never raises.

    What a file of sd-scripts does not say gets the value that sd-scripts would give it, and the report names it. A file of
    this program is taken as it stands; flags in it move to their fields only where `moves_flags` asks for it.
    """
    report = Loaded(may_read=may_read)
    raw = dict(raw)
    report.description = str(raw.pop("description", "") or "")
    for recognise in RECOGNISERS:
        report.problems += recognise(raw)
    take_back(raw)
    skipped = OLD_VALUES - ({additional} if moves_flags else set()) if is_ours(raw) else set()
    for rewrite in REWRITES:
        if rewrite not in skipped:
            rewrite(raw, report)
    for key in sorted(raw, key=str):
        _take(str(key), raw[key], report)
    _settle(report)
    if sd_scripts_file:
        _fill(report)
    return report


def _take(key: str, value: Any, report: Loaded) -> None:
    if key not in KNOWN or is_secret(key):
        report.ignored.append(Ignored(key, why_ignored(key, value)))
        return
    item = KNOWN[key]
    if isinstance(value, list) and len(value) < 2:
        value = value[0] if value else None
    try:
        report.values[key] = parse(item, value)
        report.loaded.append(key)
    except ValueError as error:
        report.problems.append(Problem(key, item.label, _sentence(str(error))))


def _settle(report: Loaded) -> None:
    """Move values that are of the right type but out of range to the problems."""
    settings, problems = validate(Settings, report.values)
    for problem in problems:
        report.values.pop(problem.key, None)
        report.loaded.remove(problem.key)
    report.problems += problems
    report.values = {key: getattr(settings, key) for key in report.values}
    moved = {change.key for change in report.changed}
    report.loaded = [key for key in report.loaded if key not in moved]


def _sentence(text: str) -> str:
    return text if text.endswith(("?", ".")) else text + "."


def _fill(report: Loaded) -> None:
    """Give what is not said, and means something beside what is, the value that sd-scripts gives it."""
    absent = {key: value for key, value in ABSENT.items() if key not in report.values}
    if report.values.get("max_train_epochs"):
        absent.pop("max_train_steps", None)
    values = Settings(**{**report.values, **absent}).model_dump()
    for key, value in absent.items():
        if visible(KNOWN[key], values) and value != KNOWN[key].default:
            report.values[key] = value
            report.changed.append(Changed(key, None, value, "the file does not say it, and sd-scripts takes this then"))


SPEED_ALONE = {
    "vae_batch_size",
    "max_data_loader_n_workers",
    "dynamo_backend",
    "xformers",
    "persistent_data_loader_workers",
}
"""Settings of which the result does not depend: what is best here stays."""


def _absent() -> dict[str, Any]:
    found: dict[str, Any] = {"seed": None, "lr_warmup": 0.0, "save_every_n_epochs": 0, "network_dim": 4}
    for option, value in sd_scripts.DEFAULTS.items():
        key = RENAMED.get(option, option)
        if key not in KNOWN or key in SPEED_ALONE or value in (None, sd_scripts.MANY):
            continue
        if not isinstance(value, bool) or KNOWN[key].type is bool:
            found.setdefault(key, parse(KNOWN[key], value))
    return found


ABSENT: Mapping[str, Any] = _absent()
"""What sd-scripts takes for a setting that a file does not name."""
