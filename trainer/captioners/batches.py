"""Going through pictures with a model: read ahead, looked at in batches, each told as it is done."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from trainer.captioners.captions import Writer, say_what_happened
from trainer.data.ahead import Ahead
from trainer.data.images import Unreadable
from trainer.events import Item
from trainer.report import Reporter, Stopped

T = TypeVar("T")


class Captioner(Protocol[T]):
    """A model that is loaded and ready."""

    def read(self, path: Path) -> T:
        """A picture as the model is to see it. Raises `Unreadable`. Called in threads."""

    def captions(self, paths: Sequence[Path], pictures: Sequence[T]) -> Sequence[str]:
        """The caption of each picture, whole."""


def caption_pictures(
    pictures: Sequence[Path],
    writer: Writer,
    report: Reporter,
    load: Callable[[], Captioner[T]],
    batch_size: int,
    workers: int = 2,
) -> None:
    """Write a caption beside each picture that has none to keep; the model is loaded only if there is one.

    Raises `Stopped` between two batches; what is done stays.
    """
    counts: Counter[str] = Counter()
    to_do = []
    for picture in pictures:
        if writer.keeps(picture):
            counts["kept"] += 1
            report(Item(path=str(picture), text=writer.existing(picture) or "", status="kept"))
        else:
            to_do.append(picture)
    if to_do:
        _go(to_do, writer, report, counts, load(), batch_size, workers)
    say_what_happened(report, writer, counts)


def _go(
    pictures: Sequence[Path],
    writer: Writer,
    report: Reporter,
    counts: Counter[str],
    captioner: Captioner[T],
    batch_size: int,
    workers: int,
) -> None:
    def read(path: Path) -> T | Unreadable:
        try:
            return captioner.read(path)
        except Unreadable as error:
            return error

    report.phase("captioning", 0, len(pictures))
    with Ahead(read, workers, batch_size + workers) as ahead:
        seen = ahead.each(pictures)
        for start in range(0, len(pictures), batch_size):
            if report.stopping():
                say_what_happened(report, writer, counts)
                raise Stopped
            batch = [(path, next(seen)) for path in pictures[start : start + batch_size]]
            readable = [(path, picture) for path, picture in batch if not isinstance(picture, Unreadable)]
            for path, error in batch:
                if isinstance(error, Unreadable):
                    counts["unreadable"] += 1
                    report.note(f"{path.name} {error}.", "warning")
                    report(Item(path=str(path), text=str(error), status="unreadable"))
            if readable:
                paths, looked_at = zip(*readable, strict=True)
                for path, text in zip(paths, captioner.captions(paths, looked_at), strict=True):
                    status = writer.write(path, text) if text else "empty"
                    counts[status] += 1
                    report(Item(path=str(path), text=text, status=status))
            report.phase("captioning", start + len(batch), len(pictures))
