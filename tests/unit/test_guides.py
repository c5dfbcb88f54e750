"""The guides name files of tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
_NAMED = re.compile(r"`(tests/[\w/.]+)`")


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_each_test_that_a_guide_names_is_there(guide: Path) -> None:
    named = _NAMED.findall(guide.read_text())
    assert [one for one in named if not (ROOT / one).exists()] == []


def test_attacks_have_tests() -> None:
    assert len(_NAMED.findall((ROOT / "docs/security.md").read_text())) > 40
