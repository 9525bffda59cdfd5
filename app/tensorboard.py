"""TensorBoard on this machine's own address, started when somebody asks for it and ended with the page. (no gradio)"""

from __future__ import annotations

import atexit
import importlib.util
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from app.view import View
from trainer import curves, runfolder

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


@dataclass
class Board:
    """A TensorBoard that was started for a folder of logs."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def ready(self) -> bool:
        """Whether it answers already; starting takes a few seconds."""
        with socket.socket() as probe:
            probe.settimeout(0.2)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


_boards: dict[Path, Board] = {}
_lock = threading.Lock()


def offer(view: View, request: Any = None) -> str:
    """The button, the link, or the sentence that says why there is none; "" for runs without logs."""
    folder = log_folder(view)
    if folder is None:
        return ""
    if not installed():
        return '<p class="loom-muted">TensorBoard is not installed; python launch.py installs it.</p>'
    if not is_local(request):
        return (
            f'<p class="loom-muted">TensorBoard opens on the machine of this page only; logs: {escape(str(folder))}</p>'
        )
    board = _boards.get(folder)
    if board is None or not board.alive:
        said = (
            ""
            if board is None
            else '<span class="loom-muted">It ended; its messages are in tensorboard.txt of the run.</span>'
        )
        return (
            f'<p><button type="button" class="loom-link" data-verb="tensorboard">Open TensorBoard</button> {said}</p>'
        )
    if not board.ready:
        return '<p class="loom-muted">TensorBoard is starting …</p>'
    address = f"http://127.0.0.1:{board.port}"
    return f'<p><a class="loom-link" href="{address}" target="_blank" rel="noopener">TensorBoard at {address}</a></p>'


def log_folder(view: View) -> Path | None:
    """Where the run writes its logs; None before there are any."""
    if not view.trains:
        return None
    folder = curves.log_folder(_settings(view.folder), view)  # type: ignore[arg-type]
    return folder if folder.is_dir() else None


@cache
def _settings(folder: Path) -> SimpleNamespace:
    """The settings of a run as they were written; they never change."""
    unset = {"logging_dir": "", "log_prefix": "", "log_tracker_name": ""}
    return SimpleNamespace(**{**unset, **runfolder.read_json(folder / runfolder.SETTINGS)})


def open_for(view: View) -> Board:
    """The board for the logs of a run: the one that is there, or a new one. `ValueError` when there are no logs."""
    folder = log_folder(view)
    if folder is None:
        raise ValueError("This run has not written any TensorBoard logs yet.")
    with _lock:
        board = _boards.get(folder)
        if board is None or not board.alive:
            board = _boards[folder] = start(folder, view.folder / "tensorboard.txt")
        return board


def start(folder: Path, messages: Path) -> Board:
    """Start a TensorBoard for `folder`, on loopback and a free port; it ends with this process, however that ends."""
    port = free_port()
    options = ["--logdir", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    own_group: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        own_group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    with messages.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", UNTIL_STDIN_CLOSES, *options],
            stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, **own_group,
        )  # fmt: skip
    return Board(port, process)


UNTIL_STDIN_CLOSES = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
sys.argv[0] = "tensorboard"
from tensorboard.main import run_main
run_main()
"""
"""TensorBoard in a child that ends when the pipe from its parent closes: a killed parent closes it too."""


def installed() -> bool:
    """Whether TensorBoard can be started."""
    return importlib.util.find_spec("tensorboard") is not None


def is_local(request: Any) -> bool:
    """Whether the browser that asks reaches this machine by its own address."""
    if request is None:
        return True
    host = str(getattr(request, "headers", {}).get("host", ""))
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    return name.lower() in LOOPBACK


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@atexit.register
def close_all() -> None:
    """End every board."""
    for board in _boards.values():
        with suppress(OSError):
            board.process.terminate()
    for board in _boards.values():
        with suppress(OSError, subprocess.TimeoutExpired):
            board.process.wait(timeout=3)
    _boards.clear()
