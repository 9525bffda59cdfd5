"""launch.py: which Python it takes, what it installs and when, and what it starts. No network, no real set-up."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import launch
from launch import COMMANDS, Problem, Setup

NOBODY = frozenset[str]()
PAGE = frozenset({"page"})
PYPROJECT = """\
[project]
dependencies = ["torch>=2,<3", "numpy"]
[project.optional-dependencies]
page = ["gradio>=6"]
test = ["pytest"]
"""
CONSTRAINTS = "# tested together\ntorch==2.13.0\nnumpy==2.4.6\ngradio==6.31.0\npytest==9.2.0\n"


class Runner:
    """Stands in for pip and venv: notes every step, makes the files they would make, and fails where it is told to."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, list[str]]] = []
        self.fail_at = ""

    def __call__(self, title: str, command: list[str | Path]) -> None:
        if self.fail_at and title.startswith(self.fail_at):
            raise KeyboardInterrupt
        words = list(map(str, command))
        self.steps.append((title, words))
        if "venv" in words:
            venv = Path(words[-1])
            python = launch.venv_python(venv)
            python.parent.mkdir(parents=True, exist_ok=True)
            python.write_text("3.11")
            (venv / "pyvenv.cfg").touch()
            (venv / "lora-loom.json").unlink(missing_ok=True)  # what --clear does

    def titles(self) -> list[str]:
        """The steps since the last call."""
        titles, self.steps = [title for title, _ in self.steps], []
        return titles

    def command(self, title: str) -> list[str]:
        return next(words for name, words in self.steps if name == title)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setattr(
        launch, "python_version", lambda python: python.read_text() or None if python.exists() else None
    )
    monkeypatch.setattr(launch, "has_pip", lambda python: True)
    return Runner()


@pytest.fixture
def setup(tmp_path: Path, runner: Runner) -> Setup:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "constraints.txt").write_text(CONSTRAINTS)
    return Setup(tmp_path, runner)


EVERYTHING = ["Making the folder .venv", "Installing PyTorch", "Installing the rest", "Trying PyTorch"]
UPDATE = EVERYTHING[1:]


# ------------------------------------------------------------------------------------------------ the Python version


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13), (3, 13, 2, "final", 0)])
def test_supported_pythons_pass(version: tuple[int, ...]) -> None:
    assert launch.python_problem(version) is None


@pytest.mark.parametrize(("system", "way_out"), [("Linux", "apt install"), ("Windows", "py -3"), ("Darwin", "brew")])
@pytest.mark.parametrize("version", [(2, 7), (3, 6), (3, 10), (3, 14), (4, 0)])
def test_other_pythons_are_told_what_to_install(
    version: tuple[int, int], system: str, way_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch.platform, "system", lambda: system)
    monkeypatch.setattr(launch.shutil, "which", lambda name: None)
    problem = launch.python_problem(version)
    assert problem is not None
    assert "{}.{}".format(*version) in problem
    assert "3.11, 3.12 or 3.13" in problem
    assert way_out in problem
    assert "launch.py" in problem


def test_a_suitable_python_beside_an_old_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.shutil, "which", lambda name: "/usr/bin/" + name if name == "python3.12" else None)
    assert "`python3.12 launch.py`" in str(launch.python_problem((3, 9)))


def test_a_32_bit_python_is_refused() -> None:
    assert "32 bit" in str(launch.python_problem((3, 12), bits=32))


def test_an_old_python_reaches_the_sentence() -> None:
    """It must be able to parse the whole file, and to run all of it down to the check."""
    tree = ast.parse(Path(launch.__file__).read_text(encoding="utf-8"), feature_version=(3, 7))
    gate = next(position for position, node in enumerate(tree.body) if isinstance(node, ast.If))
    imported = {name.name for node in tree.body[:gate] if isinstance(node, ast.Import) for name in node.names}
    assert not [node for node in tree.body[:gate] if isinstance(node, ast.ImportFrom)]
    assert "tomllib" not in imported
    for function in (node for node in tree.body[:gate] if isinstance(node, ast.FunctionDef)):
        annotations = [argument.annotation for argument in function.args.args] + [function.returns]
        assert all(isinstance(note, ast.Constant | ast.Name) for note in annotations), "evaluated by Python 3.6"


# ------------------------------------------------------------------------------------------------ what is installed


