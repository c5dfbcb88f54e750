"""Which code a process of the lab can read without a capability."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mesh.lab.confined import is_readable


@pytest.fixture
def file() -> Iterator[Path]:
    """A file to which everybody gets through."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        path = folder / "code.py"
        path.touch()
        path.chmod(0o644)
        yield path


@pytest.mark.parametrize("user", ["owner", "other"])
def test_code_is_readable_or_it_is_not(file: Path, user: str) -> None:
    is_owner = user == "owner"
    uid = os.geteuid() + (0 if is_owner else 1)
    assert is_readable(file, uid)
    for path, shut, to_owner in ((file, 0o600, True), (file, 0o044, False)):
        path.chmod(shut)
        assert is_readable(path, uid) == (to_owner == is_owner)
    file.chmod(0o644)
    file.parent.chmod(0o700)
    assert is_readable(file, uid) == is_owner
