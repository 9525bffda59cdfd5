"""The page in a real browser: words, drafts, presets, search, conditions, problems, keyboard, narrow screens."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from trainer.declare import Setting, settings_of
from trainer.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser
PATIENCE = 60_000
"""Milliseconds; a busy machine is slow, and none of these tests is about speed."""
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Served:
    """A page's process: where it answers, and its workspace."""

    port: int
    workspace: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "app", "--server_port", str(self.port), "--workspace", str(self.workspace)]
        self.process = subprocess.Popen(command, cwd=ROOT)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(self.url, timeout=2).read()
                return
            except OSError:
                assert self.process.poll() is None, "the page's process ended"
                time.sleep(0.2)
        raise TimeoutError(self.url)

    def stop(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, chromium: Browser) -> Iterator[Served]:
    server = Served(free_port(), tmp_path_factory.mktemp("workspace"))
    pictures = server.workspace / "datasets" / "cats" / "10_cat"
    pictures.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (96, 64 + 32 * number), (200, 90, number)).save(pictures / f"{number}.png")
    (server.workspace / "datasets" / "empty").mkdir()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def tab_of_a_browser(served: Served, chromium: Browser) -> Iterator[Page]:
    """One page for all tests: opening it is what takes time."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    opened(page, served)
    yield page
    context.close()


@pytest.fixture
def page(served: Served, tab_of_a_browser: Page) -> Page:
    """The page as it is at first, with every setting at its default."""
    shutil.rmtree(served.workspace / "presets", ignore_errors=True)
    page = tab_of_a_browser
    page.set_viewport_size({"width": 1280, "height": 900})
    page.evaluate(RESET)
    page.wait_for_function("loom.forms.train.names.every((key) => !loom.differs(loom.forms.train, key))")
    settled(page)
    return page


RESET = """() => {
  const form = loom.forms.train, only = document.getElementById("loom-only-changed");
  document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());
  document.querySelectorAll(".loom-report, #loom-said p").forEach((node) => node.remove());
  document.querySelectorAll(".loom-more[aria-expanded=true]").forEach((more) => more.click());
  if (only.checked) only.click();
  for (const id of ["basic", "source-model", "lora"]) document.getElementById(`tab-${id}`).click();
  document.activeElement?.blur();
  loom.apply("train", Object.fromEntries(form.names.map((key) => [key, form.fields[key].default])));
}"""


def opened(page: Page, served: Served, query: str = "") -> None:
    page.goto(served.url + query)
    page.wait_for_selector(".loom-fine, .loom-problems", state="attached", timeout=PATIENCE)
    page.wait_for_selector("html.loom-whole", state="attached", timeout=PATIENCE)


def field(page: Page, key: str) -> Locator:
    """The input of a setting."""
    return page.locator(f"#train-{key} input:not(.loom-range), #train-{key} textarea").first


def fill(page: Page, key: str, text: str) -> None:
    page.evaluate("key => loom.reveal(loom.block(loom.forms.train, key))", key)
    field(page, key).fill(text)
    settled(page)


def settled(page: Page) -> None:
    """Wait until the server has seen every edit and answered."""
    page.wait_for_function("!localStorage.getItem('loom.pending.train') && !loom.forms.train.checking")


def value(page: Page, key: str) -> object:
    return page.evaluate("key => loom.forms.train.values[key]", key)


def said(page: Page, key: str) -> str:
    return page.locator(f"#train-{key} .loom-says").inner_text()


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def tab(page: Page, name: str) -> Locator:
    return page.get_by_role("tab", name=re.compile(rf"^{re.escape(name)}( ?\d+)?$"))


def reveal(page: Page, key: str) -> None:
    page.evaluate("key => loom.reveal(loom.block(loom.forms.train, key))", key)


# Words.


def test_every_setting_has_a_labelled_input_that_says_what_it_does(page: Page) -> None:
    for item in settings_of(Settings):
        labelled = page.locator(f"#train-{item.name}").get_by_label(item.whole_label, exact=True)
        group = page.locator(f"#train-{item.name}[aria-labelledby]")
        assert labelled.count() or group.count(), item.name
        helped = page.evaluate(
            "key => { const b = loom.block(loom.forms.train, key), n = b.querySelector('input[aria-describedby], textarea[aria-describedby]') || b;"
            " return document.getElementById(n.getAttribute('aria-describedby').split(' ')[0]).textContent }",
            item.name,
        )
        assert helped.strip() == item.about.help


GUIDES = (
    "LoRA", "Training", "Source Model", "Model Quick Pick", "runwayml/stable-diffusion-v1-5", "custom", "Save trained model as",
    "safetensors", "Folders", "Image folder", "Output folder", "Regularisation folder", "Logging folder", "Model output name",
    "Training comment", "Parameters", "Basic", "Advanced", "Samples", "LoRA type", "Standard", "LoRA network weights",
    "DIM from weights", "Train batch size", "Epoch", "Save every N epochs", "Caption extension", "Mixed precision", "Save precision",
    "bf16", "CPU threads per core", "Seed", "Cache latents", "LR Scheduler", "Optimizer", "Learning rate", "LR warmup", "LR number of cycles",
    "LR power", "Max resolution", "Stop text encoder training", "Enable buckets", "Minimum bucket resolution", "Text Encoder learning rate",
    "Unet learning rate", "Network Rank (Dimension)", "Network Alpha", "Clip skip", "Weighted captions", "Shuffle caption",
    "Color augmentation", "Flip augmentation", "Don't upscale bucket resolution", "Gradient accumulate steps", "Scale weight norms",
    "Network dropout", "Rank dropout", "Module dropout", "Sample every n epochs", "Sample prompts", "Optimizer extra arguments",
    "Save as", "Start training", "Utilities", "Captioning", "BLIP Captioning", "WD14 Captioning", "DeepDanbooru", "Caption images",
)  # fmt: skip


def test_the_words_of_the_guides_are_on_the_page(page: Page) -> None:
    page.get_by_label("Model Quick Pick").click()  # a list is in the document while it is open
    everything = page.evaluate("document.body.textContent")
    assert [word for word in GUIDES if word.lower() not in everything.lower()] == []


# Drafts.


def test_a_first_visit_finds_the_demo_filled_in(page: Page, served: Served, chromium: Browser) -> None:
    shutil.rmtree(served.workspace / "drafts")
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE)
    first = context.new_page()
    opened(first, served)
    assert value(first, "pretrained_model_name_or_path") == "demo"
    assert str(value(first, "train_data_dir")).startswith(str(served.workspace))
    assert "images × 10 repeats" in first.locator(".loom-sentence").inner_text()
    context.close()


def test_edits_survive_a_reload_a_second_tab_and_a_restart(page: Page, served: Served) -> None:
    fill(page, "output_name", "mycat-v1")
    reveal(page, "network_dim")
    field(page, "network_dim").fill("12 ")
    field(page, "network_dim").fill("17")
    page.reload()  # at once: the server has not seen the last edit yet
    page.wait_for_function("window.loom?.forms.train?.ready")
    assert (value(page, "output_name"), value(page, "network_dim")) == ("mycat-v1", "17")
    settled(page)
    other = page.context.new_page()
    opened(other, served)
    assert value(other, "network_dim") == "17"
    other.close()
    served.stop()
    served.start()
    opened(page, served)
    assert (value(page, "output_name"), value(page, "network_dim")) == ("mycat-v1", "17")


def test_a_new_browser_finds_what_was_last_used(page: Page, served: Served, chromium: Browser) -> None:
    fill(page, "output_name", "last-used")
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE)
    other = context.new_page()
    opened(other, served)
    assert value(other, "output_name") == "last-used"
    context.close()


# Presets.


def test_a_preset_is_saved_loaded_reported_and_undone(page: Page, served: Served) -> None:
    fill(page, "network_dim", "48")
    press(page, "Save as …")
    page.get_by_label("Preset name").fill("my / cat")
    press(page, "Save preset")
    page.wait_for_function("document.querySelector('#loom-said')?.textContent.includes('Saved')")
    (file,) = (served.workspace / "presets").glob("*.json")
    saved = json.loads(file.read_text(encoding="utf-8"))
    assert saved["network_dim"] == 48
    assert set(saved) - {"not_set"} == {item.name for item in settings_of(Settings) if not item.about.secret}

    fill(page, "network_dim", "5")
    press(page, "Load")
    report = page.locator(".loom-report")
    report.wait_for()
    assert "settings loaded" in report.inner_text()
    page.wait_for_function("loom.forms.train.values.network_dim === '48'")
    press(page, "Undo")
    page.wait_for_function("loom.forms.train.values.network_dim === '5'")


def test_a_kohya_file_is_reported_key_by_key_and_a_broken_one_changes_nothing(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "old kohya.json"
    file.write_text(
        json.dumps({"lr_num_cycles": 3, "epoch": 7, "no_token_padding": True, "network_dim": "many"}), encoding="utf-8"
    )
    fill(page, "output_name", "stays")
    choice = page.locator("#loom-preset input")
    choice.fill(str(file))
    choice.press("Enter")
    press(page, "Load")
    report = page.locator(".loom-report")
    report.wait_for()
    report.locator("summary").click()
    text = report.inner_text()
    assert all(word in text for word in ("no_token_padding", "LR # cycles", "Network Rank (Dimension)", "Epoch"))
    page.wait_for_function("loom.forms.train.values.epoch === '7'")
    assert value(page, "output_name") == "last"  # a load starts from the defaults
    broken = tmp_path / "broken.json"
    broken.write_text('{"epoch": 3,', encoding="utf-8")
    choice.fill(str(broken))
    choice.press("Enter")
    press(page, "Load")
    page.locator(".loom-report.bad").wait_for()
    assert "line 1" in page.locator(".loom-report.bad").inner_text()
    assert value(page, "epoch") == "7"


def another(item: Setting) -> object:
    """A value that a file may hold and that is not the default."""
    if item.name in ("max_resolution", "additional_parameters", "bucket_reso_steps"):
        return {"max_resolution": "640,704", "additional_parameters": "", "bucket_reso_steps": 32}[item.name]
    if item.choices:
        return next(choice for choice in item.choices if choice not in (item.default, str(item.default), ""))
    if item.type is str:
        return "something else"
    if item.type is bool:
        return not item.default
    top = item.le if item.le is not None else item.lt
    return item.type(64 if top is None or top > 64 else top / 2)


def test_loading_leaves_nothing_of_the_file_before(page: Page, tmp_path: Path) -> None:
    """A file that changes every setting, then one that names two: on the page, and after a reload."""
    differing = "loom.forms.train.names.filter((key) => loom.differs(loom.forms.train, key))"
    kept = [item for item in settings_of(Settings) if not item.about.secret]
    most = {item.name for item in kept} - {"additional_parameters"}  # its flags move to fields
    everything, little = tmp_path / "everything.json", tmp_path / "little.json"
    everything.write_text(json.dumps({item.name: another(item) for item in kept}), encoding="utf-8")
    little.write_text(json.dumps({"LoRA_type": "Standard", "epoch": 3}), encoding="utf-8")
    choice = page.locator("#loom-preset input")
    for file, changed in ((everything, most), (little, {"epoch"})):
        choice.fill(str(file))
        choice.press("Enter")
        press(page, "Load")
        page.wait_for_function(f"{differing}.length === {len(changed)}")
        assert set(page.evaluate(differing)) == changed
    settled(page)
    page.reload()
    page.wait_for_selector(".loom-fine, .loom-problems", state="attached", timeout=PATIENCE)
    assert page.evaluate(differing) == ["epoch"]


def test_a_file_for_something_else_is_told_what_it_is(page: Page, tmp_path: Path) -> None:
    choice, report = page.locator("#loom-preset input"), page.locator(".loom-report")
    flux, model = tmp_path / "flux.json", tmp_path / "cat.safetensors"
    flux.write_text(json.dumps({"LoRA_type": "Flux1", "flux1_checkbox": True, "epoch": 2}), encoding="utf-8")
    model.write_bytes(b"\0" * 64)
    for file, words in ((flux, "this file is for Flux.1"), (model, "is a model, not settings")):
        choice.fill(str(file))
        choice.press("Enter")
        press(page, "Load")
        report.get_by_text(words).first.wait_for(state="attached")
    assert value(page, "LoRA_type") == "Standard"
    assert value(page, "epoch") == "2", "the second file changed nothing"


def test_a_token_in_a_file_from_the_browser_stays_nowhere(page: Page, served: Served, tmp_path: Path) -> None:
    """Twice the same file, changed in between, as people do who write presets by hand."""
    file = tmp_path / "with a token.json"
    for epoch in (4, 5):
        file.write_text(json.dumps({"epoch": epoch, "huggingface_token": "hf_FromBrowser"}), encoding="utf-8")
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Open …", exact=True).click()
        chooser.value.set_files(file)
        page.wait_for_function(f"loom.forms.train.values.epoch === '{epoch}'")
    settled(page)
    kept = [path for path in served.workspace.rglob("*") if path.is_file()]
    assert not [path for path in kept if b"hf_FromBrowser" in path.read_bytes()]


# Search, conditions, changed fields.


def test_search_jumps_to_the_tab_and_field(page: Page) -> None:
    search = page.get_by_label("Find a setting")
    page.keyboard.press("/")
    search.fill("clip sk")
    assert page.get_by_role("option").first.inner_text().startswith("Clip skip")
    search.press("Enter")
    page.wait_for_function("document.activeElement.closest('#train-clip_skip')")
    assert tab(page, "Advanced").get_attribute("aria-selected") == "true"
    search.fill("scale_weight_norms")  # a key, folded under More
    search.press("Enter")
    page.wait_for_function("document.activeElement.closest('#train-scale_weight_norms')")
    assert field(page, "scale_weight_norms").is_visible()
    search.fill("zzz")
    assert "No setting matches" in page.locator("#loom-found").inner_text()


@pytest.mark.parametrize(
    ("words", "first", "told"),
    [
        ("colour aug", "Color augmentation", ""),
        ("Regularization folder", "Regularisation directory", ""),
        ("seed 987654", "Seed", "No setting has all of these words."),
        ("text-encoder rate", "Text Encoder learning rate", ""),
        ("Lion", "Optimizer", ""),
        ("rank", "Network Rank (Dimension)", ""),
        ("BLIP Captioning", "BLIP Captioning", ""),
    ],
    ids=["spelling", "another spelling", "not every word", "hyphen", "a choice", "a word within", "a tab"],
)
def test_search_finds_what_is_meant(page: Page, words: str, first: str, told: str) -> None:
    search = page.get_by_label("Find a setting")
    search.fill(words)
    found = page.locator("#loom-found")
    assert found.locator("[role=option] b").first.inner_text() == first
    assert found.locator(".is-empty").all_inner_texts() == ([told] if told else [])
    search.fill("")


def test_what_the_browser_s_own_search_finds_is_opened(page: Page) -> None:
    folded = page.locator("#train--Network .loom-folded")
    assert folded.get_attribute("hidden") == "until-found"
    assert page.locator("#panel-parameters").get_attribute("hidden") == "until-found"
    for hidden in ("#panel-parameters", "#train--Network .loom-folded"):  # what Chromium does on Ctrl+F
        page.locator(hidden).dispatch_event("beforematch", {"bubbles": True})
    field(page, "scale_weight_norms").wait_for(state="visible")
    assert page.locator("#train--Network .loom-more").get_attribute("aria-expanded") == "true"


def choose(page: Page, key: str, option: str) -> None:
    """Open a field's list and take an option."""
    field(page, key).click()
    page.get_by_role("option", name=option, exact=True).click()


