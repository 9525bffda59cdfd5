"""The run panel in a real browser while runs go on: what moves, what stays, and what survives."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.tensorboard import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60_000
"""Milliseconds; a busy machine is no failure."""


@dataclass
class Site:
    """A page's process and the pretended runs in its workspace."""

    work: Path
    port: int = field(default_factory=free_port)
    page: subprocess.Popen[bytes] | None = None
    runs: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "LOOM_WORKSPACE": str(self.work)}

    def open(self, *options: str) -> None:
        """Start the page and wait until it answers."""
        command = [
            sys.executable,
            "-m",
            "app",
            "--workspace",
            str(self.work),
            "--server_port",
            str(self.port),
            *options,
        ]
        self.page = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(self.url, timeout=2).read()
                return
            except urllib.error.HTTPError:  # it answers, and wants a login
                return
            except OSError:
                assert self.page.poll() is None, "the page's process ended"
                assert time.monotonic() < until, "the page does not answer"
                time.sleep(0.2)

    def kill(self) -> None:
        """End the page's process without a chance to tidy up."""
        assert self.page is not None
        self.page.kill()
        self.page.wait()

    def run(self, *words: object) -> subprocess.Popen[str]:
        """Start a pretended run; its first line is its folder."""
        command = [sys.executable, "-m", "tests.app.fakerun", *map(str, words)]
        run = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, text=True)
        self.runs.append(run)
        assert run.stdout is not None
        assert run.stdout.readline()
        return run

    def train(self, pause: float = 0.1, steps: int = 2000) -> subprocess.Popen[str]:
        return self.run("train", self.work / "out", pause, steps)

    def end(self) -> None:
        for run in self.runs:
            run.kill()
            run.wait()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, chromium: Browser) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("workspace"))
    site.open()
    yield site
    site.kill()


@pytest.fixture
def site(opened: Site) -> Iterator[Site]:
    yield opened
    opened.end()


def show(page: Page, site: Site, wait: str = ".loom-run-line") -> Page:
    page.set_default_timeout(PATIENCE)
    page.goto(site.url)
    page.wait_for_selector(f"#loom-run {wait}")
    return page


def step(page: Page) -> int:
    found = re.search(r"step (\d+)/", page.locator(".loom-run-line").inner_text())
    return int(found.group(1)) if found else 0


def wait_for_step(page: Page, least: int) -> int:
    page.wait_for_function(
        "(least) => Number(/step (\\d+)/.exec(document.querySelector('.loom-run-line')?.textContent)?.[1] || 0) >= least",
        arg=least,
    )
    return step(page)


def state(page: Page, word: str) -> None:
    page.wait_for_function(
        "(word) => document.querySelector('.loom-run-panel .loom-run-state')?.textContent === word", arg=word
    )


def press(page: Page, name: str) -> None:
    page.locator("#loom-run").get_by_role("button", name=name, exact=True).click()


def test_a_run_is_never_lost_from_view(site: Site, browser_page: Page) -> None:
    """Reload, second tab, and a page process that is killed and started again: the run is there, and goes on."""
    run = site.train()
    page = show(browser_page, site)
    before = wait_for_step(page, 5)
    page.reload()
    assert wait_for_step(page, before + 3)
    context = page.context
    other = show(context.new_page(), site)
    assert wait_for_step(other, before + 3)
    other.close()
    page.close()
    site.kill()
    assert run.poll() is None
    site.open()
    page = show(context.new_page(), site)
    after = wait_for_step(page, before + 10)
    assert wait_for_step(page, after + 3)
    assert page.locator(".loom-chart polyline.loom-bold").count() == 1