def test_first_use_installs_torch_exactly_and_first(setup: Setup, runner: Runner) -> None:
    assert setup.ensure(PAGE)
    torch, rest = runner.command("Installing PyTorch"), runner.command("Installing the rest")
    assert torch[-1] == "torch==2.13.0"
    assert rest[-3:] == ["torch>=2,<3", "numpy", "gradio>=6"]
    for words in (torch, rest):
        assert words[words.index("--constraint") + 1] == str(setup.root / "constraints.txt")
    assert runner.titles() == EVERYTHING


def test_later_uses_install_nothing(setup: Setup, runner: Runner) -> None:
    setup.ensure(PAGE)
    runner.titles()
    assert not setup.ensure(PAGE)
    assert not setup.ensure(NOBODY)
    assert runner.titles() == []


def test_training_alone_needs_no_gradio(setup: Setup, runner: Runner) -> None:
    setup.ensure(COMMANDS["train"].extras)
    assert not [word for word in runner.command("Installing the rest") if "gradio" in word]


def test_further_extras_are_added_to_those_that_are_there(setup: Setup, runner: Runner) -> None:
    setup.ensure(PAGE)
    runner.titles()
    assert setup.ensure(frozenset({"test"}))
    assert runner.command("Installing the rest")[-2:] == ["gradio>=6", "pytest"]
    assert runner.titles() == UPDATE
    assert not setup.ensure(PAGE)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("pyproject.toml", '"numpy"', '"numpy>=2"'), ("constraints.txt", "gradio==6.31.0", "gradio==6.32.0")],
)
def test_changed_requirements_are_noticed(setup: Setup, runner: Runner, file: str, old: str, new: str) -> None:
    setup.ensure(PAGE)
    runner.titles()
    path = setup.root / file
    path.write_text(path.read_text().replace(old, new))
    assert setup.ensure(PAGE)
    assert runner.titles() == UPDATE
    assert not setup.ensure(PAGE)


def test_a_changed_comment_is_no_changed_requirement(setup: Setup) -> None:
    setup.ensure(PAGE)
    path = setup.root / "constraints.txt"
    path.write_text(path.read_text().replace("# tested together", "# tested twice"))
    assert not setup.ensure(PAGE)


@pytest.mark.parametrize("step", EVERYTHING)
def test_an_interrupted_set_up_is_finished(setup: Setup, runner: Runner, step: str) -> None:
    runner.fail_at = step
    with pytest.raises(KeyboardInterrupt):
        setup.ensure(PAGE)
    runner.fail_at = ""
    runner.titles()
    assert setup.ensure(PAGE)
    assert runner.titles() == (EVERYTHING if step == EVERYTHING[0] else UPDATE)
    assert not setup.ensure(PAGE)


@pytest.mark.parametrize("step", UPDATE)
def test_an_interrupted_update_is_finished(setup: Setup, runner: Runner, step: str) -> None:
    setup.ensure(PAGE)
    runner.fail_at = step
    with pytest.raises(KeyboardInterrupt):
        setup.ensure(frozenset({"test"}))
    runner.fail_at = ""
    runner.titles()
    assert setup.ensure(NOBODY), "even a command that needs less must not run in a half-changed .venv"
    assert "pytest" in runner.command("Installing the rest")
    assert not setup.ensure(frozenset({"test"}))


# ------------------------------------------------------------------------------------------------ another PyTorch


def test_another_build_of_torch_is_taken_and_remembered(setup: Setup, runner: Runner) -> None:
    setup.ensure(PAGE)
    runner.titles()
    assert setup.ensure(PAGE, "https://example.org/whl/cu130")
    words = runner.command("Installing PyTorch")
    assert words[-3:] == ["--index-url", "https://example.org/whl/cu130", "torch==2.13.0"]
    assert "--constraint" not in words, "that address need not have our versions of what PyTorch needs"
    assert runner.titles() == ["Exchanging PyTorch", *UPDATE]
    assert not setup.ensure(PAGE)
    assert not setup.ensure(PAGE, "https://example.org/whl/cu130")

    (setup.root / "pyproject.toml").write_text(PYPROJECT.replace("numpy", "numpy>=2"))
    assert setup.ensure(PAGE)
    assert "https://example.org/whl/cu130" in runner.command("Installing PyTorch")

    runner.titles()
    assert setup.ensure(PAGE, "default")
    assert "--index-url" not in runner.command("Installing PyTorch")
    assert runner.titles() == ["Exchanging PyTorch", *UPDATE]


