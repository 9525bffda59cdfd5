"""Fetching a model by its name on the hub: only the files that are needed."""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.models.families import GIGABYTES, SUPPORTED, of_hub_name
from trainer.models.identify import KEY, WEIGHTS, identify_folder, weights_names
from trainer.report import Failure
from trainer.workspace import workspace

if TYPE_CHECKING:
    from trainer.report import Reporter

SECOND = "text_encoder_2"
"""A part that only SDXL has."""

LAST_CONFIG = "unet/config.json"
CONFIGS = ("model_index.json", "scheduler/scheduler_config.json", *(f"{part}/config.json" for part in WEIGHTS))


@dataclass(frozen=True)
class Wanted:
    """What is fetched of a model on the hub, and how sentences speak of it."""

    kind: str
    """As in "is not a Stable Diffusion model in parts"."""
    choose: Callable[[Iterable[str]], list[str] | None]
    """Of the names of all its files those to fetch, in this order; None when one is missing that it needs."""
    key: str
    """The setting that names the model."""
    by_hand: str
    """What to do without the hub, as the end of a sentence."""
    enough: Callable[[str, Path], bool] = lambda file, folder: False
    """Whether to stop after `file` has come to `folder`, because the rest is of no use."""


def download(name: str, report: "Reporter") -> Path:
    """The local folder of the Stable Diffusion model `name`; what was fetched before is used without asking the hub.

    Raises `Failure` that says what to download and where to put it when the hub cannot be reached.
    """
    name = name.split("/blob/")[0]
    kept = cached(name)
    if kept is not None:
        return kept
    kind = "a Stable Diffusion model in parts (a diffusers model)"
    return fetch(name, Wanted(kind, needed, KEY, by_hand(name), _is_of_another_family), report)


def _is_of_another_family(file: str, folder: Path) -> bool:
    """Then `load_model` says of which; its weights are not needed for that."""
    return file == LAST_CONFIG and identify_folder(folder.name, folder).family not in SUPPORTED


