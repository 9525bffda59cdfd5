"""The texts a person reads first: what they point at exists, and the README opens with a picture and two commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(text: Path) -> None:
    targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", text.read_text(encoding="utf-8"))
    for target in (target for target in targets if "://" not in target):
        assert (text.parent / target).exists(), f"{text.name} points at {target}, which is not there"


def test_the_readme_opens_with_the_page_and_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    opening = text[: text.index("```", text.index("```") + 3)]
    assert re.search(r"!\[[^]]{20,}\]\(docs/page\.png\)", opening)
    assert opening.endswith("```\npython launch.py\npython launch.py test\n")


def test_the_changelog_has_one_unreleased_section() -> None:
    assert (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").count("## [Unreleased]") == 1
