"""Fetching a model by its name on the hub: only the files that training needs."""

from collections.abc import Iterable
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


def download(name: str, report: "Reporter") -> Path:
    """The local folder of the hub model `name`; what an earlier run fetched is used without asking the hub.

    Raises `Failure` that says what to download and where to put it when the hub cannot be reached.
    """
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError

    name = name.split("/blob/")[0]
    kept = cached(name)
    if kept is not None:
        return kept
    report.phase("downloading model")
    try:
        return _fetch(name, report)
    except GatedRepoError as error:
        raise Failure(
            f"{name} is only given to people who accepted its terms on the hub.",
            f"Log in to the hub on this machine, or {by_hand(name)}",
            key=KEY,
        ) from error
    except RepositoryNotFoundError as error:
        raise Failure(f"The hub has no model named {name}.", "Check the name, or choose a file.", key=KEY) from error
    except (OSError, HTTPError) as error:
        raise Failure(
            f"{name} could not be downloaded: the model hub cannot be reached.",
            f"Connect to the internet and start again, or {by_hand(name)}",
            key=KEY,
        ) from error


def by_hand(name: str) -> str:
    """What to get, and where to put it, as the end of a sentence."""
    folder = workspace().models / name.split("/")[-1]
    known = of_hub_name(name)
    parts = [part for part in WEIGHTS if part != SECOND or (known is not None and known.family == "sdxl")]
    return (
        f"on a machine with a connection download the files of {name} ({', '.join(CONFIGS[:2])} and the folders "
        f"{', '.join(parts)}{size_of(name)}) and put them into {folder}; a model file (.safetensors) works as well: put it into "
        f"{workspace().models} and choose it."
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


def _fetch(name: str, report: "Reporter") -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi().model_info(name, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    wanted = needed(sizes)
    if wanted is None:
        raise Failure(f"{name} is not a Stable Diffusion model in parts (a diffusers model).", by_hand(name), key=KEY)
    total = sum(sizes[file] for file in wanted)
    report.note(f"Downloading {name}: {total / 1e9:.1f} GB, kept for later runs. If it breaks off, it goes on there.", key=KEY)
    show = _progress(report, total)
    for file in wanted:
        path = Path(hf_hub_download(name, file, revision=info.sha, tqdm_class=show))
        folder = path.parents[file.count("/")]
        if file == LAST_CONFIG and identify_folder(name, folder).family not in SUPPORTED:
            break  # `load_model` says of which family it is; its weights are not needed for that
    return folder


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


def _progress(report: "Reporter", total: int) -> Any:
    """A progress bar class that tells the run how many bytes of all files are here."""
    from huggingface_hub.utils import tqdm

    done = 0

    class Bytes(tqdm):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal done
            done += int(n or 0)
            report.phase("downloading model", min(done, total), total)
            return None

    return Bytes
