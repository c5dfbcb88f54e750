"""Codes of findings: each is declared once, means one thing, and stands in the document."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from mesh.core.findings import Code
from mesh.findings import AREAS, document, rooms, table

ROOT = Path(__file__).parents[2]
CODES = table(rooms())
SOURCES = [path for top in ("mesh", "gateway", "srv6", "bgp", "clustermesh", "bpf")
           for path in (ROOT / top).rglob("*.py")]  # fmt: skip


def calls(name: str) -> Iterator[ast.Call]:
    """Calls of a function in all of our sources."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name:
                yield node


def room(**codes: Code) -> ModuleType:
    module = ModuleType("room")
    vars(module).update(codes)
    return module


def test_the_document_is_what_the_rooms_declare() -> None:
    """After a change of a code: make docs."""
    assert (ROOT / "docs/findings.md").read_text() == document(CODES)


def test_each_code_that_is_declared_stands_in_the_table() -> None:
    declared = [ast.literal_eval(call.args[0]) for call in calls("Code")]
    assert sorted(declared) == list(CODES)


def test_a_code_has_one_meaning() -> None:
    one = Code("E301", "A road is closed.", "Open it.")
    with pytest.raises(ValueError, match="E301 has two meanings"):
        table([room(ONE=one), room(OTHER=Code("E301", "A road is new.", "Use it."))])


@pytest.mark.parametrize("text", ["", "E1", "E3011", "e301"])
def test_a_code_is_a_letter_and_three_digits(text: str) -> None:
    with pytest.raises(ValueError, match="is no code"):
        Code(text, "A road is closed.", "Open it.")


@pytest.mark.parametrize("code", CODES.values(), ids=str)
def test_meaning_and_mend_are_sentences_of_a_table(code: Code) -> None:
    for text in (code.meaning, code.mend):
        assert text[0].isupper()
        assert text.endswith(".")
        assert not set(text) & {"|", "\n"}


def test_a_new_code_goes_into_its_area() -> None:
    codes = table([room(B=Code("S402", "Two.", "B."), A=Code("S401", "One.", "A."))])
    lines = document(codes).splitlines()
    at = lines.index("## SRv6")
    assert lines[at + 2 :] == [
        "| code | meaning | mend |",
        "|---|---|---|",
        "| S401 | One. | A. |",
        "| S402 | Two. | B. |",
    ]


def test_each_code_has_an_area() -> None:
    assert {code[0] for code in CODES} <= set(AREAS)