@pytest.mark.parametrize("former", ["default", "https://example.org/whl/rocm"])
def test_an_address_without_our_torch_changes_nothing_for_later(setup: Setup, runner: Runner, former: str) -> None:
    """pip downloads before it removes; so the former build is still there, and later starts go on with it."""
    setup.ensure(PAGE, former)
    runner.fail_at = "Exchanging"
    with pytest.raises(KeyboardInterrupt):
        setup.ensure(PAGE, "https://example.org/whl/wrong")
    runner.fail_at = ""
    runner.titles()
    assert setup.ensure(PAGE)
    assert not [words for _, words in runner.steps if "https://example.org/whl/wrong" in words]
    assert runner.titles() == UPDATE


def test_a_wrong_address_at_first_use_is_not_remembered(setup: Setup, runner: Runner) -> None:
    runner.fail_at = "Installing PyTorch"
    with pytest.raises(KeyboardInterrupt):
        setup.ensure(PAGE, "https://example.org/whl/wrong")
    runner.fail_at = ""
    setup.ensure(PAGE)
    assert "--index-url" not in runner.command("Installing PyTorch")


def test_a_password_in_the_address_is_used_and_not_written_down(setup: Setup, runner: Runner) -> None:
    setup.ensure(PAGE, "https://me:secret@example.org/whl")
    assert "https://me:secret@example.org/whl" in runner.command("Installing PyTorch")
    written = "".join(path.read_text(errors="replace") for path in setup.root.rglob("*") if path.is_file())
    assert "secret" not in written
    assert "https://example.org/whl" in written


# ------------------------------------------------------------------------------------------------ .venv itself


@pytest.mark.parametrize("what", ["", "3.12", "3.9"])
def test_a_venv_whose_python_is_gone_or_another_one_is_made_anew(setup: Setup, runner: Runner, what: str) -> None:
    setup.ensure(PAGE, "https://example.org/whl")
    runner.titles()
    launch.venv_python(setup.venv).write_text(what)
    assert setup.ensure(NOBODY)
    assert "--clear" in runner.command("Making the folder .venv")
    assert "https://example.org/whl" in runner.command("Installing PyTorch"), "still remembered"
    assert "gradio>=6" in runner.command("Installing the rest"), "still wanted"
    assert runner.titles() == EVERYTHING


