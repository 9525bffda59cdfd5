"""Four guides that people follow, walked click by click: every word they read out is found, and the LoRA is made.

The model that comes with the program takes the place of their checkpoints, and 64 pixels that of 512.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from safetensors import safe_open

from tests.browser.test_datasets import drop
from tests.browser.test_monitor import Site
from tests.browser.test_story import (
    PATIENCE,
    fill,
    newest,
    run_panel,
    status,
    stop_everything,
    tab,
    unfold,
    wait_for,
)
from tests.captioners.tiny_tagger import tagger
from tests.photos import photo, sideways
from trainer.declare import by_name
from trainer.demo.pictures import draw, scenes
from trainer.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser


# The pictures of each guide.


def icons() -> dict[str, bytes]:
    """Guide 1: fifteen drawings of one style, on plain backgrounds."""
    return {
        f"icon{number:02}.png": png(draw(scene).resize((64, 64)))
        for number, scene in enumerate(itertools.islice(scenes(3), 15))
    }


def place(folder: Path) -> Path:
    """Guide 2: three concepts; one file is torn, and one picture is stored sideways."""
    for name, photos in {
        "2_sks palace exterior": ("china.jpg", "rocket.jpg"),
        "3_sks palace interior": ("coffee.png",),
        "5_sks palace statue": ("astronaut.png",),
    }.items():
        (folder / name).mkdir(parents=True)
        for source in photos:
            wide(source).save(folder / name / f"{Path(source).stem}.jpg", quality=90)
    exterior = folder / "2_sks palace exterior"
    whole = (exterior / "china.jpg").read_bytes()
    (exterior / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    stored, exif = sideways(wide("flower.jpg"), 6)
    assert stored.width < stored.height
    stored.save(exterior / "sideways.jpg", exif=exif, quality=90)
    return folder


def figure(folder: Path) -> tuple[Path, Path]:
    """Guide 4: a character, and its class with captions of which one holds the trigger word; (own, others)."""
    own, others = folder / "images", folder / "class images"
    for inner in (own / "2_zwx woman", others / "1_woman"):
        inner.mkdir(parents=True)
        for number, color in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255))):
            Image.new("RGB", (64, 64), color).save(inner / f"{number}.png")
    for number, text in enumerate(("a woman", "a zwx woman", "a woman outdoors", "a woman, smiling")):
        (others / "1_woman" / f"{number}.txt").write_text(text, encoding="utf-8")
    return own, others


def wide(source: str) -> Image.Image:
    return photo(source).convert("RGB").resize((96, 64))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


# The page, and what a reader does on it.


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, chromium: Browser) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("workspace"))
    site.open()
    yield site
    stop_everything(site)
    site.kill()


@pytest.fixture(scope="module")
def page(site: Site, chromium: Browser) -> Iterator[Page]:
    with reader(site, chromium) as page:
        yield page


@contextlib.contextmanager
def reader(site: Site, chromium: Browser) -> Iterator[Page]:
    """Somebody with a guide in another window and the page in this one."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(site.url)
    yield page
    context.close()


def settled(page: Page) -> None:
    page.wait_for_function("!loom.forms.train.checking && !localStorage.getItem('loom.pending.train')")


def look_up(page: Page, words: str) -> str:
    """Type the words into "Find a setting", take the first that is found, and return its key: the cursor is in it."""
    search = page.locator("#loom-search")
    search.fill(words)
    search.press("Enter")
    return str(
        page.wait_for_function(
            "() => document.activeElement?.closest('.loom-field')?.id.replace(/^train-/, '')"
        ).json_value()
    )


FIRST_FOUND = """(wanted) => {
  const search = document.getElementById("loom-search");
  const first = (words) => {
    search.value = words;
    search.dispatchEvent(new Event("input"));
    return document.querySelector("#loom-found [role=option] b")?.textContent || "nothing";
  };
  const found = wanted.map(first);
  first("");
  return found;
}"""