def fetch(name: str, wanted: Wanted, report: "Reporter", anew: bool = False) -> Path:
    """The local folder with the wanted files of the hub model `name`, downloaded; `anew` also those that are here.

    Raises `Failure` that says what to do by hand when the hub cannot be reached.
    """
    from huggingface_hub.errors import GatedRepoError, HFValidationError, HTTPError, RepositoryNotFoundError

    report.phase("downloading model")
    try:
        return _fetch(name, wanted, report, anew)
    except GatedRepoError as error:
        raise Failure(
            f"{name} is only given to people who accepted its terms on the hub.",
            f"Log in to the hub on this machine, or {wanted.by_hand}",
            key=wanted.key,
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise Failure(f"The hub has no model named {name}.", "Check the name, or choose a file.", wanted.key) from error
    except (OSError, HTTPError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise _full(name, 0, wanted.key) from error
        raise Failure(
            f"{name} could not be downloaded: the model hub cannot be reached.",
            f"Connect to the internet and start again (what has arrived is kept), or {wanted.by_hand}",
            key=wanted.key,
        ) from error


def by_hand(name: str) -> str:
    """What to get, and where to put it, as the end of a sentence."""
    folder = workspace().models / name.split("/")[-1]
    known = of_hub_name(name)
    parts = [part for part in WEIGHTS if part != SECOND or (known is not None and known.family == "sdxl")]
    return (
        f"on a machine with a connection download the files of {name} ({', '.join(CONFIGS[:2])} and the folders "
        f"{', '.join(parts)}{size_of(name)}) and put them into {folder}; "
        f"a model file (.safetensors) works as well: put it into {workspace().models} and choose it."
    )


def size_of(name: str) -> str:
    """ ", about 6.9 GB" for a well-known model, else "". Where only full precision is offered it is twice that."""
    known = of_hub_name(name)
    size = None if known is None else GIGABYTES.get(known.family)
    return "" if size is None else f", about {size:g} GB"


def cached(name: str) -> Path | None:
    """The folder where an earlier download of `name` is complete, None if there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True, allow_patterns=list(CONFIGS)))
    except (LocalEntryNotFoundError, ValueError):
        return None
    return folder if identify_folder(name, folder).problem is None else None


def kept(name: str, wanted: Wanted) -> Path | None:
    """The folder where an earlier download of all wanted files of `name` is, None if there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):
        return None
    here = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return None if wanted.choose(here) is None else folder


def _fetch(name: str, wanted: Wanted, report: "Reporter", anew: bool) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi().model_info(name, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    files = wanted.choose(sizes)
    if files is None:
        raise Failure(f"{name} is not {wanted.kind}.", _sentence(wanted.by_hand), key=wanted.key)
    total = sum(sizes[file] for file in files)
    report.note(
        f"Downloading {name}: {_size(total)}, kept for later runs. If it breaks off, it goes on there.", key=wanted.key
    )
    before = 0
    for file in files:
        show = _progress(report, before, total)
        if anew:
            _forget(name, file, info.sha)
        if file.endswith(HEAVY):
            _receive(name, file, info.sha or "main", sizes[file], show, wanted.key)
        path = Path(hf_hub_download(name, file, revision=info.sha, tqdm_class=show))
        before += sizes[file]
        report.phase("downloading model", before, total)
        folder = path.parents[file.count("/")]
        if wanted.enough(file, folder):
            break
    _remember(folder)
    return folder


def _remember(folder: Path) -> None:
    """Note in the cache that this revision (`snapshots/<revision>`) is the newest, so it is found without the hub."""
    if folder.parent.name != "snapshots":
        return
    reference = folder.parents[1] / "refs" / "main"
    reference.parent.mkdir(exist_ok=True)
    temporary = reference.with_name(f"main.{os.getpid()}.part")
    temporary.write_text(folder.name, encoding="utf-8")
    temporary.replace(reference)


def _size(count: int) -> str:
    unit, size = next(((unit, size) for unit, size in SIZES if count >= size / 10), SIZES[-1])
    return f"{count / size:.1f} {unit}"


SIZES = (("GB", 1e9), ("MB", 1e6), ("KB", 1e3))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _forget(name: str, file: str, revision: str | None) -> None:
    """Delete what is here of a file, wherever the cache keeps it (links on most systems, copies on others)."""
    from huggingface_hub import try_to_load_from_cache

    here = try_to_load_from_cache(name, file, revision=revision)
    if isinstance(here, str):
        Path(here).resolve().unlink(missing_ok=True)
        Path(here).unlink(missing_ok=True)


HEAVY = (".safetensors", ".bin", ".onnx")


def _receive(name: str, file: str, revision: str, size: int, show: Any, key: str) -> None:
    """Put a large file into the hub's cache, where `hf_hub_download` then finds it.

    That function starts anew whenever the line breaks for more than a few seconds; here what has arrived stays in
    `blobs/<hash>.part` and the next attempt, in this run or another, asks for the rest alone.
    """
    from urllib.parse import urlparse

    from filelock import FileLock
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import get_hf_file_metadata, http_get, repo_folder_name
    from huggingface_hub.utils import build_hf_headers

    url, headers = hf_hub_url(name, file, revision=revision), build_hf_headers()
    about = get_hf_file_metadata(url, headers=headers)
    if about.etag is None:
        return
    blob = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "blobs" / about.etag
    if urlparse(about.location).netloc != urlparse(url).netloc:
        headers.pop("authorization", None)  # the token is for the hub alone, not for where it keeps its files
    partial = blob.with_name(f"{about.etag}.part")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{partial}.lock"):
        if blob.exists():
            return
        here = partial.stat().st_size if partial.exists() else 0
        if here > (about.size or size):
            partial.unlink()
            here = 0
        if shutil.disk_usage(partial.parent).free < (about.size or size) - here:
            raise _full(name, (about.size or size) - here, key)
        with partial.open("ab") as out:
            http_get(about.location, out, resume_size=here, headers=headers, expected_size=about.size, tqdm_class=show)
        if here and len(about.etag) == 64 and _sha256(partial) != about.etag:
            partial.unlink()
            raise OSError(f"{file} arrived damaged")
        partial.replace(blob)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _full(name: str, size: int, key: str) -> Failure:
    needs = f" {size / 1e9:.1f} GB are still to come." if size else ""
    return Failure(f"The disk is too full for {name}.{needs}", "Free some space, or choose another model.", key=key)


def needed(files: Iterable[str]) -> list[str] | None:
    """Of a model's files those to fetch: configs, tokenizer, and one file of weights a part, half precision if offered.

    None when a part is missing.
    """
    have = set(files)
    wanted = [file for file in CONFIGS if file in have]
    wanted += sorted(file for file in have if file.startswith("tokenizer/") and file.endswith((".json", ".txt")))
    for part in WEIGHTS:
        if part == SECOND and f"{SECOND}/config.json" not in have:
            continue
        names = [f"{part}/{file}" for variant in ("fp16", "") for file in weights_names(part, variant)]
        # Half precision only if it cannot run code: safetensors come first, whatever their precision.
        names.sort(key=lambda file: not file.endswith(".safetensors"))
        chosen = next((file for file in names if file in have), None)
        if chosen is None or f"{part}/config.json" not in have:
            return None
        wanted.append(chosen)
    return wanted if "model_index.json" in have else None


def _progress(report: "Reporter", before: int, total: int) -> Any:
    """A progress bar class that tells the run how many bytes of all files are here; `before` are of earlier ones."""
    from huggingface_hub.utils import tqdm

    class Bytes(tqdm):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})
            self.here = int(options.get("initial") or 0)  # what an earlier attempt left

        def update(self, n: float | None = 1) -> bool | None:
            self.here += int(n or 0)
            report.phase("downloading model", min(before + self.here, total), total)
            return None

    return Bytes
