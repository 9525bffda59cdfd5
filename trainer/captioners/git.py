"""GIT captioning (Wang et al. 2022, arXiv:2205.14100): a sentence about each picture, with the words written in it."""

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

MODELS = (
    "microsoft/git-large-textcaps",
    "microsoft/git-large-coco",
    "microsoft/git-base-textcaps",
    "microsoft/git-base-coco",
)
SOURCE = Source(
    "a GIT model", "model_id", ("config.json", "preprocessor_config.json"),
    "config.json, generation_config.json, preprocessor_config.json, tokenizer.json, tokenizer_config.json, vocab.txt and "
    "model.safetensors (or pytorch_model.bin)",
    transformers_files,
)  # fmt: skip


class GitCaptions(Pictures):
    """Let GIT look at each picture and describe it in a sentence; edit what is wrong by hand afterwards."""

    tab: ClassVar[str] = "GIT"
    title: ClassVar[str] = "GIT Captioning"

    model_id: str = setting(
        MODELS[0], "Model", "textcaps also reads what is written in a picture, coco does not; base is quicker. Any GIT model on the hub, or a folder.",
        choices=MODELS, custom=True, kind="folder",
    )  # fmt: skip
    prefix: str = setting(
        "",
        "Prefix to add to GIT caption",
        "Put in front, such as a trigger word. A comma is added where one is missing.",
    )
    postfix: str = setting("", "Postfix to add to GIT caption", "Put behind. A comma is added where one is missing.")
    batch_size: int = setting(
        1, "Batch size", "Pictures looked at together. More is faster on a graphics card.", ge=1, soft_max=64
    )
    max_length: int = setting(75, "Max length", "Longest caption, in tokens.", ge=2, le=500)
    max_data_loader_n_workers: int = setting(
        2,
        "Number of workers",
        "Threads that read pictures ahead; more help where reading is slow.",
        ge=1,
        soft_max=16,
        advanced=True,
    )


KNOWN = by_name(GitCaptions)


class Git(Job):
    """Caption with GIT."""

    name = "caption-git"
    label = "GIT"
    button = "Caption images"
    place = "Utilities > Captioning"
    Settings = GitCaptions

    def check(self, settings: Any) -> Iterator[Problem]:
        s: GitCaptions = settings
        yield from picture_problems(s)
        label = KNOWN["model_id"].label
        if not s.model_id.strip():
            yield Problem("model_id", label, "choose a model.", {"model_id": MODELS[0]}, f"Use {MODELS[0]}")
        elif message := SOURCE.problem(s.model_id):
            yield Problem("model_id", label, message)

    def plan(self, settings: Any) -> Mapping[str, Any]:
        return picture_plan(settings)

    def run(self, settings: Any, report: Reporter) -> None:
        s: GitCaptions = settings
        folder = Path(s.image_folder).expanduser()
        writer = Writer(report, folder, s.caption_extension, s.overwrite_captions)
        caption_pictures(
            picture_files(folder),
            writer,
            report,
            lambda: GitCaptioner(s, report),
            s.batch_size,
            s.max_data_loader_n_workers,
        )


class GitCaptioner:
    """A GIT model that is loaded and ready, on the best device there is."""

    def __init__(self, s: GitCaptions, report: Reporter) -> None:
        import torch

        from trainer.devices import pick_device

        self.s = s
        self.device = pick_device()
        self.dtype = torch.float32 if self.device.type == "cpu" else torch.float16
        folder = SOURCE.folder(s.model_id, report)
        report.phase("loading GIT")
        self.pictures, self.words, self.model = load(s.model_id, folder)
        self.model.to(self.device, self.dtype).eval()

    def read(self, path: Path) -> "Image":
        """The picture in RGB. Raises `Unreadable`."""
        return open_picture(path)

    def captions(self, paths: Sequence[Path], pictures: "Sequence[Image]") -> list[str]:
        """The likeliest next word each time, from the picture alone, until the sentence ends."""
        import torch

        seen = self.pictures(images=list(pictures), return_tensors="pt")["pixel_values"].to(self.device, self.dtype)
        with torch.inference_mode():
            ids = self.model.generate(pixel_values=seen, max_length=self.s.max_length, do_sample=False)
        sentences = self.words.batch_decode(ids, skip_special_tokens=True)
        return [joined(self.s.prefix, sentence, self.s.postfix) for sentence in sentences]


def load(name: str, folder: Path) -> tuple[Any, Any, Any]:
    """(image processor, tokenizer, model) from the folder of the model `name`. Raises `Failure` with what is missing."""
    from transformers import AutoTokenizer, GitForCausalLM
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        pictures = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
        words = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = GitForCausalLM.from_pretrained(folder, local_files_only=True, weights_only=True)
    except Exception as error:  # the library meets damaged files with every kind of exception there is
        raise SOURCE.broken(f"The GIT model {name}", folder, error) from error
    return pictures, words, model
