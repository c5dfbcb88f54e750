"""Keys of sessions: from files and Secrets."""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path

import pytest

from bgp.passwords import KINDS, SECRETS, Passwords, Secret, of_file
from bgp.peer import Password
from mesh.core.strict import Wrong
from mesh.core.table import Table
from mesh.objects.schema import Kinds, Place, head


def secret(**fields: object) -> Secret:
    document = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "leaf"}, **fields}
    kinds = Kinds(KINDS)
    parsed = kinds.parse(head(document), Place("east", "", kinds.key_of(head(document))), document)
    assert (parsed.noun, parsed.key) == (SECRETS.name, "leaf")
    row = parsed.row
    assert isinstance(row, Secret)
    return row


def test_a_secret_has_its_data_decoded_and_never_shows_it() -> None:
    row = secret(data={"password": b64encode(b"s3cret").decode()}, stringData={"b": "other"})
    assert row.data == (("b", "other"), ("password", "s3cret"))
    assert "s3cret" not in repr(row)


def test_data_that_is_no_base64_is_refused_by_its_key() -> None:
    with pytest.raises(Wrong, match=r"^data.password: expected text in base64$"):
        secret(data={"password": "%"})


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("s3cret\n", "s3cret"),
        ("with space", "with space"),
        ("", ""),
        ("\n", ""),
        ("two\nlines\n", ""),
        ("x" * 80, "x" * 80),
        ("x" * 81, ""),
    ],
)
def test_a_key_is_the_only_line_of_its_file(tmp_path: Path, content: str, key: str) -> None:
    (tmp_path / "key").write_text(content)
    assert of_file(str(tmp_path / "key")) == key


def test_what_is_no_file_gives_no_key_and_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert [of_file(str(one)) for one in (tmp_path, tmp_path / "pipe", tmp_path / "none")] == [
        ""
    ] * 3


def test_the_table_has_what_is_wanted_and_there(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("one")
    of = Password(file=str(tmp_path / "key"))
    lacking, there = (Password("", "leaf", key) for key in ("x", "password"))
    secrets: Table[str, Secret] = Table("secret")
    passwords = Passwords(secrets, lambda: [of, lacking, there])
    passwords.look()
    assert (dict(passwords.table.rows), passwords.table.synced) == ({of: "one"}, False)
    secrets.replace({"leaf": secret(stringData={"password": "two"})})
    passwords.look()
    assert dict(passwords.table.rows) == {of: "one", there: "two"}
    (tmp_path / "key").unlink()
    passwords.look()
    assert dict(passwords.table.rows) == {there: "two"}