def test_a_venv_without_pip_is_made_anew(setup: Setup, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    python = launch.venv_python(setup.venv)
    python.parent.mkdir(parents=True)
    python.write_text("3.11")
    (setup.venv / "pyvenv.cfg").touch()
    monkeypatch.setattr(launch, "has_pip", lambda python: False)
    setup.ensure(PAGE)
    assert runner.titles() == EVERYTHING


def test_a_folder_that_is_no_venv_is_left_alone(setup: Setup, runner: Runner) -> None:
    setup.venv.mkdir()
    (setup.venv / "diary.txt").write_text("mine")
    with pytest.raises(Problem, match="in the way"):
        setup.ensure(PAGE)
    assert (setup.venv / "diary.txt").read_text() == "mine"
    assert runner.titles() == []


def test_missing_ensurepip_names_the_package(setup: Setup, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(Problem, match=rf"apt install python3\.{sys.version_info[1]}-venv"):
        setup.ensure(PAGE)
    assert runner.titles() == []
    assert not setup.venv.exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"extras": ["page"]}'])
def test_a_damaged_state_file_means_set_up_again(setup: Setup, text: str) -> None:
    setup.ensure(PAGE)
    setup.state_file.write_text(text)
    assert setup.ensure(PAGE)
    assert not setup.ensure(PAGE)


def test_two_set_ups_exclude_each_other(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with launch.only_one_at_a_time(lock), lock.open("a") as second:
        assert not launch.try_lock(second)
    with lock.open("a") as second:
        assert launch.try_lock(second)


# ------------------------------------------------------------------------------------------------ one step, seen


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(launch, "ROOT", tmp_path)
    return tmp_path / "setup.log"


def test_a_step_writes_its_output_to_the_log(log: Path, capfd: pytest.CaptureFixture[str]) -> None:
    launch.run_step("Trying", [sys.executable, "-c", "print('Collecting größe')"])
    assert log.read_text(encoding="utf-8") == "== Trying\nCollecting größe\n"
    out, err = capfd.readouterr()
    assert out == "", "standard output belongs to the command"
    assert "Trying" in err


@pytest.mark.parametrize(
    ("complaint", "hint"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("NewConnectionError: ... Temporary failure in name resolution", "could not be reached"),
        ("ERROR: No matching distribution found for torch==2.13.0", "no such PyTorch"),
        ("OSError: [WinError 126] Error loading c10.dll", "Visual C++"),
        ("something never seen", "delete the folder .venv"),
    ],
)
def test_a_failed_step_shows_its_last_lines_and_a_way_out(log: Path, complaint: str, hint: str) -> None:
    with pytest.raises(Problem) as caught:
        launch.run_step(
            "Installing", [sys.executable, "-c", f"print('first'); print({complaint!r}); raise SystemExit(1)"]
        )
    assert complaint in str(caught.value)
    assert hint in str(caught.value)
    assert str(log) in str(caught.value)


def test_a_terminal_sees_what_a_step_is_at(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    launch.run_step("Installing", [sys.executable, "-c", "print('Downloading torch-2.13.0.whl (190.0 MB)')"])
    assert "Downloading torch-2.13.0.whl (190.0 MB)" in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")


# ------------------------------------------------------------------------------------------------ the command line


@pytest.mark.parametrize(
    ("line", "word", "rest"),
    [
        ("", "page", []),
        ("page", "page", []),
        ("--server_port 7861 --inbrowser", "page", ["--server_port", "7861", "--inbrowser"]),
        (
            "--listen=0.0.0.0 --allow /data --allow /more",
            "page",
            ["--listen=0.0.0.0", "--allow", "/data", "--allow", "/more"],
        ),
        ("test", "test", ["-n", "logical", "--maxprocesses", "4", "--dist", "loadfile"]),
        ("test -k buckets --co", "test", ["-k", "buckets", "--co"]),
        ("check a.json --set epoch=2", "check", ["a.json", "--set", "epoch=2"]),
        ("train a.json --workspace w", "train", ["a.json", "--workspace", "w"]),
        ("demo", "demo", []),
        ("setup", "setup", []),
    ],
)
def test_commands(line: str, word: str, rest: list[str]) -> None:
    assert launch.choose_command(line.split()) == (COMMANDS[word], rest)


def test_an_unknown_command_gets_the_list() -> None:
    with pytest.raises(Problem) as caught:
        launch.choose_command(["trian", "a.json"])
    assert "did you mean train?" in str(caught.value)
    assert all(word in str(caught.value) for word in COMMANDS)


def test_an_unknown_option_of_the_page_is_found_before_the_set_up() -> None:
    with pytest.raises(Problem, match="--server-port is not an option; did you mean --server_port"):
        launch.choose_command(["--server-port", "1"])


@pytest.mark.parametrize("line", ["-h", "--help", "help", "page --help", "--listen 0.0.0.0 -h"])
def test_help_is_given_for_the_page(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(line.split()) == 0
    assert capsys.readouterr().out == launch.HELP


@pytest.mark.parametrize("line", ["", "train --help", "test --help", "--inbrowser"])
def test_other_commands_give_their_own_help(line: str) -> None:
    assert not launch.asks_for_help(line.split())


def test_the_options_of_the_page_are_those_that_the_page_takes() -> None:
    from app.server import parser

    taken = {option for action in parser()._actions for option in action.option_strings if option.startswith("--")}
    assert set(re.findall(r"--\w+", launch.PAGE_OPTIONS)) == taken - {"--help"}


@pytest.mark.parametrize(
    ("line", "url", "rest"),
    [
        ("--torch-index-url https://a/b", "https://a/b", ""),
        ("--torch-index-url=https://a/b --inbrowser", "https://a/b", "--inbrowser"),
        ("train a.json --torch-index-url default --set epoch=2", "default", "train a.json --set epoch=2"),
        ("train a.json", None, "train a.json"),
    ],
)
def test_torch_index_url_may_stand_anywhere(line: str, url: str | None, rest: str) -> None:
    assert launch.take_torch_index_url(line.split()) == (url, rest.split())


@pytest.mark.parametrize("line", ["--torch-index-url", "--torch-index-url cu130", "--torch-index-url --inbrowser"])
def test_torch_index_url_needs_an_address(line: str) -> None:
    with pytest.raises(Problem, match="needs an address"):
        launch.take_torch_index_url(line.split())


def run_copy(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """launch.py as a person runs it, from a folder that is not its own."""
    (folder / "elsewhere").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, folder / "launch.py", *arguments],
        cwd=folder / "elsewhere",
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / "launch.py").write_bytes(Path(launch.__file__).read_bytes())
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "constraints.txt").write_text(CONSTRAINTS)
    return tmp_path


def test_help_needs_no_set_up(copy: Path) -> None:
    result = run_copy(copy, "--help")
    assert result.returncode == 0
    assert all(word in result.stdout for word in [*COMMANDS, "--listen", "--server_port", "--torch-index-url"])
    assert not (copy / ".venv").exists()


def test_a_slip_costs_no_set_up(copy: Path) -> None:
    result = run_copy(copy, "chekc", "a.json")
    assert (result.returncode, result.stdout) == (2, "")
    assert "did you mean check?" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (copy / ".venv").exists()


@pytest.mark.skipif(
    os.name == "nt", reason="a link to Python stands in for .venv, which Windows allows few people to make"
)
def test_the_command_runs_in_our_place_with_our_packages(copy: Path) -> None:
    """Its arguments, folder, output and exit code are the person's; its packages are ours, whatever lies around."""
    python = launch.venv_python(copy / ".venv")
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    version = "{}.{}".format(*sys.version_info[:2])
    state = {"extras": [], "torch_from": "", "fingerprint": Setup(copy, Runner()).fingerprint([], version)}
    (copy / ".venv" / "lora-loom.json").write_text(json.dumps(state))
    (copy / "trainer").mkdir()
    (copy / "trainer" / "__main__.py").write_text(
        "import json, os, sys; print(json.dumps([sys.argv[1:], os.getcwd(), os.getpid()])); sys.exit(7)"
    )
    (copy / "elsewhere" / "trainer").mkdir(parents=True)
    (copy / "elsewhere" / "trainer" / "__main__.py").write_text("print('not this one')")

    result = run_copy(copy, "check", "my file.json", "--set", "a=b c", PYTHONPATH=str(copy / "elsewhere"))
    arguments, folder, _ = json.loads(result.stdout)
    assert arguments == ["check", "my file.json", "--set", "a=b c"]
    assert Path(folder) == copy / "elsewhere"
    assert result.returncode == 7


# ------------------------------------------------------------------------------------------------ graphics cards


@pytest.mark.parametrize(
    ("nvidia", "build", "said"),
    [
        (True, "cuda: Optional[str] = None\nhip: Optional[str] = None\n", True),
        (True, "cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", False),
        (False, "cuda: Optional[str] = None\nhip: Optional[str] = None\n", False),
    ],
)
@pytest.mark.parametrize("folder", ["lib/python3.11", "Lib"])
def test_a_card_that_torch_cannot_use_is_mentioned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nvidia: bool, build: str, said: bool, folder: str
) -> None:
    file = tmp_path / folder / "site-packages" / "torch" / "version.py"
    file.parent.mkdir(parents=True)
    file.write_text("from typing import Optional\n__version__ = '2.13.0'\n" + build)
    monkeypatch.setattr(launch, "has_nvidia_card", lambda: nvidia)
    monkeypatch.setattr(launch, "has_amd_card", lambda: False)
    hint = launch.card_hint(tmp_path)
    assert (hint is not None) == said
    if hint:
        assert "--torch-index-url" in hint


def test_an_amd_card_is_pointed_at_rocm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "lib" / "python3.12" / "site-packages" / "torch" / "version.py"
    file.parent.mkdir(parents=True)
    file.write_text("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n")
    monkeypatch.setattr(launch, "has_nvidia_card", lambda: False)
    monkeypatch.setattr(launch, "has_amd_card", lambda: True)
    assert "ROCm" in str(launch.card_hint(tmp_path))
    file.write_text("cuda: Optional[str] = None\nhip: Optional[str] = '7.1'\n")
    assert launch.card_hint(tmp_path) is None


def test_the_installed_torch_says_for_what_it_was_built() -> None:
    import torch

    builds = {name for name in ("cuda", "hip", "xpu") if getattr(torch.version, name, None)}
    venv = Path(torch.__file__).parents[4] if os.name != "nt" else Path(torch.__file__).parents[3]
    assert launch.torch_builds(venv) == builds
