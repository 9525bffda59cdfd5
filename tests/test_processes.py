"""Several processes and machines: what the settings ask for, that two learn what one learns, and every way it can end."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from tests import trainings
from tests.test_supervisor import outcome, running, wait
from tests.tiny import tiny_sd15
from tests.trainings import make_pictures, tensors
from trainer import events, processes, runfolder, supervisor
from trainer.events import Note, Phase, Sample, Saved, Started, Step
from trainer.flags import Launch, launch_of
from trainer.hardware import Hardware
from trainer.launcher import why
from trainer.meeting import Meeting, alike, interface_of
from trainer.plan import make_plan
from trainer.processes import Deserted, Place, here, is_free, take_device
from trainer.report import Failure, Quiet, Reporter, Stopped
from trainer.settings import Settings
from trainer.training import Training
from trainer.world import World, _bundles

LONG = 240
"""Seconds for what takes ten on a machine that has nothing else to do."""


# What the settings say.


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("--num_processes 2", {"num_processes": 2}),
        ("--num-processes=4 --num_machines=2 --machine_rank 1 --main_process_ip 10.0.0.1 --main_process_port 29501",
         {"num_processes": 4, "num_machines": 2, "machine_rank": 1, "main_process_ip": "10.0.0.1", "main_process_port": 29501}),
        ("--multi_gpu --gpu_ids '0,1' --num_processes 2 --quiet --same_network",
         {"multi_gpu": True, "gpu_ids": "0,1", "num_processes": 2}),
        ("--mixed_precision bf16 --rdzv_backend c10d --max_restarts 0", {"mixed_precision": "bf16"}),
        ("   ", {}),
    ],
)  # fmt: skip
def test_extra_arguments_win_over_the_fields(text: str, values: dict[str, Any]) -> None:
    launch = launch_of(Settings(extra_accelerate_launch_args=text))
    assert launch.problems == ()
    assert {name: getattr(launch.settings, name) for name in values} == values


def test_extra_arguments_that_are_no_settings() -> None:
    launch = launch_of(Settings(extra_accelerate_launch_args="--cpu --rdzv_conf timeout=30"))
    assert (launch.on_the_processor, launch.wait) == (True, 30.0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("--num_proceses 2", "did you mean num_processes?"),
        ("--use_deepspeed", "each process holds the whole model"),
        ("--config_file x.yaml", "write what it says into the fields"),
        ("--max_restarts 3", "Resume"),
        ("--num_processes", "needs a value"),
        ("--num_processes two", "must be a number"),
        ("--num_processes 0", "at least 1"),
        ("2", "belongs to no flag"),
        ("--gpu_ids '0,1", "no closing quotation"),
        ("--rdzv_conf timeout=soon", "timeout=SECONDS"),
        ("--rdzv_backend etcd", "torch's own store"),
        ("; rm -rf /", "belongs to no flag"),
    ],
)
def test_extra_arguments_that_cannot_be_followed_are_a_sentence(text: str, sentence: str) -> None:
    (problem,) = launch_of(Settings(extra_accelerate_launch_args=text)).problems
    assert problem.key == "extra_accelerate_launch_args"
    assert sentence in problem.message
    assert problem in list(Training().check(Settings(extra_accelerate_launch_args=text)))


def test_a_problem_stands_where_its_cause_is() -> None:
    found = list(Training().check(Settings(extra_accelerate_launch_args="--machine_rank 3")))
    about = [problem for problem in found if "only one is 0" in problem.message]
    assert [(problem.key, problem.fix) for problem in about] == [("extra_accelerate_launch_args", None)]
    assert about[0].message.startswith("--machine_rank: 3 is not one of 1 machine")


CPU = Hardware()
TWO_CARDS = Hardware("cuda", "NVIDIA A100", {}, 40 << 30, 2)
MAC = Hardware("mps", "arm64 Mac graphics", {}, 16 << 30, 1)
TWO_MACHINES = {"num_processes": 2, "num_machines": 2, "main_process_ip": "192.168.1.20", "main_process_port": 29500}


@pytest.mark.parametrize(
    ("machine", "values", "key", "sentence"),
    [
        (CPU, {"num_processes": 2}, "", ""),
        (CPU, {"gpu_ids": "0"}, "gpu_ids", "no graphics card"),
        (CPU, {"num_processes": 2, "multi_gpu": True}, "multi_gpu", "no graphics card"),
        (CPU, {"gpu_ids": "first"}, "gpu_ids", "no list of numbers"),
        (CPU, {"gpu_ids": "0,0"}, "gpu_ids", "twice"),
        (TWO_CARDS, {"num_processes": 2, "multi_gpu": True, "gpu_ids": "0, 1"}, "", ""),
        (TWO_CARDS, {"num_processes": 2, "gpu_ids": "all"}, "", ""),
        (TWO_CARDS, {"gpu_ids": "1"}, "", ""),
        (TWO_CARDS, {"num_processes": 4, "extra_accelerate_launch_args": "--cpu"}, "", ""),
        (TWO_CARDS, {"gpu_ids": "0,7"}, "gpu_ids", "there is no 7 here: this machine has 2 graphics cards"),
        (TWO_CARDS, {"num_processes": 3}, "num_processes", "this machine has 2 graphics cards, not 3"),
        (TWO_CARDS, {"num_processes": 2, "gpu_ids": "1"}, "num_processes", "GPU IDs names 1, not 2"),
        (TWO_CARDS, {"multi_gpu": True}, "multi_gpu", "two processes or more"),
        (MAC, {"num_processes": 2}, "num_processes", "Macs cannot"),
        (CPU, TWO_MACHINES, "", ""),
        (CPU, {**TWO_MACHINES, "num_processes": 1}, "num_processes", "each of the 2 needs one"),
        (CPU, {**TWO_MACHINES, "num_processes": 3}, "num_processes", "divided evenly"),
        (CPU, {**TWO_MACHINES, "machine_rank": 2}, "machine_rank", "from 0 to 1"),
        (CPU, {"machine_rank": 1}, "machine_rank", "the only one is 0"),
        (CPU, {**TWO_MACHINES, "main_process_ip": ""}, "main_process_ip", "give the address"),
        (CPU, {**TWO_MACHINES, "main_process_port": 0}, "main_process_port", "agree on a port"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(
    machine: Hardware, values: dict[str, Any], key: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "hardware", lambda: machine)
    monkeypatch.setattr(processes, "is_free", lambda port: True)
    found = list(processes.problems(Settings(**values)))
    assert [problem.key for problem in found] == ([key] if key else [])
    assert all(sentence in problem.message for problem in found)
    for problem in found:  # the way out leads out
        if problem.fix is not None:
            assert list(processes.problems(Settings(**values).changed(**problem.fix))) == []


def test_a_port_in_use_is_said() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (problem,) = processes.problems(Settings(num_processes=2, main_process_port=port))
        assert "in use" in problem.message
        assert problem.fix == {"main_process_port": 0}
        with pytest.raises(Failure, match=f"{port} is in use") as failed, quiet() as report:
            Meeting(Launch(Settings(num_processes=2, main_process_port=port)), report)
        assert failed.value.key == "main_process_port"
    assert is_free(port)


def test_what_surprises_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.execution.cores", lambda: 2)
    monkeypatch.setattr(processes, "hardware", lambda: CPU)
    (note,) = processes.remarks(Settings(num_processes=4))
    assert note.fix == {"num_processes": 2}
    assert [note.key for note in processes.remarks(Settings(main_process_port=5, main_process_ip="x"))] == [
        "main_process_port", "main_process_ip",
    ]  # fmt: skip


def test_processes_without_a_batch_are_a_note(tmp_path: Path) -> None:
    s = trainings.settings(Path("demo"), make_pictures(tmp_path, count=3, repeats=1), tmp_path, num_processes=4)
    (note,) = (note for note in processes.remarks(s) if "epoch" in note.message)
    assert note.message == "an epoch has 3 batches, so 1 would have nothing to do."


def test_each_process_sees_one_graphics_card(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(s: Settings, place: Place | None, before: str = "") -> str | None:
        for name in ("CUDA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "HIP_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)
        if before:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
        take_device(s, place)
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    second = Place(3, 4, 1, 2)
    assert seen(Settings(), None) is None
    assert seen(Settings(gpu_ids="1"), None) == "1"
    assert seen(Settings(num_processes=4), second) == "1"
    assert seen(Settings(num_processes=4, gpu_ids="5,3"), second) == "3"
    assert seen(Settings(num_processes=4, gpu_ids="0,1"), second, before="6,7") == "7"  # numbers among those allowed
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    take_device(Settings(), None, on_the_processor=True)
    from trainer.devices import pick_device

    assert pick_device() == torch.device("cpu")
    monkeypatch.delenv("ACCELERATE_USE_CPU")


def test_a_process_knows_its_place_by_the_names_of_torchrun() -> None:
    names = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert here(names) == Place(3, 4, 1, 2)
    assert here({}) is None
    assert here({**names, "RANK": ""}) is None
    assert str(Place(3, 4)) == "process 4 of 4"


# The plan.


@pytest.mark.parametrize(
    ("values", "steps", "words"),
    [
        ({"train_batch_size": 2, "epoch": 4}, 120, "12 images × 10 repeats × 4 epochs / batch 2 / 2 processes = 120 steps"),
        ({"gradient_accumulation_steps": 7, "epoch": 2}, 18, "/ 7 accumulated / 2 processes = 18 steps"),
        ({"max_train_steps": 30}, 30, "are 60 steps an epoch for 2 processes, so 0.5 epochs"),
    ],
)  # fmt: skip
def test_a_step_has_the_batches_of_all_processes(values: dict[str, int], steps: int, words: str) -> None:
    from tests.test_plan import dataset

    plan = make_plan(Settings(num_processes=2, **values), dataset((12, 10)))
    assert (plan.steps, plan.processes, plan.batches_per_epoch) == (steps, 2, 120 // values.get("train_batch_size", 1))
    assert words in plan.sentence
    assert plan.warmup_steps == steps // 10


# One process of several, without the others.


def test_small_gradients_travel_together_and_types_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.world.BUNDLE", 10)
    sizes = [4, 4, 4, 20, 1, 1]
    found = list(_bundles([torch.zeros(size) for size in sizes]))
    assert [[tensor.numel() for tensor in bundle] for bundle in found] == [[4, 4], [4], [20], [1, 1]]
    mixed = [torch.zeros(1), torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.bfloat16)]
    assert [len(bundle) for bundle in _bundles(mixed)] == [1, 2]


@pytest.fixture
def world() -> Iterator[World]:
    """The first of two processes, whose other one says nothing: sums are its own."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    alone = World()
    alone.place = Place(0, 2)
    yield alone
    alone.leave()
    assert not torch.distributed.is_initialized()


