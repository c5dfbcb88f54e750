"""Guides name codes, values and commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mesh.cli import main
from mesh.install import chart

DOCS = Path(__file__).parents[3] / "docs"
GUIDES = ("install", "upgrade", "uninstall", "beside", "troubleshooting")


def text(guide: str) -> str:
    return (DOCS / f"{guide}.md").read_text()


@pytest.mark.parametrize("guide", GUIDES)
def test_codes_of_a_guide_are_findings(guide: str) -> None:
    known = set(re.findall(r"^\| ([A-Z]\d{3}) \|", text("findings"), re.MULTILINE))
    assert set(re.findall(r"\b([BDEM]\d{3})\b", text(guide))) <= known


@pytest.mark.parametrize("guide", GUIDES)
def test_pages_of_a_guide_are_there(guide: str) -> None:
    for page in re.findall(r"\]\(([a-z]+\.md)\)", text(guide)):
        assert (DOCS / page).exists(), page


@pytest.mark.parametrize("guide", GUIDES)
def test_values_of_a_guide_are_the_charts(guide: str) -> None:
    sections = {key for key, value in chart.values_of((), ()).items() if isinstance(value, dict)}
    for path in re.findall(r"`([a-z][A-Za-z]+(?:\.[a-z][A-Za-z]+)+)`", text(guide)):
        first, *rest = path.split(".")
        if first not in sections or path.endswith(".yaml"):
            continue
        found: object = chart.values_of((), ())
        for step in (first, *rest):
            assert isinstance(found, dict)
            assert step in found, path
            found = found[step]


@pytest.mark.parametrize("command", ["install", "uninstall", "verify", "etcd", "leave"])
def test_commands_of_the_guides_say_what_they_do(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert any(f"meshgate {command}" in text(guide) for guide in GUIDES)
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert command in capsys.readouterr().out
