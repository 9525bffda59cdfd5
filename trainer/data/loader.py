"""Batches of latents and captions, prepared in threads a little ahead of the training loop."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import torch

from trainer.data import captions
from trainer.data.ahead import Ahead
from trainer.data.buckets import CELL, batch_count, batches_in_order, bucket_counts, place, told_sizes
from trainer.data.chance import Choice, generator
from trainer.data.dataset import Dataset, Picture, caches_latents
from trainer.data.images import Pixels, vary_colors
from trainer.data.latents import Encoder, Latents, Wish, pixels_of
from trainer.data.masks import Mask, Shares, draw_mask, loss_mask
from trainer.settings import Settings
from trainer.workspace import workspace

if TYPE_CHECKING:
    from trainer.models import Model
    from trainer.report import Reporter
    from trainer.world import World


MASKS = 4096
"""Masks kept in memory; one is a few kilobytes."""

PIXELS = 2 << 30
"""Bytes of resized pictures that are kept when latents are not cached, so that most are decoded only once."""


@dataclass(frozen=True)
class Batch:
    """What one forward pass is given. `latents`: float32 [B, 4, h/8, w/8], scaled; `loss_weights`: float32 [B].

    `sizes`: float32 [B, 6], what SDXL is told of each picture (`buckets.told_sizes`). `inpainting`: float32
    [B, 5, h/8, w/8], what an inpainting model sees besides the noisy latents: the mask (1 = hidden) and the latents of
    the picture without what is hidden. `loss_masks`: float32 [B, 1, h/8, w/8], how much each place counts with "Masked
    loss", `None` where everything does. `epoch` counts from 1, `index` (of the batch within its epoch) from 0.
    """

    latents: torch.Tensor
    captions: list[str]
    loss_weights: torch.Tensor
    pictures: list[Picture]
    epoch: int
    index: int
    sizes: torch.Tensor
    inpainting: torch.Tensor | None = None
    loss_masks: torch.Tensor | None = None

    @property
    def size(self) -> int:
        """Pictures in the batch."""
        return len(self.pictures)


class _Spot(NamedTuple):
    epoch: int
    batch: int


@dataclass(frozen=True)
class _Prepared:
    """A batch as a thread leaves it: latents, or pixels and seeds to be encoded with."""

    entries: list[int]
    captions: list[str]
    sizes: list[tuple[float, ...]]
    latents: torch.Tensor | None
    pixels: list[Pixels]
    seeds: list[int]
    masks: list[Mask]
    masked_seeds: list[int]
    loss_masks: torch.Tensor | None


class Batches:
    """Every batch of every epoch. What is in a batch depends on the settings, the data, and (seed, epoch, index) alone.

    With "Cache latents" everything is encoded here and now; otherwise pictures are decoded ahead of time and encoded
    when their batch is taken. To be closed, or used in a `with`.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        model: "Model",
        report: "Reporter",
        device: torch.device | str,
        cache_folder: Path | None = None,
        world: "World | None" = None,
    ) -> None:
        """`cache_folder` is where "Cache latents to disk" puts them, by default the workspace's. With several processes
        in the `world`, each goes through its share of the batches."""
        self.settings, self.device, self.world = settings, torch.device(device), world
        self.seed = settings.seed or 0
        self.entries = dataset.entries()
        self.buckets = [place(picture.size, settings).bucket for picture in self.entries]
        self.per_epoch = batch_count(bucket_counts(dataset, settings), settings.train_batch_size)
        self._closing = ExitStack()
        self._encoder = Encoder(model.vae, self.device, report, settings.vae_batch_size)
        self._latents: Latents | None = None
        self._resized: dict[Path, Pixels] = {}
        if caches_latents(settings):
            self._latents = self._cached(dataset, report, cache_folder)
        else:
            self._closing.enter_context(self._encoder.ready())
        workers = 1 if self._latents else min(8, os.cpu_count() or 1)
        self._ahead = self._closing.enter_context(Ahead(self._prepare, workers, workers + 3))
        self._order = lru_cache(2)(self._order_of)
        self._mask = lru_cache(MASKS)(self._mask_of)

    def _cached(self, dataset: Dataset, report: "Reporter", folder: Path | None) -> Latents:
        to_disk = self.settings.cache_latents_to_disk
        folder = (folder or workspace().latents) if to_disk else self._shared_folder(report)
        latents = Latents(self._encoder, folder)
        flips = (False, True) if self.settings.flip_aug else (False,)
        shown = [picture for picture, _ in dataset.repeated()]
        wishes = [[Wish(picture, place(picture.size, self.settings), flip) for flip in flips] for picture in shown]
        if self.world is not None and self.world.place.local_size > 1:
            mine = wishes[self.world.place.local_rank :: self.world.place.local_size]
            latents.fill([*chain(*mine)], report)
            self.world.wait()  # now the others' are there, too
        latents.fill([*chain(*wishes)], report)
        return latents

    def _shared_folder(self, report: "Reporter") -> Path | None:
        """Where processes of one machine leave latents for each other when they are not kept for later runs."""
        if self.world is None or self.world.place.local_size == 1:
            return None
        folder = report.folder / "latents"
        if self.world.place.local_rank == 0:
            self._closing.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (counted from 1), without the first `skip` of them; those of this process."""
        places = self.share(range(skip, self.per_epoch))
        if places and not self._ahead.expects(_Spot(number, places[0])):
            self._ahead.begin(self._spots(number, skip))
        for index in places:
            yield self._finish(self._ahead.take(), number, index)

    def pictures(self, epoch: int, index: int) -> list[Picture]:
        """The pictures of a batch, whichever process it belongs to."""
        return [self.entries[entry] for entry in self._order(epoch)[index]]

    def share(self, places: range) -> range:
        """Those of a row of batches that are this process's."""
        return places if self.world is None else self.world.share(places)

    def close(self) -> None:
        """End the threads, and put the VAE back where it was."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _spots(self, epoch: int, index: int) -> Iterator[_Spot]:
        """Batch after batch without end, so that an epoch's first batches are ready when the one before is over."""
        while True:
            yield from (_Spot(epoch, place) for place in self.share(range(index, self.per_epoch)))
            epoch, index = epoch + 1, 0

    def _order_of(self, epoch: int) -> list[list[int]]:
        return batches_in_order(self.buckets, self.settings.train_batch_size, self.seed, epoch)

    def _prepare(self, spot: _Spot) -> _Prepared:
        """In a thread: everything that can be done without the model."""
        entries = self._order(spot.epoch)[spot.batch]
        flips = [self._flipped(entry, spot.epoch) for entry in entries]
        texts = [
            captions.process(
                self.entries[entry].caption,
                self.settings,
                generator(Choice.CAPTION, self.seed, spot.epoch, entry),
                spot.epoch,
            )
            for entry in entries
        ]
        sizes = [
            told_sizes(self.entries[entry].size, self.buckets[entry], flip)
            for entry, flip in zip(entries, flips, strict=True)
        ]
        loss_masks = self._loss_masks(entries, flips)
        if self._latents is not None:
            paths = [self.entries[entry].path for entry in entries]
            stacked = torch.stack([self._latents.get(*which) for which in zip(paths, flips, strict=True)])
            if self.device.type == "cuda":
                stacked = stacked.pin_memory()
            return _Prepared(entries, texts, sizes, stacked, [], [], [], [], loss_masks)
        pixels = [self._pixels(entry, flip, spot.epoch) for entry, flip in zip(entries, flips, strict=True)]
        seeds = [self._seed(Choice.LATENT, spot.epoch, entry) for entry in entries]
        if not self.settings.train_inpainting:
            return _Prepared(entries, texts, sizes, None, pixels, seeds, [], [], loss_masks)
        masks = [
            draw_mask(*self.buckets[entry], generator(Choice.MASK, self.seed, spot.epoch, entry)) for entry in entries
        ]
        masked_seeds = [self._seed(Choice.MASKED_LATENT, spot.epoch, entry) for entry in entries]
        return _Prepared(entries, texts, sizes, None, pixels, seeds, masks, masked_seeds, loss_masks)

    def _loss_masks(self, entries: list[int], flips: list[bool]) -> torch.Tensor | None:
        """What of each picture counts, or `None` when all of all of them does."""
        if not self.settings.masked_loss:
            return None
        found = [self._mask(self.entries[entry]) for entry in entries]
        if all(mask is None for mask in found):
            return None
        width, height = self.buckets[entries[0]]
        whole = np.ones((height // CELL, width // CELL), np.float32)
        masks = [whole if mask is None else mask for mask in found]
        turned = [mask[:, ::-1] if flip else mask for mask, flip in zip(masks, flips, strict=True)]
        return torch.from_numpy(np.stack(turned)).unsqueeze(1)

    def _mask_of(self, picture: Picture) -> Shares | None:
        return loss_mask(picture.path, place(picture.size, self.settings), CELL, picture.size)

    def _seed(self, choice: Choice, epoch: int, entry: int) -> int:
        return int(generator(choice, self.seed, epoch, entry).integers(2**63))

    def _flipped(self, entry: int, epoch: int) -> bool:
        return self.settings.flip_aug and generator(Choice.FLIP, self.seed, epoch, entry).random() < 0.5

    def _pixels(self, entry: int, flip: bool, epoch: int) -> Pixels:
        picture = self.entries[entry]
        plain = self._resized.get(picture.path)
        if plain is None:
            plain = pixels_of(Wish(picture, place(picture.size, self.settings)))
            if len(self._resized) * plain.nbytes < PIXELS:
                self._resized[picture.path] = plain
        pixels = np.ascontiguousarray(plain[:, ::-1]) if flip else plain
        if self.settings.color_aug:
            pixels = vary_colors(pixels, generator(Choice.COLOR, self.seed, epoch, entry))
        return pixels

    def _finish(self, prepared: _Prepared, epoch: int, index: int) -> Batch:
        inpainting = None
        if prepared.latents is None:
            latents = self._encoder(prepared.pixels, prepared.seeds)
            if prepared.masks:
                inpainting = self._seen(prepared)
        else:
            latents = prepared.latents.to(self.device, non_blocking=True)
        pictures = [self.entries[entry] for entry in prepared.entries]
        weights = torch.tensor([self.settings.prior_loss_weight if picture.is_reg else 1.0 for picture in pictures])
        sizes = torch.tensor(prepared.sizes, dtype=torch.float32).to(self.device)
        loss_masks = None if prepared.loss_masks is None else prepared.loss_masks.to(self.device)
        return Batch(
            latents, prepared.captions, weights.to(self.device), pictures, epoch, index, sizes, inpainting, loss_masks
        )  # fmt: skip

    def _seen(self, prepared: _Prepared) -> torch.Tensor:
        """The mask, one value for each latent (that of its upper left pixel), and the latents of what is not hidden."""
        hidden = torch.from_numpy(np.stack(prepared.masks)).unsqueeze(1).float().to(self.device)
        return torch.cat(
            (hidden[..., ::CELL, ::CELL], self._encoder(prepared.pixels, prepared.masked_seeds, hidden)), dim=1
        )
