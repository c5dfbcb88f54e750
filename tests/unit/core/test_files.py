"""Files are replaced as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.core.files import replace_file, replace_files


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