def test_what_is_added_up_keeps_its_place_and_shape(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.world.BUNDLE", 100)
    shapes = [(3,), (2, 3, 2, 2), (8, 4, 4, 4), (), (5,)]
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for parameter in parameters[:-1]:
        parameter.grad = torch.randn_like(parameter)
        if parameter.ndim == 4:  # as convolutions in channels_last have them, alone in a message and in company
            parameter.grad = parameter.grad.to(memory_format=torch.channels_last)
    before = [parameter.grad for parameter in parameters]
    values = [None if gradient is None else gradient.clone() for gradient in before]
    loss = torch.tensor(0.5)
    world.add_up(loss, parameters)
    assert loss == 0.5
    assert parameters[-1].grad is None
    for parameter, gradient, value in zip(parameters[:-1], before, values, strict=False):
        assert parameter.grad is gradient  # windows of a long vector stay windows
        assert gradient is not None
        assert value is not None
        assert torch.equal(gradient, value)


def test_what_the_main_process_says_is_heard(world: World) -> None:
    assert world.hear(2**40 + 7) == 2**40 + 7
    assert world.read("Grüße\n") == "Grüße\n"
    assert world.read("") == ""
    assert [world.agree(word) for word in ("stop", "pause", None, "nonsense")] == ["stop", "pause", None, None]
    world.wait()
    assert [list(World(Place(rank, 1)).share(range(5))) for rank in (0,)] == [[0, 1, 2, 3, 4]]
    assert list(world.share(range(5, 12))) == [5, 7, 9, 11]


def test_a_lost_neighbour_is_no_error_of_ours(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*args: Any, **more: Any) -> None:
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1\nframe #0")

    monkeypatch.setattr(torch.distributed, "all_reduce", gone)
    with pytest.raises(Deserted, match="Connection closed"):
        world.add_up(torch.zeros(()), [])
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *args, **more: torch.empty(10**15))
    with pytest.raises(RuntimeError):  # memory that runs out is
        world.add_up(torch.zeros(()), [])


