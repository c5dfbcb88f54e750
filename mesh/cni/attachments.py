"""What runtimes have asked for on this node: a table, kept in a file of the state folder.

The file is written before the table changes, so a killed agent knows of every interface that it
may have made. An attachment goes by DEL, by GC, or when its network namespace is gone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path

import msgspec

from mesh.cni.findings import ATTACHMENTS
from mesh.core.files import in_words, replace_file
from mesh.core.model import Attachment, Finding, Labels, Sandbox
from mesh.core.table import Table

FILE = "attachments.json"
#: Characters of a tag: enough to tell the few sandboxes of one pod from each other.
_TAG = 8


class _Row(msgspec.Struct, frozen=True, rename="camel"):
    """An attachment in the file."""

    cluster: str
    namespace: str
    name: str
    container: str
    interface: str
    network: str
    netns: str
    inode: int
    number: int
    uid: str = ""
    labels: Labels = ()
    service_account: str = "default"
    addresses: tuple[str, ...] = ()


def tag_of(container: str, interface: str) -> str:
    """The tag of an attachment, the same after a restart."""
    return hashlib.sha256(f"{container}/{interface}".encode()).hexdigest()[:_TAG]


class Attachments:
    """``table`` has them; it is synced unless the file of ``folder`` cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.table: Table[Sandbox, Attachment] = Table("attachment")
        self._file = folder / FILE
        self._problem = ""
        self._keys: dict[tuple[str, str], Sandbox] = {}  # by container and interface

    def load(self) -> None:
        """Take in what the last agent has written."""
        try:
            rows = read(self._file)
        except (OSError, ValueError) as error:
            words = in_words(error) if isinstance(error, OSError) else str(error)
            self._problem = f"it cannot be read: {words}"
            return
        self._keys = {(row.container, row.interface): key for key, row in rows.items()}
        self.table.replace(rows)

    def find(self, container: str, interface: str) -> tuple[Sandbox, Attachment] | None:
        """The attachment of an interface of a container."""
        key = self._keys.get((container, interface))
        return (key, self.table.rows[key]) if key else None

    @property
    def next_number(self) -> int:
        """A number above those of all attachments."""
        return max((row.number for row in self.table.rows.values()), default=0) + 1

    def put(self, key: Sandbox, row: Attachment) -> None:
        """Add an attachment. Raises OSError; then nothing has changed."""
        self._write({**self.table.rows, key: row})
        self._keys[row.container, row.interface] = key
        self.table.upsert({key: row})

    def end(self, keys: Collection[Sandbox]) -> None:
        """Forget attachments; absent ones are no error. Raises OSError: nothing has changed."""
        gone = {key for key in keys if key in self.table.rows}
        if not gone:
            return
        rows = {key: row for key, row in self.table.rows.items() if key not in gone}
        self._write(rows)
        self._keys = {(row.container, row.interface): key for key, row in rows.items()}
        self.table.delete(gone)

    def _write(self, rows: Mapping[Sandbox, Attachment]) -> None:
        if not self.table.synced:
            raise OSError(f"{self._file}: {self._problem or 'it is not read yet'}")
        try:
            replace_file(self._file, written(rows))
        except OSError as error:
            self._problem = f"it cannot be written: {in_words(error)}"
            raise
        self._problem = ""

    def findings(self) -> Iterable[Finding]:
        """Why attachments cannot be kept."""
        if self._problem:
            yield Finding(ATTACHMENTS, str(self._file), "", self._problem)


def read(file: Path) -> dict[Sandbox, Attachment]:
    """The attachments of a file, none if there is no file. Raises OSError and ValueError."""
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        rows = msgspec.json.decode(text, type=list[_Row])
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    return dict(map(_attachment, rows))


def written(rows: Mapping[Sandbox, Attachment]) -> bytes:
    """The content of the file."""
    return msgspec.json.encode([_row(key, row) for key, row in rows.items()])


def _attachment(row: _Row) -> tuple[Sandbox, Attachment]:
    key = Sandbox(row.cluster, row.namespace, row.name, tag_of(row.container, row.interface))
    return key, Attachment(
        row.container, row.interface, row.network, row.netns, row.inode, row.number,
        row.uid, row.labels, row.service_account, tuple(map(ip_address, row.addresses)),
    )  # fmt: skip


def _row(key: Sandbox, row: Attachment) -> _Row:
    return _Row(
        key.cluster, key.namespace, key.name,
        row.container, row.interface, row.network, row.netns, row.inode, row.number,
        row.uid, row.labels, row.service_account, tuple(map(str, row.addresses)),
    )  # fmt: skip


def inode(path: str) -> int:
    """Inode of the network namespace at a path; 0 when none is there.

    Raises OSError when the folder of the path cannot be looked at.
    """
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        os.stat(Path(path).parent)  # noqa: PTH116 - raises when the folder is what is missing
        return 0
    here = Path("/proc/self/ns/net").stat()
    return found.st_ino if found.st_dev == here.st_dev else 0


def ended(rows: Mapping[Sandbox, Attachment]) -> Iterator[Sandbox]:
    """Attachments whose network namespace is gone.

    A folder that is not there says nothing: it may not be mounted in our container.
    """
    for key, row in rows.items():
        try:
            if inode(row.netns) != row.inode:
                yield key
        except OSError:
            continue


def unlisted(
    rows: Mapping[Sandbox, Attachment], network: str, valid: frozenset[tuple[str, str]]
) -> list[Sandbox]:
    """Attachments of a network that are not among the valid ones."""
    return [
        key
        for key, row in rows.items()
        if row.network == network and (row.container, row.interface) not in valid
    ]
