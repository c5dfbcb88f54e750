"""Files are replaced as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.core.files import replace_file


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
