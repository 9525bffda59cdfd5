"""Old and foreign names and values of settings, each turned into what it means here, with the reason.

A rewrite takes the raw keys and values of a file and its report, and changes both.
"""

from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from trainer.declare import Problem
from trainer.settings import sd_scripts
from trainer.settings.loaded import KNOWN, Changed, Ignored, Loaded, is_on, label_of, number
from trainer.settings.network_modules import network, unused_alpha, unused_rank
from trainer.settings.prompt_files import prompts_of
from trainer.settings.unread import is_secret, why_ignored

Rewrite = Callable[[dict[str, Any], Loaded], None]
Raw = dict[str, Any]

RENAMED = {old: item.name for item in KNOWN.values() for old in item.about.kohya} | dict(sd_scripts.CALLED)
"""Names of settings in older files and in sd-scripts, and what they are called here."""


def renamed(raw: Raw, report: Loaded) -> None:
    """Keys that have another name here."""
    for old, new in RENAMED.items():
        if old not in raw or new not in KNOWN:
            continue
        if new in raw:
            raw.pop(old)
            report.ignored.append(Ignored(old, f"another name of {new}, which the file also holds"))
        elif raw[old] in ("", None):
            raw.pop(old)
            report.ignored.append(Ignored(old, f"{old} is called {new} now; it was empty"))
        else:
            report.change(raw, old, _joined(raw[old]), f"{old} is called {new} here", new)


def lists(raw: Raw, report: Loaded) -> None:
    """Lists where a line of text belongs: arguments with spaces between them, numbers with commas."""
    for key in ("optimizer_args", "lr_scheduler_args", "max_resolution"):
        if key in raw:
            raw[key] = _joined(raw[key])


def _joined(value: Any) -> Any:
    if not isinstance(value, list) or any(isinstance(item, list | dict) for item in value):
        return value
    return (" " if any(isinstance(item, str) for item in value) else ",").join(map(str, value))


ADDITIONAL = "additional_parameters"
MOVED = "moved here from Additional parameters"


def additional(raw: Raw, report: Loaded) -> None:
    """Flags of Additional parameters move to their fields and win there; those that have none are dropped, with the reason."""
    text = raw.get(ADDITIONAL)
    if not isinstance(text, str) or not text.strip():
        return
    raw.pop(ADDITIONAL)
    try:
        given, stray = sd_scripts.flags(text)
    except ValueError as error:
        report.problems.append(Problem(ADDITIONAL, label_of(ADDITIONAL), f"{error}; nothing of it was read."))
        return
    for word in stray:
        report.ignored.append(Ignored(f"{ADDITIONAL} {word}", "it belongs to no flag"))
    for name, values in given.items():
        _flag(name, values, raw, report)


def field_of(flag: str) -> str:
    """The setting that a flag of sd-scripts is, or becomes; "" for none."""
    key = RENAMED.get(flag, flag)
    if sd_scripts.refusal(flag) or is_secret(key):
        return ""
    return key if key in KNOWN else sd_scripts.BECOMES.get(flag, "")


def _flag(name: str, words: list[str], raw: Raw, report: Loaded) -> None:
    key = field_of(name)
    if not key:
        report.ignored.append(Ignored(f"{ADDITIONAL} --{name}", why_ignored(name, " ".join(words) or True)))
        return
    if not words and sd_scripts.DEFAULTS.get(name, KNOWN[key].default) is not False:
        report.problems.append(Problem(ADDITIONAL, label_of(ADDITIONAL), f"--{name} has no value after it."))
        return
    value: Any = words if sd_scripts.takes_many(name) else " ".join(words) if words else True
    if name in sd_scripts.BECOMES and name not in KNOWN:
        if name in WINS_OVER:
            raw.pop(WINS_OVER[name], None)
        raw[name] = value
        return
    raw[key] = _joined(value) if key.endswith("_args") else value
    report.changed.append(Changed(key, f"--{name}", raw[key], MOVED))
    if key == "sample_prompts":
        prompts(raw, report)
    if key == "alpha_mask":
        masks(raw, report)
    if key == "cache_text_encoder_outputs_to_disk":
        text_cache(raw, report)


WINS_OVER = {
    "network_module": "LoRA_type",
    "use_8bit_adam": "optimizer",
    "use_lion_optimizer": "optimizer",
    "sdpa": "xformers",
}
"""Flags that say the same as a field of another name."""