def enter(page: Page, key: str, value: Any) -> None:
    """Give a setting a value by hand, as its kind of field takes one."""
    field = page.locator(f"#train-{key}")
    box = field.locator("input:not(.loom-range), textarea").first
    if isinstance(value, bool):
        box.set_checked(value)
    elif box.get_attribute("type") == "radio":
        field.get_by_role("radio", name=value, exact=True).check()
    elif by_name(Settings)[key].choices:
        box.click()
        page.get_by_role("option", name=str(value), exact=True).click()
    else:
        box.fill(str(value))
        box.press("Tab")


def said(page: Page, key: str) -> Locator:
    """What stands under a field."""
    return page.locator(f"#train-{key} .loom-says")


def plan(page: Page) -> str:
    settled(page)
    return page.locator("#loom-plan .loom-sentence").inner_text()


def start(page: Page, site: Site) -> Path:
    """Press Start training and wait for the run's folder."""
    before = set(site.work.glob("runs/*/"))
    page.get_by_role("button", name="Start training", exact=True).click()
    wait_for(lambda: set(site.work.glob("runs/*/")) - before, "a run folder")
    return newest(site)


def save_as(page: Page, site: Site, name: str) -> None:
    page.get_by_role("button", name="Save as …").click()
    page.get_by_label("Preset name").fill(name)
    page.get_by_role("button", name="Save preset").click()
    wait_for(lambda: (site.work / "presets" / f"{name}.json").exists(), "the preset's file")


def opening(page: Page) -> None:
    page.wait_for_function("window.loom?.forms?.train?.ready && !loom.forms.train.checking")
    tab(page, "LoRA")


def captioned(page: Page, job: str, **fields: str) -> None:
    """Press Caption images on the tab of a captioner, with its fields filled in, and wait for the end."""
    panel = page.locator(f"#panel-{job}")
    for key, value in fields.items():
        box = panel.locator(f"#{job}-{key} input").first
        box.fill(value)
        box.press("Tab")
    page.wait_for_function(
        "([job, wanted]) => Object.entries(wanted).every(([key, value]) => loom.forms[job].values[key] === value)",
        arg=[job, fields],
    )
    panel.get_by_role("button", name=re.compile("^Caption Image", re.IGNORECASE)).click()
    run_panel(page).get_by_text(re.compile(r"^Finished.*written")).first.wait_for()


def finished(page: Page, name: str) -> None:
    run_panel(page).locator(".loom-run-head h2", has_text=name).wait_for()
    run_panel(page).locator(".loom-ending.good").wait_for(timeout=3 * PATIENCE)


