"""The browser of the tests: it opens pages, and where there is none, that is said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.chromium import find_browser

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.browser
def test_it_opens_a_page(browser_page: Page) -> None:
    browser_page.set_content("<button onclick='this.textContent = 6 * 7'>?</button>")
    browser_page.get_by_role("button").click()
    assert browser_page.get_by_role("button").inner_text() == "42"


def test_another_browser_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "my browser.exe"
    mine.touch(mode=0o755)
    monkeypatch.setenv("LOOM_BROWSER", str(mine))
    assert find_browser() == str(mine)
    monkeypatch.setenv("LOOM_BROWSER", str(tmp_path / "not there"))
    assert find_browser() is None


@pytest.mark.parametrize(("required", "code", "said"), [("", 0, "1 skipped"), ("1", 1, "1 error")])
def test_without_a_browser_it_is_skipped_and_said_or_fails_where_required(required: str, code: int, said: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"{__file__}::test_it_opens_a_page"],
        cwd=ROOT,
        env={**os.environ, "LOOM_BROWSER": "/not/there", "LOOM_REQUIRE_BROWSER": required},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == code
    assert said in result.stdout
    assert "no Chromium, Chrome or Edge found" in result.stdout