def one_part_only(raw: Raw, report: Loaded) -> None:
    """Training one part alone is a rate of 0 for the other."""
    for flag, rate in (("network_train_unet_only", "text_encoder_lr"), ("network_train_text_encoder_only", "unet_lr")):
        if is_on(raw.get(flag)):
            report.change(raw, flag, 0.0, f"{flag} is {label_of(rate)} 0 here", rate)
        elif raw.pop(flag, None) is not None:
            report.ignored.append(Ignored(flag, "it was off"))


def rates(raw: Raw, report: Loaded) -> None:
    """One rate for all text encoders."""
    text = raw.get("text_encoder_lr")
    if isinstance(text, str) and "," in text:
        raw["text_encoder_lr"] = [word.strip() for word in text.strip("[]() ").split(",")]
    for key in ("learning_rate", "unet_lr"):
        if (
            isinstance(raw.get(key), str)
            and len([word for word in raw[key].strip("[]() ").split(",") if number(word)]) > 1
        ):
            others = " and ".join(label_of(rate) for rate in ("unet_lr", "text_encoder_lr") if rate != key)
            message = f"holds several rates; write one here, and others into {others}."
            report.problems.append(Problem(key, label_of(key), message))
            raw.pop(key)
    for key in ("text_encoder_lr", "learning_rate", "unet_lr"):
        value = raw.get(key)
        if isinstance(value, list) and value:
            if all(rate == value[0] for rate in value):
                raw[key] = value[0]
            else:
                report.change(raw, key, value[0], "the first of several rates; all text encoders learn at one")


def no_rates(raw: Raw, report: Loaded) -> None:
    """Two zeros meant neither."""
    if number(raw.get("text_encoder_lr")) == 0 == number(raw.get("unet_lr")):
        for key in ("text_encoder_lr", "unet_lr"):
            report.change(raw, key, None, f"both rates 0 meant: train both with {label_of('learning_rate')}")


def seed(raw: Raw, report: Loaded) -> None:
    """0 meant none."""
    if "seed" in raw and (raw["seed"] in ("", None) or number(raw["seed"]) == 0):
        report.change(raw, "seed", None, "0 or empty meant a new seed each time, which is an empty field here")


def optimizer(raw: Raw, report: Loaded) -> None:
    """Ticks that became choices of a list."""
    for old, name in (("use_8bit_adam", "AdamW8bit"), ("use_lion_optimizer", "Lion")):
        if old not in raw:
            continue
        value = raw.pop(old)
        if "optimizer" in raw:
            report.ignored.append(Ignored(old, f"{label_of('optimizer')}, which the file also holds, says it all"))
        elif is_on(value) or old == "use_8bit_adam":
            raw["optimizer"] = name if is_on(value) else "AdamW"
            report.changed.append(
                Changed("optimizer", f"{old}={value}", raw["optimizer"], f"{old} became a choice of Optimizer")
            )


def attention(raw: Raw, report: Loaded) -> None:
    """A tick, or two, became a choice."""
    if "sdpa" in raw:
        if is_on(raw["sdpa"]) and not is_on(raw.get("xformers")) and raw.get("xformers") != "xformers":
            raw.pop("xformers", None)
            report.change(raw, "sdpa", "sdpa", f"the tick became a choice of {label_of('xformers')}", "xformers")
        else:
            raw.pop("sdpa")
            report.ignored.append(Ignored("sdpa", f"{label_of('xformers')} says it all"))
    word = str(raw.get("xformers", "")).strip().lower()
    if word in ("true", "1", "false", "0"):
        after = "xformers" if is_on(word) else "none"
        report.change(raw, "xformers", after, f"the tick became a choice of {label_of('xformers')}")


def compiling(raw: Raw, report: Loaded) -> None:
    """sd-scripts compiles only with a tick beside the backend."""
    if "torch_compile" not in raw:
        return
    on = is_on(raw.pop("torch_compile"))
    if on and raw.get("dynamo_backend") in (None, "", "no"):
        raw["dynamo_backend"] = "inductor"
    if not on:
        raw["dynamo_backend"] = "no"
    why = "compiled with this backend" if on else "off, so nothing is compiled"
    report.changed.append(Changed("dynamo_backend", f"torch_compile={on}".lower(), raw["dynamo_backend"], why))


