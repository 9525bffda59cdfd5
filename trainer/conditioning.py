"""What the U-Net is told: the text encoder's states for captions and prompts, remembered while they cannot change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer.models import text

if TYPE_CHECKING:
    from trainer.adapters.adapter import Adapter
    from trainer.devices import Precision
    from trainer.models import Model
    from trainer.report import Reporter
    from trainer.settings import Settings

REMEMBERED = 256 << 20
"""Bytes of states kept on the device: about a thousand captions of SD1.5 in float32. Later ones are encoded anew."""


class Conditioning:
    """Text to states [B, 75 n + 2, dim]. While the encoder is trained they are made anew and carry gradients; once it
    rests, a text that was encoded before is looked up."""

    def __init__(
        self, model: Model, s: Settings, precision: Precision, adapter: Adapter | None = None, trained: bool = False
    ) -> None:
        """`trained`: whether the text encoder is; `adapter` is what sits on it, if anything does."""
        self.model, self.settings, self.precision, self.adapter = model, s, precision, adapter
        self.trained = trained
        self._known: dict[str, Tensor] = {}
        self._bytes = 0

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """The states of a batch, on the device."""
        if self.trained and torch.is_grad_enabled():
            with self.precision.autocast():
                return text.encode(self.model, captions, self.settings)
        known = {} if self.trained else self._known
        made = self._encode([caption for caption in dict.fromkeys(captions) if caption not in known])
        if not self.trained:
            self._remember(made)
        return torch.stack([made[caption] if caption in made else known[caption] for caption in captions])

    def rest(self) -> None:
        """The encoder is not trained any more; from now on its answers are kept."""
        self.trained = False

    def learn_by_heart(self, captions: Iterable[str], report: Reporter) -> None:
        """Encode all these texts now and let the encoder go to the processor's memory, where it waits."""
        unique = list(dict.fromkeys(captions))
        parts = [unique[start : start + 32] for start in range(0, len(unique), 32)]
        for part in report.track(parts, "caching captions"):
            if self._bytes > REMEMBERED:
                return
            self(part)
        if self.precision.device.type != "cpu":
            for encoder in self.model.text_encoders:
                encoder.to("cpu")

    @torch.no_grad()
    def _encode(self, captions: list[str]) -> dict[str, Tensor]:
        if not captions:
            return {}
        for encoder in self.model.text_encoders:
            encoder.to(self.precision.device)
        # One by one: a text's states must not depend, in their last bits, on what is encoded beside it.
        with self._without_dropouts(), self.precision.autocast():
            return {caption: text.encode(self.model, [caption], self.settings)[0] for caption in captions}

    @contextmanager
    def _without_dropouts(self) -> Iterator[None]:
        training = self.adapter is not None and self.adapter.training
        if self.adapter is not None:
            self.adapter.train(False)
        try:
            yield
        finally:
            if self.adapter is not None:
                self.adapter.train(training)

    def _remember(self, made: dict[str, Tensor]) -> None:
        for caption, states in made.items():
            if self._bytes + states.nbytes <= REMEMBERED:
                self._known[caption] = states
                self._bytes += states.nbytes
