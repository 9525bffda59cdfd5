"""BLIP captioning (Li et al. 2022, arXiv:2201.12086): a sentence about each picture."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.captioners.captions import (
    Pictures,
    Writer,
    joined,
    picture_files,
    picture_plan,
    picture_problems,
    say_what_happened,
)
from trainer.data.images import Unreadable, open_picture
from trainer.declare import Problem, by_name, setting
from trainer.events import Item
from trainer.jobs import Job
from trainer.report import Failure, Reporter, Stopped

if TYPE_CHECKING:
    from PIL.Image import Image

MODELS = ("Salesforce/blip-image-captioning-large", "Salesforce/blip-image-captioning-base", "demo")
FILES = "config.json, preprocessor_config.json, tokenizer.json, tokenizer_config.json, vocab.txt and model.safetensors"
SEED = 42
"""Sampling draws the same words every time."""


class BlipCaptions(Pictures):
    """Let BLIP look at each picture and describe it in a sentence; edit what is wrong by hand afterwards."""

    tab: ClassVar[str] = "BLIP"
    title: ClassVar[str] = "BLIP Captioning"

    model: str = setting(
        MODELS[0], "Model", "large describes best, base is quicker; demo knows only the demo's drawn shapes. Or a folder on this machine.",
        choices=MODELS, custom=True, kind="folder",
    )  # fmt: skip
    prefix: str = setting("", "Prefix to add to BLIP caption", "Put in front, such as a trigger word. A comma is added where one is missing.")
    postfix: str = setting("", "Postfix to add to BLIP caption", "Put behind. A comma is added where one is missing.")
    batch_size: int = setting(1, "Batch size", "Pictures looked at together. More is faster on a graphics card.", ge=1, soft_max=64)
    beam_search: bool = setting(True, "Use beam search", "Weighs several sentences at once: exact. Off: draws words by chance, livelier.")
    num_beams: int = setting(
        3, "Number of beams", "How many sentences are weighed; more is slower and a little better.", ge=1, le=64, when={"beam_search": True}
    )
    top_p: float = setting(
        0.9, "Top p", "Words are drawn among the likeliest that make up this share; lower is safer.", gt=0, le=1, when={"beam_search": False}
    )
    max_length: int = setting(75, "Max length", "Longest caption, in tokens.", ge=1, le=500)
    min_length: int = setting(5, "Min length", "Shortest caption, in tokens.", ge=1, le=500)


KNOWN = by_name(BlipCaptions)


class Blip(Job):
    """Caption with BLIP."""

    name = "caption-blip"
    label = "BLIP"
    button = "Caption images"
    place = "Utilities > Captioning"
    Settings = BlipCaptions

    def check(self, settings: Any) -> Iterator[Problem]:
        s: BlipCaptions = settings
        yield from picture_problems(s)
        if s.min_length > s.max_length:
            message = f"{s.min_length} is more than {KNOWN['max_length'].label} {s.max_length}."
            yield Problem("min_length", KNOWN["min_length"].label, message, {"min_length": 5}, "Use 5")
        if not s.model.strip():
            yield Problem("model", KNOWN["model"].label, "choose a model.", {"model": MODELS[0]}, f"Use {MODELS[0]}")
        elif _is_path(s.model) and not (Path(s.model).expanduser() / "config.json").is_file():
            message = f"{s.model} is not the folder of a BLIP model; it must hold {FILES}."
            yield Problem("model", KNOWN["model"].label, message)

    def plan(self, settings: Any) -> Mapping[str, Any]:
        return picture_plan(settings)

    def run(self, settings: Any, report: Reporter) -> None:
        s: BlipCaptions = settings
        writer = Writer(report, s.caption_extension, s.overwrite_captions)
        counts: Counter[str] = Counter()
        pictures = picture_files(Path(s.image_folder).expanduser())
        to_do = [picture for picture in pictures if not writer.keeps(picture)]
        for picture in pictures:
            if picture not in to_do:
                counts["kept"] += 1
                report(Item(path=str(picture), text=writer.existing(picture) or "", status="kept"))
        if to_do:
            self._describe(s, to_do, writer, report, counts)
        say_what_happened(report, writer, counts)

    def _describe(
        self, s: BlipCaptions, pictures: Sequence[Path], writer: Writer, report: Reporter, counts: Counter[str]
    ) -> None:
        captioner = Captioner(s, report)
        done = 0
        report.phase("captioning", 0, len(pictures))
        for start in range(0, len(pictures), s.batch_size):
            if report.stopping():
                say_what_happened(report, writer, counts)
                raise Stopped
            readable: list[tuple[Path, Image]] = []
            for path in pictures[start : start + s.batch_size]:
                try:
                    readable.append((path, open_picture(path)))
                except Unreadable as error:
                    counts["unreadable"] += 1
                    report.note(f"{path.name} {error}.", "warning")
                    report(Item(path=str(path), text=str(error), status="unreadable"))
            sentences = captioner.describe([image for _, image in readable])
            for (path, _), sentence in zip(readable, sentences, strict=True):
                text = joined(s.prefix, sentence, s.postfix)
                status = writer.write(path, text) if text else "empty"
                counts[status] += 1
                report(Item(path=str(path), text=text, status=status))
            done += min(s.batch_size, len(pictures) - start)
            report.phase("captioning", done, len(pictures))


def _is_path(name: str) -> bool:
    return name not in MODELS and (Path(name).expanduser().exists() or name.count("/") != 1 or name[0] in "./~\\")


class Captioner:
    """A BLIP model that is loaded and ready, on the best device there is."""

    def __init__(self, s: BlipCaptions, report: Reporter) -> None:
        import torch

        from trainer.devices import pick_device

        report.phase("loading BLIP")
        self.s = s
        self.device = pick_device()
        self.dtype = torch.float32 if self.device.type == "cpu" else torch.float16
        self.processor, self.model = load(s.model)
        self.model.to(self.device, self.dtype).eval()

    def describe(self, images: "Sequence[Image]") -> list[str]:
        """A sentence for each RGB picture."""
        import torch

        if not images:
            return []
        inputs = self.processor(images=list(images), return_tensors="pt").to(self.device, self.dtype)
        how = {"num_beams": self.s.num_beams} if self.s.beam_search else {"do_sample": True, "top_p": self.s.top_p}
        torch.manual_seed(SEED)
        with torch.inference_mode():
            ids = self.model.generate(**inputs, **how, max_length=self.s.max_length, min_length=self.s.min_length)
        return [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]


def load(name: str) -> tuple[Any, Any]:
    """(processor, model) of a hub id, a local folder, or "demo". Raises `Failure` with what to download, and where to."""
    from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
    from transformers.utils.logging import disable_progress_bar

    source, local = place(name)
    if local:  # nothing to wait for; a download shows how far it is
        disable_progress_bar()
    try:
        pictures = BlipImageProcessorPil.from_pretrained(source, local_files_only=local)
        words = AutoTokenizer.from_pretrained(source, local_files_only=local)
        model = BlipForConditionalGeneration.from_pretrained(source, local_files_only=local, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        raise Failure(f"The BLIP model {name} cannot be loaded: {_first_line(error)}", advice(name, local), "model") from error
    return BlipProcessor(pictures, words), model


def place(name: str) -> tuple[str, bool]:
    """(what to load, whether it lies on this machine): folders in the workspace's models count under their last name."""
    from trainer.workspace import workspace

    if name == "demo":
        from trainer.demo import CAPTIONER

        return str(CAPTIONER), True
    folder = Path(name).expanduser()
    if _is_path(name) or folder.is_dir():
        return str(folder), True
    kept = workspace().models / name.rsplit("/", 1)[-1]
    return (str(kept), True) if (kept / "config.json").is_file() else (name, False)


def advice(name: str, local: bool) -> str:
    """The way out when a model cannot be had."""
    from trainer.workspace import workspace

    if local:
        return f"The folder must hold {FILES}. Download those that are missing or damaged again."
    kept = workspace().models / name.rsplit("/", 1)[-1]
    return (
        f"With a connection, start again. Without one, download {FILES} of {name} from the model hub on another machine and put "
        f"them into {kept}; they are found there by themselves."
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]
