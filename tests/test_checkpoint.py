"""States: whole or not there, and refused with a sentence when they do not fit."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import trainings
from tests.tiny import tiny_sd15
from tests.trainings import make_pictures
from trainer import checkpoint
from trainer.checkpoint import EPOCHS, STEPS, Progress, Shelf, file_name, of_epoch, of_step, open_state
from trainer.report import Failure, Stopped
from trainer.settings import Settings


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, pictures, and the state of a short run on them."""
    folder = tmp_path_factory.mktemp("base")
    model, data = tiny_sd15(folder / "model"), make_pictures(folder / "data")
    s = trainings.settings(model, data, folder / "out", max_train_steps=2, save_state=True)
    trainings.run(s, folder / "run")
    return {"model": model, "data": data, "state": folder / "out" / "small-state"}


def resume(base: dict[str, Path], folder: Path, **values: Any) -> None:
    options = {"max_train_steps": 3, "resume": str(base["state"]), **values}
    s = trainings.settings(base["model"], base["data"], folder / "out", **options)
    trainings.run(s, folder / "run")


def test_names_are_those_of_the_reference() -> None:
    s = Settings(output_name="my-cat", save_model_as="safetensors")
    assert file_name(s) == "my-cat.safetensors"
    assert file_name(s, of_epoch(3)) == "my-cat-000003.safetensors"
    assert file_name(s.changed(save_model_as="ckpt"), of_step(200)) == "my-cat-step00000200.ckpt"


def test_progress_counts_batches_steps_and_epochs() -> None:
    progress = Progress()
    progress.advance(4)
    progress.advance(2)
    assert (progress.step, progress.epoch, progress.batch, progress.current_epoch) == (2, 0, 6, 1)
    progress.end_epoch()
    assert (progress.step, progress.epoch, progress.batch, progress.current_epoch) == (2, 1, 0, 2)


def test_a_state_is_three_files_and_holds_no_code(base: dict[str, Path]) -> None:
    files = sorted(path.name for path in base["state"].iterdir())
    assert files == ["model.safetensors", "optimizer.bin", "train_state.json"]
    torch.load(base["state"] / "optimizer.bin", weights_only=True)
    about = json.loads((base["state"] / "train_state.json").read_text(encoding="utf-8"))
    assert (about["current_step"], about["current_epoch"], about["batch"]) == (2, 0, 2)


