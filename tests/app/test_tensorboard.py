"""TensorBoard: offered where it makes sense, on loopback only, one for a folder, gone with the page."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from app import tensorboard
from app.view import View
from tests.app import fakerun


@pytest.fixture
def view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> View:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path))
    folder = fakerun.new_run()
    return View(folder.name, "train", "cat", "running", folder)


def request(host: str) -> SimpleNamespace:
    return SimpleNamespace(headers={"host": host})


def test_nothing_is_offered_before_there_are_logs(view: View) -> None:
    assert tensorboard.offer(view) == ""
    with pytest.raises(ValueError, match="not written"):
        tensorboard.open_for(view)


def test_logs_are_found_in_the_run_or_in_the_logging_folder(tmp_path: Path, view: View) -> None:
    (view.folder / "logs").mkdir()
    assert tensorboard.log_folder(view) == view.folder / "logs"
    other = fakerun.new_run(logging_dir=str(tmp_path / "my logs"))
    (tmp_path / "my logs" / other.name).mkdir(parents=True)
    found = tensorboard.log_folder(View(other.name, "train", "cat", "running", other))
    assert found is not None
    assert found.is_relative_to(tmp_path / "my logs")


def test_a_button_here_and_a_sentence_elsewhere(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    (view.folder / "logs").mkdir()
    for host in ("127.0.0.1:7860", "localhost:7860", "[::1]:7860", "LOCALHOST"):
        assert 'data-verb="tensorboard"' in tensorboard.offer(view, request(host)), host
    for host in ("192.168.1.5:7860", "loom.example", "127.0.0.1.evil.example:7860"):
        assert "data-verb" not in tensorboard.offer(view, request(host)), host
        assert "machine of this page" in tensorboard.offer(view, request(host))
    monkeypatch.setattr(tensorboard, "installed", lambda: False)
    assert "not installed" in tensorboard.offer(view)


def test_captioning_has_no_tensorboard(view: View) -> None:
    (view.folder / "logs").mkdir()
    assert tensorboard.offer(View(view.id, "blip", "cat", "running", view.folder)) == ""


def wait_until(happened: Callable[[], bool], seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
def test_it_starts_answers_is_reused_and_ends(view: View) -> None:
    logs = view.folder / "logs"
    logs.mkdir()
    board = tensorboard.open_for(view)
    try:
        assert tensorboard.open_for(view) is board
        wait_until(lambda: board.ready or not board.alive)
        assert board.alive, (view.folder / "tensorboard.txt").read_text()
        with urllib.request.urlopen(f"http://127.0.0.1:{board.port}/", timeout=30) as page:
            assert b"TensorBoard" in page.read()
        assert f"http://127.0.0.1:{board.port}" in tensorboard.offer(view)
    finally:
        tensorboard.close_all()
    assert not board.alive


@pytest.mark.slow
def test_it_ends_with_a_page_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from app import tensorboard\n"
        "board = tensorboard.start(Path(sys.argv[1]), Path(sys.argv[1]) / 'messages.txt')\n"
        "print(board.process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as page:
        assert page.stdout is not None
        child = psutil.Process(int(page.stdout.readline()))
        page.kill()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 30)
