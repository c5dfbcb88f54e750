"""One manifest: its text becomes objects, and a change of a document costs that document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesh.core.strict import Wrong
from mesh.objects.kinds import KINDS
from mesh.objects.last_good import LastGood, LastGoodStore
from mesh.objects.reading import NOTHING, Content, by_object, read


def pod(name: str, node: str = "east-1") -> str:
    return f"""apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop}}
spec: {{nodeName: {node}}}
"""


def take(text: str, last: Content = NOTHING) -> Content:
    return read(KINDS, "east", "a.yaml", text, last)


def names(content: Content) -> list[str]:
    return [key.name for key in content.held]


def test_a_document_that_did_not_change_is_not_parsed_again() -> None:
    """Its object is the very one of before, also at another place of the file."""
    first = take("---\n".join(pod(f"p{n}") for n in range(20)))
    changed = [pod(f"p{n}", "east-2" if n == 7 else "east-1") for n in range(20)]
    second = take("---\n".join([changed[0], *reversed(changed[1:])]), first)
    same = {key.name for key, parsed in second.held.items() if first.held[key] is parsed}
    assert names(second)[:2] == ["p0", "p19"]
    assert set(names(second)) - same <= {"p7", "p0", "p1", "p19"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"---\n{pod('p1')}---\n{pod('p2')}---\n", ["p1", "p2"]),
        (f"# first\n--- \n{pod('p1')}...\n---\n{pod('p2')}", ["p1", "p2"]),
        (f"%YAML 1.1\n---\n{pod('p1')}...\n%YAML 1.1\n---\n{pod('p2')}", ["p1", "p2"]),
        (f"{pod('p1')}---\r\n{pod('p2')}", ["p1", "p2"]),
        (f"{pod('p1')}---\n---\n# nothing\n---\n{pod('p1', 'east-2')}", ["p1"]),
    ],
)
def test_a_text_in_parts_reads_like_the_whole_text(text: str, expected: list[str]) -> None:
    once = take(text)
    again = take(text, once)
    assert names(once) == names(again) == expected
    assert once.findings == again.findings


def test_an_error_has_its_line_in_the_whole_text() -> None:
    with pytest.raises(Wrong) as caught:
        take(f"{pod('p1')}---\na: [1\n---\n{pod('p2')}")
    assert caught.value.path == "line 7"


def test_documents_are_counted_over_parts_that_did_not_change() -> None:
    first = take(f"{pod('p1')}---\n{pod('p2')}---\n{pod('p3')}")
    second = take(f"{pod('p1')}---\n{pod('p2')}---\nkind: Pod\n", first)
    assert second.findings[0].field == "document 3: apiVersion"
    assert second.kept == {key for key in first.held if key.name == "p3"}


# What was last good


def test_a_copy_is_read_back(tmp_path: Path) -> None:
    """With the documents in use, or as the text alone; line ends stay."""
    store = LastGoodStore(tmp_path)
    plain, kept = LastGood("a: 1\r\n---\n\u00e9: 2"), LastGood("a: [", ({"a": 1},))
    store.save("plain.yaml", plain)
    store.save("kept.yaml", kept)
    store.flush()
    again = LastGoodStore(tmp_path)
    assert again.names == {"plain.yaml", "kept.yaml"}
    assert (again.last("plain.yaml"), again.last("kept.yaml")) == (plain, kept)
    again.drop("plain.yaml")
    assert LastGoodStore(tmp_path).names == {"kept.yaml"}


def test_a_copy_of_the_former_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml.last").write_text(json.dumps({"text": "a: 1\n", "documents": [{"a": 1}]}))
    assert LastGoodStore(tmp_path).last("a.yaml") == LastGood("a: 1\n", ({"a": 1},))


def test_a_copy_that_cannot_be_written_is_known_until_the_process_ends(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = LastGoodStore(tmp_path / "file")
    store.save("a.yaml", LastGood("a: 1\n"))
    store.flush()
    assert "File exists" in store.problems[str(tmp_path / "file" / "a.yaml.last")]
    assert store.last("a.yaml") == LastGood("a: 1\n")


@pytest.mark.parametrize(
    ("items", "expected"),
    [("5", "int"), ("all", "str"), ("{a: 1}", "object"), ("true", "bool")],
)
def test_items_that_are_no_list_are_a_finding(items: str, expected: str) -> None:
    """And whatever the manifest had before stays: it may be in that list."""
    first = take(pod("p1"))
    for before, held in ((NOTHING, []), (first, ["p1"])):
        found = take(f"apiVersion: v1\nkind: List\nitems: {items}\n", before)
        assert names(found) == held
        assert [(one.field, one.text) for one in found.findings] == [
            ("document 1: items", f"expected array | null, got {expected}")
        ]
    assert names(take(f"{pod('p2')}---\nkind: List\nitems: {items}\n", first)) == ["p2", "p1"]
    assert [*by_object(KINDS, "east", "a.yaml", [{"kind": "List", "items": 5}])] == []
