"""The whole story in a real browser: from empty fields to a LoRA file, through reloads, kills, stop and resume."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors import safe_open

from tests.browser.test_monitor import Site
from tests.photos import make_photo_dataset
from tests.tiny import tiny_sd15

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
PATIENCE = 60_000
"""Milliseconds; a busy machine is no failure."""
PROMPT = "a cat on a table --w 64 --h 64 --s 2 --l 3 --d 1"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, chromium: Browser) -> Iterator[Site]:
    work = tmp_path_factory.mktemp("workspace")
    tiny_sd15(work / "models" / "tiny")
    make_photo_dataset(work / "datasets" / "photos", captions=False)
    site = Site(work)
    site.open()
    yield site
    stop_everything(site)
    site.kill()


def stop_everything(site: Site) -> None:
    """End the runs that a failed test left going on."""
    for status in site.work.glob("runs/*/status.json"):
        told = json.loads(status.read_text(encoding="utf-8"))
        if told["state"] in ("running", "stopping"):
            with_pid(told["pid"], signal.SIGTERM)


def with_pid(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@contextlib.contextmanager
def opened(site: Site, chromium: Browser) -> Iterator[Page]:
    """A browser of its own that shows the page."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    goto(page, site)
    yield page
    context.close()


@pytest.fixture(scope="module")
def page(site: Site, chromium: Browser) -> Iterator[Page]:
    with opened(site, chromium) as page:
        yield page


def goto(page: Page, site: Site) -> None:
    page.goto(site.url)
    page.wait_for_selector("html.loom-whole", state="attached")
    page.wait_for_function("loom.forms.train.ready && !loom.forms.train.checking")


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=re.compile(rf"^{re.escape(name)}( ?\d+)?$")).first.click()


def fill(page: Page, label: str, text: str) -> None:
    """Write into the one visible field with this label, whatever follows it in brackets."""
    field = page.get_by_label(re.compile(rf"^{re.escape(label)}( \(.*\))?\s*$")).locator("visible=true").first
    field.fill(text)
    field.press("Tab")


def unfold(page: Page) -> None:
    folded = page.locator(".loom-more[aria-expanded=false]:visible")
    while folded.count():
        folded.first.click()


def run_panel(page: Page) -> Any:
    return page.locator("#loom-right")


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    until = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"waited in vain for {what}")


def newest(site: Site) -> Path:
    return max(site.work.glob("runs/*/"), key=lambda folder: folder.name)


