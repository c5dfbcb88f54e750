"""A mistake of ours in reading costs the object or the file; what was there of it stays."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from mesh.core.model import Namespace
from mesh.objects import manifests
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NAMESPACES
from mesh.objects.manifests import Manifests
from mesh.objects.schema import Kind, Kinds, Parsed


def text(name: str, label: str) -> str:
    meta = {"name": name, "labels": {"a": label}}
    return json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})


def look(it: Manifests) -> tuple[dict[str, str], list[tuple[str, str]]]:
    for file in it.directory.iterdir():
        os.utime(file, (time.time() - 60, time.time() - 60))
    it.scan()
    it.scan()
    rows = it.objects[NAMESPACES].rows.values()
    found = it.objects.findings.rows.values()
    labels = {row.name: dict(row.labels)["a"] for row in rows}
    return labels, [(one.code, one.text) for one in found]


def test_an_object_that_meets_a_mistake_stays_as_it_was(tmp_path: Path) -> None:
    def parse(_: object, document: object) -> Parsed:
        assert isinstance(document, dict)
        name, label = document["metadata"]["name"], document["metadata"]["labels"]["a"]
        if label == "bad":
            raise IndexError(name)
        row = Namespace("east", name, (("a", label),))
        return Parsed(NAMESPACES.name, name, row)

    it = Manifests(tmp_path, "east", kinds=Kinds((Kind("v1", "Namespace", NAMESPACES, parse),)))
    file = tmp_path / "m.json"
    file.write_text(text("x", "one") + text("y", "one"))
    assert look(it) == ({"x": "one", "y": "one"}, [])
    file.write_text(text("x", "bad") + text("y", "three"))
    rows, found = look(it)
    assert rows == {"x": "one", "y": "three"}
    assert [code for code, _ in found] == ["M103"]
    assert "IndexError('x')" in found[0][1]


def test_a_file_that_meets_a_mistake_costs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = manifests.read

    def broken(kinds: Kinds, cluster: str, path: str, said: str, *rest: object) -> object:
        if "bad" in said:
            raise RecursionError
        return read(kinds, cluster, path, said, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(manifests, "read", broken)
    it = Manifests(tmp_path, "east", kinds=KINDS)
    for name in ("x", "y"):
        (tmp_path / f"{name}.json").write_text(text(name, "one"))
    assert look(it) == ({"x": "one", "y": "one"}, [])
    (tmp_path / "x.json").write_text(text("x", "bad"))
    (tmp_path / "y.json").write_text(text("y", "two"))
    rows, found = look(it)
    assert rows == {"x": "one", "y": "two"}
    assert [code for code, _ in found] == ["M102"]
