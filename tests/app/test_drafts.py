"""Drafts: what was typed survives, secrets do not, and a stranger's id is no path."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from app import drafts
from trainer.declare import Section, setting

ID, OTHER = "aaaaaaaa11111111", "bbbbbbbb22222222"


class Small(Section):
    """Two settings."""

    epoch: int = setting(1, "Epoch", "How often.")
    token: str = setting("", "Token", "Never written.", secret=True)
    flags: str = setting("", "Flags", "Written without tokens.", hides=re.compile(r"--token \S+"))


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path))
    return tmp_path


def ticket(browser: str, pending: object = None) -> str:
    return json.dumps({"browser": browser, "pending": pending})


def test_raw_values_come_back_as_typed_and_secrets_are_not_written(workspace: Path) -> None:
    drafts.save(ID, "small", Small, {"epoch": "many", "token": "hunter2", "unknown": 1})
    assert drafts.load(ID, "small") == {"epoch": "many"}
    assert "hunter2" not in (workspace / "drafts" / f"{ID}.json").read_text()


def test_a_secret_among_other_words_is_not_written(workspace: Path) -> None:
    drafts.save(ID, "small", Small, {"flags": "--seed 3 --token hunter2"})
    assert drafts.load(ID, "small") == {"flags": "--seed 3"}
    assert "hunter2" not in (workspace / "drafts" / f"{ID}.json").read_text()


def test_forms_of_one_browser_share_a_file() -> None:
    drafts.save(ID, "small", Small, {"epoch": "1"})
    drafts.save(ID, "other", Small, {"epoch": "2"})
    assert (drafts.load(ID, "small"), drafts.load(ID, "other")) == ({"epoch": "1"}, {"epoch": "2"})


def test_another_browser_finds_what_was_last_used(workspace: Path) -> None:
    assert drafts.load(OTHER, "small") is None
    drafts.save(ID, "small", Small, {"epoch": "7"})
    drafts.save("cccccccc33333333", "small", Small, {"epoch": "9"})
    os.utime(workspace / "drafts" / f"{ID}.json", (1, 1))
    assert drafts.load(OTHER, "small") == {"epoch": "9"}


def test_edits_the_server_never_saw_win() -> None:
    drafts.save(ID, "small", Small, {"epoch": "7"})
    assert drafts.opening(ticket(ID), "small") == {"epoch": "7"}
    assert drafts.opening(ticket(ID, {"epoch": "8"}), "small") == {"epoch": "8"}
    assert drafts.opening("not json", "nothing") is None
    assert drafts.opening("[]", "nothing") is None


@pytest.mark.parametrize("browser", ["", "../../etc/passwd", "a/b", "A" * 20, "x" * 100, "con.json"])
def test_an_id_that_is_not_ours_writes_nothing(workspace: Path, browser: str) -> None:
    drafts.save(browser, "small", Small, {"epoch": "1"})
    assert list(workspace.rglob("*.json")) == []


def test_old_drafts_are_forgotten(workspace: Path) -> None:
    for number in range(drafts.KEPT + 5):
        drafts.save(f"{number:016d}", "small", Small, {"epoch": str(number)})
    assert len(list((workspace / "drafts").glob("*.json"))) == drafts.KEPT


def test_a_torn_draft_is_as_good_as_none(workspace: Path) -> None:
    (workspace / "drafts").mkdir()
    (workspace / "drafts" / f"{ID}.json").write_text('{"small": {"ep')
    assert drafts.load(ID, "small") is None
    drafts.save(ID, "small", Small, {"epoch": "1"})
    assert drafts.load(ID, "small") == {"epoch": "1"}