def test_conditions_show_and_hide_and_never_write(page: Page) -> None:
    reveal(page, "LoRA_type")
    rank = page.locator("#train-conv_dim")
    assert not rank.is_visible()
    choose(page, "LoRA_type", "Kohya LoCon")
    rank.wait_for()
    field(page, "conv_dim").fill("9")
    choose(page, "LoRA_type", "Standard")
    rank.wait_for(state="hidden")
    assert value(page, "conv_dim") == "9"


def test_changed_fields_carry_a_dot_that_resets_them_and_can_be_listed(page: Page) -> None:
    fill(page, "clip_skip", "2")
    block = page.locator("#train-clip_skip")
    assert "differs" in (block.get_attribute("class") or "")
    page.get_by_label("Only changed").check()
    assert block.is_visible()
    assert not page.locator("#train-keep_tokens").is_visible()
    block.get_by_role("button", name=re.compile("Back to the default")).click()
    page.wait_for_function("loom.forms.train.values.clip_skip === '1'")
    page.get_by_label("Only changed").uncheck()


# Problems and the plan.


def test_a_problem_stands_under_its_field_and_on_its_tab(page: Page) -> None:
    fill(page, "epoch", "many")
    page.locator("#train-epoch .loom-problem").wait_for()
    assert "Must be a number" in said(page, "epoch")
    assert field(page, "epoch").get_attribute("aria-invalid") == "true"
    assert tab(page, "Parameters").locator(".loom-count").count() == 1
    fill(page, "epoch", "3")
    page.locator("#train-epoch .loom-problem").wait_for(state="detached")


