"""Buckets against a slow and literal reading of the established rules, and against what must always hold."""

import itertools
import math
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.data.made import dataset_of
from trainer.data.buckets import (
    Pool,
    batch_count,
    batches_in_order,
    bucket_counts,
    bucket_problems,
    bucket_resolutions,
    place,
    pool_counts,
)
from trainer.settings import Settings

STEPS = st.sampled_from([8, 16, 32, 64, 128])
SIDES = st.integers(1, 5000)
SIZES = st.tuples(SIDES, SIDES).filter(lambda size: max(size) <= 50 * min(size))
RESOLUTIONS = st.tuples(st.integers(128, 1536), st.integers(128, 1536))


def every_bucket(area: int, low: int, high: int, step: int) -> list[tuple[int, int]]:
    """The rule word by word: a square, and for each width the tallest height that fits, both ways round."""
    sides = [side for side in range(step, high + 1, step) if side >= low]
    found = [(max(side for side in range(0, 9000, step) if side * side <= area),) * 2]
    for width in sides:
        heights = [side for side in sides if width * side <= area]
        if heights:
            found += [(width, max(heights)), (max(heights), width)]
    return sorted({(width, height) for width, height in found})


@pytest.mark.parametrize("reso", [(512, 512), (768, 512), (1024, 1024), (128, 128), (500, 700)])
@pytest.mark.parametrize(("low", "high", "step"), [(256, 1024, 64), (64, 2048, 64), (128, 1024, 32), (64, 1536, 8)])
def test_bucket_list_is_the_one_of_the_rule(reso: tuple[int, int], low: int, high: int, step: int) -> None:
    expected = every_bucket(reso[0] * reso[1], low, high, step)
    assert list(bucket_resolutions(reso, low, high, step)) == expected


def test_bucket_list_known_by_heart() -> None:
    found = bucket_resolutions((512, 512), 256, 1024, 64)
    assert found == (
        (256, 832), (256, 896), (256, 960), (256, 1024), (320, 704), (320, 768), (384, 640), (448, 576), (512, 512), (576, 448),
        (640, 384), (704, 320), (768, 320), (832, 256), (896, 256), (960, 256), (1024, 256),
    )  # fmt: skip


def test_limits_are_widened_to_whole_steps() -> None:
    assert bucket_resolutions((512, 512), 300, 1000, 64) == bucket_resolutions((512, 512), 256, 1024, 64)


@given(RESOLUTIONS, st.integers(1, 1024), st.integers(64, 4096), STEPS)
def test_every_bucket_is_whole_steps_and_within_the_area(reso: tuple[int, int], low: int, high: int, step: int) -> None:
    found = bucket_resolutions(reso, low, high, step)
    assert found
    for width, height in found:
        assert width % step == height % step == 0
        assert width * height <= reso[0] * reso[1]
        assert (height, width) in found


def settings(**values: object) -> Settings:
    return Settings(**{"bucket_no_upscale": False, "max_bucket_reso": 1024, **values})


@given(SIZES)
def test_chosen_bucket_has_the_nearest_ratio(size: tuple[int, int]) -> None:
    buckets = bucket_resolutions((512, 512), 256, 1024, 64)
    chosen = place(size, settings()).bucket
    misses = [abs(width / height - size[0] / size[1]) for width, height in buckets]
    if size in buckets:
        assert chosen == size
    else:
        assert chosen == buckets[misses.index(min(misses))]


@pytest.mark.parametrize(
    ("size", "step", "bucket", "resized", "crop"),
    [
        ((512, 512), 64, (512, 512), (512, 512), (0, 0)),
        ((1000, 999), 64, (512, 512), (513, 512), (0, 0)),
        ((100, 100), 64, (512, 512), (512, 512), (0, 0)),
        # 1.778: the nearest of the list is 672x384 (1.75); it is covered by 683x384 and loses 11 columns.
        ((1920, 1080), 32, (672, 384), (683, 384), (5, 0)),
        ((1080, 1920), 32, (384, 672), (384, 683), (0, 5)),
    ],
)
def test_placements_worked_out_by_hand(
    size: tuple[int, int], step: int, bucket: tuple[int, int], resized: tuple[int, int], crop: tuple[int, int]
) -> None:
    found = place(size, settings(bucket_reso_steps=step))
    assert (found.bucket, found.resized, found.crop) == (bucket, resized, crop)