def test_guide_1_a_style_from_product_icons(page: Page, site: Site) -> None:
    """A data set is created, looked at, captioned and mended by hand; a run goes on, is watched and stopped."""
    opening(page)
    tab(page, "Data sets")
    page.wait_for_selector(".ds-sets button")
    drop(page, "[data-drop=images]", icons())
    page.get_by_text("1500 / pictures, at least 100, is 100 here").wait_for()
    page.get_by_label("Name", exact=True).fill("icons")
    page.get_by_label("Instance prompt").fill("ACD3DICON")
    page.get_by_label("Repeats", exact=True).fill("100")
    page.get_by_role("button", name="Prepare training data").click()
    page.get_by_text("15 pictures added.").wait_for()
    inner = site.work / "datasets" / "icons" / "img" / "100_ACD3DICON"
    assert len(list(inner.iterdir())) == 15

    tab(page, "Utilities")
    tab(page, "BLIP Captioning")
    prefix = "service icon, glass, blue"
    captioned(page, "caption-blip", image_folder=str(inner), model="demo", prefix=prefix, num_beams="1")
    written = {file.stem: file.read_text(encoding="utf-8") for file in inner.glob("*.txt")}
    assert len(written) == 15
    assert all(text.startswith(f"{prefix}, a ") for text in written.values())
    assert run_panel(page).locator(".loom-results li img").count() == 15

    tab(page, "Data sets")
    wrong = page.get_by_label("Caption of icon00.png")
    page.wait_for_function("prefix => document.querySelector('.ds-card textarea').value.startsWith(prefix)", arg=prefix)
    wrong.fill(f"{prefix}, key, gold")
    wrong.blur()
    wait_for(lambda: (inner / "icon00.txt").read_text("utf-8").strip() == f"{prefix}, key, gold", "the caption")
    page.get_by_role("button", name="Copy info to respective fields").click()
    page.get_by_text("Filled in on the LoRA tab:").wait_for()

    tab(page, "LoRA")
    tab(page, "Source Model")
    page.get_by_label("Model Quick Pick").click()
    page.get_by_role("option", name=re.compile("^runwayml.stable-diffusion-v1-5")).click()
    settled(page)
    said(page, MODEL).get_by_role("button", name="Use the defaults").click()
    page.wait_for_function("loom.forms.train.values.learning_rate === '1e-4'")
    page.get_by_label("Model Quick Pick").click()
    page.get_by_role("option", name=re.compile("^demo")).click()
    assert page.get_by_role("radio", name="safetensors").is_checked()

    tab(page, "Folders")
    fill(page, "Image folder", str(inner))
    said(page, "train_data_dir").get_by_text("you chose the inner folder 100_ACD3DICON").wait_for()
    said(page, "train_data_dir").get_by_role("button").click()
    fill(page, "Trained Model output name", "icons-v1")
    tab(page, "Parameters")
    tab(page, "Basic")
    for label, text in {
        "Train batch size": "2", "Max resolution": "64,64", "Network Rank (Dimension)": "4", "LR warmup": "10",
    }.items():  # fmt: skip
        fill(page, label, text)
    tab(page, "Samples")
    fill(page, "Sample every n steps", "5")
    fill(page, "Sample prompts", "service icon --n blurry --w 64 --h 64 --d 1 --l 3 --s 2")
    settled(page)
    assert plan(page) == "15 images × 100 repeats × 1 epoch / batch 2 = 750 steps"

    folder = start(page, site)
    panel = run_panel(page)
    panel.locator(".loom-run-line", has_text=re.compile(r"step \d+/750 .* memory .* of .* GB")).wait_for()
    panel.locator("[data-chart]").wait_for()
    panel.locator("[data-wall] .loom-now img").first.wait_for()
    panel.locator("details.loom-log").wait_for()
    panel.get_by_role("button", name="Stop", exact=True).click()
    panel.get_by_text(re.compile(r"Stopped after step \d+ of 750")).first.wait_for()
    wait_for(lambda: status(folder).get("state") == "stopped", "the stop")
    (file,) = (site.work / "datasets" / "icons" / "model").glob("icons-v1*.safetensors")
    with safe_open(file, "pt") as saved:
        assert saved.metadata()["ss_network_dim"] == "4"


MODEL = "pretrained_model_name_or_path"