def test_a_fix_is_one_click(page: Page) -> None:
    reveal(page, "color_aug")
    page.get_by_label("Color augmentation").check()
    page.locator("#train-color_aug .loom-fix").click()
    page.wait_for_function("loom.forms.train.values.cache_latents === false")
    page.locator("#train-color_aug .loom-problem").wait_for(state="detached")


def test_the_plan_follows_the_fields(page: Page, served: Served) -> None:
    fill(page, "train_data_dir", str(served.workspace / "datasets" / "cats"))
    fill(page, "epoch", "4")
    fill(page, "reg_data_dir", "")
    page.wait_for_function(
        "/3 images × 10 repeats × 4 epochs = 120 steps/.test(document.querySelector('.loom-sentence').textContent)"
    )
    fill(page, "train_batch_size", "2")
    page.wait_for_function("/batch 2 = /.test(document.querySelector('.loom-sentence').textContent)")
    assert page.locator("#train--Rates .loom-drawing svg").count() >= 1


def test_one_request_for_a_burst_of_edits(page: Page) -> None:
    reveal(page, "learning_rate")
    settled(page)
    sent: list[str] = []
    asks = re.compile(r'"fn_name": ?"answer"')  # the run panel asks by itself, too
    page.on("request", lambda request: sent.append(request.url) if asks.search(request.post_data or "") else None)
    field(page, "learning_rate").press_sequentially("00001", delay=15)
    settled(page)
    assert len(sent) == 1