def without_upscaling(size: tuple[int, int], area: int, step: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(bucket, resized) word by word, for pictures that are at least one step wide and high."""
    width, height = size
    if width * height <= area:
        return (width - width % step, height - height % step), size
    ratio = width / height
    ideal = math.sqrt(area * ratio), area / math.sqrt(area * ratio)

    def whole(value: float) -> int:
        rounded = int(value + 0.5)
        return rounded - rounded % step

    across, down = whole(ideal[0]), whole(ideal[1])
    by_width = abs(across / whole(across / ratio) - ratio)
    by_height = abs(whole(down * ratio) / down - ratio)
    if by_width < by_height:
        resized = across, int(across / ratio + 0.5)
    else:
        resized = int(down * ratio + 0.5), down
    return (resized[0] - resized[0] % step, resized[1] - resized[1] % step), resized


@example((1855, 2785), 64)  # where rounding before or after cutting to steps makes a difference
@example((671, 2518), 64)
@example((678, 1629), 64)
@given(st.tuples(st.integers(300, 5000), st.integers(300, 5000)).filter(lambda size: max(size) <= 4 * min(size)), STEPS)
def test_no_upscale_follows_the_rule(size: tuple[int, int], step: int) -> None:
    found = place(size, settings(bucket_no_upscale=True, bucket_reso_steps=step))
    assert (found.bucket, found.resized) == without_upscaling(size, 512 * 512, step)


@given(SIZES, RESOLUTIONS, STEPS, st.booleans(), st.booleans())
def test_every_placement_can_be_carried_out(
    size: tuple[int, int], reso: tuple[int, int], step: int, enable: bool, no_upscale: bool
) -> None:
    s = settings(
        max_resolution="{},{}".format(*reso), enable_bucket=enable, bucket_no_upscale=no_upscale, bucket_reso_steps=step
    )
    found = place(size, s)
    for side in (0, 1):
        assert found.bucket[side] > 0
        assert found.bucket[side] % (step if enable else 8) == 0
        assert 0 <= found.crop[side] <= found.resized[side] - found.bucket[side]
        left, right = found.crop[side], found.resized[side] - found.bucket[side] - found.crop[side]
        assert 0 <= right - left <= 1, "what stands over is cut off evenly"
    if not enable:
        assert found.bucket == (reso[0] // 8 * 8, reso[1] // 8 * 8)
    if enable and no_upscale and min(size) >= step:
        assert all(after <= max(before, step) for after, before in zip(found.resized, size, strict=True))
    # Shape is kept: both sides are scaled alike, but for rounding to whole pixels (or to a bucket when very thin).
    if min(found.resized) >= 32 and not no_upscale:
        scale = found.resized[0] / size[0], found.resized[1] / size[1]
        assert abs(scale[0] - scale[1]) <= 1 / min(size) + 1e-9


def test_small_pictures_keep_their_size_and_tiny_ones_grow_to_one_step() -> None:
    s = settings(bucket_no_upscale=True)
    assert place((200, 130), s).bucket == (192, 128)
    assert place((200, 130), s).resized == (200, 130)
    assert place((30, 20), s).bucket == (64, 64)
    assert place((30, 20), s).resized == (96, 64)


def test_counts_and_batches_of_a_data_set() -> None:
    s = settings(train_batch_size=4, max_resolution="512,512")
    dataset = dataset_of([((512, 512), 3), ((512, 512), 2), ((640, 384), 1)])
    counts = pool_counts(dataset, s)
    assert bucket_counts(counts) == {(512, 512): 5, (640, 384): 1}
    assert batch_count(counts) == 3
    assert batch_count({}) == 0


def test_datasets_share_buckets_but_no_batches() -> None:
    pools = {Pool(0, (64, 64), 2): 3, Pool(1, (64, 64), 3): 4, Pool(1, (64, 96), 3): 1}
    assert bucket_counts(pools) == {(64, 64): 7, (64, 96): 1}
    assert batch_count(pools) == 2 + 2 + 1
    entries = [pool for pool, count in pools.items() for _ in range(count)]
    batches = batches_in_order(entries, seed=1, epoch=1)
    assert all(len({entries[place] for place in batch}) == 1 for batch in batches)
    assert sorted(map(len, batches)) == [1, 1, 1, 2, 3]


BUCKETS = st.lists(st.sampled_from([(512, 512), (256, 832), (640, 384)]), max_size=60)


@given(BUCKETS, st.integers(1, 7), st.integers(0, 2**32 - 1), st.integers(1, 1000))
def test_an_epoch_shows_everything_once_in_batches_of_one_bucket(
    buckets: list[tuple[int, int]], batch_size: int, seed: int, epoch: int
) -> None:
    pools = [Pool(0, bucket, batch_size) for bucket in buckets]
    batches = batches_in_order(pools, seed, epoch)
    assert sorted(place for batch in batches for place in batch) == list(range(len(buckets)))
    assert all(len({buckets[place] for place in batch}) == 1 for batch in batches)
    assert len(batches) == batch_count(Counter(pools))
    short = Counter(buckets[batch[0]] for batch in batches if len(batch) < batch_size)
    assert all(count == 1 for count in short.values()), "only the last batch of a bucket may be short"
    assert batches == batches_in_order(pools, seed, epoch)


def test_epochs_and_seeds_differ() -> None:
    pools = [Pool(0, (512, 512), 2)] * 30
    orders = [batches_in_order(pools, seed, epoch) for seed in (0, 1) for epoch in (1, 2, 3)]
    assert len({str(order) for order in orders}) == 6


def test_order_is_not_the_same_batches_shuffled() -> None:
    """Who is together changes as well as when."""
    pools = [Pool(0, (512, 512), 3)] * 30
    first, second = ({frozenset(batch) for batch in batches_in_order(pools, seed=5, epoch=epoch)} for epoch in (1, 2))
    assert len(first & second) < 5


def test_buckets_take_turns() -> None:
    """An epoch does not show one bucket after the other: with 20 batches of each, about half of the neighbours differ."""
    pools = [Pool(0, (512, 512), 2)] * 40 + [Pool(0, (384, 640), 2)] * 40
    shown = [batch[0] < 40 for batch in batches_in_order(pools, seed=5, epoch=1)]
    assert 10 < sum(one != other for one, other in itertools.pairwise(shown)) < 30


@pytest.mark.parametrize(
    ("values", "key", "fix"),
    [
        ({"max_resolution": "128,128"}, "min_bucket_reso", 64),
        ({"max_resolution": "2048,1024", "max_bucket_reso": 1024}, "max_bucket_reso", 4096),
        ({"bucket_reso_steps": 20}, "bucket_reso_steps", 16),
        ({"max_resolution": "100,300", "bucket_reso_steps": 128, "min_bucket_reso": 64}, "bucket_reso_steps", 64),
        ({"max_resolution": "500,300", "enable_bucket": False}, "max_resolution", "496,296"),
    ],
)
def test_sizes_that_do_not_go_together_are_named_with_a_cure(
    values: dict[str, object], key: str, fix: int | str
) -> None:
    (problem,) = bucket_problems(settings(**values))
    assert (problem.key, problem.fix) == (key, {key: fix})
    assert not list(bucket_problems(settings(**{**values, **(problem.fix or {})})))


def test_defaults_have_no_bucket_problems() -> None:
    assert not list(bucket_problems(Settings()))
