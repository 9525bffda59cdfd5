"""Pictures as the VAE encodes them, and a cache of them that cannot be stale.

A cached latent is named by the hash of all it depends on: the bytes of the picture file, how it is placed and flipped,
the VAE's weights and configuration, the kind of device, and the version of this file. Whatever changes gives another
name, so what is found under a name is right. The VAE gives a distribution; the one sample that is kept is drawn with a
generator seeded by that name, and so is the same in every run.
"""

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from trainer.data.ahead import Ahead
from trainer.data.buckets import CELL, Placement
from trainer.data.cache_size import amount
from trainer.data.dataset import Picture
from trainer.data.digests import Digests
from trainer.data.folders import counted
from trainer.data.images import Pixels, Unreadable, fit, open_picture
from trainer.devices import is_out_of_memory
from trainer.report import Failure, Stopped

if TYPE_CHECKING:
    from trainer.report import Reporter

VERSION = 1
"""To be raised when this file, or the resizing in `images`, comes to give other latents."""

WORKERS = min(8, (os.cpu_count() or 1) + 1)
"""Threads that read and decode pictures; decoding lets go of Python's lock."""

MEMORY = 1 << 30
"""Bytes of latents kept in memory when they are on disk as well; beyond, they are read when needed."""

TOGETHER = 4 * 512 * 512
"""Pixels encoded at once on an accelerator; on a processor one picture at a time, for equal bits in any company."""

DECODER = ("decoder.", "post_quant_conv.")
"""The parts of a VAE that encoding does not use."""


Want = tuple[Path, Placement, bool]


class Wish(NamedTuple):
    """A picture as it is wanted: placed in its bucket, perhaps mirrored."""

    picture: Picture
    placement: Placement
    flipped: bool = False

    @property
    def want(self) -> Want:
        """What makes two wishes the same."""
        return self.picture.path, self.placement, self.flipped


def pixels_of(wish: Wish, data: bytes | None = None) -> Pixels:
    """uint8 [bucket height, bucket width, 3] of a picture that was readable before. Raises `Failure` if it changed."""
    path = wish.picture.path
    try:
        image = open_picture(path if data is None else data)
    except Unreadable as error:
        raise Failure(f"{path} {error}.", "It was readable before. Mend or remove it, and start again.") from error
    if image.size != wish.picture.size:
        raise Failure(f"{path} was changed while the run was on.", "Start again to train on it as it is now.")
    pixels = fit(image, wish.placement)
    return np.ascontiguousarray(pixels[:, ::-1]) if wish.flipped else pixels