def quiet() -> Reporter:
    return Quiet(Path(os.environ["LOOM_WORKSPACE"]) / "nowhere")


def test_a_quiet_reporter_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Quiet(tmp_path / "run") as report:
        report(Started(job="train", plan={"steps": 3}))
        report.note("a note")
        report.phase("training")
        runfolder.command(tmp_path / "run", "stop")
        assert report.command() is None
    assert not [path for path in (tmp_path / "run").rglob("*.json*") if path.name != "stop.json"]
    assert capsys.readouterr().out == ""


def test_a_lent_run_folder_is_listened_to(tmp_path: Path) -> None:
    heard: list[events.Event] = []
    with Reporter(tmp_path, "train", listen=heard.append) as report:
        report.phase("starting")
        with report.lent():
            with Reporter(tmp_path, "train", process=runfolder.identity(os.getppid())) as other:
                other(Started(job="train", plan={"steps": 3, "epochs": 1}))
                other(Step(step=2, epoch=1, loss=0.5, average=0.5))
                report.stop()
                wait(lambda: other.command() == "stop")
                other(events.Ended(state="stopped", step=2, reason="Stopped after step 2."))
            assert runfolder.read_json(tmp_path / "status.json")["pid"] == os.getppid()
        assert report.status["step"] == 2
        assert report.ended is not None
        report(events.Ended(state="failed"))  # too late
    assert [event.kind for event in heard] == ["phase", "started", "step", "ended"]
    assert [event.kind for event in events.read(tmp_path / "events.jsonl")[0]] == ["phase", "started", "step", "ended"]
    assert runfolder.read_json(tmp_path / "status.json")["state"] == "stopped"