def test_start_with_problems_goes_to_the_first_one(page: Page, served: Served) -> None:
    fill(page, "train_data_dir", str(served.workspace / "datasets" / "empty"))
    tab(page, "Parameters").click()
    start = page.get_by_role("button", name="Start training")
    assert start.is_enabled()
    page.keyboard.press("Control+Enter")
    page.wait_for_function("document.querySelector('#loom-said')?.textContent.includes('Not started')")
    page.wait_for_function("document.activeElement.closest('.loom-field.is-wrong')")
    assert tab(page, "Parameters").get_attribute("aria-selected") == "false"
    assert not (served.workspace / "runs").exists()


def test_the_command_names_only_what_differs(page: Page) -> None:
    fill(page, "train_data_dir", "/data/my cats")
    fill(page, "network_dim", "24")
    press(page, "Copy command")
    text = page.locator("#loom-command pre").inner_text()
    assert "-m trainer train" in text
    assert "--network_dim 24" in text
    assert "'/data/my cats'" in text or '"/data/my cats"' in text
    assert "--conv_dim" not in text
    page.keyboard.press("Escape")
    assert not page.locator("#loom-command").is_visible()


# Folders by keyboard.


def test_the_folder_picker_works_with_the_keyboard_alone(page: Page, served: Served) -> None:
    fill(page, "train_data_dir", str(served.workspace / "datasets"))
    page.locator("#train-train_data_dir").get_by_role("button", name="Browse").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Image folder")
    dialog.get_by_role("button", name="cats").wait_for()
    page.wait_for_function("document.activeElement.textContent === 'cats'")
    page.keyboard.press("Enter")
    dialog.get_by_text("1 folder named like 10_cat").wait_for()
    page.keyboard.press("Backspace")
    dialog.get_by_role("button", name="empty").wait_for()
    page.wait_for_function("document.activeElement.textContent === 'cats'")
    page.keyboard.press("Enter")
    dialog.get_by_text("1 folder named like 10_cat").wait_for()
    dialog.get_by_role("button", name="Choose this folder").press("Enter")
    dialog.wait_for(state="hidden")
    assert field(page, "train_data_dir").input_value() == str(served.workspace / "datasets" / "cats")


