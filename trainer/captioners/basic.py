"""Basic captioning: the same words beside every picture, and find and replace."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from trainer.captioners.captions import (
    Pictures,
    Writer,
    joined,
    picture_files,
    picture_plan,
    picture_problems,
    say_what_happened,
)
from trainer.declare import Problem, by_name, setting
from trainer.events import Item
from trainer.jobs import Job
from trainer.report import Reporter, Stopped


class BasicCaptions(Pictures):
    """Write the same words beside every picture, or change words in captions that are there."""

    tab: ClassVar[str] = "Basic"
    title: ClassVar[str] = "Basic Captioning"

    prefix: str = setting(
        "", "Prefix to add to caption", "Put in front, such as a trigger word. A comma is added where one is missing."
    )
    caption_text: str = setting(
        "",
        "Caption text",
        "The same for every picture. Empty: captions that are there are kept and changed.",
        kind="lines",
    )
    postfix: str = setting("", "Postfix to add to caption", "Put behind. A comma is added where one is missing.")
    find_text: str = setting("", "Find text", "Words to replace in every caption.", kind="lines")
    replacement_text: str = setting(
        "", "Replacement text", "What stands there instead; empty removes the words.", kind="lines"
    )


KNOWN = by_name(BasicCaptions)


class Basic(Job):
    """Caption with the same words."""

    name = "caption-basic"
    label = "Basic"
    button = "Caption images"
    place = "Utilities > Captioning"
    Settings = BasicCaptions

    def check(self, settings: Any) -> Iterator[Problem]:
        s: BasicCaptions = settings
        yield from picture_problems(s)
        if not (s.prefix.strip() or s.caption_text.strip() or s.postfix.strip() or s.find_text):
            yield Problem(
                "caption_text",
                KNOWN["caption_text"].label,
                "nothing to do: give a text, a prefix, a postfix or words to find.",
            )
        if s.find_text and not s.overwrite_captions:
            message = f"changes captions that are there, so tick {KNOWN['overwrite_captions'].label}."
            yield Problem("find_text", KNOWN["find_text"].label, message, {"overwrite_captions": True}, "Tick it")

    def plan(self, settings: Any) -> Mapping[str, Any]:
        return picture_plan(settings)

    def run(self, settings: Any, report: Reporter) -> None:
        s: BasicCaptions = settings
        folder = Path(s.image_folder).expanduser()
        writer = Writer(report, folder, s.caption_extension, s.overwrite_captions)
        counts: Counter[str] = Counter()
        for picture in report.track(picture_files(folder), "captioning"):
            if report.stopping():
                say_what_happened(report, writer, counts)
                raise Stopped
            text, status = self.caption(s, writer, picture)
            counts[status] += 1
            report(Item(path=str(picture), text=text, status=status))
        say_what_happened(report, writer, counts)

    @staticmethod
    def caption(s: BasicCaptions, writer: Writer, picture: Path) -> tuple[str, str]:
        """(the caption a picture has now, what happened to it)."""
        before = writer.existing(picture) or ""
        if before and not s.overwrite_captions:
            return before, "kept"
        text = s.caption_text.strip() or before
        if s.find_text:
            text = text.replace(s.find_text, s.replacement_text)
        text = joined(s.prefix, text, s.postfix)
        if not text and not before:
            return "", "empty"
        return text, writer.write(picture, text)