def status(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "status.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def train(page: Page, site: Site, name: str, steps: int) -> Path:
    """Fill the form, press Start, and wait until the steps go by; returns the run's folder."""
    tab(page, "LoRA")
    tab(page, "Folders")
    fill(page, "Trained Model output name", name)
    tab(page, "Parameters")
    tab(page, "Basic")
    unfold(page)
    fill(page, "Max train steps", str(steps))
    before = set(site.work.glob("runs/*/"))
    page.get_by_role("button", name="Start training", exact=True).click()
    wait_for(lambda: set(site.work.glob("runs/*/")) - before, "a run folder")
    folder = newest(site)
    wait_for(lambda: status(folder).get("step", 0) >= 3, "the first steps")
    return folder


def test_1_fill_in_the_tabs_by_label(page: Page, site: Site) -> None:
    tab(page, "Source Model")
    fill(page, "Pretrained model name or path", str(site.work / "models" / "tiny"))
    tab(page, "Folders")
    fill(page, "Image folder", str(site.work / "datasets" / "photos"))
    fill(page, "Regularisation directory", "")
    fill(page, "Output directory for trained model", str(site.work / "out ä 'x'"))
    fill(page, "Trained Model output name", "story")
    tab(page, "Parameters")
    tab(page, "Basic")
    unfold(page)
    fill(page, "Max resolution", "64x64")
    fill(page, "Train batch size", "2")
    fill(page, "Network Rank (Dimension)", "4")
    fill(page, "Learning rate", "1e-3")
    tab(page, "Advanced")
    fill(page, "Bucket resolution steps", "32")
    tab(page, "Samples")
    fill(page, "Sample prompts", PROMPT)
    fill(page, "Sample every n epochs", "0")
    fill(page, "Sample every n steps", "20")
    page.wait_for_function("!loom.forms.train.checking && !localStorage.getItem('loom.pending.train')")
    plan = page.locator("#loom-plan")
    plan.get_by_text(re.compile(r"images .* steps?")).first.wait_for()
    assert page.evaluate("loom.forms.train.problems") == []


def test_2_save_a_preset_and_load_it_again(page: Page, site: Site) -> None:
    page.get_by_role("button", name="Save as …").click()
    page.get_by_label("Preset name").fill("story")
    page.get_by_role("button", name="Save preset").click()
    wait_for(lambda: (site.work / "presets" / "story.json").exists(), "the preset's file")
    tab(page, "Basic")
    fill(page, "Network Rank (Dimension)", "9")
    page.get_by_role("button", name="Load", exact=True).click()
    page.wait_for_function("loom.forms.train.values.network_dim === '4'")
    page.locator(".loom-report").get_by_text(re.compile("loaded", re.IGNORECASE)).first.wait_for()


def test_3_caption_the_photographs(page: Page, site: Site) -> None:
    tab(page, "Utilities")
    tab(page, "BLIP Captioning")
    fill(page, "Image folder to caption", str(site.work / "datasets" / "photos"))
    page.evaluate("loom.apply('caption-blip', {model: 'demo', prefix: 'sks photo', num_beams: '1'})")
    page.wait_for_function("loom.forms['caption-blip'].values.model === 'demo'")
    page.locator("#panel-caption-blip").get_by_role("button", name="Caption images").click()
    run_panel(page).get_by_text(re.compile("Finished")).first.wait_for()
    captions = list((site.work / "datasets" / "photos").rglob("*.txt"))
    assert len(captions) == 12
    assert all(file.read_text(encoding="utf-8").startswith("sks photo, ") for file in captions)
    assert run_panel(page).locator(".loom-results li").count() == 12


def test_4_start_see_it_learn_and_reload(page: Page, site: Site) -> None:
    folder = train(page, site, "story", 50_000)
    panel = run_panel(page)
    panel.get_by_text(re.compile(r"step \d+/50000")).first.wait_for()
    panel.locator("svg").first.wait_for()
    panel.locator("img").first.wait_for()
    page.wait_for_function("[...document.querySelectorAll('#loom-right img')].some((image) => image.naturalWidth > 0)")
    page.reload()
    panel.get_by_text(re.compile(r"step \d+/50000")).first.wait_for()
    assert status(folder)["state"] == "running"


def test_5_the_page_dies_and_the_run_goes_on(page: Page, site: Site) -> None:
    folder = newest(site)
    site.kill()
    step = status(folder)["step"]
    wait_for(lambda: status(folder)["step"] > step + 5, "steps without a page")
    site.open()
    goto(page, site)
    run_panel(page).get_by_text(re.compile(r"step \d+/50000")).first.wait_for()


def test_6_stop_and_resume_to_the_file(page: Page, site: Site) -> None:
    folder = newest(site)
    panel = run_panel(page)
    panel.get_by_role("button", name="Stop", exact=True).click()
    panel.get_by_text(re.compile("Stopped after step")).first.wait_for()
    stopped = status(folder)["step"]
    assert 0 < stopped < 50_000
    tab(page, "LoRA")
    panel.get_by_role("button", name="Resume", exact=True).click()
    again = wait_for(lambda: newest(site) if newest(site) != folder else None, "the resumed run")
    wait_for(lambda: status(again).get("step", 0) > stopped, "steps after the stopped one")
    panel.get_by_role("button", name="Stop", exact=True).click()
    panel.get_by_text(re.compile("Stopped after step")).first.wait_for()


def test_7_a_short_run_ends_with_a_file_to_download(page: Page, site: Site) -> None:
    folder = train(page, site, "story-v2", 8)
    panel = run_panel(page)
    panel.get_by_text(re.compile("Finished")).first.wait_for()
    wait_for(lambda: status(folder).get("state") == "finished", "the end of the run")
    file = site.work / "out ä 'x'" / "story-v2.safetensors"
    with safe_open(file, "pt") as saved:
        assert saved.metadata()["ss_steps"] == "8"
        assert len(list(saved.keys())) % 3 == 0
    with page.expect_download() as download:
        panel.get_by_role("link", name="Download").click()
    assert download.value.path().read_bytes() == file.read_bytes()


def test_8_a_file_of_that_name_is_not_overwritten_unasked(page: Page, site: Site) -> None:
    before = (site.work / "out ä 'x'" / "story-v2.safetensors").stat().st_mtime_ns
    page.get_by_role("button", name="Start training", exact=True).click()
    page.locator("#train-output_name .loom-says").get_by_text(re.compile("exists already")).wait_for()
    assert page.locator("#train-output_name .loom-fix").inner_text() == "Call it story-v3"
    assert (site.work / "out ä 'x'" / "story-v2.safetensors").stat().st_mtime_ns == before


def test_9_a_killed_trainer_is_told_and_resumed(page: Page, site: Site) -> None:
    tab(page, "Parameters")
    tab(page, "Advanced")
    fill(page, "Save every N steps", "5")
    page.evaluate("loom.apply('train', {save_state: true})")
    folder = train(page, site, "killed", 50_000)
    wait_for(lambda: status(folder).get("step", 0) > 8, "a saved state")
    wait_for(lambda: list((site.work / "out ä 'x'").glob("killed*-state")), "a state folder")
    with_pid(status(folder)["pid"], signal.SIGKILL)
    panel = run_panel(page)
    panel.get_by_text(re.compile(r"Interrupted at step \d+")).first.wait_for()
    assert panel.locator(".loom-words").inner_text().strip()
    panel.get_by_role("button", name="Resume", exact=True).click()
    again = wait_for(lambda: newest(site) if newest(site) != folder else None, "the resumed run")
    wait_for(lambda: status(again).get("loss") is not None, "steps after the kill")
    panel.get_by_role("button", name="Stop", exact=True).click()
    panel.get_by_text(re.compile("Stopped after step")).first.wait_for()