@pytest.mark.parametrize(
    ("values", "said", "advice"),
    [
        ({"network_dim": 8}, r"Network Rank \(Dimension\) 4; it is 8 here", "to 4"),
        ({"network_alpha": 1}, "Network Alpha 4", "to 4"),
        ({"LoRA_type": "Kohya LoCon"}, "LoRA type Standard", "to Standard"),
        ({"optimizer": "Prodigy", "learning_rate": 1}, "optimizer AdamW; Prodigy cannot", "to AdamW"),
        ({"text_encoder_lr": 0}, "rate 0 here: textencoder", "rate again"),
        ({"max_train_steps": 2}, "after step 2, and this run has 2 steps", "Raise Epoch"),
    ],
)
def test_a_state_of_something_else_is_refused(
    values: dict[str, Any], said: str, advice: str, base: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(Failure, match=said) as failed:
        resume(base, tmp_path, **values)
    assert failed.value.key == "resume"
    assert advice in failed.value.advice
    assert not (tmp_path / "out").exists()


def test_a_state_of_another_model_is_refused(base: dict[str, Path], tmp_path: Path) -> None:
    other = tiny_sd15(tmp_path / "model", seed=1)
    with pytest.raises(Failure, match="trained on another model"):
        resume(base, tmp_path, pretrained_model_name_or_path=str(other))


def test_the_same_model_elsewhere_is_the_same_model(base: dict[str, Path], tmp_path: Path) -> None:
    resume(base, tmp_path, pretrained_model_name_or_path=str(tiny_sd15(tmp_path / "moved")))


def broken(base: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the state, to be damaged."""
    import shutil

    return Path(shutil.copytree(base["state"], tmp_path / "small-state"))


def test_what_is_no_state_is_refused(base: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "nowhere", tmp_path / "empty", base["state"] / "model.safetensors"):
        with pytest.raises(Failure, match="not a training state of this program"):
            open_state(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not a training state"),
        ("[]", "not a training state"),
        ('{"current_epoch": 1, "current_step": 5}', "not a training state"),  # another program's
        ('{"program": "lora-loom", "format": 99}', "another version"),
    ],
)
def test_foreign_progress_is_refused(text: str, said: str, base: dict[str, Path], tmp_path: Path) -> None:
    state = broken(base, tmp_path)
    (state / "train_state.json").write_text(text, encoding="utf-8")
    with pytest.raises(Failure, match=said):
        open_state(state)


def test_a_missing_file_is_named(base: dict[str, Path], tmp_path: Path) -> None:
    state = broken(base, tmp_path)
    (state / "optimizer.bin").unlink()
    with pytest.raises(Failure, match=r"optimizer\.bin is missing"):
        open_state(state)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin"])
def test_a_damaged_file_is_refused(name: str, base: dict[str, Path], tmp_path: Path) -> None:
    state = broken(base, tmp_path)
    (state / name).write_bytes((state / name).read_bytes()[:500])
    with pytest.raises(Failure, match="cannot be read"):
        resume(base, tmp_path, resume=str(state))


def test_a_pickle_in_a_state_runs_nothing(base: dict[str, Path], tmp_path: Path) -> None:
    state = broken(base, tmp_path)
    torch.save({"optimizer": Evil(tmp_path / "touched"), "scaler": {}}, state / "optimizer.bin")
    with pytest.raises(Failure, match="cannot be read"):
        resume(base, tmp_path, resume=str(state))
    assert not (tmp_path / "touched").exists()


class Evil:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_other_pictures_begin_a_new_epoch_and_say_so(base: dict[str, Path], tmp_path: Path) -> None:
    from trainer import events

    data = make_pictures(tmp_path / "data", count=3)
    resume({**base, "data": data}, tmp_path)
    found = events.read(tmp_path / "run" / "events.jsonl")[0]
    note = next(event for event in found if isinstance(event, events.Note) and event.level == "warning")
    assert "8 batches when the state was saved and has 6 now" in note.text


def test_rates_of_a_resumed_run_are_those_of_the_settings(base: dict[str, Path], tmp_path: Path) -> None:
    from trainer import events

    resume(base, tmp_path, learning_rate=5e-4, lr_scheduler="constant", optimizer_args="weight_decay=0.5")
    found = events.read(tmp_path / "run" / "events.jsonl")[0]
    assert [event.lr["unet"] for event in found if isinstance(event, events.Step)] == [5e-4]


def test_a_disk_that_is_full_leaves_the_old_state(
    base: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state that cannot be written does not take the place of one that is there, and leaves nothing lying about."""

    def fail(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = tmp_path / "run"
    s = trainings.settings(base["model"], base["data"], tmp_path / "out", max_train_steps=2)
    monkeypatch.setattr(checkpoint, "PAUSE", 0.0)
    monkeypatch.setattr(torch, "save", fail)
    found = trainings.run(s, folder)
    from trainer import events

    notes = [event.text for event in found if isinstance(event, events.Note)]
    assert any("disk is full" in text and "emergencies" in text for text in notes)
    assert not list((folder / "state").iterdir())
    assert (tmp_path / "out" / "small.safetensors").is_file()


@pytest.mark.parametrize("moment", ["model.safetensors", "optimizer.bin", "train_state.json"])
def test_a_disk_that_fills_up_within_a_state_leaves_no_half_of_it(
    moment: str, base: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of its files does not fit; the one before stays, and the sentence is the disk's."""
    from trainer import events

    real = Path.open

    def full(path: Path, mode: str = "r", *others: Any, **more: Any) -> Any:
        file = real(path, mode, *others, **more)
        cramped = "w" in mode and moment in path.name and "step00000001" not in str(path)
        return Cramped(file) if cramped else file

    monkeypatch.setattr(checkpoint, "PAUSE", 0.0)
    monkeypatch.setattr(Path, "open", full)
    s = trainings.settings(base["model"], base["data"], tmp_path / "out", max_train_steps=3)

    def die(event: events.Event) -> None:
        if isinstance(event, events.Step) and event.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainings.run(s, tmp_path / "run", listen=die)
    (state,) = (tmp_path / "run" / "state").iterdir()
    assert state.name == "small-step00000001-state"
    found = events.read(tmp_path / "run" / "events.jsonl")[0]
    (note,) = [event.text for event in found if isinstance(event, events.Note) and "emergencies" in event.text]
    assert note.endswith("the disk is full. The state for emergencies was not saved.")


class Cramped:
    """A file on a disk with room for a hundred bytes."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "Cramped":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, data: Any) -> int:
        self.file.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_files_can_be_ckpt_and_half(base: dict[str, Path], tmp_path: Path) -> None:
    s = trainings.settings(base["model"], base["data"], tmp_path / "out", max_train_steps=1)
    trainings.run(s.changed(save_model_as="ckpt", save_precision="fp16"), tmp_path / "run")
    loaded = torch.load(tmp_path / "out" / "small.ckpt", weights_only=True)
    assert {value.dtype for value in loaded.values()} == {torch.float16}
    assert any(key.endswith(".lora_up.weight") for key in loaded)


def test_a_saved_file_tells_the_story_of_its_run(base: dict[str, Path]) -> None:
    from trainer.formats import read_metadata

    about = read_metadata(base["state"].parent / "small.safetensors")
    assert (about["ss_steps"], about["ss_max_train_steps"], about["ss_seed"]) == ("2", "2", "42")
    assert about["ss_optimizer"] == "torch.optim.adamw.AdamW"


# Keeping the last ones.


def of_the_reference(every: int, last: int, by_steps: bool, saves: list[int]) -> list[int]:
    """The numbers of the files that are left when Kohya's scripts have saved at `saves`: one is removed at a time."""
    left: list[int] = []
    for now in saves:
        left.append(now)
        gone = now - every * last
        if by_steps:
            gone = now - last - 1
            gone -= gone % every
        if last and gone in left:
            left.remove(gone)
    return left


@pytest.mark.parametrize("every", [1, 2, 5, 10])
@pytest.mark.parametrize("last", [0, 1, 2, 3, 7, 10, 30, 1000])
@pytest.mark.parametrize("rhythm", [EPOCHS, STEPS])
def test_files_left_are_those_of_the_reference(rhythm: Any, last: int, every: int, tmp_path: Path) -> None:
    s = Settings(**{rhythm.key: last, f"save_every_n_{rhythm.word}s": every})
    shelf, saves = Shelf(), list(range(every, every * 12 + 1, every))
    for place, now in enumerate(saves):
        path = tmp_path / f"{now}"
        path.write_text("whole")
        shelf.put(path, rhythm, now, "weights")
        assert shelf.clear(s) == []
        assert sorted(int(file.name) for file in tmp_path.iterdir()) == of_the_reference(
            every, last, rhythm is STEPS, saves[: place + 1]
        )


@pytest.mark.parametrize(
    ("values", "weights", "states"),
    [
        ({}, "1 2 3 4", "1 2 3 4"),
        ({"save_last_n_epochs": 2}, "3 4", "3 4"),
        ({"save_last_n_epochs": 1, "save_last_n_epochs_state": 3}, "4", "2 3 4"),
        ({"save_last_n_epochs_state": 1}, "1 2 3 4", "4"),
        ({"save_last_n_epochs": 9}, "1 2 3 4", "1 2 3 4"),
        ({"save_last_n_steps": 1}, "1 2 3 4", "1 2 3 4"),
    ],
)
def test_states_are_kept_for_themselves_or_with_the_files(
    values: dict[str, int], weights: str, states: str, tmp_path: Path
) -> None:
    s, shelf = Settings(save_every_n_epochs=1, **values), Shelf()
    for epoch in range(1, 5):
        file, folder = tmp_path / f"{epoch}.safetensors", tmp_path / f"{epoch}-state"
        file.write_text("whole")
        folder.mkdir()
        (folder / "optimizer.bin").write_text("whole")
        shelf.put(file, EPOCHS, epoch, "weights")
        shelf.put(folder, EPOCHS, epoch, "state")
        assert shelf.clear(s) == []
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{number}.safetensors" for number in weights.split()), *(f"{number}-state" for number in states.split()),
    }  # fmt: skip


def test_what_cannot_be_removed_is_said_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s, shelf = Settings(save_every_n_epochs=1, save_last_n_epochs=1), Shelf()
    for epoch in (1, 2):
        (tmp_path / str(epoch)).write_text("whole")
        shelf.put(tmp_path / str(epoch), EPOCHS, epoch, "weights")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        stuck = shelf.clear(s)
        assert [(path.name, rhythm.key, str(error)) for path, rhythm, error in stuck] == [
            ("1", "save_last_n_epochs", "in use")
        ]
    assert shelf.clear(s, in_use=lambda path: path.name == "1") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
    (tmp_path / "3").write_text("whole")
    shelf.put(tmp_path / "3", EPOCHS, 3, "weights")
    assert shelf.clear(s) == []
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def refuse(*args: Any, **options: Any) -> None:
    raise PermissionError("in use")


def test_what_somebody_asked_for_stays(tmp_path: Path) -> None:
    s, shelf = Settings(save_every_n_steps=1, save_last_n_steps=1), Shelf()
    for step in (1, 2, 3, 4):
        (tmp_path / str(step)).write_text("whole")
        shelf.put(tmp_path / str(step), STEPS, step, "weights")
    shelf.take(tmp_path / "2")
    shelf.clear(s)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3", "4"]


def test_a_run_keeps_its_last_files_and_touches_no_other(base: dict[str, Path], tmp_path: Path) -> None:
    """Two steps an epoch, six in all."""
    out = tmp_path / "out"
    out.mkdir()
    earlier = ["other-000001.safetensors", "small-000000.safetensors", "small-step00000000.safetensors"]
    for name in earlier:
        (out / name).write_bytes(b"of yesterday")
    s = trainings.settings(
        base["model"], base["data"], out, epoch=3, train_batch_size=4, save_every_n_epochs=1, save_every_n_steps=1,
        save_last_n_epochs=1, save_last_n_steps=2, save_last_n_steps_state=1, save_state=True,
    )  # fmt: skip
    trainings.run(s, tmp_path / "run")
    weights = ["000002", "step00000003", "step00000004", "step00000005"]
    states = ["small-000002-state", "small-step00000004-state", "small-step00000005-state", "small-state"]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*earlier, "small.safetensors", *(f"small-{name}.safetensors" for name in weights), *states]
    )


def test_as_much_is_kept_by_a_run_that_was_stopped_as_in_one_go(base: dict[str, Path], tmp_path: Path) -> None:
    def names(folder: str) -> list[str]:
        return sorted(path.name for path in (tmp_path / folder).iterdir() if "step00000003" not in path.name)

    options = {"epoch": 3, "train_batch_size": 4, "save_every_n_steps": 1, "save_last_n_steps": 1, "save_state": True}
    options |= {"save_every_n_epochs": 1, "save_last_n_epochs": 1}
    for folder in ("whole", "parts"):
        s = trainings.settings(base["model"], base["data"], tmp_path / folder, **options)
        if folder == "whole":
            trainings.run(s, tmp_path / "run")
            continue
        with pytest.raises(Stopped):
            trainings.run(s, tmp_path / "first", at={3: "stop"})
        asked = tmp_path / folder / "small-step00000003-state"
        strange = tmp_path / folder / "other-step00000002.safetensors"
        strange.write_bytes(b"of somebody else")
        trainings.run(s.changed(resume=str(asked)), tmp_path / "second")
        strange.unlink()
        assert asked.is_dir(), "what was saved by request stays"
    assert names("parts") == names("whole")
    moved = s.changed(resume=str(tmp_path / "whole" / "small-step00000004-state"), output_dir=str(tmp_path / "moved"))
    before = names("whole")
    trainings.run(moved, tmp_path / "third")
    assert names("whole") == before, "another folder is not tidied"


def test_a_state_at_the_end_alone(base: dict[str, Path], tmp_path: Path) -> None:
    s = trainings.settings(base["model"], base["data"], tmp_path / "out", max_train_steps=2, save_every_n_steps=1)
    trainings.run(s.changed(save_state_on_train_end=True), tmp_path / "run")
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [
        "small-state", "small-step00000001.safetensors", "small.safetensors",
    ]  # fmt: skip
    assert open_state(tmp_path / "out" / "small-state").step == 2


def test_a_disk_that_fills_up_loses_no_finished_file(
    base: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing older is removed for a file that could not be written anywhere."""
    from trainer import formats

    real = formats.write

    def write(path: Path, data: bytes) -> Path:
        if "step00000003" in path.name:
            raise Failure(f"The disk is full: {path}", key="output_dir") from OSError(errno.ENOSPC, "full")
        return real(path, data)

    monkeypatch.setattr(formats, "write", write)
    s = trainings.settings(base["model"], base["data"], tmp_path / "out", max_train_steps=5, save_every_n_steps=1)
    with pytest.raises(Failure, match="disk is full"):
        trainings.run(s.changed(save_last_n_steps=1), tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "small-step00000001.safetensors", "small-step00000002.safetensors",
    ]  # fmt: skip
    for path in (tmp_path / "out").iterdir():
        assert trainings.tensors(path)