def test_guide_2_a_place_from_travel_photographs(page: Page, site: Site) -> None:
    """Three concepts, a torn file and a sideways picture; Adafactor at the rate given; samples, files, TensorBoard."""
    opening(page)
    tab(page, "Folders")
    fill(page, "Image folder", str(place(site.work / "datasets" / "palace" / "img")))
    fill(page, "Regularisation directory", "")
    fill(page, "Output directory for trained model", str(site.work / "palaces"))
    fill(page, "Logging directory", str(site.work / "palaces" / "log"))
    fill(page, "Trained Model output name", "palace-v1")
    tab(page, "Parameters")
    tab(page, "Basic")
    unfold(page)
    enter(page, "optimizer", "Adafactor")
    enter(page, "optimizer_args", "scale_parameter=False relative_step=False warmup_init=False")
    for label, text in {
        "Epoch": "2", "Train batch size": "2", "Learning rate": "1e-3", "Max resolution": "96,96",
        "Network Rank (Dimension)": "16", "Network Alpha": "14", "Minimum bucket resolution": "64",
    }.items():  # fmt: skip
        fill(page, label, text)
    tab(page, "Advanced")
    enter(page, "weighted_captions", True)
    assert page.get_by_label("Don't upscale bucket resolution").is_checked()
    fill(page, "Bucket resolution steps", "32")
    tab(page, "Samples")
    fill(page, "Sample every n steps", "0")
    fill(page, "Sample every n epochs", "1")
    enter(page, "sample_at_first", False)
    prompt = "{}, sks palace --w 64 --h 64 --s 2 --n Anime, Cartoon --d 1"
    fill(page, "Sample prompts", "\n".join(map(prompt.format, ("alley", "archway", "canal"))))
    settled(page)
    assert page.evaluate("loom.forms.train.problems") == []
    sizes = page.locator("#train--Images .loom-drawing desc").first.text_content()
    assert sizes == "16 of 96 by 64", "nothing is learned sideways"
    save_as(page, site, "palace-v1")

    folder = start(page, site)
    finished(page, "palace-v1")
    panel = run_panel(page)
    panel.locator("details.loom-note summary", has_text="1 picture was left out").click()
    panel.get_by_text("torn.jpg").first.wait_for()
    files = sorted(file.name for file in (site.work / "palaces").glob("*.safetensors"))
    assert files == ["palace-v1-000001.safetensors", "palace-v1.safetensors"]
    assert panel.locator(".loom-strip thead th[scope=col]").count() == 2
    assert panel.locator(".loom-strip button.loom-sample").count() == 6
    panel.get_by_role("button", name="Open TensorBoard").click()
    link = panel.get_by_role("link", name=re.compile("^TensorBoard at"))
    link.wait_for()
    curves = {"loss/average", "loss/epoch", "lr/textencoder", "lr/unet"}
    wait_for(lambda: curves <= tags(str(link.get_attribute("href"))), "the curves")

    page.get_by_role("button", name="Start training", exact=True).click()
    said(page, "output_name").get_by_text("exists already").wait_for()
    said(page, "output_name").get_by_role("button", name="Call it palace-v2").wait_for()
    assert newest(site) == folder


def tags(board: str) -> set[str]:
    """The curves that a TensorBoard shows."""
    try:
        told = urllib.request.urlopen(f"{board}/data/plugin/scalars/tags", timeout=5).read()
    except OSError:
        return set()
    return {tag for run in json.loads(told).values() for tag in run}


LOGIN = {"username": "ada", "password": "a long pass phrase"}


@pytest.fixture
def guarded(tmp_path: Path, chromium: Browser) -> Iterator[Site]:
    """A page that other machines reach."""
    site = Site(tmp_path)
    site.open("--listen", "0.0.0.0", *(word for name, text in LOGIN.items() for word in (f"--{name}", text)))
    yield site
    stop_everything(site)
    site.kill()