def test_states_to_resume_from_are_listed(page: Page, served: Served) -> None:
    state = served.workspace / "made" / "cat-000003-state"
    state.mkdir(parents=True)
    about = {"current_step": 30, "current_epoch": 3, "optimizer": "AdamW", "base_model": {"name": "cat.safetensors"}}
    (state / "train_state.json").write_text(json.dumps(about), encoding="utf-8")
    fill(page, "output_dir", str(state.parent))
    page.locator("#train-resume .loom-browse").evaluate("button => button.click()")  # on a tab that is not open
    dialog = page.get_by_role("dialog", name="Resume from saved training state")
    dialog.get_by_text("step 30, epoch 3").click()
    dialog.wait_for(state="hidden")
    page.wait_for_function(f"loom.forms.train.values.resume === {json.dumps(str(state))}")


def test_tabs_work_with_arrow_keys(page: Page) -> None:
    tab(page, "Source Model").focus()
    page.keyboard.press("ArrowRight")
    assert tab(page, "Folders").get_attribute("aria-selected") == "true"
    page.keyboard.press("End")
    assert tab(page, "Parameters").get_attribute("aria-selected") == "true"
    assert field(page, "epoch").is_visible()


# Widths, themes, network.


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_scrolls_sideways_at_400_pixels(page: Page, served: Served, theme: str) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    opened(page, served, f"?__theme={theme}")
    for name in ("LoRA", "Source Model", "Folders", "Parameters", "Advanced", "Samples", "Basic", "Utilities", "Runs"):
        tab(page, name).click()
        wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1], name
    tab(page, "LoRA").click()
    start, settings = page.locator("#loom-start").bounding_box(), page.locator("#loom-left").bounding_box()
    assert start is not None
    assert settings is not None
    assert start["y"] < settings["y"]


