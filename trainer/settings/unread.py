"""Keys of files that are no settings here, and why."""

from typing import Any

from trainer.declare import nearest
from trainer.settings import sd_scripts
from trainer.settings.foreign import FAMILIES, OF_FAMILIES, OF_TABS
from trainer.settings.loaded import KNOWN

WHY_IGNORED = {
    "model_list": "the name of the model says it all",
    "save_as_bool": "saved there by accident",
    "no_token_padding": "no longer a setting of the Kohya GUI either",
}
SECRET = "secrets are never read from a file"
UNKNOWN = "there is no such setting here"
WITHOUT_EFFECT: tuple[Any, ...] = ("", None, False, 0, "0", "false", "False", [], "no", "none", "default")


def is_secret(key: str) -> bool:
    """Whether a value is kept out of files."""
    return key in ("huggingface_token", "wandb_api_key") or (key in KNOWN and KNOWN[key].about.secret)


def why_ignored(key: str, value: Any) -> str:
    """A sentence about a key that is no setting here."""
    if is_secret(key):
        return SECRET
    known = WHY_IGNORED.get(key) or sd_scripts.refusal(key)
    if known:
        return known
    if value in WITHOUT_EFFECT:
        return "not offered here; it was off in the file, so nothing is lost"
    if key.startswith(OF_FAMILIES) or key in FAMILIES:
        return sd_scripts.FOR_OTHER_MODELS
    if key in OF_TABS:
        return f"it is a setting of the {OF_TABS[key]} tab, not of LoRA training"
    return f"{UNKNOWN}{nearest(key, [*KNOWN, *sd_scripts.DEFAULTS])}"
