"""Batches of latents and captions, prepared in threads a little ahead of the training loop."""

import os
import shutil
from collections.abc import Callable, Hashable, Iterator
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
from trainer.data.buckets import CELL, batches_in_order, place, pool_of, told_sizes
from trainer.data.chance import Choice, generator
from trainer.data.dataset import Dataset, Picture, caches_latents
from trainer.data.images import Pixels, cut, vary_colors
from trainer.data.latents import Encoder, Latents, Wish, pixels_of
from trainer.data.masks import Mask, Shares, draw_mask, loss_mask, mask_pixels, shares
from trainer.plan import batches_a_step, make_plan
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


Corner = tuple[int, int]
"""(left, top) of what is cut out of a picture."""


class Kept:
    """Pictures that were made once, by name, as long as there is room for `limit` bytes. For use by several threads."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._pixels: dict[Hashable, Pixels | None] = {}

    def get(self, name: Hashable, make: Callable[[], Pixels | None]) -> Pixels | None:
        """What has this name, made if need be; when there is no more room it is made each time."""
        if name in self._pixels:
            return self._pixels[name]
        made = make()
        size = 0 if made is None else made.nbytes
        if self.bytes + size <= self.limit:
            self._pixels[name] = made
            self.bytes += size
        return made


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
        self.own = [picture.under(settings) for picture in self.entries]
        self.placed = [place(picture.size, own) for picture, own in zip(self.entries, self.own, strict=True)]
        self.pools = [pool_of(picture, settings) for picture in self.entries]
        self.plan = make_plan(settings, dataset)
        self.per_epoch = self.plan.batches_per_epoch
        self._closing = ExitStack()
        self._encoder = Encoder(model.vae, self.device, report, settings.vae_batch_size)
        self._latents: Latents | None = None
        self._resized = Kept(PIXELS)
        if caches_latents(settings, dataset):
            self._latents = self._cached(dataset, report, cache_folder)
        else:
            self._closing.enter_context(self._encoder.ready())
        chosen = 1 if self._latents else min(8, os.cpu_count() or 1)
        workers = settings.max_data_loader_n_workers or chosen
        self._ahead = self._closing.enter_context(Ahead(self._prepare, workers, workers + 3))
        self._order = lru_cache(2)(self._order_of)
        self._mask = lru_cache(MASKS)(self._mask_of)

    def _cached(self, dataset: Dataset, report: "Reporter", folder: Path | None) -> Latents:
        to_disk = self.settings.cache_latents_to_disk
        folder = (folder or workspace().latents) if to_disk else self._shared_folder(report)
        latents = Latents(self._encoder, folder, trusting=self.settings.skip_cache_check and to_disk)
        wishes = [
            [Wish(picture, place(picture.size, own), flip) for flip in ((False, True) if own.flip_aug else (False,))]
            for picture, own in ((picture, picture.under(self.settings)) for picture, _ in dataset.repeated())
        ]
        if self.world is not None and self.world.place.local_size > 1:
            mine = wishes[self.world.place.local_rank :: self.world.place.local_size]
            latents.fill([*chain(*mine)], report)
            self.world.wait()  # now the others' are there, too
        latents.fill([*chain(*wishes)], report)
        report.note(latents.summary)
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
            prepared = self._ahead.take()
            if index == places[-1] and not self.settings.persistent_data_loader_workers:
                self._ahead.rest()
            yield self._finish(prepared, number, index)

    @property
    def waiting(self) -> int:
        """How many batches are prepared, or being prepared, and not yet taken."""
        return self._ahead.waiting

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
        """Batch after batch: with "Persistent data loader" without end, so that an epoch's first batches are ready when
        the one before is over; else to the end of the epoch."""
        while True:
            yield from (_Spot(epoch, place) for place in self.share(range(index, self.per_epoch)))
            if not self.settings.persistent_data_loader_workers:
                return
            epoch, index = epoch + 1, 0

    def _order_of(self, epoch: int) -> list[list[int]]:
        return batches_in_order(self.pools, self.seed, epoch)

    def _step(self, spot: _Spot) -> int:
        """Steps done when a batch's turn comes."""
        return (spot.epoch - 1) * self.plan.steps_per_epoch + spot.batch // batches_a_step(self.settings)

    def _prepare(self, spot: _Spot) -> _Prepared:
        """In a thread: everything that can be done without the model."""
        entries = self._order(spot.epoch)[spot.batch]
        flips = [self._flipped(entry, spot.epoch) for entry in entries]
        texts = [
            captions.process(
                self.entries[entry].caption,
                self.own[entry],
                generator(Choice.CAPTION, self.seed, spot.epoch, entry),
                spot.epoch,
                self._step(spot),
                self.plan.steps,
            )
            for entry in entries
        ]
        sizes = [
            told_sizes(self.entries[entry].size, self.placed[entry].bucket, flip)
            for entry, flip in zip(entries, flips, strict=True)
        ]
        corners = [self._corner(entry, spot.epoch) for entry in entries]
        shown = list(zip(entries, corners, flips, strict=True))
        loss_masks = self._loss_masks(shown)
        if self._latents is not None:
            stacked = torch.stack([self._latents.get(self._wish(entry, flip)) for entry, _, flip in shown])
            if self.device.type == "cuda":
                stacked = stacked.pin_memory()
            return _Prepared(entries, texts, sizes, stacked, [], [], [], [], loss_masks)
        pixels = [self._pixels(*one, spot.epoch) for one in shown]
        seeds = [self._seed(Choice.LATENT, spot.epoch, entry) for entry in entries]
        if not self.settings.train_inpainting:
            return _Prepared(entries, texts, sizes, None, pixels, seeds, [], [], loss_masks)
        masks = [
            draw_mask(*self.placed[entry].bucket, generator(Choice.MASK, self.seed, spot.epoch, entry))
            for entry in entries
        ]
        masked_seeds = [self._seed(Choice.MASKED_LATENT, spot.epoch, entry) for entry in entries]
        return _Prepared(entries, texts, sizes, None, pixels, seeds, masks, masked_seeds, loss_masks)

    def _loss_masks(self, shown: list[tuple[int, Corner, bool]]) -> torch.Tensor | None:
        """What of each picture counts, or `None` when all of all of them does."""
        found = [self._loss_mask(entry, corner) for entry, corner, _ in shown]
        if all(mask is None for mask in found):
            return None
        width, height = self.placed[shown[0][0]].bucket
        whole = np.ones((height // CELL, width // CELL), np.float32)
        masks = [whole if mask is None else mask for mask in found]
        turned = [mask[:, ::-1] if flip else mask for mask, (_, _, flip) in zip(masks, shown, strict=True)]
        return torch.from_numpy(np.stack(turned)).unsqueeze(1)

    def _loss_mask(self, entry: int, corner: Corner) -> Shares | None:
        own, picture, placement = self.own[entry], self.entries[entry], self.placed[entry]
        if not own.masked_loss:
            return None
        if not own.random_crop:
            return self._mask(picture)
        uncut = self._resized.get(
            ("mask", picture.path, placement), lambda: mask_pixels(picture, placement.uncut, own.alpha_mask)
        )
        return None if uncut is None else shares(cut(uncut, corner, placement.bucket), CELL)

    def _mask_of(self, picture: Picture) -> Shares | None:
        own = picture.under(self.settings)
        return loss_mask(picture, place(picture.size, own), CELL, own.alpha_mask)

    def _seed(self, choice: Choice, epoch: int, entry: int) -> int:
        return int(generator(choice, self.seed, epoch, entry).integers(2**63))

    def _flipped(self, entry: int, epoch: int) -> bool:
        return self.own[entry].flip_aug and generator(Choice.FLIP, self.seed, epoch, entry).random() < 0.5

    def _corner(self, entry: int, epoch: int) -> Corner:
        """(left, top) of the part that is shown: in the middle, or with a random crop anywhere."""
        placement = self.placed[entry]
        if not self.own[entry].random_crop:
            return placement.crop
        rng = generator(Choice.CROP, self.seed, epoch, entry)
        right, down = placement.room
        return int(rng.integers(right + 1)), int(rng.integers(down + 1))

    def _wish(self, entry: int, flip: bool = False) -> Wish:
        return Wish(self.entries[entry], self.placed[entry], flip)

    def _pixels(self, entry: int, corner: Corner, flip: bool, epoch: int) -> Pixels:
        wish, own = self._wish(entry), self.own[entry]
        if own.random_crop:
            wish = wish._replace(placement=wish.placement.uncut)
        pixels = self._resized.get(wish.want, lambda: pixels_of(wish))
        assert pixels is not None
        if own.random_crop:
            pixels = cut(pixels, corner, self.placed[entry].bucket)
        if flip:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        if own.color_aug:
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
