"""How long the page takes: from `launch.py` (set up before) to the first answer, and from there to a page one can use.

    python launch.py test --version            sets up, so that only starting is measured
    .venv/bin/python -m benchmarks.startup     on Windows: .venv\\Scripts\\python

Aims: under 3 s to the first answer, under 1.5 s from opening the address to a Start button that can be pressed. The
processor seconds beside them (page and browser together) say what it costs on a machine that has other things to do.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from playwright.sync_api import Browser, sync_playwright

from tests.chromium import find_browser, start_browser

ROOT = Path(__file__).resolve().parent.parent
AIMS = {"first answer": 3.0, "usable page": 1.5}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="how often to start; the median is what counts")
    parser.add_argument(
        "--button", default="Start training", help="the page can be used when this button can be pressed"
    )
    arguments = parser.parse_args()
    executable = find_browser()
    if executable is None:
        print("No Chromium, Chrome or Edge found; LOOM_BROWSER can name one.", file=sys.stderr)
        return 1

    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in AIMS}
    busy = psutil.getloadavg()[0]
    with sync_playwright() as playwright:
        browser = start_browser(playwright, executable)
        for _ in range(arguments.runs):
            for name, value in start_once(browser, arguments.button).items():
                seconds[name].append(value)
        browser.close()

    print(f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {arguments.runs} runs")
    print(f"{'':<14}{'median':>8}{'least':>8}{'most':>8}{'aim':>8}{'processor':>12}")
    for name, pairs in seconds.items():
        waited, worked = zip(*pairs, strict=True)
        middle = statistics.median(waited)
        print(f"{name:<14}{middle:7.2f}s{min(waited):7.2f}s{max(waited):7.2f}s{AIMS[name]:7.1f}s", end="")
        print(f"{statistics.median(worked):11.2f}s")
    if busy > 0.5:
        print(f"{busy:.1f} other programs were at work on {psutil.cpu_count()} processors: these figures say little.")
    return 0


def start_once(browser: Browser, button: str) -> dict[str, tuple[float, float]]:
    """Start the page in a workspace of its own, wait for it, open it, and end it; seconds waited and worked."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        port, started, before = free_port(), time.perf_counter(), processor_seconds()
        log = Path(folder) / "page.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [
                    sys.executable,
                    ROOT / "launch.py",
                    "--server_port",
                    str(port),
                    "--workspace",
                    str(Path(folder) / "w"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_for_answer(port, process, log)
            answered, then = time.perf_counter(), processor_seconds()
            page = browser.new_context().new_page()
            page.goto(f"http://127.0.0.1:{port}/")
            page.get_by_role("button", name=button).first.click(trial=True, timeout=60_000)
            usable, now = time.perf_counter(), processor_seconds()
            page.context.close()
        finally:
            process.terminate()
            process.wait(timeout=30)
    return {"first answer": (answered - started, then - before), "usable page": (usable - answered, now - then)}


def processor_seconds() -> float:
    """What the processes that we started, and those that these started, have used of the processors so far."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


def wait_for_answer(port: int, process: subprocess.Popen[bytes], log: Path, patience: float = 120.0) -> None:
    """Ask for the page until it comes."""
    end = time.perf_counter() + patience
    while time.perf_counter() < end:
        if process.poll() is not None:
            raise SystemExit(f"The page ended instead of answering:\n{log.read_text(errors='replace')}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"No answer within {patience:.0f} s:\n{log.read_text(errors='replace')}")


def free_port() -> int:
    """A port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
