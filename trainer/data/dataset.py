"""The pictures of a run with their captions and repeats, as folders or a config say; what is left out, and why.

`scan` looks at names, headers and captions only and remembers what it saw, so the page can ask at every keystroke.
`verify` decodes every picture once before training starts.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from trainer.data.caption_finder import CaptionFinder
from trainer.data.config import sources_of
from trainer.data.folders import Source, as_folder, counted, folder_problems, listing, named_folders, some_names
from trainer.data.images import Header, Unreadable, check_pixels, header
from trainer.data.masks import masks_for, without_mask
from trainer.events import Item
from trainer.settings import Settings

if TYPE_CHECKING:
    from trainer.report import Reporter

__all__ = ["Dataset", "Picture", "Skipped", "Subset", "caches_latents", "folder_problems", "scan", "verify"]

MOST_NAMED = 20
"""Files named in one sentence; there may be thousands."""

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Picture:
    """One picture file; `size` is (width, height) when upright, `subset` the name of its folder, such as "10_cat".

    `settings` are its own where a dataset config gives it some, `None` where those of the run count; pictures of
    different datasets (numbered from 0) never share a batch. `mask` is the picture that says what of it counts.
    """

    path: Path
    size: tuple[int, int]
    caption: str
    caption_path: Path | None
    subset: str
    repeats: int
    is_reg: bool
    settings: Settings | None = field(default=None, compare=False, repr=False)
    dataset: int = 0
    mask: Path | None = None

    def under(self, run: Settings) -> Settings:
        """The settings this picture is trained with in a run of settings `run`."""
        return self.settings or run


@dataclass(frozen=True)
class Subset:
    """The pictures of one folder: of one named `N_name`, or of one that a dataset config names."""

    folder: Path
    name: str
    repeats: int
    is_reg: bool
    pictures: tuple[Picture, ...]
    concept: str = ""
    settings: Settings | None = field(default=None, compare=False, repr=False)
    dataset: int = 0

    def under(self, run: Settings) -> Settings:
        """The settings its pictures are trained with in a run of settings `run`."""
        return self.settings or run


@dataclass(frozen=True)
class Skipped:
    """A file that is left out; `why` goes on from its name: "is empty (0 bytes)"."""

    path: Path
    why: str

    def __str__(self) -> str:
        return f"{self.path} {self.why}"


@dataclass(frozen=True)
class Dataset:
    """Everything that is trained on. `notes` are sentences on what a person may not expect.

    `key` is the setting that says where the pictures are.
    """

    subsets: tuple[Subset, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    key: str = "train_data_dir"

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The training pictures, each once."""
        return tuple(picture for subset in self.subsets if not subset.is_reg for picture in subset.pictures)

    @property
    def reg_pictures(self) -> tuple[Picture, ...]:
        """The regularisation pictures, each once, used or not."""
        return tuple(picture for subset in self.subsets if subset.is_reg for picture in subset.pictures)

    def repeated(self) -> list[tuple[Picture, int]]:
        """Each picture that is shown, and how often per epoch: training pictures, then balanced regularisation ones.

        Each dataset has its own balance.
        """
        result: list[tuple[Picture, int]] = []
        for number in sorted({subset.dataset for subset in self.subsets}):
            shown = [(picture, picture.repeats) for picture in self.pictures if picture.dataset == number]
            others = [picture for picture in self.reg_pictures if picture.dataset == number]
            result += shown + balance(others, sum(repeats for _, repeats in shown))
        return result

    def entries(self) -> list[Picture]:
        """All that is shown in one epoch, a picture as often as it is shown."""
        return [picture for picture, repeats in self.repeated() for _ in range(repeats)]

    def part(self, number: int) -> "Dataset":
        """One of the datasets of a dataset config alone, by its number from 0."""
        return replace(self, subsets=tuple(subset for subset in self.subsets if subset.dataset == number))

    def without(self, broken: Sequence[Skipped]) -> "Dataset":
        """The same with the `broken` files left out."""
        gone = {item.path for item in broken}
        subsets = tuple(
            replace(subset, pictures=tuple(picture for picture in subset.pictures if picture.path not in gone))
            for subset in self.subsets
        )
        return replace(self, subsets=subsets, skipped=(*self.skipped, *broken))