def test_text_has_enough_contrast_in_both_themes(page: Page, served: Served) -> None:
    for theme in ("light", "dark"):
        opened(page, served, f"?__theme={theme}")
        tab(page, "Parameters").click()
        low = page.evaluate(CONTRAST)
        assert low == [], theme


CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => { for (; node; node = node.parentElement) { const c = parse(getComputedStyle(node).backgroundColor); if (c.length === 3 || c[3] > 0.99) return c; } return [255, 255, 255]; };
  const low = new Set();
  for (const node of document.querySelectorAll("#loom-bar *, #loom-left *, #loom-start *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility() || node.disabled) continue;
    const a = light(parse(getComputedStyle(node).color)), b = light(ground(node));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.add(`${node.tagName} ${node.className} "${node.textContent.trim().slice(0, 30)}" ${ratio.toFixed(2)}`);
  }
  return [...low];
}"""


def test_no_request_leaves_the_machine_and_nothing_fails(served: Served, chromium: Browser) -> None:
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    opened(page, served)
    for name in ("Folders", "Parameters", "Utilities", "Runs", "LoRA"):
        tab(page, name).click()
    page.wait_for_timeout(300)
    outside = [url for url in asked if not url.startswith((served.url, "data:", "blob:"))]
    assert outside == []
    assert errors == []
    context.close()


def test_the_process_of_the_page_never_loads_torch() -> None:
    code = "import sys; from app.page import build_page; build_page(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
