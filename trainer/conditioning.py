"""What the U-Net is told: the text encoders' answers to captions and prompts, remembered while they cannot change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from trainer.answers import Answers
from trainer.data.cache_size import amount
from trainer.data.folders import counted
from trainer.models import text
from trainer.models.text import Told
from trainer.report import Failure
from trainer.workspace import workspace

if TYPE_CHECKING:
    from trainer.adapters.adapter import Adapter
    from trainer.devices import Precision
    from trainer.models import Model
    from trainer.report import Reporter
    from trainer.settings import Settings

__all__ = ["Conditioning", "Told"]

REMEMBERED = 256 << 20
"""Bytes of answers kept on the device: about a thousand captions of SD1.5 in float32. Later ones are encoded anew."""


class Asked(NamedTuple):
    """A text as it is to be read: a sample's prompt may have weights and breaks that mean nothing in a caption."""

    text: str
    is_prompt: bool = False


def asked(prompts: Iterable[str]) -> list[Asked]:
    """Prompts, those that are read like captions among these."""
    return [Asked(prompt, not text.is_plain(prompt)) for prompt in prompts]


class Conditioning:
    """Text to what the U-Net is told. While an encoder is trained it is made anew and carries gradients; once they
    rest, a text that was encoded before is looked up."""

    def __init__(
        self, model: Model, s: Settings, precision: Precision, adapter: Adapter | None = None, trained: bool = False
    ) -> None:
        """`trained`: whether a text encoder is; `adapter` is what sits on it, if anything does."""
        self.model, self.settings, self.precision, self.adapter = model, s, precision, adapter
        self.trained = trained
        self._known: dict[Asked, Told] = {}
        self._bytes = 0
        self._away = False  # whether the encoders wait in the processor's memory
        self._reload: Callable[[], list[Any]] | None = None

    def __call__(self, captions: Sequence[str]) -> Told:
        """What the U-Net is told of a batch, on the device."""
        if self.trained and torch.is_grad_enabled():
            with self.precision.autocast():
                return text.encode(self.model, captions, self.settings)
        return self._look_up([Asked(caption) for caption in captions])

    def prompts(self, prompts: Sequence[str]) -> Told:
        """What the U-Net is told of sample prompts, on the device; without gradients."""
        return self._look_up(asked(prompts))

    def _look_up(self, wanted: list[Asked]) -> Told:
        known = {} if self.trained else self._known
        made = self._encode([one for one in dict.fromkeys(wanted) if one not in known])
        if not self.trained:
            self._remember(made)
        return self._together([made[one] if one in made else known[one] for one in wanted])

    def sits_on(self, adapter: Adapter, trained: bool) -> None:
        """`adapter` was put on the model; `trained`: whether it teaches a text encoder."""
        self.adapter, self.trained = adapter, trained

    def rest(self) -> None:
        """The encoders are not trained any more; from now on their answers are kept."""
        self.trained = False

    def learn_by_heart(self, captions: Iterable[str], prompts: Iterable[str], report: Reporter) -> None:
        """Encode all these texts now and let the encoders go to the processor's memory, where they wait."""
        for part in self._parts(captions, prompts, report):
            if self._bytes > REMEMBERED:
                self._tell(report)
                return
            self._look_up(part)
        self._tell(report)
        self._away = self.precision.device.type != "cpu" and not self.settings.highvram
        self._put_away()

    def replace_encoders(
        self,
        captions: Iterable[str],
        prompts: Iterable[str],
        report: Reporter,
        reload: Callable[[], list[Any]] | None = None,
    ) -> None:
        """Encode all these texts now and drop the encoders: the model has none from then on.

        What does not fit on the device beside the training waits in the processor's memory. For a prompt that is new
        later on, `reload` reads the encoders from their file; they are dropped again as soon as it is encoded.
        """
        answers = self._answers()
        for part in self._parts(captions, prompts, report):
            there = {} if answers is None else answers.among(part)
            made = self._encode([one for one in part if one not in there])
            if answers is not None:
                answers.keep(made)
            for one, told in {**there, **made}.items():
                told = _moved(told, self.precision.device)
                far = self._bytes > REMEMBERED
                self._known[one] = _moved(told, torch.device("cpu")) if far else told
                self._bytes += _size(told)
        self._reload = reload
        self._tell(report, answers)
        self._drop()

    def _answers(self) -> Answers | None:
        s, precision = self.settings, self.precision
        if not s.cache_text_encoder_outputs_to_disk:
            return None
        return Answers(workspace().captions, self.model, s, precision.dtype, precision.device.type)

    def _tell(self, report: Reporter, answers: Answers | None = None) -> None:
        """What there is of answers and where."""
        places = [f"{amount(self._bytes)} in memory"]
        there = ""
        if answers is not None:
            places.append(f"{amount(answers.bytes)} on disk")
            there = f"; {answers.found} of {answers.found + answers.made} were there already"
        report.note(f"{counted(len(self._known), 'encoded caption')}: {' and '.join(places)}{there}.")

    def _put_away(self) -> None:
        if self._away:
            for encoder in self.model.text_encoders:
                encoder.to("cpu")

    def _drop(self) -> None:
        self.model.text_encoders.clear()
        if self.precision.device.type != "cpu":
            with suppress(RuntimeError):  # not every device has a cache of memory
                torch.accelerator.memory.empty_cache()

    def _parts(self, captions: Iterable[str], prompts: Iterable[str], report: Reporter) -> Iterator[list[Asked]]:
        wanted = [*map(Asked, captions), *asked(prompts)]
        unique = [one for one in dict.fromkeys(wanted) if one not in self._known]
        parts = [unique[start : start + 32] for start in range(0, len(unique), 32)]
        yield from report.track(parts, "caching captions")

    @torch.no_grad()
    def _encode(self, wanted: list[Asked]) -> dict[Asked, Told]:
        if not wanted:
            return {}
        with self._encoders(wanted[0].text), self._without_dropouts(), self.precision.autocast():
            # One by one: a text's answer must not depend, in its last bits, on what is encoded beside it.
            return {
                one: _first(text.encode(self.model, [one.text], self.settings, as_prompts=one.is_prompt))
                for one in wanted
            }

    @contextmanager
    def _encoders(self, needed_for: str) -> Iterator[None]:
        """The encoders on the device, for a moment where they are kept elsewhere or were dropped."""
        dropped = not self.model.text_encoders
        if dropped and self._reload is None:
            raise Failure(
                f"The text encoders were dropped, and “{needed_for[:80]}” was not read before.",
                "Untick Cache text encoder outputs.",
                "sdxl_cache_text_encoder_outputs",
            )
        if dropped and self._reload is not None:
            self.model.text_encoders[:] = self._reload()
        try:
            for encoder in self.model.text_encoders:
                encoder.to(self.precision.device)
            yield
        finally:
            if dropped:
                self._drop()
            else:
                self._put_away()

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

    def _remember(self, made: dict[Asked, Told]) -> None:
        for one, told in made.items():
            if self._bytes + _size(told) <= REMEMBERED:
                self._known[one] = told
                self._bytes += _size(told)

    def _together(self, told: list[Told]) -> Told:
        told = [_moved(one, self.precision.device) for one in told]
        pooled = [one.pooled for one in told if one.pooled is not None]
        return Told(torch.stack([one.states for one in told]), torch.stack(pooled) if pooled else None)


def _first(told: Told) -> Told:
    return Told(told.states[0], None if told.pooled is None else told.pooled[0])


def _moved(told: Told, device: torch.device) -> Told:
    return Told(told.states.to(device), None if told.pooled is None else told.pooled.to(device))


def _size(told: Told) -> int:
    return told.states.nbytes + (0 if told.pooled is None else told.pooled.nbytes)
