"""Which size each picture is trained at, and which pictures form a batch. Numbers in, numbers out.

All pictures of a batch have one size. With buckets, pictures of similar shape share one; a picture is scaled until it
covers its bucket and what stands over is cut off evenly.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

from trainer.data.chance import Choice, generator
from trainer.declare import Problem, by_name
from trainer.settings import Settings

if TYPE_CHECKING:
    from trainer.data.dataset import Dataset, Picture

Size = tuple[int, int]
"""(width, height) in pixels."""

CELL = 8
"""Pixels per latent along each side: the VAE halves three times, so a bucket's sides are multiples of this."""


@dataclass(frozen=True)
class Placement:
    """How a picture gets into its bucket: scaled to `resized`, then `bucket` is cut out at `crop` = (left, top)."""

    bucket: Size
    resized: Size
    crop: tuple[int, int]

    @property
    def uncut(self) -> "Placement":
        """The same scaling with nothing cut off."""
        return Placement(self.resized, self.resized, (0, 0))

    @property
    def room(self) -> Size:
        """How far to the right and down the cut could be moved from the upper left corner."""
        return self.resized[0] - self.bucket[0], self.resized[1] - self.bucket[1]


class Pool(NamedTuple):
    """What may share a batch: pictures of one dataset in one bucket, at most `batch_size` at a time."""

    dataset: int
    bucket: Size
    batch_size: int


