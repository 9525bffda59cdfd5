"""BLIP captioning (Li et al. 2022, arXiv:2201.12086): a sentence about each picture."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.captioners.batches import caption_pictures
from trainer.captioners.captions import Pictures, Writer, joined, picture_files, picture_plan, picture_problems
from trainer.captioners.sources import Source, transformers_files
from trainer.data.images import open_picture
from trainer.declare import Problem, by_name, setting
from trainer.jobs import Job
from trainer.report import Reporter

if TYPE_CHECKING:
    from PIL.Image import Image

MODELS = ("Salesforce/blip-image-captioning-large", "Salesforce/blip-image-captioning-base", "demo")
SOURCE = Source(
    "a BLIP model", "model", ("config.json",),
    "config.json, preprocessor_config.json, tokenizer.json, tokenizer_config.json, vocab.txt and model.safetensors",
    transformers_files,
)  # fmt: skip
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
    prefix: str = setting(
        "",
        "Prefix to add to BLIP caption",
        "Put in front, such as a trigger word. A comma is added where one is missing.",
    )
    postfix: str = setting("", "Postfix to add to BLIP caption", "Put behind. A comma is added where one is missing.")
    batch_size: int = setting(
        1, "Batch size", "Pictures looked at together. More is faster on a graphics card.", ge=1, soft_max=64
    )
    beam_search: bool = setting(
        True, "Use beam search", "Weighs several sentences at once: exact. Off: draws words by chance, livelier."
    )
    num_beams: int = setting(
        3,
        "Number of beams",
        "How many sentences are weighed; more is slower and a little better.",
        ge=1,
        le=64,
        when={"beam_search": True},
    )
    top_p: float = setting(
        0.9,
        "Top p",
        "Words are drawn among the likeliest that make up this share; lower is safer.",
        gt=0,
        le=1,
        when={"beam_search": False},
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
        elif s.model not in MODELS and (missing := SOURCE.problem(s.model)):
            yield Problem("model", KNOWN["model"].label, missing)

    def plan(self, settings: Any) -> Mapping[str, Any]:
        return picture_plan(settings)

    def run(self, settings: Any, report: Reporter) -> None:
        s: BlipCaptions = settings
        folder = Path(s.image_folder).expanduser()
        writer = Writer(report, folder, s.caption_extension, s.overwrite_captions)
        caption_pictures(picture_files(folder), writer, report, lambda: BlipCaptioner(s, report), s.batch_size)


class BlipCaptioner:
    """A BLIP model that is loaded and ready, on the best device there is."""

    def __init__(self, s: BlipCaptions, report: Reporter) -> None:
        import torch

        from trainer.devices import pick_device

        self.s = s
        self.device = pick_device()
        self.dtype = torch.float32 if self.device.type == "cpu" else torch.float16
        folder = place(s.model, report)
        report.phase("loading BLIP")
        self.processor, self.model = load(s.model, folder)
        self.model.to(self.device, self.dtype).eval()

    def read(self, path: Path) -> "Image":
        return open_picture(path)

    def captions(self, paths: Sequence[Path], pictures: "Sequence[Image]") -> list[str]:
        return [joined(self.s.prefix, sentence, self.s.postfix) for sentence in self.describe(pictures)]

    def describe(self, images: "Sequence[Image]") -> list[str]:
        """A sentence for each RGB picture."""
        import torch

        inputs = self.processor(images=list(images), return_tensors="pt").to(self.device, self.dtype)
        how = {"num_beams": self.s.num_beams} if self.s.beam_search else {"do_sample": True, "top_p": self.s.top_p}
        torch.manual_seed(SEED)
        with torch.inference_mode():
            ids = self.model.generate(**inputs, **how, max_length=self.s.max_length, min_length=self.s.min_length)
        return [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]


def place(name: str, report: Reporter) -> Path:
    """The folder of a model: "demo", a local one, or one from the hub. Raises `Failure`."""
    if name == "demo":
        from trainer.demo import CAPTIONER

        return CAPTIONER
    return SOURCE.folder(name, report)


def load(name: str, folder: Path) -> tuple[Any, Any]:
    """(processor, model) from the folder of the model `name`. Raises `Failure` with what is missing."""
    from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        pictures = BlipImageProcessorPil.from_pretrained(folder, local_files_only=True)
        words = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = BlipForConditionalGeneration.from_pretrained(folder, local_files_only=True, weights_only=True)
    except Exception as error:  # the library meets damaged files with every kind of exception there is
        raise SOURCE.broken(f"The BLIP model {name}", folder, error) from error
    return BlipProcessor(pictures, words), model