def test_what_a_person_does_in_the_panel_stays(site: Site, browser_page: Page) -> None:
    """While everything moves: opened folds, a scrolled log, selected text, and pictures that are not fetched again."""
    site.train(0.05)
    fetched: list[str] = []
    browser_page.on("request", lambda request: fetched.append(request.url) if "/loom/thumb" in request.url else None)
    page = show(browser_page, site)
    wait_for_step(page, 60)
    page.locator("details.loom-log summary").click()
    page.locator("details[data-key=notes] summary").click()
    log = page.locator(".loom-log pre")
    assert log.evaluate("box => box.scrollHeight - box.clientHeight - box.scrollTop") < 10
    last = step(page)
    wait_for_step(page, last + 25)
    assert log.evaluate("box => box.scrollHeight - box.clientHeight - box.scrollTop") < 10, "the end is followed"

    page.evaluate("""() => {
        const line = [...document.querySelectorAll('.loom-log pre span')].at(-3);
        const range = document.createRange(); range.selectNodeContents(line);
        getSelection().removeAllRanges(); getSelection().addRange(range);
    }""")
    selected = page.evaluate("getSelection().toString()")
    assert selected.startswith("step ")
    wait_for_step(page, step(page) + 5)
    assert page.evaluate("getSelection().toString()") == selected

    log.evaluate("box => { box.scrollTop = 60; }")
    read = log.inner_text()
    wait_for_step(page, step(page) + 20)
    assert log.inner_text() == read, "a log that somebody reads waits"
    assert log.evaluate("box => box.scrollTop") == 60
    log.evaluate("box => { box.scrollTop = box.scrollHeight; }")
    page.wait_for_function("(read) => document.querySelector('.loom-log pre').innerText !== read", arg=read)
    assert page.locator("details[open]").count() >= 2
    assert len(fetched) == len(set(fetched)), "a picture was fetched twice"


def test_sample_prompts_can_be_changed_on_the_way(site: Site, browser_page: Page) -> None:
    site.train()
    page = show(browser_page, site)
    wait_for_step(page, 3)
    page.locator("details.loom-prompts summary").click()
    field = page.get_by_label("Sample prompts of this run")
    assert field.input_value().startswith("a drawing of a red gribble")
    field.fill("an owl --w wide")
    said = page.locator(".loom-prompts-said li")
    said.filter(has_text="Line 1: --w must be followed by a whole number").wait_for()
    field.fill("an owl --g 2")
    said.filter(has_text="--g has no effect").wait_for()
    wait_for_step(page, step(page) + 3)
    assert field.input_value() == "an owl --g 2", "what is being written stays"
    press(page, "Use from the next sample on")
    (changed,) = wait_for_files(site.work / "runs", "*/prompts.txt")
    assert changed.read_text("utf-8") == "an owl --g 2"
    before = page.locator(".loom-strip thead th[scope=col]").count()
    press(page, "Draw now")
    page.wait_for_function(
        "(before) => document.querySelectorAll('.loom-strip thead th[scope=col]').length > before", arg=before
    )


def wait_for_files(folder: Path, pattern: str) -> list[Path]:
    """Files that appear in a moment."""
    until = time.monotonic() + PATIENCE / 1000
    while not (found := list(folder.glob(pattern))):
        assert time.monotonic() < until, f"there is no {pattern}"
        time.sleep(0.1)
    return found


def test_the_buttons_reach_the_run(site: Site, browser_page: Page) -> None:
    run = site.train()
    page = show(browser_page, site)
    wait_for_step(page, 5)
    press(page, "Pause")
    state(page, "paused")
    held = step(page)
    press(page, "Save now")
    press(page, "Go on")
    wait_for_step(page, held + 2)
    press(page, "Save now")
    page.locator(".loom-files a", has_text=re.compile("step000")).first.wait_for()
    press(page, "Sample now")
    page.wait_for_function("document.querySelectorAll('.loom-strip thead th[scope=col]').length >= 2")
    press(page, "Stop")
    page.locator(".loom-ending", has_text=re.compile(r"Stopped at step \d+ of 2000")).wait_for()
    run.wait(timeout=30)
    page.locator("#loom-run").get_by_role("button", name="Resume").wait_for()
    with page.expect_download() as download:
        page.locator(".loom-files a").first.click()
    assert download.value.path().stat().st_size == 1_200_000


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_run_that_is_killed_says_so_with_its_last_words_and_a_way_on(site: Site, browser_page: Page) -> None:
    run = site.train()
    page = show(browser_page, site)
    wait_for_step(page, 8)
    run.kill()
    run.wait()
    ending = page.locator(".loom-ending.bad", has_text=re.compile(r"Interrupted at step \d+\."))
    ending.wait_for()
    assert re.search(r"step \d+: loss", ending.locator("pre").inner_text())
    page.locator("#loom-run").get_by_role("button", name="Start again").wait_for()


