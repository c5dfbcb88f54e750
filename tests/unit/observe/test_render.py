"""What is shown is what is: no text of others obeys a terminal, hides or looks like another."""

from __future__ import annotations

import io
import json
import sys

import pytest
import yaml

from mesh.core.noun import Row
from mesh.observe import render
from mesh.observe.status import Status

#: A name as it came, and as it is shown.
HOSTILE = {
    "west\x1b[2J": r"west\x1b[2J",
    "west\x9b31m": r"west\x9b31m",
    "west\nHealthy: nothing found": r"west\nHealthy: nothing found",
    "west\rnorth": r"west\rnorth",
    "w\u0435st": r"w\u0435st",
    "we\u202etse": r"we\u202etse",
    "we\u200bst": r"we\u200bst",
    "we\u0301st": r"we\u0301st",
    "west\x7f": r"west\x7f",
    "\U0001d430est": r"\U0001d430est",
}


@pytest.fixture(params=HOSTILE, ids=[f"{number}" for number in range(len(HOSTILE))])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def plainly(text: str) -> bool:
    return all(" " <= letter <= "~" or letter == "\n" for letter in text)


def test_a_name_of_plain_letters_is_shown_as_it_is() -> None:
    assert render.marked("east/shop/web-1.a_b~") == "east/shop/web-1.a_b~"


def test_tables_mark_what_is_not_plain(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = [name, "1"]
    assert list(render.plain(["name", "id"], [row]))[1].split("  ")[0] == HOSTILE[name]
    assert HOSTILE[name] in "\n".join(render.sheet(["name", "id"], [row]))
    assert HOSTILE[name] in render.flow_line([name] * 9)
    for out in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("TERM", "dumb")
        render.table(["name", "id"], [row])
        assert HOSTILE[name] in out.getvalue()
        assert plainly(out.getvalue())


def test_the_status_screen_marks_what_is_not_plain(name: str) -> None:
    finding: Row = {"code": "M121", "object": name, "field": name, "text": name, "since": 0.0}
    drop: Row = {"reason": name, "packets": 1, "node": name}
    status = Status([], [], [], [finding | {"about": []}], [1], drops=[drop])
    shown = render.screen(status, 0.0)
    assert plainly(shown)
    assert shown.count(HOSTILE[name]) == 5
    assert "\nHealthy" not in shown


def test_json_and_yaml_say_the_same_in_ascii(name: str) -> None:
    said: list[Row] = [{"name": name}]
    text = render.document(said, "json")
    assert plainly(text)
    assert json.loads(text) == said
    assert render.in_ascii(json.dumps(said, ensure_ascii=False)).isascii()
    text = render.document(said, "yaml")
    assert plainly(text)
    assert yaml.safe_load(text) == said