def test_guide_4_a_character_on_a_small_card(guarded: Site, chromium: Browser) -> None:
    """Behind a login: tags, a trigger word where it must not be, accumulated gradients, files every few steps."""
    site = guarded
    own, others = figure(site.work / "datasets" / "zwx")
    inner, model = own / "2_zwx woman", tagger(site.work / "models" / "tagger")
    with reader(site, chromium) as page:
        page.get_by_label("User name").fill(LOGIN["username"])
        page.get_by_label("Password").fill(LOGIN["password"])
        page.keyboard.press("Enter")
        opening(page)
        tab(page, "Utilities")
        tab(page, "WD14 Captioning")
        captioned(page, "caption-wd14", image_folder=str(inner), repo_id=str(model), prefix="zwx woman")
        assert (inner / "0.txt").read_text(encoding="utf-8").startswith("zwx woman, red theme")

        tab(page, "LoRA")
        tab(page, "Folders")
        fill(page, "Image folder", str(own))
        fill(page, "Regularisation directory", str(others))
        fill(page, "Output directory for trained model", str(site.work / "characters"))
        fill(page, "Logging directory", "")
        fill(page, "Trained Model output name", "zwx-v1")
        held = "1 of 4 captions of regularisation images hold “zwx”, such as 1.png"
        said(page, "reg_data_dir").get_by_text(held).wait_for()
        (others / "1_woman" / "1.txt").write_text("a woman", encoding="utf-8")
        tab(page, "Parameters")
        tab(page, "Basic")
        rates = {"Learning rate": "1e-4", "Text Encoder learning rate": "5e-5", "Unet learning rate": "1e-4"}
        for label, text in {
            **rates,
            "Network Rank (Dimension)": "32",
            "Network Alpha": "16",
            "Train batch size": "1",
            "Epoch": "2",
            "Max resolution": "64,64",
        }.items():
            fill(page, label, text)
        enter(page, "optimizer", "Lion")
        tab(page, "Advanced")
        enter(page, "shuffle_caption", True)
        fill(page, "Gradient accumulate steps", "4")
        fill(page, "Save every N steps", "2")
        tab(page, "Samples")
        fill(page, "Sample prompts", "zwx woman, sitting --w 64 --h 64 --s 2 --d 1")
        settled(page)
        page.wait_for_function("!document.querySelector('#train-reg_data_dir').textContent.includes('zwx')")
        assert plan(page) == "4 images × 2 repeats × 2 (regularisation) × 2 epochs / 4 accumulated = 8 steps"
        start(page, site)
        finished(page, "zwx-v1")
        names = {file.stem for file in (site.work / "characters").glob("*.safetensors")}
        assert names == {"zwx-v1", "zwx-v1-000001", *(f"zwx-v1-step0000000{step}" for step in (2, 4, 6))}
        numbers = run_panel(page).locator(".loom-run-line").inner_text()
        assert re.search(r"step 8/8 .* memory .* of", numbers)
        with page.expect_download() as download:
            run_panel(page).get_by_role("link", name="Download").click()
        with safe_open(download.value.path(), "pt") as saved:
            assert saved.metadata()["ss_gradient_accumulation_steps"] == "4"


# Guide 3: every setting explained. What the guides say, and the setting that is meant.