@cache
def bucket_resolutions(max_reso: Size, min_reso: int, max_reso_side: int, step: int) -> tuple[Size, ...]:
    """Every bucket, sorted: sides in multiples of `step`, between the two limits, of at most the area of `max_reso`.

    The limits are widened to multiples of `step`. There is always at least one bucket.
    """
    area = max_reso[0] * max_reso[1]
    shortest, longest = max(_floor(min_reso, step), step), -(-max_reso_side // step) * step
    square = max(_floor(math.isqrt(area), step), step)
    found = {(square, square)}
    for width in range(shortest, longest + 1, step):
        height = min(longest, _floor(area // width, step))
        if height >= shortest:
            found |= {(width, height), (height, width)}
    return tuple(sorted(found))


def place(size: Size, settings: Settings) -> Placement:
    """The placement of a picture of this size under these settings."""
    reso = settings.resolution
    if not settings.enable_bucket:
        return _placed_in(size, ((_floor(reso[0], CELL), _floor(reso[1], CELL)),))
    step = max(_floor(settings.bucket_reso_steps, CELL), CELL)
    if settings.bucket_no_upscale:
        resized = _shrunk(size, reso[0] * reso[1], step)
        return _centred((_floor(resized[0], step), _floor(resized[1], step)), resized)
    return _placed_in(size, bucket_resolutions(reso, settings.min_bucket_reso, settings.max_bucket_reso, step))


@lru_cache(10_000)
def _placed_in(size: Size, buckets: tuple[Size, ...]) -> Placement:
    bucket = _nearest(size, buckets)
    return _centred(bucket, _cover(size, bucket))


def _nearest(size: Size, buckets: Sequence[Size]) -> Size:
    """The bucket whose width / height is nearest to the picture's; the first of equals."""
    if size in buckets:
        return size
    ratio = size[0] / size[1]
    return min(buckets, key=lambda bucket: abs(bucket[0] / bucket[1] - ratio))


def _cover(size: Size, bucket: Size) -> Size:
    """The size of the picture when scaled so that it just covers the bucket."""
    (width, height), (across, down) = size, bucket
    scale = down / height if width / height > across / down else across / width
    return max(int(width * scale + 0.5), across), max(int(height * scale + 0.5), down)


def _shrunk(size: Size, area: int, step: int) -> Size:
    """The size of a picture that is never enlarged: its own, or the largest of its shape that `area` allows.

    Only a picture thinner than one step has to grow, until it is one step thin.
    """
    width, height = size
    ratio = width / height
    if width * height > area:
        across = math.sqrt(area * ratio)
        by_width = _floor(int(across + 0.5), step)
        by_height = _floor(int(area / across + 0.5), step)
        if _miss(by_width, _floor(int(by_width / ratio + 0.5), step), ratio) < _miss(
            _floor(int(by_height * ratio + 0.5), step), by_height, ratio
        ):
            width, height = by_width, int(by_width / ratio + 0.5)
        else:
            width, height = int(by_height * ratio + 0.5), by_height
    if min(width, height) < step:
        return (step, int(step / ratio + 0.5)) if ratio < 1 else (int(step * ratio + 0.5), step)
    return width, height


def _miss(width: int, height: int, ratio: float) -> float:
    return abs(width / height - ratio) if height else math.inf


def _centred(bucket: Size, resized: Size) -> Placement:
    return Placement(bucket, resized, ((resized[0] - bucket[0]) // 2, (resized[1] - bucket[1]) // 2))


def _floor(number: int, step: int) -> int:
    return number // step * step


def told_sizes(size: Size, bucket: Size, flipped: bool = False) -> tuple[float, ...]:
    """What SDXL is told of a picture: original height and width, top and left of the crop, the bucket's height, width.

    Top and left are Kohya's, not the true crop (Podell et al. 2023, section 2.2): the margins that the whole picture
    would have if it was fitted into the bucket; in a mirrored picture the left one is what was at the right.
    """
    (width, height), (across, down) = size, bucket
    ratio = width / height
    if across / down > ratio:
        wide: float = down * ratio
        left, top = (across - wide) // 2, 0.0
    else:
        wide = across
        left, top = 0.0, (down - across / ratio) // 2
    left = across - (left + wide) if flipped else left
    return height, width, top, left, down, across


def pool_of(picture: "Picture", settings: Settings) -> Pool:
    """Where a picture goes in a run of these settings."""
    own = picture.under(settings)
    return Pool(picture.dataset, place(picture.size, own).bucket, own.train_batch_size)


def pool_counts(dataset: "Dataset", settings: Settings) -> dict[Pool, int]:
    """Pictures shown per epoch (repeats counted, regularisation balanced), by pool, in order."""
    counts: Counter[Pool] = Counter()
    for picture, repeats in dataset.repeated():
        counts[pool_of(picture, settings)] += repeats
    return dict(sorted(counts.items()))


def bucket_counts(counts: Mapping[Pool, int]) -> dict[Size, int]:
    """The same by bucket alone, smallest bucket first."""
    merged: Counter[Size] = Counter()
    for pool, count in counts.items():
        merged[pool.bucket] += count
    return dict(sorted(merged.items()))


def batch_count(counts: Mapping[Pool, int]) -> int:
    """Batches per epoch: each pool's last one may be short, none is dropped."""
    return sum(-(-count // pool.batch_size) for pool, count in counts.items())


def batches_in_order(pools: Sequence[Pool], seed: int, epoch: int) -> list[list[int]]:
    """The batches of an epoch as lists of positions in `pools` (the pool of each entry).

    Pictures change their places within the pool, and batches theirs among all, by a generator made of
    (seed, epoch) alone: any epoch can be gone through again without those before it.
    """
    members: dict[Pool, list[int]] = {}
    for position, pool in enumerate(pools):
        members.setdefault(pool, []).append(position)
    rng = generator(Choice.ORDER, seed, epoch)
    batches: list[list[int]] = []
    for pool in sorted(members):
        order = rng.permutation(members[pool]).tolist()
        batches += [order[start : start + pool.batch_size] for start in range(0, len(order), pool.batch_size)]
    return [batches[number] for number in rng.permutation(len(batches))]


def bucket_problems(settings: Settings) -> Iterator[Problem]:
    """Sizes that do not go together, each with a value that would."""

    def problem(key: str, message: str, value: int | str) -> Problem:
        return Problem(key, by_name(Settings)[key].label, message, {key: value}, f"Use {value}")

    width, height = settings.resolution
    if not settings.enable_bucket:
        if width % CELL or height % CELL:
            yield problem("max_resolution", f"width and height must be multiples of {CELL} when buckets are off; "
                          f"{width},{height} are not.", f"{_floor(width, CELL)},{_floor(height, CELL)}")  # fmt: skip
        return
    step = settings.bucket_reso_steps
    if step % CELL:
        yield problem(
            "bucket_reso_steps", f"must be a multiple of {CELL}; {step} is not.", max(_floor(step, CELL), CELL)
        )
    if step > min(width, height):
        yield problem("bucket_reso_steps", f"{step} is more than Max resolution ({width},{height}) has room for.",
                      max(_floor(min(width, height, 64), CELL), CELL))  # fmt: skip
    if settings.bucket_no_upscale:
        return
    if settings.min_bucket_reso > min(width, height):
        yield problem("min_bucket_reso", f"{settings.min_bucket_reso} is more than the shorter side of Max resolution "
                      f"({width},{height}).", max(min(width, height) // 2 // 64 * 64, 64))  # fmt: skip
    if settings.max_bucket_reso < max(width, height):
        yield problem("max_bucket_reso", f"{settings.max_bucket_reso} is less than the longer side of Max resolution "
                      f"({width},{height}).", max(width, height) * 2)  # fmt: skip