def test_samples_can_be_stepped_through_enlarged_and_compared(site: Site, browser_page: Page) -> None:
    site.train(0.0, 60).wait(timeout=60)
    page = show(browser_page, site)
    state(page, "finished")
    wall = page.locator("[data-wall]")
    assert wall.locator("output").inner_text() == "step 60"
    newest = wall.locator(".loom-now img").first.get_attribute("src")
    wall.get_by_label("Earlier samples").click()
    assert wall.locator("output").inner_text() == "step 45"
    assert wall.locator(".loom-now img").first.get_attribute("src") != newest
    wall.locator(".loom-now").nth(1).click()
    viewer = page.locator("dialog.loom-viewer")
    assert "Step 45 · prompt 2 · seed 43" in viewer.inner_text()
    assert "<b>" not in viewer.locator(".loom-viewer-prompt").inner_text()
    page.keyboard.press("ArrowUp")
    assert "prompt 1" in viewer.inner_text()
    assert viewer.locator(".loom-viewer-prompt").inner_text().endswith("<b>bold</b>"), "a prompt is text"
    page.keyboard.press("ArrowRight")
    assert "Step 60" in viewer.inner_text()
    viewer.get_by_label("Compare with step 0").check()
    first = viewer.locator(".loom-viewer-first")
    page.wait_for_function("document.querySelector('.loom-viewer-first').naturalWidth > 0")
    assert first.is_visible()
    page.keyboard.press("Escape")
    assert not viewer.is_visible()


def test_the_value_under_the_pointer_is_shown(site: Site, browser_page: Page) -> None:
    site.train(0.0, 60).wait(timeout=60)
    page = show(browser_page, site)
    chart = page.locator("[data-chart]")
    box = chart.bounding_box()
    assert box is not None
    chart.hover(position={"x": box["width"] / 2, "y": 40})
    assert re.match(r"step (29|30|31): 0\.\d+ \(this step 0\.\d+\)", page.locator(".loom-hover").inner_text())


def test_captions_come_with_their_pictures_newest_first(site: Site, browser_page: Page) -> None:
    run = site.run("caption", site.work / "pictures", 0.7, 8)
    page = show(browser_page, site, ".loom-results li")
    page.wait_for_function("document.querySelectorAll('.loom-results li').length >= 2")
    page.evaluate("document.querySelector('.loom-results li:last-child').mark = 'the same element'")
    run.wait(timeout=60)
    page.wait_for_function("document.querySelectorAll('.loom-results li').length === 8")
    assert page.evaluate("document.querySelector('.loom-results li:last-child').mark") == "the same element"
    texts = page.locator(".loom-results li p:first-child").all_inner_texts()
    assert texts[0] == "a drawing of a <i>shape</i>, number 7"
    assert texts[-1].endswith("number 0")
    page.wait_for_function(
        "[...document.querySelectorAll('.loom-results img')].filter((image) => image.naturalWidth > 0).length >= 3"
    )
    assert page.locator("details.loom-note summary").inner_text() == "1 picture was left out"


def test_on_a_narrow_screen_it_is_a_card_and_nothing_scrolls_sideways(site: Site, browser_page: Page) -> None:
    site.train()
    browser_page.set_viewport_size({"width": 400, "height": 800})
    page = show(browser_page, site)
    wait_for_step(page, 5)
    run = page.locator("#loom-run")
    assert run.get_by_role("button", name="Stop", exact=True).is_visible()
    assert run.locator(".loom-now img").first.is_visible()
    assert not run.locator("[data-chart]").is_visible()
    run.get_by_role("button", name="Loss, samples, files and log").click()
    assert run.locator("[data-chart]").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_list_of_runs_chooses_what_the_panel_shows(site: Site, browser_page: Page) -> None:
    site.train(0.0, 60).wait(timeout=60)
    site.run("caption", site.work / "pictures", 0.0, 4).wait(timeout=60)
    page = show(browser_page, site, "h2")
    page.get_by_role("tab", name="Runs").click()
    rows = page.locator("#loom-runs .loom-run-title")
    rows.filter(has_text="my gribble").first.click()
    page.locator("#loom-run h2", has_text="my gribble").wait_for()
    rows.filter(has_text="captions").first.click()
    page.locator("#loom-run h2", has_text="captions").wait_for()
    chosen = page.locator("#loom-runs li.is-chosen")
    chosen.get_by_role("button", name="Delete").click()
    page.locator("#loom-runs").get_by_role("button", name="Undo").click()
    page.locator("#loom-run h2", has_text="captions").wait_for()


def test_a_button_that_nobody_hears_says_so(site: Site, browser_page: Page) -> None:
    run = site.train(0.3, 200)
    page = show(browser_page, site)
    wait_for_step(page, 2)
    page.route("**/component_server/**", lambda route: route.abort())
    press(page, "Stop")
    page.locator("#loom-said", has_text="The program does not answer").wait_for()
    page.unroute("**/component_server/**")
    before = step(page)
    wait_for_step(page, before + 2)
    assert run.poll() is None, "the run goes on"
