"""The Data sets tab in a real browser: create by dropping, look, edit captions, tags, undo, copy info, reload."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.browser.test_page import CONTRAST, PATIENCE, Served, free_port, opened, settled, value

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, chromium: Browser) -> Iterator[Served]:
    server = Served(free_port(), tmp_path_factory.mktemp("workspace"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def page(served: Served, chromium: Browser) -> Iterator[Page]:
    """One page for all tests, in their order: each goes on where a person would."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    opened(page, served)
    page.get_by_role("tab", name="Data sets").click()
    page.wait_for_selector(".ds-sets button")
    yield page
    context.close()


def image(color: int, size: tuple[int, int] = (600, 512)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (200, color, 30)).save(file, "PNG")
    return file.getvalue()


DROP = """([target, files]) => {
  const transfer = new DataTransfer();
  for (const [name, content] of files) {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name));
  }
  const node = document.querySelector(target);
  for (const type of ["dragover", "drop"]) node.dispatchEvent(new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


def drop(page: Page, target: str, files: dict[str, bytes]) -> None:
    page.evaluate(DROP, [target, [[name, base64.b64encode(data).decode()] for name, data in files.items()]])


def caption(page: Page, name: str) -> Locator:
    return page.get_by_label(f"Caption of {name}")


def folder(served: Served, repeats: int = 40) -> Path:
    return served.workspace / "datasets" / "mycat" / "img" / f"{repeats}_asd cat"


def test_a_data_set_is_created_by_dropping_files(page: Page, served: Served) -> None:
    files = {"a.png": image(1), "b.png": image(2), "b.txt": b"asd cat, sitting", "broken.png": b"no picture"}
    drop(page, "[data-drop=images]", files)
    page.get_by_text("3 pictures, 1 caption", exact=False).wait_for()
    assert "1500 / pictures, at least 100, is 500 here" in page.locator(".ds-rule").inner_text()
    page.get_by_role("button", name="Prepare training data").click()
    page.get_by_text("Name is missing").wait_for()
    assert page.evaluate("document.activeElement.id") == "ds-name"
    page.get_by_label("Name", exact=True).fill("mycat")
    page.get_by_label("Instance prompt").fill("asd")
    page.get_by_label("Class prompt").fill("cat")
    page.get_by_role("button", name="Prepare training data").click()
    page.get_by_text("2 pictures added, 1 caption added.").wait_for()
    assert "broken.png is text, not a picture" in page.locator(".ds-copied").inner_text()
    assert sorted(path.name for path in folder(served).iterdir()) == ["a.png", "b.png", "b.txt"]


def test_pictures_stand_beside_their_captions(page: Page) -> None:
    page.wait_for_function("[...document.querySelectorAll('.ds-thumb img')].every((image) => image.naturalWidth > 1)")
    assert page.locator(".ds-card").count() == 2
    assert caption(page, "b.png").input_value() == "asd cat, sitting"
    assert "trained with “asd cat”" in str(caption(page, "a.png").get_attribute("placeholder"))
    page.get_by_text("600 × 512 · 40 repeats").first.wait_for()
    assert "2 pictures · 1 without caption" in page.locator(".ds-summary").inner_text()


def test_an_edited_caption_is_on_disk(page: Page, served: Served) -> None:
    caption(page, "a.png").fill("asd cat, jumping")
    caption(page, "a.png").blur()
    page.locator(".ds-card", has=caption(page, "a.png")).get_by_text("saved", exact=True).wait_for()
    assert (folder(served) / "a.txt").read_text(encoding="utf-8") == "asd cat, jumping\n"
    page.get_by_text("all with captions").wait_for()


def test_quick_tags_go_in_and_out_by_a_click_and_undo_takes_back(page: Page, served: Served) -> None:
    page.locator(".ds-tags summary").click()
    assert page.locator(".ds-counts li").first.inner_text().split() == ["asd", "cat", "2"]
    page.get_by_role("button", name="Import tags from captions").click()
    assert page.get_by_label("Quick Tags").input_value() == "asd cat, jumping, sitting"
    page.get_by_label("Quick Tags").fill("outdoors")
    tag = page.locator(".ds-card", has=caption(page, "a.png")).get_by_role("button", name="outdoors")
    tag.click()
    page.wait_for_function("document.querySelector('.ds-counts').innerText.includes('outdoors')")
    assert (folder(served) / "a.txt").read_text(encoding="utf-8") == "asd cat, jumping, outdoors\n"
    assert tag.get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Undo", exact=True).last.click()
    page.get_by_text("Undone: the caption of a.png.").wait_for()
    assert (folder(served) / "a.txt").read_text(encoding="utf-8") == "asd cat, jumping\n"
    assert caption(page, "a.png").input_value() == "asd cat, jumping"


def test_a_caption_that_changed_on_disk_is_asked_about(page: Page, served: Served) -> None:
    (folder(served) / "b.txt").write_text("from a captioner", encoding="utf-8")
    caption(page, "b.png").fill("mine")
    caption(page, "b.png").blur()
    page.get_by_text("It now says: “from a captioner”").wait_for()
    assert (folder(served) / "b.txt").read_text(encoding="utf-8") == "from a captioner"
    page.get_by_role("button", name="Keep mine").click()
    page.locator(".ds-card", has=caption(page, "b.png")).get_by_text("saved", exact=True).wait_for()
    assert (folder(served) / "b.txt").read_text(encoding="utf-8") == "mine\n"


def test_words_are_found_and_filters_say_what_they_leave_out(page: Page) -> None:
    page.get_by_label("Find", exact=True).fill("jumping")
    page.get_by_text("1 of 2 pictures").wait_for()
    assert page.locator(".ds-card b").all_inner_texts() == ["a.png"]
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("document.querySelectorAll('.ds-card').length === 2")


def test_a_removed_picture_comes_back(page: Page, served: Served) -> None:
    page.get_by_label("Remove a.png").click()
    page.get_by_text("Removed (1)").wait_for()
    assert not (folder(served) / "a.png").exists()
    page.locator("body").press("Control+z")
    page.wait_for_function("document.querySelectorAll('.ds-card').length === 2")
    assert (folder(served) / "a.txt").is_file()


def test_repeats_are_changed_and_more_files_dropped_on_the_pictures(page: Page, served: Served) -> None:
    page.get_by_label("Repeats 40", exact=False).or_(page.locator(".ds-folders input")).first.fill("20")
    page.locator(".ds-folders input").press("Enter")
    page.get_by_text("img/20_asd cat").wait_for()
    drop(page, ".ds-grid", {"c.png": image(3, (300, 300)), "d.png": image(1)})
    page.wait_for_function("document.querySelectorAll('.ds-card').length === 4")
    assert (folder(served, 20) / "c.png").is_file()
    page.get_by_text("The same file as a.png.").wait_for()


def test_copy_info_fills_the_lora_tab(page: Page, served: Served) -> None:
    page.get_by_role("button", name="Copy info to respective fields").click()
    page.get_by_text("Filled in on the LoRA tab:").wait_for()
    settled(page)
    home = served.workspace / "datasets" / "mycat"
    expected = {"train_data_dir": home / "img", "output_dir": home / "model", "logging_dir": home / "log"}
    assert {key: value(page, key) for key in expected} == {key: str(path) for key, path in expected.items()}
    assert value(page, "reg_data_dir") == ""
    assert page.evaluate("loom.forms.train.problems.filter((one) => one.key === 'train_data_dir')") == []


def test_a_reload_keeps_the_data_set_open(page: Page, served: Served) -> None:
    opened(page, served)
    page.wait_for_function("document.querySelectorAll('.ds-card').length === 4")
    assert caption(page, "a.png").input_value() == "asd cat, jumping"
    assert value(page, "train_data_dir") == str(served.workspace / "datasets" / "mycat" / "img")


def test_the_captioner_gets_the_folder(page: Page, served: Served) -> None:
    page.get_by_role("button", name="Caption these images").click()
    page.wait_for_function("loom.forms['caption-basic'].values.image_folder.endsWith('20_asd cat')")
    assert page.get_by_role("tab", name="Utilities").get_attribute("aria-selected") == "true"
    page.get_by_role("tab", name="Data sets").click()


@pytest.mark.parametrize("view", ["pictures", "overview"])
def test_nothing_scrolls_sideways_and_everything_has_a_name(page: Page, view: str) -> None:
    if view == "overview":
        page.get_by_role("button", name="All data sets").click()
        page.wait_for_selector(".ds-sets button")
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.set_viewport_size({"width": 1280, "height": 900})
    nameless = page.evaluate(NAMELESS)
    assert nameless == [], json.dumps(nameless)
    for theme in ("light", "dark"):
        page.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
        page.wait_for_function(f"({CONTRAST})().length === 0")  # once the colours have faded over
    page.evaluate("document.body.classList.remove('dark')")


NAMELESS = """() => [...document.querySelectorAll("#loom-datasets :is(input, select, textarea, button)")]
  .filter((node) => node.checkVisibility() && !(node.labels?.length || node.getAttribute("aria-label") || node.innerText?.trim() || node.title))
  .map((node) => node.outerHTML)"""


def test_folders_named_for_repeats_need_no_prompt(page: Page, served: Served, tmp_path: Path) -> None:
    for number, name in enumerate(("15_exterior", "20_interior")):
        (tmp_path / "img" / name).mkdir(parents=True)
        (tmp_path / "img" / name / "x.png").write_bytes(image(number))
    page.set_input_files("#ds-images-folder", str(tmp_path / "img"))
    page.get_by_label("Name", exact=True).fill("venice")
    page.get_by_text("2 folders keep their names").wait_for()
    page.get_by_role("button", name="Prepare training data").click()
    page.get_by_text("2 pictures added.").wait_for()
    home = served.workspace / "datasets" / "venice" / "img"
    assert sorted(path.name for path in home.iterdir()) == ["15_exterior", "20_interior"]
    page.get_by_role("button", name="All data sets").click()


def test_a_folder_on_this_machine_is_looked_at_and_copied(page: Page, served: Served, tmp_path: Path) -> None:
    source = tmp_path / "15_alley"
    source.mkdir()
    (source / "x.png").write_bytes(image(7))
    page.get_by_label("Image folder to caption").first.fill(str(tmp_path / "nowhere"))
    page.get_by_role("button", name="Load Images").click()
    page.get_by_text(f"There is no folder {tmp_path / 'nowhere'}.").wait_for()
    page.get_by_label("Image folder to caption").first.fill(str(source))
    page.get_by_role("button", name="Load Images").click()
    page.wait_for_function("document.querySelectorAll('.ds-card').length === 1")
    assert page.get_by_role("button", name="Add images").is_hidden()
    page.get_by_role("button", name="All data sets").click()
    page.get_by_label("Name", exact=True).fill("places")
    page.get_by_label("Instance prompt").fill("alley")
    page.get_by_label("Repeats", exact=True).fill("15")
    page.get_by_label("Training images folder").fill(str(source))
    page.get_by_role("button", name="Prepare training data").click()
    page.get_by_text("1 picture added.").wait_for()
    assert (served.workspace / "datasets" / "places" / "img" / "15_alley" / "x.png").is_file()
    assert (source / "x.png").is_file()
