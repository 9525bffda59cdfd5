"""Other families and types on the page: ticks read from the model, fields that come and go, an SDXL LoRA to the file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from safetensors import safe_open

from tests.browser.test_monitor import Site
from tests.browser.test_story import fill, newest, opened, run_panel, status, stop_everything, tab, train, wait_for
from tests.photos import make_photo_dataset
from tests.tiny import tiny_sd2, tiny_sdxl, tiny_single_file

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, chromium: Browser) -> Iterator[Site]:
    work = tmp_path_factory.mktemp("workspace")
    tiny_sdxl(work / "models" / "xl")
    tiny_sd2(work / "models" / "two")
    tiny_single_file(work / "models" / "one.safetensors")
    make_photo_dataset(work / "datasets" / "photos", captions=False)
    site = Site(work)
    site.open()
    yield site
    stop_everything(site)
    site.kill()


@pytest.fixture(scope="module")
def page(site: Site, chromium: Browser) -> Iterator[Page]:
    with opened(site, chromium) as page:
        yield page


def choose(page: Page, site: Site, model: str) -> None:
    """Write a model's path into its field and wait for the answer."""
    tab(page, "LoRA")
    tab(page, "Source Model")
    fill(page, "Pretrained model name or path", str(site.work / "models" / model))
    settled(page)


def settled(page: Page) -> None:
    page.wait_for_function("!loom.forms.train.checking && !localStorage.getItem('loom.pending.train')")


def tick(page: Page, label: str) -> Locator:
    return page.get_by_label(label, exact=True).locator("visible=true").first


def test_ticks_follow_from_the_model_and_say_why(page: Page, site: Site) -> None:
    choose(page, site, "xl")
    page.wait_for_function("loom.forms.train.values.sdxl === true")
    settled(page)
    assert tick(page, "SDXL").is_checked()
    assert tick(page, "SDXL").is_disabled()
    assert not tick(page, "v2").is_checked()
    page.locator("#train-sdxl .loom-note").get_by_text(re.compile("Stable Diffusion XL")).wait_for()

    choose(page, site, "two")
    page.wait_for_function("loom.forms.train.values.v2 === true && loom.forms.train.values.sdxl === false")
    page.wait_for_function("loom.forms.train.values.v_parameterization === true")
    page.locator("#train-v_parameterization .loom-note").get_by_text(re.compile("velocity")).wait_for()


def test_what_a_file_cannot_say_stays_a_question(page: Page, site: Site) -> None:
    choose(page, site, "one.safetensors")
    page.wait_for_function("loom.forms.train.values.v2 === false")
    settled(page)
    assert tick(page, "v2").is_disabled()
    assert tick(page, "v_param").is_enabled()


def test_fields_of_a_type_or_family_come_and_go(page: Page, site: Site) -> None:
    choose(page, site, "xl")
    page.wait_for_function("loom.forms.train.values.sdxl === true")
    tab(page, "Parameters")
    tab(page, "Basic")
    page.locator("#train-sdxl_cache_text_encoder_outputs").wait_for(state="visible")
    page.evaluate("loom.apply('train', {LoRA_type: 'LyCORIS/LoKr'})")
    page.locator("#train-factor").wait_for(state="visible")
    page.locator("#train-LoRA_type .loom-note").get_by_text(re.compile("LyCORIS")).wait_for()
    page.evaluate("loom.apply('train', {LoRA_type: 'Standard'})")
    page.locator("#train-factor").wait_for(state="hidden")
    page.locator("#train-LoRA_type .loom-note").get_by_text(re.compile("diffusers")).wait_for()
    choose(page, site, "one.safetensors")
    page.wait_for_function("loom.forms.train.values.sdxl === false")
    tab(page, "Parameters")
    page.locator("#train-sdxl_cache_text_encoder_outputs").wait_for(state="hidden")
    assert page.evaluate("loom.forms.train.values.factor") == "-1"  # what is hidden keeps its value


def test_an_sdxl_lora_is_trained_to_the_file(page: Page, site: Site) -> None:
    choose(page, site, "xl")
    page.wait_for_function("loom.forms.train.values.sdxl === true")
    tab(page, "Folders")
    fill(page, "Image folder", str(site.work / "datasets" / "photos"))
    fill(page, "Regularisation directory", "")
    fill(page, "Output directory for trained model", str(site.work / "out"))
    page.evaluate(
        "loom.apply('train', {LoRA_type: 'LyCORIS/LoHa', max_resolution: '64,64', network_dim: '4', conv_dim: '2',"
        " bucket_reso_steps: '32', learning_rate: '1e-3', sample_prompts: 'a cat --w 64 --h 64 --s 2 --d 1'})"
    )
    settled(page)
    folder = train(page, site, "xl-loha", 4)
    run_panel(page).get_by_text(re.compile("Finished")).first.wait_for()
    wait_for(lambda: status(folder).get("state") == "finished", "the end of the run")
    assert status(newest(site))["step"] == 4
    with safe_open(site.work / "out" / "xl-loha.safetensors", "pt") as saved:
        keys = set(saved.keys())
        assert saved.metadata()["ss_base_model_version"] == "sdxl_base_v1-0"
    assert any(key.startswith("lora_te2_") and key.endswith("hada_w1_a") for key in keys)
