"""Makes docs/page.png, the page with the demo trained: `python docs/picture.py [--dark] [--output FILE]`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")


def main() -> int:
    """Open an empty workspace, caption, press Start, wait for the end, take the picture; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "page.png")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings other than the demo's")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loom-") as workspace, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [sys.executable, "-m", "app", "--server_port", str(port), "--workspace", workspace]
        served = subprocess.Popen(command, cwd=ROOT)
        try:
            wait_for(f"http://127.0.0.1:{port}/")
            take(
                port,
                "dark" if arguments.dark else "light",
                arguments.output,
                dict(word.split("=", 1) for word in arguments.set),
            )
        finally:
            served.terminate()
            served.wait()
    return 0


def wait_for(url: str) -> None:
    """Return when the page answers."""
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(url)


def take(port: int, theme: str, output: Path, changes: dict[str, str]) -> None:
    """Train what the page offers at first (with `changes`) and save the picture of how it ended."""
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, (os.environ.get("LOOM_BROWSER", ""), *BROWSERS))))
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"] if as_root else [])
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"http://127.0.0.1:{port}/?__theme={theme}")
        page.wait_for_selector(".loom-fine, .loom-problems", timeout=60_000)
        page.evaluate(f"loom.apply('train', {json.dumps(changes)})")
        page.wait_for_timeout(2000)
        page.get_by_role("tab", name="Utilities").click()
        page.get_by_role("tab", name="BLIP").click()
        page.locator("#panel-caption-blip").get_by_role("button", name="Caption images").click()
        page.wait_for_selector("#loom-run :text-is('finished')", timeout=600_000)
        page.get_by_role("tab", name="LoRA").click()
        page.get_by_role("button", name="Start training").click()
        page.wait_for_selector("#loom-run :text-is('training')", timeout=600_000)
        page.wait_for_selector("#loom-run :text-is('finished')", timeout=1_800_000)
        page.get_by_role("tab", name="Parameters").click()
        page.wait_for_timeout(8000)  # messages go, pictures come
        page.mouse.move(640, 890)
        page.screenshot(path=output)
        chromium.close()


if __name__ == "__main__":
    sys.exit(main())