def caches_latents(settings: Settings, dataset: Dataset | None = None) -> bool:
    """Whether pictures are encoded once. What changes them each time (colors, crops, masks) cannot be cached."""
    parts = (settings,) if dataset is None else {id(s): s for s in _settings_in(dataset, settings)}.values()
    asked = settings.cache_latents or settings.cache_latents_to_disk
    return asked and not any(s.color_aug or s.random_crop or s.train_inpainting for s in parts)


def _settings_in(dataset: Dataset, run: Settings) -> Iterator[Settings]:
    return (subset.under(run) for subset in dataset.subsets) if dataset.subsets else iter((run,))


def balance(pictures: Sequence[Picture], wanted: int) -> list[tuple[Picture, int]]:
    """Regularisation pictures so that as many are shown as training pictures (`wanted`, with repeats).

    They are taken in order with their own repeats until there are enough; if all are too few, each in turn is shown
    once more. The last one taken keeps its repeats even if that is more than needed.
    """
    shown: list[tuple[Picture, int]] = []
    count = 0
    for picture in pictures:
        if count >= wanted:
            break
        shown.append((picture, picture.repeats))
        count += picture.repeats
    if shown and count < wanted:
        each, first = divmod(wanted - count, len(shown))
        shown = [(picture, repeats + each + (place < first)) for place, (picture, repeats) in enumerate(shown)]
    return shown


def scan(settings: Settings, report: "Reporter | None" = None) -> Dataset:
    """The data set as it stands on the disk now. Bad pictures never raise; a missing folder is an empty one."""
    configured = bool(settings.dataset_config.strip())
    sources, notes = sources_of(settings) if configured else _named(settings)
    subsets: list[Subset] = []
    skipped: list[Skipped] = []
    for source in sources:
        subset, left_out, remarks = _read(source, settings, report)
        subsets.append(subset)
        skipped += left_out
        notes += [f"{source.folder.path.name}: {remark}" for remark in remarks]
    key = "dataset_config" if configured else "train_data_dir"
    dataset = Dataset(tuple(subsets), tuple(dict.fromkeys(skipped)), key=key)
    return replace(dataset, notes=(*notes, *_on_masks(dataset), *_on_balance(dataset)))


def _on_masks(dataset: Dataset) -> list[str]:
    users: dict[Path, set[Path]] = {}
    for picture in (*dataset.pictures, *dataset.reg_pictures):
        if picture.mask is not None:
            users.setdefault(picture.mask, set()).add(picture.path)
    shared = [mask for mask, pictures in users.items() if len(pictures) > 1]
    if not shared:
        return []
    return [
        f"{some_names(shared)}: used for several pictures of that name; put the masks of each folder into a folder of "
        "the same name in the mask folder."
    ]


def _named(settings: Settings) -> tuple[list[Source], list[str]]:
    """The folders `N_name` of both folders of the page."""
    sources: list[Source] = []
    notes: list[str] = []
    for text, is_reg in ((settings.train_data_dir, False), (settings.reg_data_dir, True)):
        if not text.strip():
            continue
        try:
            named, unused = named_folders(as_folder(text))
        except (OSError, ValueError):
            continue  # `folder_problems` says it on the field
        notes += unused
        sources += [Source(folder, is_reg) for folder in named]
    return sources, notes


def _on_balance(dataset: Dataset) -> list[str]:
    used = len(dataset.repeated()) - len(dataset.pictures)
    unused = len(dataset.reg_pictures) - used
    if unused <= 0 or not dataset.pictures:
        return []
    return [
        f"{unused} of {used + unused} regularisation pictures are not used: "
        "only as many are shown as training pictures with their repeats."
    ]


