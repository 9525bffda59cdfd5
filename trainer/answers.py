"""What text encoders made of captions, kept on the disk so that it can never be stale.

An answer is named by the hash of all it depends on: the numbers a text becomes, the weights and configuration of the
encoders, clip skip, the number format, the kind of device, and the files that do the reading. Whatever changes gives
another name, so what is found under a name is right.
"""

import contextlib
import hashlib
import inspect
import os
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from trainer.data.latents import hashed, identity
from trainer.models import text
from trainer.models.text import Told

if TYPE_CHECKING:
    from trainer.models import Model
    from trainer.settings import Settings

A = TypeVar("A", bound=tuple[str, bool])

READERS = (text,)
"""Modules of which the answers depend; when one of them is changed, all answers are new."""


class Answers:
    """Answers by text, without the batch's dimension. Written whole or not at all; what cannot be read is not there."""

    def __init__(self, folder: Path, model: "Model", settings: "Settings", dtype: torch.dtype, device: str) -> None:
        """`dtype` and `device` are what the encoders calculate in and on."""
        self.folder, self.model, self.settings = folder, model, settings
        self.found = self.made = self.bytes = 0
        self._about = [
            [identity(encoder) for encoder in model.text_encoders],
            model.family, settings.clip_skip, str(dtype), device,
            [hashlib.sha256(inspect.getsource(module).encode()).hexdigest() for module in READERS],
            metadata.version("transformers"),
        ]  # fmt: skip

    def among(self, wanted: Iterable[A]) -> dict[A, Told]:
        """Those of the texts, each (text, is it a prompt), that have an answer which is whole."""
        return {one: told for one in wanted if (told := self._find(*one)) is not None}

    def keep(self, made: Mapping[A, Told]) -> None:
        """Write answers down."""
        for (words, is_prompt), told in made.items():
            self._write(words, is_prompt, told)

    def _find(self, words: str, is_prompt: bool) -> Told | None:
        from safetensors.torch import load_file

        path = self._file(words, is_prompt)
        try:
            tensors = load_file(path)
            os.utime(path)  # used now, for `cache --empty DAYS`
            told = Told(tensors["states"], tensors.get("pooled"))
        except Exception:  # whatever is wrong with a file, it is made anew
            return None
        self.found += 1
        self.bytes += path.stat().st_size
        return told

    def _write(self, words: str, is_prompt: bool, told: Told) -> None:
        """A disk that is full or may not be written to costs nothing but the time to ask again."""
        from safetensors.torch import save_file

        path = self._file(words, is_prompt)
        temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp")
        tensors = {"states": told.states, "pooled": told.pooled}
        self.made += 1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: one.cpu().contiguous() for name, one in tensors.items() if one is not None}, temporary)
            os.replace(temporary, path)
            self.bytes += path.stat().st_size
        except Exception:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _file(self, words: str, is_prompt: bool) -> Path:
        every = [
            text.tokenize(self.model, [words], self.settings, which, is_prompt)
            for which in range(len(self.model.text_encoders))
        ]
        numbers = [(one.ids.tolist(), None if one.weights is None else one.weights.tolist()) for one in every]
        key = hashed([self._about, numbers, is_prompt])
        return self.folder / key[:2] / f"{key}.safetensors"