WORDS: Mapping[str, tuple[str, Any]] = {
    "Pretrained model name or path": ("pretrained_model_name_or_path", "demo"),
    "Save trained model as safetensors": ("save_model_as", "safetensors"),
    "parent folder": ("train_data_dir", "/pictures"),
    "Output folder": ("output_dir", "/loras"),
    "class images": ("reg_data_dir", "/class images"),
    "Regularization folder": ("reg_data_dir", "/class images"),
    "Logging folder": ("logging_dir", "/logs"),
    "Model output name": ("output_name", "explained-v1"),
    "Training comment": ("training_comment", "trigger: zwx"),
    "LoRA type Standard": ("LoRA_type", "Standard"),
    "LoRA network weights": ("network_weights", "/earlier.safetensors"),
    "DIM from weights": ("dim_from_weights", True),
    "Train batch size": ("train_batch_size", 2),
    "Epoch": ("epoch", 30),
    "Save every N epochs": ("save_every_n_epochs", 2),
    "Caption extension .txt": ("caption_extension", ".txt"),
    "Mixed precision": ("mixed_precision", "bf16"),
    "Save precision": ("save_precision", "bf16"),
    "Number of CPU threads per core": ("num_cpu_threads_per_process", 2),
    "Seed": ("seed", 1234),
    "Cache latents": ("cache_latents", True),
    "LR scheduler": ("lr_scheduler", "cosine_with_restarts"),
    "number of cycles": ("lr_scheduler_num_cycles", 3),
    "LR power": ("lr_scheduler_power", 2),
    "Optimizer": ("optimizer", "AdamW8bit"),
    "optimiser AdamW8bit": ("optimizer", "Adafactor"),
    "Lion": ("optimizer", "Adafactor"),
    "scale_parameter=False": ("optimizer_args", "scale_parameter=False relative_step=False warmup_init=False"),
    "Learning rate": ("learning_rate", "0.0001"),
    "LR warmup 10 %": ("lr_warmup", 10),
    "max resolution 1024,1024": ("max_resolution", "1024,1024"),
    "Stop text encoder training": ("stop_text_encoder_training", 50),
    "Enable buckets": ("enable_bucket", True),
    "minimum bucket resolution": ("min_bucket_reso", 256),
    "Maximum bucket resolution": ("max_bucket_reso", 1024),
    "bucket steps": ("bucket_reso_steps", 64),
    "text-encoder rate": ("text_encoder_lr", "5e-5"),
    "U-Net learning rate": ("unet_lr", "1e-4"),
    "Network rank": ("network_dim", 8),
    "Network alpha": ("network_alpha", 4),
    "Scale weight norms": ("scale_weight_norms", 1),
    "Network dropout": ("network_dropout", 0.1),
    "Rank dropout": ("rank_dropout", 0.1),
    "Module dropout": ("module_dropout", 0.1),
    "Clip skip": ("clip_skip", 2),
    "Weighted captions": ("weighted_captions", True),
    "Shuffle caption": ("shuffle_caption", False),
    "Colour augmentation": ("color_aug", False),
    "Flip augmentation": ("flip_aug", True),
    "Don’t upscale bucket resolution": ("bucket_no_upscale", True),
    "Gradient accumulation": ("gradient_accumulation_steps", 4),
    "Save every N steps": ("save_every_n_steps", 100),
    "Sample every n epochs": ("sample_every_n_epochs", 1),
    "Sample prompts": ("sample_prompts", "a palace --n anime, cartoon --w 768 --h 640 --s 35 --d 1 --l 7"),
}


BY_HAND = (
    "training_comment", "LoRA_type", "network_weights", "dim_from_weights", "optimizer", "optimizer_args", "save_precision",
)  # fmt: skip
"""One of each kind of field; the others are filled in with one stroke."""


def test_guide_3_every_setting_explained(page: Page, site: Site) -> None:
    """Each of its words leads to the setting that is meant, and the preset holds what was filled in."""
    opening(page)
    known = by_name(Settings)
    found = page.evaluate(FIRST_FOUND, list(WORDS))
    assert dict(zip(WORDS, found, strict=True)) == {words: known[key].label for words, (key, _) in WORDS.items()}
    meant = dict(WORDS.values())
    at_once = as_typed(meant, but=BY_HAND)
    page.evaluate("values => loom.apply('train', values)", at_once)
    page.wait_for_function(
        "wanted => Object.entries(wanted).every(([key, value]) => loom.forms.train.values[key] === value)", arg=at_once
    )
    for key in BY_HAND:
        assert look_up(page, known[key].label) == key
        enter(page, key, meant[key])
    settled(page)
    shown = page.evaluate("loom.forms.train.values")
    assert {key: shown[key] for key in meant} == as_typed(meant)
    page.locator("#train--Rates .loom-drawing svg").first.wait_for()  # the curve of the schedule
    save_as(page, site, "explained")
    saved = json.loads((site.work / "presets" / "explained.json").read_text(encoding="utf-8"))
    validated = Settings(**as_typed(meant))
    assert {key: saved[key] for key in meant} == {key: getattr(validated, key) for key in meant}


def as_typed(values: Mapping[str, Any], but: Collection[str] = ()) -> dict[str, Any]:
    """Values as the page holds them: ticks, and texts."""
    return {key: value if isinstance(value, bool) else str(value) for key, value in values.items() if key not in but}