def failure(exitcode: int, when: int, **said: str) -> Any:
    message = {**said, "extraInfo": {"timestamp": when}} if said else "no word"
    return SimpleNamespace(exitcode=exitcode, timestamp=when, error_file_data={"message": message})


@pytest.mark.parametrize(
    ("failures", "sentence"),
    [
        ({0: failure(4, 1), 1: failure(-9, 2)}, "Process 2 of 2 was killed (SIGKILL)"),
        ({0: failure(-15, 2), 1: failure(1, 3, message="No memory.", advice="Use less.")}, "Process 2 of 2: No memory."),
        ({0: failure(4, 1), 1: failure(-15, 2)}, "lost each other"),
        ({0: failure(-11, 1)}, "Process 1 of 2 was killed (SIGSEGV). It crashed inside a native library."),
        ({1: failure(7, 1)}, "Process 2 of 2 ended (exit code 7)."),
    ],
)  # fmt: skip
def test_the_cause_is_told_not_what_followed(failures: dict[int, Any], sentence: str, tmp_path: Path) -> None:
    found = why(failures, Launch(Settings(num_processes=2)), tmp_path)
    assert found is not None
    assert sentence in found.reason
    assert why({}, Launch(Settings()), tmp_path) is None


# Meeting.


def port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def machine(rank: int, at: int, wait: float = 20.0, **values: Any) -> Launch:
    both = {"num_processes": 2, "num_machines": 2, "main_process_ip": "127.0.0.1", "main_process_port": at}
    return Launch(Settings(**{**both, "machine_rank": rank, **values}), wait)


@pytest.mark.parametrize(
    ("rank", "sentence", "advice"),
    [
        (0, "Machine 2 of 2 did not come to 127.0.0.1:{} within 0.5 seconds.", "Machine rank 1"),
        (1, "Nobody answered at 127.0.0.1:{} within 0.5 seconds", "firewall"),
    ],
)
def test_a_rendezvous_that_nobody_answers(rank: int, sentence: str, advice: str) -> None:
    at = port()
    with quiet() as report, pytest.raises(Failure) as failed:
        Meeting(machine(rank, at, wait=0.5), report).gather()
    assert sentence.format(at) in failed.value.reason
    assert advice in failed.value.advice


def test_an_address_of_another_machine() -> None:
    with quiet() as report, pytest.raises(Failure, match="no address of this machine") as failed:
        Meeting(machine(0, port(), main_process_ip="192.0.2.1"), report)
    assert failed.value.key == "main_process_ip"