class Encoder:
    """The frozen VAE on its way from pixels to scaled latents."""

    def __init__(self, vae: Any, device: torch.device, report: "Reporter", together: int = 0) -> None:
        """At most `together` pictures are encoded at once; 0: as many as fit the device."""
        self.vae, self.device, self.report, self.together = vae, device, report, together
        self.scale = float(vae.config.scaling_factor)
        self.shift = float(getattr(vae.config, "shift_factor", None) or 0.0)

    @torch.no_grad()
    def __call__(
        self, pictures: Sequence[Pixels], seeds: Sequence[int], hidden: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float32 [B, 4, h/8, w/8] on the device: samples of q(z|x) times the scaling factor, one seed each.

        What is `hidden` (1 in [B, 1, h, w]) is grey, the middle of all values.
        """
        pixels = torch.from_numpy(np.stack(pictures)).to(self.device).permute(0, 3, 1, 2)
        inputs = pixels.to(self.vae.dtype) / 127.5 - 1
        if hidden is not None:
            inputs = inputs * (1 - hidden.to(inputs))
        mean, std = self._distribution(inputs)
        noise = torch.stack([_noise(mean.shape[1:], seed) for seed in seeds])
        return (mean + std * noise.to(self.device) - self.shift) * self.scale

    def _distribution(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.together and len(inputs) > self.together:
            return self._in_parts(inputs, self.together)
        try:
            found = self.vae.encode(inputs).latent_dist
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or (len(inputs) == 1 and self.vae.use_tiling):
                raise
            return self._in_parts(inputs, 1) if len(inputs) > 1 else self._in_tiles(inputs)
        mean, std = found.mean.float(), found.std.float()
        if inputs.dtype != torch.float32 and not (mean.isfinite().all() and std.isfinite().all()):
            self.report.note("The VAE overflows in half precision; it goes on in full precision.", "warning")
            self.vae.float()
            return self._distribution(inputs.float())
        return mean, std

    def _in_parts(self, inputs: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [self._distribution(part) for part in inputs.split(size)]
        return torch.cat([mean for mean, _ in parts]), torch.cat([std for _, std in parts])

    def _in_tiles(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One picture that is too large as a whole; tiles overlap and are blended, so seams are hardly there."""
        height, width = inputs.shape[2:]
        why = "there is not enough memory for it as a whole"
        self.report.note(f"A picture of {width}x{height} is encoded in tiles: {why}.")
        self.vae.enable_tiling()
        try:
            return self._distribution(inputs)
        finally:
            self.vae.disable_tiling()

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """The VAE on the device, for as long as it is needed there."""
        home = self.vae.device
        self.vae.to(self.device)
        try:
            yield
        finally:
            self.vae.to(home)


def _noise(shape: Sequence[int], seed: int) -> torch.Tensor:
    """Normal noise drawn on the CPU, which gives the same for every device."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def identity(part: Any) -> str:
    """The hash of everything in a VAE or a text encoder that decides what it gives: configuration, weights, their type.

    Of a VAE only what encodes counts.
    """
    weights = {name: weight for name, weight in part.state_dict().items() if not name.startswith(DECODER)}
    with ThreadPoolExecutor(WORKERS) as threads:
        digests = list(threads.map(_digest, weights.values()))
    config = part.config.to_dict() if hasattr(part.config, "to_dict") else dict(part.config)
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    return hashed([config, list(weights), digests])


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _digest(tensor: torch.Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return f"{tensor.dtype} {list(tensor.shape)} {hashlib.sha256(flat.numpy().data).hexdigest()}"


def hashed(value: Any) -> str:
    """SHA-256 of a value made of texts, numbers, lists and objects."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


@dataclass
class _Made:
    """What a thread found for one wish: a latent from the disk, that there is one, or pixels to be encoded."""

    wish: Wish
    key: str
    latent: torch.Tensor | None = None
    is_there: bool = False
    pixels: Pixels | None = None


class Latents:
    """Latents of pictures as they are wished for, made or found once. float32 [4, h/8, w/8], scaled, on the CPU."""

    def __init__(self, encoder: Encoder, folder: Path | None = None, trusting: bool = False) -> None:
        """With a `folder` they are kept there too, for later runs. A `trusting` one reads neither pictures that were
        not touched since nor what is in the folder before it is needed."""
        self.encoder, self.folder, self.trusting = encoder, folder, trusting
        self.digests = Digests(None if folder is None else folder / "pictures.json")
        self.vae = identity(encoder.vae)
        self.encoded = self.found = 0
        self._keys: dict[Want, str] = {}
        self._kept: dict[str, torch.Tensor] = {}
        self._bytes = 0
        self._write_trouble = ""

    def key(self, data: str, wish: Wish) -> str:
        """The name of a latent, from the SHA-256 `data` of the picture's file and how the picture is wanted."""
        return hashed([VERSION, data, asdict(wish.placement), wish.flipped, self.vae, self.encoder.device.type])

    def fill(self, wishes: Sequence[Wish], report: "Reporter") -> None:
        """Find or make all that is wished for. Raises `Stopped` when asked to stop, `Failure` for a lost picture."""
        by_path: dict[tuple[Path, Placement], dict[bool, Wish]] = {}
        for wish in sorted(wishes, key=lambda wish: wish.placement.bucket):
            by_path.setdefault((wish.picture.path, wish.placement), {})[wish.flipped] = wish
        tasks = [list(flips.values()) for flips in by_path.values()]
        waiting: list[_Made] = []
        with self.encoder.ready(), Ahead(self._prepare, WORKERS, 2 * WORKERS) as ahead:
            for made in report.track(ahead.each(tasks), "caching latents", total=len(tasks)):
                if report.stopping():
                    raise Stopped
                for one in made:
                    self._keys[one.wish.want] = one.key
                    if one.latent is not None or one.is_there:
                        self.found += 1
                        if one.latent is not None:
                            self._keep(one.key, one.latent)
                        continue
                    if waiting and waiting[0].wish.placement.bucket != one.wish.placement.bucket:
                        self._encode(waiting)
                    waiting.append(one)
                    if len(waiting) >= self._together(one.wish):
                        self._encode(waiting)
            self._encode(waiting)
        self.digests.save()
        if self._write_trouble:
            report.note(f"Latents are kept in memory only: {self._write_trouble}.", "warning", "cache_latents_to_disk")

    def get(self, wish: Wish) -> torch.Tensor:
        """The latent of what `fill` went through."""
        key = self._keys[wish.want]
        if key in self._kept:
            return self._kept[key]
        latent = self._read(key, wish)
        if latent is None:  # lost from the disk since, or not whole
            with self.encoder.ready():
                latent = self.encoder([pixels_of(wish)], [int(key[:16], 16)])[0].cpu()
            self._write(key, latent)
        self._keep(key, latent)
        return latent

    def _together(self, wish: Wish) -> int:
        if self.encoder.together:
            return self.encoder.together
        if self.encoder.device.type == "cpu":
            return 1
        width, height = wish.placement.bucket
        return max(1, TOGETHER // (width * height))

    def _prepare(self, wishes: Sequence[Wish]) -> list[_Made]:
        """Read the file once; what is hashed is what is decoded."""
        path = wishes[0].picture.path
        if self.trusting and (known := self.digests.known(path)):
            found = [_Made(wish, self.key(known, wish), is_there=True) for wish in wishes]
            if all(one.key in self._kept or self._is_there(one.key) for one in found):
                return found
        try:
            data, digest = self.digests.read(path)
        except OSError as error:
            reason = f"{path} cannot be read ({error.strerror or error})."
            raise Failure(reason, "Start again when it is back.") from error
        made = [_Made(wish, self.key(digest, wish)) for wish in wishes]
        for one in made:
            one.latent = self._kept[one.key] if one.key in self._kept else self._read(one.key, one.wish)
        plain: Pixels | None = None
        for one in made:
            if one.latent is None:
                plain = pixels_of(one.wish._replace(flipped=False), data) if plain is None else plain
                one.pixels = np.ascontiguousarray(plain[:, ::-1]) if one.wish.flipped else plain
        return made

    def _encode(self, waiting: list[_Made]) -> None:
        if not waiting:
            return
        pixels = [one.pixels for one in waiting if one.pixels is not None]
        latents = self.encoder(pixels, [int(one.key[:16], 16) for one in waiting]).cpu()
        for one, latent in zip(waiting, latents, strict=True):
            if not latent.isfinite().all():
                reason = f"The model's VAE gives no usable numbers for {one.wish.picture.path}."
                raise Failure(reason, "Use another model file.", "pretrained_model_name_or_path")
            self._keep(one.key, latent.clone(), written=self._write(one.key, latent))
            self.encoded += 1
        waiting.clear()

    def _keep(self, key: str, latent: torch.Tensor, written: bool = True) -> None:
        if key in self._kept:
            return
        if self.folder is None or not written or self._bytes < MEMORY:
            self._kept[key] = latent
            self._bytes += latent.nbytes

    def _file(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.npz"

    def _is_there(self, key: str) -> bool:
        """Whether there is a file for it, which counts as used now."""
        try:
            if self.folder is not None:
                os.utime(self._file(key))
                return True
        except PermissionError:
            return self._file(key).is_file()
        except OSError:
            pass
        return False

    @property
    def summary(self) -> str:
        """What there is of latents and where, in a sentence."""
        files = [] if self.folder is None else [self._file(key) for key in dict.fromkeys(self._keys.values())]
        on_disk = sum(map(_size, files))
        places = [f"{amount(self._bytes)} in memory", *[f"{amount(on_disk)} on disk"] * bool(on_disk)]
        there = f"; {self.found} of {self.found + self.encoded} were there already" if self.folder is not None else ""
        return f"{counted(len(self._keys), 'latent')}: {' and '.join(places)}{there}."

    def _read(self, key: str, wish: Wish) -> torch.Tensor | None:
        """The latent on disk; None if there is none, or none that is whole (a torn file is simply made anew)."""
        if self.folder is None:
            return None
        width, height = wish.placement.bucket
        try:
            with np.load(self._file(key), allow_pickle=False) as file:
                latent = file["latents"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        whole = latent.dtype == np.float32 and latent.shape[1:] == (height // CELL, width // CELL)
        if not whole or not np.isfinite(latent).all():
            return None
        self._is_there(key)
        return torch.from_numpy(latent)

    def _write(self, key: str, latent: torch.Tensor) -> bool:
        if self.folder is None or self._write_trouble:
            return False
        path = self._file(key)
        temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                np.savez(file, latents=latent.numpy())
            os.replace(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            if not path.exists():  # Windows refuses to replace what another run is just reading: then it is there
                self._write_trouble = f"{self.folder} cannot be written ({error.strerror or error})"
                return False
        return True