def trackers(raw: Raw, report: Loaded) -> None:
    """A tick that became a choice of a list."""
    if "use_wandb" not in raw:
        return
    on = is_on(raw.pop("use_wandb"))
    if on and not raw.get("log_with"):
        raw["log_with"] = "wandb"
        report.changed.append(
            Changed("log_with", "use_wandb=true", "wandb", f"use_wandb became a choice of {label_of('log_with')}")
        )
    else:
        report.ignored.append(Ignored("use_wandb", f"{label_of('log_with')} says it all" if on else "it was off"))


def masks(raw: Raw, report: Loaded) -> None:
    """sd-scripts reads transparency as a mask whether Masked loss is ticked or not."""
    if is_on(raw.get("alpha_mask")) and not is_on(raw.get("masked_loss")):
        raw["masked_loss"] = True
        why = "alpha_mask: masks are read from the transparency of pictures"
        report.changed.append(Changed("masked_loss", None, True, why))


SCHEDULE_NUMBERS = {
    ("lr_decay_steps", "warmup_stable_decay"): "num_decay_steps",
    ("lr_scheduler_min_lr_ratio", "warmup_stable_decay"): "min_lr_ratio",
    ("lr_scheduler_min_lr_ratio", "cosine_with_min_lr"): "min_lr_rate",
    ("lr_scheduler_timescale", "inverse_sqrt"): "timescale",
}
"""(option of sd-scripts, schedule that heeds it) -> its name among the extra arguments."""


def schedule_numbers(raw: Raw, report: Loaded) -> None:
    """Numbers of single schedules are extra arguments here."""
    schedule = str(raw.get("lr_scheduler", "constant"))
    for option in dict.fromkeys(option for option, _ in SCHEDULE_NUMBERS):
        if option not in raw:
            continue
        value = raw.pop(option)
        argument = SCHEDULE_NUMBERS.get((option, schedule))
        if argument and value not in (None, "", 0):
            raw["lr_scheduler_args"] = f"{raw.get('lr_scheduler_args') or ''} {argument}={value}".strip()
            why = f"{option} is an extra argument here"
            report.changed.append(Changed("lr_scheduler_args", f"{option}={value}", raw["lr_scheduler_args"], why))
        else:
            report.ignored.append(Ignored(option, f"the schedule {schedule} does not use it"))


def text_cache(raw: Raw, report: Loaded) -> None:
    """Text encoder outputs on disk are text encoder outputs."""
    key, here = "cache_text_encoder_outputs_to_disk", "sdxl_cache_text_encoder_outputs"
    if is_on(raw.get(key)) and not is_on(raw.get(here)):
        raw[here] = True
        report.changed.append(Changed(here, None, True, f"{label_of(key)} asks for it"))


def warm_up(raw: Raw, report: Loaded) -> None:
    """sd-scripts takes a warm-up below 1, or with a percent sign, as a share of the run."""
    value = raw.get("lr_warmup_steps")
    text = str(value).strip()
    share = number(text.removesuffix("%"))
    if share is None or isinstance(value, bool | list | dict):
        return
    if text.endswith("%") or 0 < share < 1:
        percent = share if text.endswith("%") else round(100 * share, 6)
        report.change(raw, "lr_warmup_steps", percent, "a share of the run, in percent", "lr_warmup")


def hub_state(raw: Raw, report: Loaded) -> None:
    """sd-scripts has a tick that says where `resume` is."""
    value = raw.get("resume_from_huggingface")
    if isinstance(value, bool):
        raw.pop("resume_from_huggingface")
        if value and raw.get("resume"):
            report.change(
                raw, "resume", raw["resume"], "resume_from_huggingface says that it is there", "resume_from_huggingface"
            )
        else:
            report.ignored.append(Ignored("resume_from_huggingface", "no state is named"))


def prompts(raw: Raw, report: Loaded) -> None:
    """A file of prompts in place of the prompts."""
    value = raw.get("sample_prompts")
    if (
        not isinstance(value, str)
        or not value.strip().lower().endswith((".txt", ".toml", ".json"))
        or "\n" in value.strip()
    ):
        return
    path = Path(value.strip())
    try:
        if not report.may_read(path):
            raise OSError(0, "it lies outside of the folders that this page may read")
        found = prompts_of(path)
    except (OSError, ValueError) as error:
        raw.pop("sample_prompts")
        reason = getattr(error, "strerror", None) or error
        report.ignored.append(Ignored("sample_prompts", f"the prompts of {value} could not be read: {reason}"))
        return
    report.change(raw, "sample_prompts", found, "the prompts that this file holds")


