"""What would go wrong, found before starting: each check is a function that yields sentences about a setting.

`check` yields what stops a run; `notes` yields what a person should know. Nothing here loads torch or writes anything.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import additional, earlier, learning, machine, processes, sampling, trackers
from trainer.declare import Problem, by_name
from trainer.settings import Settings
from trainer.settings.publishing import Metadata
from trainer.states import ENDING, PROGRESS

if TYPE_CHECKING:
    from trainer.data.dataset import Dataset, Picture

Check = Callable[[Settings], Iterator[Problem]]
KNOWN = by_name(Settings)


def problem(key: str, message: str, fix: dict[str, Any] | None = None, fix_label: str = "") -> Problem:
    """A sentence about the setting `key`, under its label."""
    return Problem(key, KNOWN[key].label, message, fix, fix_label)


def check(s: Settings) -> Iterator[Problem]:
    """Every reason why a run of these settings cannot start."""
    from trainer.adapters import demands as of_adapters
    from trainer.models import demands

    for find in (*CHECKS, *demands.PROBLEMS, *of_adapters.PROBLEMS):
        yield from find(s)


def notes(s: Settings) -> Iterator[Problem]:
    """What does not stop the run but may surprise."""
    from trainer.adapters import demands as of_adapters
    from trainer.data import caption_demands
    from trainer.models import demands

    for find in (*NOTES, *caption_demands.NOTES, *demands.NOTES, *of_adapters.NOTES):
        yield from find(s)


# The model.


def model(s: Settings) -> Iterator[Problem]:
    """Is it there, complete, and of a family that can be trained?"""
    from trainer.models.identify import identify

    name = s.pretrained_model_name_or_path.strip()
    if not name:
        yield problem(
            "pretrained_model_name_or_path",
            "choose a model; demo comes with the program.",
            {"pretrained_model_name_or_path": "demo"},
            "Use the demo",
        )
        return
    found = identify(name)
    if found.problem:
        yield problem("pretrained_model_name_or_path", found.problem)


def weights(s: Settings) -> Iterator[Problem]:
    """An earlier LoRA to go on from."""
    if s.dim_from_weights and not s.network_weights:
        yield problem(
            "dim_from_weights",
            f"needs a file in {KNOWN['network_weights'].label}.",
            {"dim_from_weights": False},
            "Untick it",
        )
    if s.network_weights:
        yield from _file(s.network_weights, "network_weights", (".safetensors", ".ckpt", ".pt"))


def _file(path: str, key: str, endings: tuple[str, ...]) -> Iterator[Problem]:
    file = Path(path).expanduser()
    if not file.exists():
        yield problem(key, f"there is no file {path}.")
    elif not file.is_file() or file.suffix.lower() not in endings:
        yield problem(key, f"{path} is not a file that ends in {' or '.join(endings)}.")


# Folders.


def pictures(s: Settings) -> Iterator[Problem]:
    """Are there pictures where the settings say?"""
    from trainer.data import config
    from trainer.data.dataset import folder_problems

    if s.dataset_config.strip():
        yield from config.problems(s)
        return
    for key, required in (("train_data_dir", True), ("reg_data_dir", False)):
        folder = getattr(s, key)
        if folder or required:
            yield from folder_problems(folder, key, KNOWN[key].label)
    if s.reg_data_dir and s.train_data_dir and _same(s.reg_data_dir, s.train_data_dir):
        label = KNOWN["train_data_dir"].label
        message = f"this is {label} too; regularisation images show the class, not your subject."
        yield problem("reg_data_dir", message, {"reg_data_dir": ""}, "Use none")


def _same(one: str, other: str) -> bool:
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def output(s: Settings) -> Iterator[Problem]:
    """Can the result be written, without overwriting an earlier one unasked?"""
    name = s.output_name
    if not name.strip():
        yield problem("output_name", "give the LoRA a name.", {"output_name": "last"}, "Call it last")
    elif re.search(r'[<>:"/\\|?*\x00-\x1f]', name) or name.strip(". ") != name or len(name.encode()) > 200:
        clean = re.sub(r'[<>:"/\\|?*\x00-\x1f]+', "-", name).strip(". ")[:80] or "last"
        message = (
            'a file name cannot hold / \\ : * ? " < > |, begin or end with a dot or space, or be longer than 200 bytes.'
        )
        yield problem("output_name", message, {"output_name": clean}, f"Call it {clean}")
    for key in ("output_dir", "logging_dir"):
        yield from _writable(getattr(s, key), key)
    goes_on = s.resume or s.resume_from_huggingface
    if s.output_dir and not s.overwrite_output and not goes_on and name.strip():
        file = Path(s.output_dir).expanduser() / f"{name}.{s.save_model_as}"
        if file.exists():
            free = next_name(file)
            message = f"{file} exists already. Choose another name, or tick {KNOWN['overwrite_output'].label}."
            yield problem("output_name", message, {"output_name": free}, f"Call it {free}")


def next_name(file: Path) -> str:
    """The first name like name-2, name-3 … that is free beside `file`; a version such as -v1 counts up."""
    stem, version = file.stem, re.fullmatch(r"(.*?)([-_]?v?)(\d+)", file.stem)
    base, number = (f"{version[1]}{version[2]}", int(version[3])) if version else (f"{stem}-", 1)
    while (file.with_name(f"{base}{number}{file.suffix}")).exists() or f"{base}{number}" == stem or number < 2:
        number += 1
    return f"{base}{number}"


def _writable(folder: str, key: str) -> Iterator[Problem]:
    if not folder:
        return
    path = Path(folder).expanduser()
    existing = next((parent for parent in (path, *path.parents) if parent.exists()), Path("."))
    if not existing.is_dir():
        yield problem(key, f"{existing} is a file, not a folder.")
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield problem(key, f"{existing} cannot be written to; choose another folder or change its permissions.")
    elif shutil.disk_usage(existing).free < FREE_DISK:
        yield problem(key, f"the disk of {existing} is full; free at least {FREE_DISK >> 20} MB or choose another one.")


FREE_DISK = 256 << 20
"""Bytes that must be free before a run starts: one LoRA of a usual size, its state and sample pictures."""


def resume(s: Settings) -> Iterator[Problem]:
    """Is the state to go on from there?"""
    if not s.resume:
        return
    folder = Path(s.resume).expanduser()
    if not folder.is_dir():
        yield problem("resume", f"there is no folder {s.resume}.", {"resume": ""}, "Start from the beginning")
    elif not (folder / PROGRESS).is_file():
        inner = sorted(path.parent for path in folder.glob(f"*{ENDING}/{PROGRESS}"))
        fix = {"resume": str(inner[-1])} if inner else None
        label = f"Use {inner[-1].name}" if inner else ""
        yield problem(
            "resume",
            f"{s.resume} is not a state folder; its name ends in {ENDING} and it holds {PROGRESS}.",
            fix,
            label,
        )


def hub(s: Settings) -> Iterator[Problem]:
    """Can files be given to the hub, and a state be asked for?"""
    from trainer.publish import address

    repo = s.huggingface_repo_id.strip()
    if repo and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo, re.ASCII):
        yield problem("huggingface_repo_id", f"{repo} is not a repository's name, such as your-name/my-lora.")
    elif repo and not s.huggingface_token.strip() and not _knows_a_token():
        message = "there is no token; set the variable HF_TOKEN, or run hf auth login once, before the program starts."
        yield problem("huggingface_token", message, {"huggingface_repo_id": ""}, "Upload nothing")
    if s.resume_from_huggingface.strip():
        try:
            address(s.resume_from_huggingface)
        except ValueError as error:
            yield problem("resume_from_huggingface", str(error))
        if s.resume:
            message = f"choose one: {KNOWN['resume'].label} names a state too."
            yield problem("resume_from_huggingface", message, {"resume": ""}, "Resume from huggingface")


def _knows_a_token() -> bool:
    from huggingface_hub import get_token

    return bool(get_token())


# Values that do not go together.


def buckets(s: Settings) -> Iterator[Problem]:
    """Resolution and bucket limits must fit each other."""
    from trainer.data.buckets import bucket_problems

    return bucket_problems(s)


def caches(s: Settings) -> Iterator[Problem]:
    """What changes the pictures cannot be cached."""
    ticked = [KNOWN[key].label for key in CACHES if getattr(s, key)]
    for key in ("color_aug", "random_crop"):
        if getattr(s, key) and ticked:
            message = f"pictures that change each time cannot be cached; untick {' and '.join(ticked)}."
            yield problem(key, message, dict.fromkeys(CACHES, False), f"Untick {' and '.join(ticked)}")


CACHES = ("cache_latents", "cache_latents_to_disk")


def masks(s: Settings) -> Iterator[Problem]:
    """Are there masks where the settings say?"""
    from trainer.data.masks import folder_of_masks

    if message := folder_of_masks(s):
        yield problem("conditioning_data_dir", message, {"conditioning_data_dir": ""}, "Use none")


def of_pictures(s: Settings) -> Iterator[Problem]:
    """Sizes, captions, caches and masks: of every part of a dataset config, or of these settings."""
    from trainer.data import caption_demands, config
    from trainer.models import demands

    finders = (buckets, caches, masks, *caption_demands.OF_PICTURES, *demands.OF_PICTURES)
    if s.dataset_config.strip():
        yield from config.complaints(s, finders)
        return
    for find in finders:
        yield from find(s)


def timesteps(s: Settings) -> Iterator[Problem]:
    """At least one timestep must be left to train."""
    if s.min_timestep >= s.max_timestep:
        largest = KNOWN["max_timestep"].label
        message = f"must be less than {largest}; nothing from {s.min_timestep} on is below {s.max_timestep}."
        yield problem("min_timestep", message, {"min_timestep": 0, "max_timestep": 1000}, "Train all timesteps")


def rates(s: Settings) -> Iterator[Problem]:
    """Something must be trained."""
    unet, text = (s.learning_rate if rate is None else rate for rate in (s.unet_lr, s.text_encoder_lr))
    if not unet and (not text or s.stop_text_encoder_training == -1):
        yield problem(
            "learning_rate",
            "every rate is 0, so nothing would be trained.",
            {"learning_rate": 1e-4, "unet_lr": None},
            "Use 1e-4",
        )


def precision(s: Settings) -> Iterator[Problem]:
    """Can the graphics card calculate this way? (On the processor it is a note: float32 is used.)"""
    from trainer.hardware import hardware

    machine = hardware()
    reason = machine.refuses.get(s.mixed_precision)
    if reason and machine.device != "cpu":
        fp8 = s.mixed_precision == "fp8"
        words = ("bf16", "fp16", "no") if fp8 else ("fp16", "bf16", "no")
        other = next(word for word in words if word not in machine.refuses)
        also = f", and {KNOWN['fp8_base'].label} to save as much memory" if fp8 else ""
        yield problem("mixed_precision", f"{reason}; use {other}{also}.", {"mixed_precision": other}, f"Use {other}")


CHECKS: tuple[Check, ...] = (
    model, weights, pictures, output, resume, *earlier.PROBLEMS, hub, of_pictures, timesteps, rates, precision,
    *learning.PROBLEMS, processes.problems, machine.problems, *sampling.PROBLEMS, trackers.problems,
    additional.problems,
)  # fmt: skip


# Notes.


def config_instead(s: Settings) -> Iterator[Problem]:
    """Folders that a dataset config takes the place of."""
    for key in ("train_data_dir", "reg_data_dir"):
        if s.dataset_config.strip() and getattr(s, key).strip():
            message = f"is not used: {KNOWN['dataset_config'].label} says where the pictures are."
            yield problem(key, message, {key: ""}, "Empty it")


def about_pictures(s: Settings) -> Iterator[Problem]:
    """What may surprise about sizes, in every part of a dataset config or in these settings."""
    from trainer.data import config
    from trainer.models import demands

    if s.dataset_config.strip():
        yield from config.complaints(s, demands.NOTES_OF_PICTURES)
        return
    for find in demands.NOTES_OF_PICTURES:
        yield from find(s)


def left_out(s: Settings) -> Iterator[Problem]:
    """Pictures that cannot be read, and other things seen in the folders."""
    for dataset in _datasets(s):
        key = dataset.key
        if dataset.skipped:
            names = ", ".join(item.path.name for item in dataset.skipped[:3]) + (
                " …" if len(dataset.skipped) > 3 else ""
            )
            count = f"{len(dataset.skipped)} file{'s' if len(dataset.skipped) > 1 else ''}"
            yield problem(key, f"{count} will be left out: {names} ({dataset.skipped[0].why}).")
        for text in dataset.notes[:5]:
            yield problem(key, text)


def _datasets(s: Settings) -> Iterator["Dataset"]:
    from trainer.data.dataset import scan

    if s.train_data_dir or s.dataset_config:
        yield scan(s)


def on_the_processor(s: Settings) -> Iterator[Problem]:
    """Mixed precision is for accelerators."""
    from trainer.hardware import hardware

    if s.mixed_precision != "no" and hardware().device == "cpu":
        yield problem(
            "mixed_precision",
            f"{s.mixed_precision} is for graphics cards; on the processor this run uses no (float32).",
        )


def which_length(s: Settings) -> Iterator[Problem]:
    """Three settings say how long; one wins."""
    if s.max_train_epochs and s.max_train_steps:
        yield problem(
            "max_train_steps",
            f"has no effect beside {KNOWN['max_train_epochs'].label}.",
            {"max_train_steps": 0},
            "Set to 0",
        )
    if s.max_train_steps and not s.max_train_epochs and s.epoch > 1:
        yield problem(
            "max_train_steps",
            f"wins over {KNOWN['epoch'].label}: the run ends after {s.max_train_steps} steps.",
            {"max_train_steps": 0},
            "Let the epochs decide",
        )


def only_the_last(s: Settings) -> Iterator[Problem]:
    """No saves on the way."""
    if not s.save_every_n_epochs and not s.save_every_n_steps and s.epoch > 1:
        yield problem("save_every_n_epochs", "0 means only the last file is kept.")


def last_ones(s: Settings) -> Iterator[Problem]:
    """Keeping the last of what is never saved."""
    for unit in ("epochs", "steps"):
        key, every = f"save_last_n_{unit}", f"save_every_n_{unit}"
        if (getattr(s, key) or getattr(s, f"{key}_state")) and not getattr(s, every):
            which = key if getattr(s, key) else f"{key}_state"
            yield problem(which, f"has an effect only with {KNOWN[every].label}.", {which: 0}, "Set to 0")
        elif getattr(s, f"{key}_state") and not s.save_state:
            message = f"has an effect only with {KNOWN['save_state'].label}."
            yield problem(f"{key}_state", message, {"save_state": True}, "Save states")


def no_upload(s: Settings) -> Iterator[Problem]:
    """Ticks about an upload that is not asked for."""
    for key in ("save_state_to_huggingface", "async_upload"):
        if getattr(s, key) and not s.huggingface_repo_id.strip():
            message = f"has an effect only with {KNOWN['huggingface_repo_id'].label}."
            yield problem(key, message, {key: False}, "Untick it")


def no_place_for_words(s: Settings) -> Iterator[Problem]:
    """A .ckpt holds tensors alone."""
    told = [item.name for item in KNOWN.values() if item.section is Metadata and getattr(s, item.name).strip()]
    if told and s.save_model_as == "ckpt":
        message = "a ckpt file has no place for it; save as safetensors to keep it."
        yield problem(told[0], message, {"save_model_as": "safetensors"}, "Save as safetensors")


def two_starts(s: Settings) -> Iterator[Problem]:
    """A state already holds the weights."""
    key = "resume" if s.resume else "resume_from_huggingface"
    if getattr(s, key) and s.network_weights:
        yield problem(
            "network_weights",
            f"has no effect beside {KNOWN[key].label}: the state holds its own weights.",
            {"network_weights": ""},
            "Empty it",
        )


def noise(s: Settings) -> Iterator[Problem]:
    """Kinds of noise that are filled in but not added, and two weights that do the same."""
    key, original = "noise_offset_type", s.noise_offset_type == "Original"
    unused = "multires_noise_iterations" if original else "noise_offset"
    if getattr(s, unused):
        label = KNOWN[unused].label
        message = f"{s.noise_offset_type} leaves out {label} ({getattr(s, unused):g}); one kind is added, not both."
        yield problem(key, message, {unused: 0}, f"Set {label} to 0")
    if not original and not s.multires_noise_iterations:
        message = "0 adds no noise, so Multires changes nothing yet; 6 to 10 are usual."
        yield problem("multires_noise_iterations", message, {"multires_noise_iterations": 6}, "Use 6")
    for key, needed in NEEDED.items():
        if getattr(s, key) and not getattr(s, needed) and (original or needed != "noise_offset"):
            fix = {key: KNOWN[key].default}
            yield problem(key, f"has an effect only with {KNOWN[needed].label}.", fix, "Switch it off")
    if s.min_snr_gamma and s.debiased_estimation_loss:
        label = KNOWN["min_snr_gamma"].label
        message = f"{label} makes nearly clean steps count less too; both together hardly train them. Use one."
        yield problem("debiased_estimation_loss", message, {"debiased_estimation_loss": False}, "Untick it")


def nothing_masked(s: Settings) -> Iterator[Problem]:
    """Masked loss, and no picture that says what counts."""
    from trainer.data.images import Unreadable, has_alpha

    def says(picture: "Picture") -> bool:
        try:
            return picture.mask is not None or (picture.under(s).alpha_mask and has_alpha(picture.path))
        except (OSError, Unreadable):
            return False

    for dataset in _datasets(s):
        masked = [picture for picture in dataset.pictures if picture.under(s).masked_loss]
        if masked and not any(map(says, masked)):
            message = (
                f"no picture has a mask in {KNOWN['conditioning_data_dir'].label} or transparent parts, so everything "
                "counts; save cut-out pictures as PNG or WebP."
            )
            yield problem("masked_loss", message, {"masked_loss": False} if s.masked_loss else None, "Untick it")


NEEDED = {
    "noise_offset_random_strength": "noise_offset",
    "adaptive_noise_scale": "noise_offset",
    "ip_noise_gamma_random_strength": "ip_noise_gamma",
}
"""Settings that only vary what another one adds."""


def without_effect(s: Settings) -> Iterator[Problem]:
    """Ticks that do nothing together with others."""
    for key, needed in ONLY_WITH.items():
        if getattr(s, key) and not getattr(s, needed):
            label = KNOWN[needed].label
            yield problem(key, f"has an effect only with {label}.", {needed: True}, f"Tick {label}")
    if s.cache_latents_to_disk and not s.cache_latents:
        yield problem("cache_latents_to_disk", "also keeps them in memory while training.")


ONLY_WITH = {
    "skip_cache_check": "cache_latents_to_disk",
    "conditioning_data_dir": "masked_loss",
    "cache_text_encoder_outputs_to_disk": "sdxl_cache_text_encoder_outputs",
}
"""Settings that change how another one does what it does."""


NOTES: tuple[Check, ...] = (
    config_instead, about_pictures, left_out,
    on_the_processor, *learning.NOTES, which_length, *sampling.NOTES, only_the_last, last_ones,
    no_upload, no_place_for_words, two_starts, noise, nothing_masked, without_effect, processes.remarks,
    machine.remarks, trackers.remarks, additional.notes,
)  # fmt: skip
