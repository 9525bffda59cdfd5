"""Where a captioner's model comes from: a folder on this machine, one among the workspace's models, or the hub."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from trainer.report import Failure, Reporter
from trainer.workspace import workspace


@dataclass(frozen=True)
class Source:
    """What is needed of a kind of model, and the words for it."""

    kind: str
    """As in "is not the folder of a BLIP model"."""
    key: str
    """The setting that names the model."""
    marks: tuple[str, ...]
    """Files by which a folder of such a model is known."""
    files: str
    """All its files, in words."""
    choose: Callable[[Iterable[str]], list[str] | None]
    """Of the files on the hub those to fetch, None if some are missing."""

    def local(self, name: str) -> Path | None:
        """The folder on this machine that a name means; None if it is to be had from the hub."""
        folder = Path(name).expanduser()
        if is_path(name):
            return folder
        kept = workspace().models / name.rsplit("/", 1)[-1]
        return kept if self._is_here(kept) else None

    def problem(self, name: str) -> str | None:
        """Why nothing can be loaded by this name, as the end of a sentence; None if it may go well."""
        if is_path(name) and not self._is_here(Path(name).expanduser()):
            return f"{name} is not the folder of {self.kind}; it must hold {self.files}."
        return None

    def folder(self, name: str, report: Reporter, anew: bool = False) -> Path:
        """The folder with the model's files, downloaded if need be (`anew`: in any case). Raises `Failure`."""
        from trainer.models import hub

        local = self.local(name)
        if local is not None:
            return local
        wanted = hub.Wanted(self.kind, self.choose, self.key, self.by_hand(name))
        kept = None if anew else hub.kept(name, wanted)
        return kept or hub.fetch(name, wanted, report, anew)

    def by_hand(self, name: str) -> str:
        """What to get where there is no connection, as the end of a sentence."""
        kept = workspace().models / name.rsplit("/", 1)[-1]
        return (
            f"download {self.files} of {name} from the model hub on another machine and put them into {kept}; "
            "they are found there by themselves."
        )

    def broken(self, name: str, folder: Path, error: Exception) -> Failure:
        """What is said when the files are there and cannot be loaded."""
        advice = f"{folder} must hold {self.files}. Download those that are missing or damaged again."
        return Failure(f"{name} cannot be loaded: {first_line(error)}", advice, self.key)

    def _is_here(self, folder: Path) -> bool:
        return all((folder / file).is_file() for file in self.marks)


def is_path(name: str) -> bool:
    """Whether a name means a folder here, and not a model on the hub ("somebody/a-model")."""
    return Path(name).expanduser().exists() or name.count("/") != 1 or name[0] in "./~\\"


SMALL = (
    "config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
)  # fmt: skip
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def transformers_files(files: Iterable[str]) -> list[str] | None:
    """Of the files of a model for the transformers library those to fetch: its small ones, then one file of weights."""
    have = set(files)
    weights = next((file for file in WEIGHTS if file in have), None)
    if weights is None or not {"config.json", "preprocessor_config.json"} <= have:
        return None
    return [*(file for file in SMALL if file in have), weights]


def first_line(error: Exception) -> str:
    """What an error of a library says, in a line."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]