def noise_type(raw: Raw, report: Loaded) -> None:
    """Which of two kinds of noise is meant."""
    if raw.get("noise_offset_type") == "Multires" and number(raw.get("noise_offset")):
        report.change(raw, "noise_offset", 0.0, "Noise offset type was Multires, with which it had no effect")
    elif "noise_offset_type" not in raw and number(raw.get("multires_noise_iterations")):
        raw["noise_offset_type"] = "Multires"
        why = f"{label_of('multires_noise_iterations')} is set"
        report.changed.append(Changed("noise_offset_type", None, "Multires", why))


def numbers(raw: Raw, report: Loaded) -> None:
    """Numbers and words that meant something else."""
    for alpha, rank in (("network_alpha", "network_dim"), ("conv_alpha", "conv_dim")):
        if number(raw.get(alpha)) == 0:
            report.change(raw, alpha, max(number(raw.get(rank)) or 1.0, 1.0), "0 meant: the same as the rank")
    step, least, why = number(raw.get("bucket_reso_steps")), 8, "pictures are encoded in blocks of 8 pixels"
    if is_on(raw.get("sdxl")):
        least, why = 32, "SDXL's sides are multiples of 32"
    if step is not None and isfinite(step) and (step < least or step % least):
        report.change(raw, "bucket_reso_steps", max(least, int(step) // least * least), why)
    for key in ("huber_c", "huber_scale", "max_timestep"):
        if number(raw.get(key)) == 0:
            report.change(raw, key, KNOWN[key].default, "0 meant the usual value")
    if number(raw.get("epoch")) == 0:
        report.change(raw, "epoch", 1, "0 epochs train nothing")
    if "save_model_as" in raw and raw["save_model_as"] not in ("safetensors", "ckpt"):
        report.change(raw, "save_model_as", "safetensors", "a LoRA is saved as safetensors or ckpt")
    if raw.get("save_precision") in ("fp32", "float32"):
        report.change(raw, "save_precision", "float", "another word for the same")
    if raw.get("caption_extension") == "":
        report.change(raw, "caption_extension", ".txt", "empty meant the usual ending")
    cycles = number(raw.get("lr_scheduler_num_cycles"))
    if cycles is not None and cycles <= 0:
        report.change(raw, "lr_scheduler_num_cycles", 1, "fewer than one cycle means one")


ZERO_THERE = {
    "max_grad_norm": 1.0, "prior_loss_weight": 1.0, "learning_rate": 2e-6, "lr_scheduler_power": 1.0, "multires_noise_discount": 0.3,
}  # fmt: skip
"""Settings of which the Kohya GUI leaves out a 0, and what sd-scripts then takes."""
ONLY_BESIDE: dict[str, Callable[[Raw], object]] = {
    "prior_loss_weight": lambda raw: raw.get("reg_data_dir"),
    "learning_rate": lambda raw: not (number(raw.get("unet_lr")) and number(raw.get("text_encoder_lr"))),
    "lr_scheduler_power": lambda raw: raw.get("lr_scheduler") == "polynomial",
    "multires_noise_discount": lambda raw: (
        raw.get("noise_offset_type") == "Multires" and number(raw.get("multires_noise_iterations"))
    ),
}
"""Where that makes a difference."""


def zeros(raw: Raw, report: Loaded) -> None:
    """A 0 that is 0 here and something else in the Kohya GUI is said."""
    for key, there in ZERO_THERE.items():
        written = raw.get(key)
        of_the_gui = "LoRA_type" in raw and not isinstance(written, bool) and written not in ("", None)
        if of_the_gui and number(written) == 0 and (key not in ONLY_BESIDE or ONLY_BESIDE[key](raw)):
            report.change(raw, key, 0.0, f"0 is 0 here; the Kohya GUI leaves it out and trains with {there:g}")


REWRITES: tuple[Rewrite, ...] = (
    zeros, additional, renamed, lists, unused_rank, network, unused_alpha, one_part_only, rates, no_rates, seed, optimizer, attention,
    compiling, trackers, masks, text_cache, schedule_numbers, warm_up, hub_state, prompts, noise_type, numbers,
)  # fmt: skip
"""In the order in which one needs another."""

OLD_VALUES = {zeros, additional, masks, text_cache, unused_rank, unused_alpha, no_rates, seed, prompts, noise_type, numbers}
"""What the same name and value meant elsewhere: for files that this program has not written."""


OURS = "overwrite_output"
"""A setting that only files of this program hold."""


def is_ours(raw: Mapping[str, Any]) -> bool:
    """Whether a file was written by this program: it means what it says."""
    return OURS in raw