def test_waiting_can_be_stopped() -> None:
    with quiet() as report:
        meeting = Meeting(machine(0, port()), report)
        report.stop()
        with pytest.raises(Stopped):
            meeting.gather()


def gathered(first: Launch, second: Launch) -> tuple[list[BaseException | None], list[Meeting]]:
    """Two machines meet, each in a thread."""
    found: list[BaseException | None] = [None, None]
    meetings: list[Any] = [None, None]

    def come(place: int, launch: Launch) -> None:
        try:
            with quiet() as report:
                meetings[place] = Meeting(launch, report)
                meetings[place].gather()
        except (Failure, Stopped) as error:
            found[place] = error

    threads = [threading.Thread(target=come, args=each) for each in enumerate((first, second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found, meetings


def test_machines_that_meet_hear_each_other() -> None:
    at = port()
    found, (main, other) = gathered(machine(0, at), machine(1, at, train_data_dir="elsewhere", gpu_ids=""))
    assert found == [None, None]
    main.live()
    other.live()
    other.say("stop")
    wait(lambda: main.heard("stop"))
    assert not other.hear_the_end()
    main.end("stopped", "Stopped after step 3.")
    wait(lambda: main.heard("end"))
    main.end("failed", "too late")
    with pytest.raises(Stopped, match="after step 3"):
        other.hear_the_end()
    other.part()
    main.part()


def test_machines_with_other_settings_do_not_start() -> None:
    at = port()
    found, _ = gathered(machine(0, at, network_dim=8), machine(1, at, network_dim=16))
    for error in found:
        assert "Network Rank (Dimension) is 16 on machine 2 and 8 on the main one." in str(error)
    own = alike(Settings())
    assert "network_dim" in own
    assert not {"train_data_dir", "resume", "machine_rank", "pretrained_model_name_or_path"} & set(own)


def test_the_interface_that_leads_there() -> None:
    name = interface_of("127.0.0.1")
    assert name is not None
    assert "127.0.0.1" in {address.address for address in psutil.net_if_addrs()[name]}


# Training.

thorough = pytest.mark.skipif("LOOM_LARGE_TESTS" not in os.environ, reason="takes long: set LOOM_LARGE_TESTS")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd15(tmp_path_factory.mktemp("model"))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A workspace whose processes are ended with the test."""
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path / "work"))
    yield tmp_path / "work"
    for path in [*(tmp_path / "work").glob("*.json"), *(tmp_path / "work").glob("runs/*/status.json")]:
        process = runfolder.process(runfolder.read_json(path))
        if process is not None and process.pid != os.getpid():
            process.kill()


def start(s: Settings, *commands: str) -> tuple[Path, "subprocess.Popen[str]"]:
    """What the supervisor does with a run; its output goes to the log. The commands wait for it."""
    folder = runfolder.create("train", s.output_name, s)
    for command in commands:
        runfolder.command(folder, command)
    with (folder / "log.txt").open("w") as log:
        words = [sys.executable, "-m", "trainer", "train", str(folder)]
        return folder, subprocess.Popen(words, stdout=log, stderr=log, text=True)


def family(folder: Path) -> dict[int, psutil.Process]:
    """The processes that train, by rank."""
    launcher = runfolder.process(runfolder.read_json(folder / "status.json"))
    assert launcher is not None
    return {int(child.environ()["RANK"]): child for child in launcher.children()}


def ports(*family: psutil.Process) -> set[str]:
    """The addresses that processes listen on."""
    found = (one for process in family for one in process.net_connections("inet"))
    return {one.laddr.ip.removeprefix("::ffff:") for one in found if one.status == psutil.CONN_LISTEN}


def happened(folder: Path) -> list[events.Event]:
    return events.read(folder / "events.jsonl")[0]


def status(folder: Path) -> dict[str, Any]:
    return runfolder.read_json(folder / "status.json")


def log(folder: Path) -> str:
    return (folder / "log.txt").read_text()


def test_two_processes_learn_what_one_learns_with_twice_the_accumulation(
    model: Path, work: Path, tmp_path: Path
) -> None:
    """Bit for bit, with dropouts and varied pictures, across a pause, a stop and a resume in the middle of an epoch."""
    data = make_pictures(tmp_path / "data", count=5, repeats=1)  # five batches: the last step of an epoch has one
    varied = {"network_dropout": 0.2, "module_dropout": 0.1, "shuffle_caption": True, "flip_aug": True}
    s = trainings.settings(model, data, tmp_path / "out", **varied, epoch=2, sample_prompts="a cat --w 64 --h 64 --s 2")
    one = s.changed(output_name="one", gradient_accumulation_steps=2)
    whole = trainings.run(one, tmp_path / "whole")

    folder, child = start(s.changed(output_name="two", num_processes=2), "pause")
    wait(lambda: status(folder).get("phase") == "paused" or child.poll() is not None, LONG)
    assert len(family(folder)) == 2
    runfolder.command(folder, "sample")
    wait(lambda: status(folder).get("samples") == 1, LONG)
    child.send_signal(2)  # as Ctrl-C: only the launcher hears it
    assert child.wait(LONG) == 3, log(folder)
    first = happened(folder)
    assert (status(folder)["state"], status(folder)["step"]) == ("stopped", 1)
    assert [event.kind for event in first if isinstance(event, Sample | events.Ended)] == ["sample", "ended"]
    (state,) = (Path(event.path) for event in first if isinstance(event, Saved) and event.what == "state"
                and Path(event.path).parent == tmp_path / "out")  # fmt: skip

    again, child = start(s.changed(output_name="two", num_processes=2, resume=str(state)))
    assert child.wait(LONG) == 0, log(again)
    second = happened(again)
    assert trainings.losses(first) + trainings.losses(second) == trainings.losses(whole)
    assert_equal(tensors(tmp_path / "out" / "one.safetensors"), tensors(tmp_path / "out" / "two.safetensors"))
    started = next(event for event in second if isinstance(event, Started))
    assert started.plan["sentence"].startswith("5 images × 1 repeat × 2 epochs / 2 processes = 6 steps")
    assert sum(isinstance(event, Saved) and event.what == "weights" for event in second) == 1
    assert not list(again.glob("**/*.part")) + list(again.glob("latents"))
    from trainer.formats import read_metadata

    about = read_metadata(tmp_path / "out" / "two.safetensors")
    names = ("ss_batch_size_per_device", "ss_total_batch_size", "ss_num_batches_per_epoch", "ss_steps")
    assert [about[name] for name in names] == ["1", "2", "3", "6"]

    # With another number of processes the same batches make the same steps.
    trainings.run(one.changed(output_name="alone", resume=str(state)), tmp_path / "alone")
    assert_equal(tensors(tmp_path / "out" / "one.safetensors"), tensors(tmp_path / "out" / "alone.safetensors"))
    other = trainings.run(
        one.changed(output_name="x", gradient_accumulation_steps=1, resume=str(state)), tmp_path / "x"
    )
    assert any("made of 2 batches" in event.text for event in other if isinstance(event, Note))


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_killed_process_ends_the_run_with_a_reason(model: Path, work: Path, tmp_path: Path) -> None:
    """On the page's way, through the supervisor; nothing is left running, and a state to go on from is there."""
    data = make_pictures(tmp_path / "data", count=4, repeats=1)
    s = trainings.settings(model, data, tmp_path / "out", epoch=10_000, num_processes=2, cache_latents_to_disk=True)
    folder = runfolder.create("train", "x", s)
    runfolder.enqueue(folder)
    supervisor.start(1.0, (60, 60, 60))
    wait(lambda: status(folder).get("step"), LONG)
    launcher = running(folder)
    crew = family(folder)
    assert ports(launcher, *crew.values()) == {"127.0.0.1"}  # nobody outside this machine can join in
    crew[1].kill()
    found = outcome(folder)
    assert (found["state"], found["code"]) == ("failed", 1)
    assert found["reason"].startswith("Process 2 of 2 was killed (SIGKILL).")
    assert "Resume" in found["advice"]
    assert sum(isinstance(event, events.Ended) for event in happened(folder)) == 1
    assert runfolder.newest_state(folder) is not None
    wait(lambda: not any(process.is_running() for process in (launcher, *crew.values())))
    assert len(list((work / "cache").rglob("*.npz"))) == 4


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_processes_end_with_their_launcher(model: Path, work: Path, tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "data", count=4, repeats=1)
    s = trainings.settings(model, data, tmp_path / "out", epoch=10_000, num_processes=2)
    folder, child = start(s)
    wait(lambda: status(folder).get("step"), LONG)
    crew = family(folder)
    child.kill()
    child.wait(LONG)
    wait(lambda: not any(process.is_running() for process in crew.values()), LONG)


@pytest.mark.slow
def test_two_machines(model: Path, work: Path, tmp_path: Path) -> None:
    """Each has a run folder; the main one's has the run, the other's a log and how it ended."""
    at = port()
    data = make_pictures(tmp_path / "data", count=5, repeats=1)
    s = trainings.settings(model, data, tmp_path / "out", output_name="one", epoch=2)
    trainings.run(s.changed(gradient_accumulation_steps=2), tmp_path / "whole")
    both = s.changed(num_processes=2, num_machines=2, main_process_ip="127.0.0.1", main_process_port=at)
    elsewhere = str(tmp_path / "other out")
    (other, second) = start(both.changed(output_name="two", machine_rank=1, output_dir=elsewhere))
    (main, first) = start(both.changed(output_name="two"))
    assert (first.wait(LONG), second.wait(LONG)) == (0, 0), log(main) + log(other)
    assert_equal(tensors(tmp_path / "out" / "one.safetensors"), tensors(tmp_path / "out" / "two.safetensors"))
    assert not Path(elsewhere).exists()
    assert [status(folder)["state"] for folder in (main, other)] == ["finished", "finished"]
    assert not [event for event in happened(other) if isinstance(event, Step | Saved)]
    assert "training for the main machine" in {event.name for event in happened(other) if isinstance(event, Phase)}
    assert "This is machine 2 of 2." in log(other)


@thorough
@pytest.mark.slow
def test_a_stop_on_either_machine_stops_both(model: Path, work: Path, tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "data", count=4, repeats=1)
    s = trainings.settings(model, data, tmp_path / "out", num_processes=2, num_machines=2, main_process_port=port())
    s = s.changed(main_process_ip="127.0.0.1", epoch=100_000)
    (main, first), (other, second) = start(s), start(s.changed(machine_rank=1))
    wait(lambda: status(main).get("step"), LONG)
    runfolder.command(other, "save")
    runfolder.command(other, "stop")
    assert (first.wait(LONG), second.wait(LONG)) == (3, 3), log(main) + log(other)
    reasons = {status(folder)["reason"] for folder in (main, other)}
    assert len(reasons) == 1
    assert reasons.pop().startswith("Stopped after step ")
    assert any("Ask for this on the main machine" in event.text for event in happened(other) if isinstance(event, Note))
    assert list((tmp_path / "out").glob("*-state"))


@thorough
@pytest.mark.slow
def test_machines_with_other_pictures_do_not_train(model: Path, work: Path, tmp_path: Path) -> None:
    """What goes wrong on one machine is told on both."""
    at = port()
    here, there = (make_pictures(tmp_path / name, count=4, repeats=1, concept=name) for name in ("cat", "dog"))
    s = trainings.settings(model, here, tmp_path / "out", num_processes=2, num_machines=2, main_process_port=at)
    s = s.changed(main_process_ip="127.0.0.1")
    both = [start(s), start(s.changed(machine_rank=1, train_data_dir=str(there)))]
    assert [child.wait(LONG) for _, child in both] == [1, 1]
    for folder, _ in both:
        assert status(folder)["reason"].startswith("Process 2 of 2: This machine sees other pictures"), log(folder)
        assert "same Image folder" in status(folder)["advice"]


@thorough
@pytest.mark.slow
def test_torchrun_starts_it_as_well(model: Path, work: Path, tmp_path: Path) -> None:
    """With two batches in each process the sum is made in another order than by one process: equal to 1e-5."""
    data = make_pictures(tmp_path / "data", count=5, repeats=1)
    s = trainings.settings(model, data, tmp_path / "out", output_name="two", epoch=3, gradient_accumulation_steps=2)
    trainings.run(s.changed(output_name="one", gradient_accumulation_steps=4), tmp_path / "whole")
    (tmp_path / "s.json").write_text(json.dumps(s.public()))
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "trainer", "train"]
    done = subprocess.run(
        [sys.executable, *words, str(tmp_path / "s.json")], capture_output=True, text=True, timeout=LONG
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (work / "runs").iterdir()
    assert status(folder)["step"] == 6
    one, two = (tensors(tmp_path / "out" / f"{name}.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)