def _read(source: Source, settings: Settings, report: "Reporter | None") -> tuple[Subset, list[Skipped], list[str]]:
    folder, own = source.folder, source.under(settings)
    name = folder.path.name
    empty = Subset(
        folder.path, name, folder.repeats, source.is_reg, (), folder.concept, source.settings, source.dataset
    )
    try:
        inside = listing(folder.path)
    except OSError as error:
        return empty, [Skipped(folder.path, f"cannot be read ({error.strerror})")], []
    skipped, notes, usable = [], [], []
    headers = in_threads(_header, inside.pictures, report, f"looking at {name}")
    for path, head in zip(inside.pictures, headers, strict=True):
        if head.why:
            skipped.append(Skipped(_printable(path), head.why))
        else:
            usable.append((path, head.size))
        if head.note:
            notes.append(f"{path.name} {head.note}.")
    captions = CaptionFinder(folder, inside.files, own.caption_extension, own.enable_wildcard)
    masks = masks_for(source, settings)
    pictures = tuple(
        Picture(
            path, size, *captions.of(path), subset=name, repeats=folder.repeats, is_reg=source.is_reg,
            settings=source.settings, dataset=source.dataset, mask=masks.get(path.stem.lower()),
        )
        for path, size in usable
    )  # fmt: skip
    notes += captions.notes(len(pictures))
    foreign = [Path(file) for file in inside.files if file.lower().endswith(".npz")]
    if foreign:
        files = f"{len(foreign)} cache file{'s' * (len(foreign) > 1)} of other programs"
        notes.append(
            f"{files} ({some_names(foreign)}): neither used, as nothing in them says what they are of, nor touched."
        )
    if masks:
        notes += without_mask(pictures, own)
    for below in inside.folders:
        deeper = _pictures_below(below)
        if deeper:
            verb = "is" if deeper == 1 else "are"
            notes.append(f"{counted(deeper)} in its sub-folder {below.name} {verb} not used; move them up to use them.")
    return replace(empty, pictures=pictures), skipped, notes


def _header(path: Path) -> Header:
    try:
        path.name.encode("utf-8")
        return header(path)
    except UnicodeEncodeError:
        return Header(why="has a name that is not valid UTF-8; rename it")
    except OSError as error:
        return Header(why=f"cannot be read ({error.strerror or error})")


def _printable(path: Path) -> Path:
    """The path with a mark for whatever in it is no text, so that it can be written into a log."""
    return Path(os.fsencode(path).decode("utf-8", errors="replace"))


def _pictures_below(folder: Path) -> int:
    try:
        return len(listing(folder).pictures)
    except OSError:
        return 0


def verify(dataset: Dataset, report: "Reporter") -> Dataset:
    """Decode every picture, leave out the broken ones, and report everything that was left out or is odd, once."""
    pairs = list(dict.fromkeys((one.path, one.mask) for one in (*dataset.pictures, *dataset.reg_pictures)))
    results = in_threads(_verdict, pairs, report, "checking pictures")
    broken = [Skipped(path, why) for (path, _), why in zip(pairs, results, strict=True) if why]
    checked = dataset.without(broken)
    for note in checked.notes:
        report.note(note)
    for item in checked.skipped:
        report(Item(path=str(item.path), text=item.why, status="skipped"))
    if checked.skipped:
        total = len(checked.pictures) + len(checked.reg_pictures) + len(checked.skipped)
        shown = "; ".join(map(str, checked.skipped[:MOST_NAMED]))
        more = f"; and {len(checked.skipped) - MOST_NAMED} more" if len(checked.skipped) > MOST_NAMED else ""
        text = f"{len(checked.skipped)} of {total} pictures are left out: {shown}{more}."
        report.note(text, level="warning", key=dataset.key)
    return checked


def _verdict(pair: tuple[Path, Path | None]) -> str:
    path, mask = pair
    try:
        check_pixels(path)
    except Unreadable as error:
        return str(error)
    try:
        if mask is not None:
            check_pixels(mask)
    except Unreadable as error:
        return f"has a mask, {mask}, that {error}"
    return ""


def in_threads(
    work: Callable[[A], B], items: Sequence[A], report: "Reporter | None" = None, phase: str = ""
) -> list[B]:
    """`work` on every item, several at a time, results in order; a reporter is told how far it is."""
    if len(items) < 4 and report is None:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 2)) as threads:
        results = threads.map(work, items)
        return list(results if report is None else report.track(results, phase, total=len(items)))
