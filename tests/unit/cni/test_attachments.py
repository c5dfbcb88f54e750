"""Attachments outlive the agent, and end when their namespace has gone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mesh.cni.attachments import FILE, Attachments, ended, inode, tag_of, unlisted
from mesh.core.model import Attachment, PodKey, Sandbox, pod_of
from mesh.core.strict import parse_address

ROW = Attachment(
    "c1", "eth0", "meshgate", "/proc/self/ns/net", 7, 1,
    "11-22", (("app", "web"),), "builder", (parse_address("10.1.0.2"),),
)  # fmt: skip
KEY = Sandbox("east", "shop", "web", tag_of("c1", "eth0"))


def loaded(folder: Path) -> Attachments:
    made = Attachments(folder)
    made.load()
    return made


def test_what_was_kept_is_there_after_a_restart(tmp_path: Path) -> None:
    loaded(tmp_path).put(KEY, ROW)
    again = loaded(tmp_path)
    assert dict(again.table.rows) == {KEY: ROW}
    assert again.find("c1", "eth0") == (KEY, ROW)
    assert again.find("c1", "eth1") is None
    assert (again.next_number, again.table.synced) == (2, True)
    again.end([KEY, replace(KEY, tag="other")])
    assert dict(loaded(tmp_path).table.rows) == {}
    assert pod_of(KEY) == PodKey("east", "shop", "web")


def test_a_file_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    """The pods that are connected stay: their attachments are only not known."""
    (tmp_path / FILE).write_text('[{"cluster": 1}]')
    made = loaded(tmp_path)
    assert not made.table.synced
    with pytest.raises(OSError, match="cannot be read"):
        made.put(KEY, ROW)
    assert [one.code for one in made.findings()] == ["M215"]
    assert (tmp_path / FILE).read_text() == '[{"cluster": 1}]'


def test_a_file_that_cannot_be_written_adds_and_ends_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    made = loaded(folder)
    made.put(KEY, ROW)
    (folder / f"{FILE}.new").mkdir()  # in the way of the new content
    other = replace(KEY, tag="00000000")
    with pytest.raises(IsADirectoryError):
        made.put(other, ROW)
    with pytest.raises(IsADirectoryError):
        made.end([KEY])
    assert dict(made.table.rows) == {KEY: ROW}
    assert [one.code for one in made.findings()] == ["M215"]
    (folder / f"{FILE}.new").rmdir()
    made.end([KEY])
    assert list(made.findings()) == []


def test_an_attachment_ends_with_its_namespace(tmp_path: Path) -> None:
    here = os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116 - a link of procfs
    stands = replace(ROW, inode=here)
    assert list(ended({KEY: stands})) == []
    assert list(ended({KEY: replace(ROW, inode=here + 1)})) == [KEY]  # another one's by now
    file = tmp_path / "x"
    assert list(ended({KEY: replace(ROW, netns=str(file))})) == [KEY]
    file.touch()  # what is left when a namespace's mount has gone
    assert list(ended({KEY: replace(ROW, netns=str(file))})) == [KEY]
    assert inode(str(file)) == 0


def test_a_folder_of_namespaces_that_is_not_there_ends_nothing(tmp_path: Path) -> None:
    assert list(ended({KEY: replace(ROW, netns=str(tmp_path / "no/x"))})) == []


def test_gc_concerns_the_attachments_of_its_network() -> None:
    other = replace(KEY, tag="2")
    rows = {KEY: ROW, other: replace(ROW, container="c2")}
    assert unlisted(rows, "meshgate", frozenset({("c2", "eth0")})) == [KEY]
    assert unlisted(rows, "another", frozenset()) == []
