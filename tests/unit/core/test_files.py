"""Files are replaced as a whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mesh.core.files import (
    UnsafeError,
    open_private,
    private_folder,
    read_foreign,
    replace_file,
    replace_files,
    rotate,
)


@pytest.mark.parametrize("durable", [False, True])
def test_the_content_is_the_new_one_and_nothing_stays_beside_it(
    tmp_path: Path, *, durable: bool
) -> None:
    path = tmp_path / "claims.json"
    for content in ("old", b"new"):
        replace_file(path, content, durable=durable)
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    path = tmp_path / "claims.json"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(path, "new")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("count", [3, 30])
def test_many_files_are_replaced_and_a_failure_stops_no_other(tmp_path: Path, count: int) -> None:
    paths = [tmp_path / f"{number}.last" for number in range(count)]
    paths[0].write_text("old")
    paths[1].mkdir()
    errors = replace_files(dict.fromkeys(paths, "new"))
    assert list(errors) == [paths[1]]
    assert all(path.read_text() == "new" for path in paths if path != paths[1])
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_many_files_in_a_folder_that_is_not_there_are_failures(tmp_path: Path) -> None:
    paths = [tmp_path / "away" / f"{number}.last" for number in range(30)]
    assert replace_files(dict.fromkeys(paths, "new")).keys() == set(paths)


@pytest.mark.parametrize("name", ["claims.json", "claims.json.new"])
@pytest.mark.parametrize("many", [False, True])
def test_a_file_is_never_written_through_a_link(tmp_path: Path, name: str, *, many: bool) -> None:
    """The link was laid by somebody who wants root to write elsewhere."""
    target, path = tmp_path / "shadow", tmp_path / "claims.json"
    target.write_text("root's")
    (tmp_path / name).symlink_to(target)
    if many:
        assert replace_files({path: "new"}) == {}
    else:
        replace_file(path, "new")
    assert target.read_text() == "root's"
    assert path.read_text() == "new"
    assert not path.is_symlink()


def test_a_second_name_of_a_file_keeps_the_old_content(tmp_path: Path) -> None:
    target, path = tmp_path / "shadow", tmp_path / "claims.json"
    target.write_text("root's")
    (tmp_path / "claims.json.new").hardlink_to(target)
    replace_file(path, "new")
    assert target.read_text() == "root's"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_file_is_its_owner_s_alone_or_has_the_mode_that_was_asked_for(
    tmp_path: Path, umask: int
) -> None:
    old = os.umask(umask)
    try:
        replace_file(tmp_path / "claims.json", "new")
        replace_files({tmp_path / "node.last": "new"})
        replace_file(tmp_path / "exabgp.conf", "new", mode=0o640)
        os.close(open_private(tmp_path / "log"))
        private_folder(tmp_path / "state")
    finally:
        os.umask(old)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {
        "claims.json": 0o600,
        "node.last": 0o600,
        "exabgp.conf": 0o640,
        "log": 0o600,
        "state": 0o700,
    }


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(UnsafeError, match=f"{folder} is writable by others"):
        private_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == mode


def test_a_folder_that_others_could_read_is_closed(tmp_path: Path) -> None:
    """The version before left it so."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o755)
    private_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, link: bool
) -> None:
    """A link of that user too, wherever it leads."""
    folder = tmp_path / "state"
    if link:
        folder.symlink_to(tmp_path)
    else:
        folder.mkdir()
    owner = os.geteuid() or 1000
    if os.geteuid() == 0:
        os.chown(folder, owner, owner, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(UnsafeError, match=f"{folder} belongs to user {owner}"):
        private_folder(folder)


def test_what_is_appended_to_is_no_link_and_has_no_second_name(tmp_path: Path) -> None:
    target = tmp_path / "shadow"
    target.write_text("root's")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "name").hardlink_to(target)
    for name in ("link", "name"):
        with pytest.raises(UnsafeError):
            open_private(tmp_path / name)
    assert target.read_text() == "root's"


def test_a_file_of_another_user_is_read_without_waiting_and_not_through_a_link(
    tmp_path: Path,
) -> None:
    (tmp_path / "relay.pid").write_text("17\n")
    assert read_foreign(tmp_path / "relay.pid") == "17\n"
    (tmp_path / "long").write_text("1" * 1000)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "relay.pid")
    for name in ("pipe", "link", "long"):
        with pytest.raises(OSError, match=name):
            read_foreign(tmp_path / name)


def test_a_long_log_begins_anew_and_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "exabgp.log"
    with os.fdopen(open_private(log), "ab", buffering=0) as writer:
        rotate(log, 8)  # nothing there to rotate
        writer.write(b"0123456789")
        rotate(log, 8)
        writer.write(b"new")
    assert log.read_bytes() == b"new"
    assert (tmp_path / "exabgp.log.1").read_bytes() == b"23456789"
    rotate(tmp_path / "none", 8)


def test_a_log_is_not_emptied_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "shadow"
    target.write_text("root's, and long")
    (tmp_path / "exabgp.log").symlink_to(target)
    with pytest.raises(OSError, match=r"exabgp\.log"):
        rotate(tmp_path / "exabgp.log", 8)
    assert target.read_text() == "root's, and long"


@pytest.mark.skipif(os.geteuid() != 0, reason="files of another user need root")
def test_what_root_replaces_stays_its_user_s(tmp_path: Path) -> None:
    """A renewed key is still readable by the process whose key it is."""
    path = tmp_path / "controller.key"
    replace_file(path, "old")
    os.chown(path, 1000, 1001)
    replace_file(path, "new")
    assert (path.stat().st_uid, path.stat().st_gid) == (1000, 1001)
