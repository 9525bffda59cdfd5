"""Curves, pictures and settings in TensorBoard and Weights & Biases; no tracker stops a run, no key gets into a file."""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from tests import trainings
from tests.tiny import tiny_sd15
from tests.trainings import make_pictures
from trainer import trackers
from trainer.curves import Curves, log_folder
from trainer.events import Note, Sample, Step
from trainer.report import Reporter
from trainer.settings import Settings

KEY = "0123456789abcdef0123456789abcdef01234567"


class FakeWandb(ModuleType):
    """Takes down what is asked of it, as the package of that name would be asked."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.began: list[dict[str, Any]] = []
        self.logged: list[dict[str, Any]] = []
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.metrics: list[tuple[str, str]] = []
        self.finished, self.fails_at = 0, ""
        self.Image = lambda path, caption="": SimpleNamespace(path=path, caption=caption)

    def _may_fail(self, deed: str) -> None:
        if deed == self.fails_at:
            raise RuntimeError(f"{deed} with {KEY} was refused\nby the server")

    def init(self, **options: Any) -> Any:
        self._may_fail("init")
        self.began.append(options)
        return SimpleNamespace(
            log=self.log, finish=self.finish, config=self.config, summary=self.summary,
            define_metric=lambda name, step_metric="": self.metrics.append((name, step_metric)),
        )  # fmt: skip

    def log(self, values: dict[str, Any]) -> None:
        self._may_fail("log")
        self.logged.append(values)

    def finish(self) -> None:
        self._may_fail("finish")
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    fake.__spec__ = SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    return fake


@pytest.fixture
def report(tmp_path: Path) -> Iterator[Reporter]:
    with Reporter(tmp_path / "run", "train", "cat") as reporter:
        yield reporter


@pytest.fixture
def said(report: Reporter) -> list[Note]:
    notes: list[Note] = []
    report.also(lambda event: notes.append(event) if isinstance(event, Note) else None)
    return notes


def write(s: Settings, report: Reporter) -> None:
    """Two steps, a sample and an epoch."""
    Image.new("RGB", (8, 8), "red").save(report.samples / "a.png")
    with Curves(s, report, {"plan": "2 steps"}) as curves:
        for step in (1, 2):
            curves.step(Step(step=step, epoch=1, loss=0.5 / step, average=0.5, lr={"unet": 1e-4}))
        report(Sample(step=2, epoch=1, index=0, prompt="a cat", seed=1, path="samples/a.png"))
        curves.epoch(1, 0.4)


def board(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return read


@pytest.mark.parametrize("log_with", ["", "tensorboard", "wandb", "all"])
def test_curves_and_pictures_are_always_in_the_runs_folder(log_with: str, report: Reporter, wandb: FakeWandb) -> None:
    write(Settings(log_with=log_with), report)
    found = board(report.folder / "logs")
    assert {*found.Tags()["scalars"]} == {"loss/current", "loss/average", "loss/epoch", "lr/unet"}
    assert [(event.step, event.value) for event in found.Scalars("loss/current")] == [(1, 0.5), (2, 0.25)]
    assert found.Tags()["images"] == ["sample_0"]
    assert len(wandb.began) == (log_with in ("wandb", "all"))


def test_wandb_gets_the_same(report: Reporter, wandb: FakeWandb) -> None:
    write(Settings(log_with="wandb", output_name="cat"), report)
    (options,) = wandb.began
    assert (options["project"], options["name"]) == ("network_train", "cat")
    assert Path(options["dir"]).is_relative_to(report.folder)
    assert wandb.summary == {"plan": "2 steps"}
    assert ("*", "step") in wandb.metrics
    assert wandb.logged[0] == {"loss/current": 0.5, "loss/average": 0.5, "lr/unet": 1e-4, "step": 1}
    assert wandb.logged[2]["sample_0"].caption == "a cat"
    assert wandb.logged[3] == {"loss/epoch": 0.4, "step": 1}
    assert wandb.finished == 1


def test_names_and_options_of_ones_own(report: Reporter, wandb: FakeWandb, tmp_path: Path) -> None:
    config = tmp_path / "trackers.toml"
    config.write_text('[wandb]\nentity = "team"\ntags = ["a", "b"]\n[tensorboard]\nflush_secs = 5\n', encoding="utf-8")
    write(
        Settings(
            log_with="all", wandb_run_name="first", log_tracker_name="cats", log_tracker_config=str(config),
            logging_dir=str(tmp_path / "logs"), log_prefix="xl-",
        ),
        report,
    )  # fmt: skip
    (options,) = wandb.began
    assert (options["project"], options["name"], options["entity"], options["tags"]) == (
        "cats",
        "first",
        "team",
        ["a", "b"],
    )
    folder = tmp_path / "logs" / f"xl-{report.folder.name}" / "cats"
    assert board(folder).Tags()["scalars"]


def test_the_settings_are_logged_without_secrets(
    report: Reporter, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    s = Settings(log_with="all", log_config=True, wandb_api_key=KEY, huggingface_token="hf_secret", network_dim=12)
    write(s, report)
    assert wandb.config["network_dim"] == 12
    assert not {"wandb_api_key", "huggingface_token"} & wandb.config.keys()
    logs = b"".join(file.read_bytes() for file in report.folder.rglob("*") if file.is_file())
    assert b"network_dim" in logs
    assert KEY.encode() not in logs
    assert b"hf_secret" not in logs


def test_without_log_config_no_settings_are_logged(report: Reporter, wandb: FakeWandb) -> None:
    write(Settings(log_with="all"), report)
    assert wandb.config == {}


@pytest.mark.parametrize("deed", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_said_once_and_stops_nothing(
    deed: str, report: Reporter, said: list[Note], wandb: FakeWandb
) -> None:
    wandb.fails_at = deed
    write(Settings(log_with="wandb"), report)
    (note,) = said
    text = f"Weights & Biases cannot be written to: {deed} with … was refused. The training goes on without it."
    assert (note.text, note.level, note.key) == (text, "warning", "log_with")
    assert board(report.folder / "logs").Tags()["scalars"]


def test_a_log_folder_that_cannot_be_written_to_stops_nothing(
    report: Reporter, said: list[Note], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    write(Settings(logging_dir=str(tmp_path / "file")), report)
    assert [note.text.partition(":")[0] for note in said] == ["TensorBoard cannot be written to"]


def test_a_tracker_that_hangs_does_not_keep_the_run(
    report: Reporter, said: list[Note], wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "PATIENCE", 0.1)
    released = threading.Event()
    monkeypatch.setattr(wandb, "finish", lambda: released.wait(20))
    write(Settings(log_with="wandb"), report)
    released.set()
    assert [note.text for note in said] == [
        "Weights & Biases did not take everything within 0 seconds; the run ends without it."
    ]


def test_only_one_process_of_several_logs(report: Reporter, wandb: FakeWandb) -> None:
    Curves(Settings(log_with="all"), report, {}, writes=False).close()
    assert not wandb.began
    assert not (report.folder / "logs").exists()


def test_a_run_goes_on_while_its_tracker_is_refused(tmp_path: Path, wandb: FakeWandb) -> None:
    wandb.fails_at = "init"
    model, data = tiny_sd15(tmp_path / "model", tokenizer=False), make_pictures(tmp_path / "data")
    found = trainings.run(
        trainings.settings(model, data, tmp_path / "out", max_train_steps=1, log_with="all", text_encoder_lr=0),
        tmp_path / "run",
    )
    assert [event.key for event in found if isinstance(event, Note) and event.level == "warning"] == ["log_with"]
    assert (tmp_path / "out" / "small.safetensors").is_file()


# What is said before a run.


def sentences(s: Settings, find: Callable[[Settings], Any] = trackers.problems) -> list[str]:
    return [str(item) for item in find(s)]


def test_a_missing_package_and_a_missing_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    s = Settings(log_with="all")
    (found,) = trackers.problems(s)
    assert str(found) == (
        "Logging: Weights & Biases needs the package wandb, which is not installed here; install it with: pip install wandb"
    )
    assert sentences(s.changed(**found.fix or {})) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace())
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert sentences(s)[0].startswith("WANDB API Key: there is no key; set the variable WANDB_API_KEY")
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n", encoding="utf-8")
    (tmp_path / ".netrc").chmod(0o600)
    assert sentences(s) == []
    monkeypatch.setenv("WANDB_BASE_URL", "http://localhost:8080")
    assert sentences(s)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert sentences(s) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[wandb", "trackers.toml is not valid TOML"),
        ("[wanbd]\na = 1", "trackers.toml has wanbd; it holds tables [wandb] and [tensorboard]; did you mean wandb?"),
        ("wandb = 3", "trackers.toml gives wandb a value"),
        ('[wandb]\napi_key = "x"', "trackers.toml holds api_key; take it out"),
    ],
)
def test_a_config_that_cannot_be_used_is_a_sentence(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "trackers.toml"
    file.write_text(text, encoding="utf-8")
    (found,) = sentences(Settings(log_tracker_config=str(file)))
    assert found.startswith(f"Log tracker config: {said}")


def test_other_values_that_do_not_go_together(tmp_path: Path) -> None:
    assert "cannot be read (No such file" in sentences(Settings(log_tracker_config=str(tmp_path / "none")))[0]
    assert sentences(Settings(log_prefix="a/b")) == ['Log prefix: a folder name cannot hold / \\ : * ? " < > |.']
    assert sentences(Settings(log_tracker_name=".."))[0].startswith("Log tracker name:")
    assert sentences(Settings(log_prefix="xl-", wandb_run_name="a"), trackers.remarks) == [
        "WANDB run name: has an effect only with wandb or all in Logging.",
        "Log prefix: has an effect only with Logging directory; without it logs are in the run's own folder.",
    ]


def test_the_folder_of_the_logs(report: Reporter) -> None:
    name = report.folder.name
    assert log_folder(Settings(), report) == report.folder / "logs"
    assert log_folder(Settings(logging_dir="/logs", log_prefix="xl-"), report) == Path(f"/logs/xl-{name}")
