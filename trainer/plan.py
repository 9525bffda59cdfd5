"""What follows from the settings and the pictures: steps, epochs, warm-up, and when something is saved or sampled.

Pure: numbers in, numbers out. The page, the command line and the training loop all use the same plan.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from trainer.settings import Settings

if TYPE_CHECKING:
    from trainer.data.buckets import Pool
    from trainer.data.dataset import Dataset


@dataclass(frozen=True)
class Plan:
    """The run in numbers.

    `images` and `reg_images` count files; `repeated` and `reg_repeated` count how often pictures are shown in an epoch.
    A step is one update of the weights: `accumulation` batches in each of `processes`, fewer at the end of an epoch.
    `batch` is the size of the largest batch.
    """

    images: int
    repeated: int
    reg_images: int
    reg_repeated: int
    batch: int
    accumulation: int
    processes: int
    batches_per_epoch: int
    steps_per_epoch: int
    epochs: int
    steps: int
    warmup_steps: int
    stop_text_encoder_at: int | None
    buckets: Mapping[str, int]
    sentence: str

    def as_json(self) -> dict[str, Any]:
        """The plan as an object of plain values."""
        return asdict(self)


def make_plan(s: Settings, dataset: "Dataset") -> Plan:
    """The plan of a run of settings `s` over `dataset`."""
    from trainer.data.buckets import batch_count, bucket_counts, pool_counts

    counts = pool_counts(dataset, s)
    batches = batch_count(counts)
    per_epoch = math.ceil(batches / batches_a_step(s))
    epochs, steps = duration(s, per_epoch)
    repeated = sum(picture.repeats for picture in dataset.pictures)
    return Plan(
        images=len(dataset.pictures),
        repeated=repeated,
        reg_images=len(dataset.reg_pictures),
        reg_repeated=sum(counts.values()) - repeated,
        batch=max((pool.batch_size for pool in counts), default=s.train_batch_size),
        accumulation=s.gradient_accumulation_steps,
        processes=s.num_processes,
        batches_per_epoch=batches,
        steps_per_epoch=per_epoch,
        epochs=epochs,
        steps=steps,
        warmup_steps=warmup(s, steps),
        stop_text_encoder_at=stop_text_encoder_at(s, steps),
        buckets={f"{width}x{height}": count for (width, height), count in bucket_counts(counts).items()},
        sentence=sentence(s, dataset, _by_size(counts), per_epoch, epochs, steps),
    )


def batches_a_step(s: Settings) -> int:
    """How many batches a step is made of, those of all processes together; the last of an epoch may have fewer."""
    return s.gradient_accumulation_steps * s.num_processes


def duration(s: Settings, steps_per_epoch: int) -> tuple[int, int]:
    """(epochs, steps): Max train epoch wins over Max train steps, which wins over Epoch."""
    if not steps_per_epoch:
        return 0, 0
    if s.max_train_epochs:
        return s.max_train_epochs, s.max_train_epochs * steps_per_epoch
    if s.max_train_steps:
        return math.ceil(s.max_train_steps / steps_per_epoch), s.max_train_steps
    return s.epoch, s.epoch * steps_per_epoch


def warmup(s: Settings, steps: int) -> int:
    """Steps of rising learning rate: LR warmup steps when given, else the percentage of the run."""
    return min(s.lr_warmup_steps or int(steps * s.lr_warmup / 100), steps)


def stop_text_encoder_at(s: Settings, steps: int) -> int | None:
    """The number of steps after which the text encoder rests; 0 = it never trains, None = it never stops."""
    if s.stop_text_encoder_training < 0:
        return 0
    return math.ceil(steps * s.stop_text_encoder_training / 100) or None


def due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps (or epochs) happens at this one; 0 = never."""
    return every > 0 and step > 0 and step % every == 0


def _by_size(counts: "Mapping[Pool, int]") -> dict[int, int]:
    """How many pictures an epoch shows in batches of each size."""
    shown: dict[int, int] = {}
    for pool, count in counts.items():
        shown[pool.batch_size] = shown.get(pool.batch_size, 0) + count
    return dict(sorted(shown.items()))


def sentence(
    s: Settings, dataset: "Dataset", by_size: Mapping[int, int], per_epoch: int, epochs: int, steps: int
) -> str:
    """The calculation as a person would write it: "12 images × 10 repeats × 4 epochs / batch 2 = 240 steps".

    `by_size` tells how many pictures an epoch shows in batches of each size.
    """
    parts, shown = [_images(dataset)], sum(by_size.values())
    repeated = sum(picture.repeats for picture in dataset.pictures)
    if shown > repeated:
        parts.append(f"+ {shown - repeated} regularisation images" if shown != 2 * repeated else "× 2 (regularisation)")
    given = s.max_train_steps and not s.max_train_epochs
    if given and per_epoch:
        among = f" for {s.num_processes} processes" if s.num_processes > 1 else ""
        return (
            f"{steps} steps, as set: {' '.join(parts)} are {per_epoch} steps an epoch{among}, "
            f"so {_times(steps / per_epoch)}"
        )
    parts.append(f"× {_count(epochs, 'epoch')}")
    if len(by_size) > 1:
        parts.append(f"/ batches of {' and '.join(map(str, by_size))}")
    elif 1 not in by_size:
        parts.append(f"/ batch {min(by_size, default=s.train_batch_size)}")
    if s.gradient_accumulation_steps > 1:
        parts.append(f"/ {s.gradient_accumulation_steps} accumulated")
    if s.num_processes > 1:
        parts.append(f"/ {s.num_processes} processes")
    exact = sum(count / size for size, count in by_size.items()) * epochs / batches_a_step(s)
    extra = f" ({steps - math.ceil(exact)} more for batches that are not full)" if steps > math.ceil(exact) else ""
    return f"{' '.join(parts)} = {_count(steps, 'step')}{extra}"


def _times(epochs: float) -> str:
    return f"{epochs:,.0f} epochs" if epochs >= 100 else f"{epochs:.3g} epoch{'s' if epochs != 1 else ''}"


def _images(dataset: "Dataset") -> str:
    groups = [
        (len(subset.pictures), subset.repeats) for subset in dataset.subsets if not subset.is_reg and subset.pictures
    ]
    if len({repeats for _, repeats in groups}) <= 1:
        return (
            f"{_count(sum(count for count, _ in groups), 'image')} × {_count(groups[0][1] if groups else 1, 'repeat')}"
        )
    return f"({' + '.join(f'{count} × {repeats}' for count, repeats in groups)}) images × repeats"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def summary(s: Settings) -> dict[str, Any]:
    """The plan of settings whose folders may not be there yet, as an object of plain values."""
    from trainer.data.dataset import scan
    from trainer.data.examples import examples

    dataset = scan(s)
    plan = make_plan(s, dataset)
    skipped = [{"path": str(item.path), "why": item.why} for item in dataset.skipped]
    shown = examples(s, dataset, plan.steps)
    return {**plan.as_json(), "skipped": skipped, "notes": list(dataset.notes), "captions": shown}
