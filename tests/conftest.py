"""What every test shares: one thread, no network, a workspace that is thrown away, a real browser where there is one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

# Set before torch or gradio is imported, and handed on to every process that a test starts.
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    GRADIO_ANALYTICS_ENABLED="False",
    TOKENIZERS_PARALLELISM="false",
)

import hypothesis
import pytest
import torch

from tests.chromium import find_browser, start_browser

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from trainer.report import Reporter

torch.set_num_threads(1)
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """Keep every test, and every process it starts, away from the workspace and login of whoever runs the tests."""
    for name in ("LOOM_USERNAME", "LOOM_PASSWORD", "LOOM_HOSTS"):
        os.environ.pop(name, None)
    workspace = tempfile.mkdtemp(prefix="loom-tests-")
    os.environ["LOOM_WORKSPACE"] = workspace
    config.add_cleanup(lambda: shutil.rmtree(workspace, ignore_errors=True))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A headless browser. Without one the test is skipped, unless LOOM_REQUIRE_BROWSER is set."""
    executable = find_browser()
    if executable is None:
        reason = "no Chromium, Chrome or Edge found on this machine (LOOM_BROWSER can name one): browser test not run"
        if os.environ.get("LOOM_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = start_browser(playwright, executable)
        yield browser
        browser.close()


@pytest.fixture
def browser_page(chromium: Browser) -> Iterator[Page]:
    """A fresh page, 1280 by 900, with no cookies and no storage of earlier tests."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    yield page
    context.close()


@pytest.fixture
def report(tmp_path: Path) -> Iterator[Reporter]:
    """The reporter of a run whose folder is `tmp_path / "run"`."""
    from trainer.report import Reporter

    with Reporter(tmp_path / "run") as reporter:
        yield reporter
