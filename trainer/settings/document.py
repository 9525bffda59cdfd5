"""Writes `docs/settings.md` from the declarations: `python -m trainer.settings.document`."""

from collections.abc import Mapping
from pathlib import Path

from trainer.declare import Section, Setting, by_name, settings_of
from trainer.settings import SECTIONS, Settings

KNOWN = by_name(Settings)
PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
HEAD = """# Settings

Generated from the declarations in `trainer/settings/`; change those and run `python -m trainer.settings.document`.
Every name is the key in a preset and the flag on the command line (`--network_dim 16`). An empty default means "not set".

{declared} of the Kohya GUI's {all} settings for Stable Diffusion LoRAs are below under its names and labels, and {others} of this
program's own; the others, and what happens to them on loading, stand [at the end](#settings-without-a-field).
"""

OWN = frozenset({
    "overwrite_output", "caption_prefix", "caption_suffix", "caption_tag_dropout_rate", "token_warmup_step", "token_warmup_min",
    "enable_wildcard", "keep_tokens_separator", "secondary_separator", "caption_separator", "conditioning_data_dir", "alpha_mask",
    "cache_text_encoder_outputs_to_disk", "fp8_base_unet", "log_prefix", "machine_rank", "main_process_ip", "metadata_trigger_phrase",
    "sample_at_first", "zero_terminal_snr",
})  # fmt: skip
"""Settings that the Kohya GUI's LoRA tab has no field for."""

NO_FIELD: Mapping[str, str] = {
    "model_list": "A hidden remainder of old versions, always custom. Left out on loading: the name of the model says it all.",
}
"""Settings of the Kohya GUI that make no sense here, and what happens to them on loading."""

NEVER_IN_A_FILE: Mapping[str, str] = {
    "huggingface_token": "The Kohya GUI keeps it in its files. Here a file never holds it, and one that does is read without it.",
    "wandb_api_key": "The Kohya GUI keeps it in its files. Here a file never holds it, and one that does is read without it.",
}
"""Settings that are fields and never written; what happens to them on loading."""

OTHER_DEFAULTS: Mapping[str, tuple[str, str]] = {
    "pretrained_model_name_or_path": (
        "runwayml/stable-diffusion-v1-5",
        "The demo model comes with the program, so that a first run needs no download; the name is found here under its new address.",
    ),
    "max_train_steps": ("1600", "There it makes Epoch do nothing; here the epochs count until a number of steps is set."),
    "seed": ("0", "0 is a new seed each time there, which is an empty field here; with 42 a run can be repeated."),
    "text_encoder_lr": ("0.0001", "Empty is the Learning rate, which is the same at first, and follows it when it is changed."),
    "unet_lr": ("0.0001", "Empty is the Learning rate, which is the same at first, and follows it when it is changed."),
    "persistent_data_loader_workers": ("false", "The next epoch begins at once; threads cost little memory, and the result is the same."),
    "xformers": ("xformers", "sdpa needs no package and is as fast; the result is the same."),
}  # fmt: skip
"""Settings that begin with another value here: the Kohya GUI's, and why."""

ELSEWHERE_DEAD: Mapping[str, str] = {
    "LoRA_type": "Its types Anima, Flux1, Flux1 OFT, HunyuanImage-2.1 and Lumina are for models that are not trained here; a file with one is told so.",
    "caption_extension": "Empty is a choice there; here it is read as .txt.",
    "bucket_reso_steps": "Anything from 1 there; here multiples of 8, for SDXL of 32: a smaller step in a file is raised, with the reason.",
    "lowvram": "Hidden and never passed on there.",
    "unit": "In a row that is never shown there.",
    "stop_text_encoder_training": "Ignored with a message there.",
    "num_cpu_threads_per_process": "Named after cores there and here; it is the number of threads of a process.",
    "max_data_loader_n_workers": "Processes there, threads here.",
    "additional_parameters": "Passed on unseen there; here each flag is moved to its field or has a sentence.",
}
"""Settings that do something else than in the Kohya GUI."""


def document() -> str:
    """The whole page as Markdown."""
    declared = len(KNOWN) - len(OWN & KNOWN.keys())
    lines, tab = [HEAD.format(declared=declared, all=declared + len(NO_FIELD), others=len(OWN & KNOWN.keys()))], ""
    for section in SECTIONS:
        if section.tab != tab:
            tab = section.tab
            lines.append(f"\n## {tab}\n")
        lines += _section(section)
    lines += _about("Settings without a field", "Of the Kohya GUI, and without a meaning here.", NO_FIELD)
    lines += _about(
        "Never in a file", "Fields here, whose values are written to no file and read from none.", NEVER_IN_A_FILE
    )
    lines += _about("Other than in the Kohya GUI", "Fields that do something else there, or nothing.", ELSEWHERE_DEAD)
    lines += _defaults()
    return "\n".join(lines).rstrip() + "\n"


def _about(title: str, text: str, rows: Mapping[str, str]) -> list[str]:
    table = ["| Name | What happens |", "|---|---|", *(f"| `{key}` | {why} |" for key, why in rows.items())]
    return [f"\n## {title}\n", f"{text}\n", *table]


def _defaults() -> list[str]:
    text = "What stands in a field before anything is loaded, and after loading a file that does not name it."
    table = ["| Name | Its default | Why not here |", "|---|---|---|"]
    table += [f"| `{key}` | `{theirs}` | {why} |" for key, (theirs, why) in OTHER_DEFAULTS.items()]
    return ["\n## Other defaults than in the Kohya GUI\n", f"{text}\n", *table]


def _section(section: type[Section]) -> list[str]:
    head = [f"\n### {section.title}\n", f"{section.__doc__}\n"]
    table = ["| Label | Name | Default | Values | Shown when | What it does |", "|---|---|---|---|---|---|"]
    return head + table + [_row(item) for item in settings_of(section)]


def _row(item: Setting) -> str:
    when = ", ".join(f"`{name}` is {_values(value)}" for name, value in (item.about.when or {}).items())
    cells = [item.whole_label, f"`{item.name}`", _default(item), _allowed(item), when, item.about.help]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _values(value: object) -> str:
    options = value if isinstance(value, tuple | list) else (value,)
    return " or ".join(f"`{str(option).lower() if isinstance(option, bool) else option}`" for option in options)


def _default(item: Setting) -> str:
    if item.default is None or item.default == "":
        return ""
    return f"`{str(item.default).lower() if isinstance(item.default, bool) else item.default}`"


def _allowed(item: Setting) -> str:
    if item.choices:
        more = ", or another" if item.about.custom else ""
        return ", ".join(f"`{choice}`" for choice in item.choices) + more
    kind = {bool: "true or false", int: "whole number", float: "number", str: item.about.kind or "text"}[item.type]
    kind = {"lines": "several lines", "config": "file"}.get(kind, kind)
    return f"{kind}, {item.bounds}" if item.bounds else kind


if __name__ == "__main__":
    PAGE.write_text(document(), encoding="utf-8")
