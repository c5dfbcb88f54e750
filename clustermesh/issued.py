"""The folder where the CA is: which certificates it has issued, and which of them are revoked.

``ca.crt``, ``ca.key``, ``ca.crl`` (the revocation list that etcd is started with), ``issued.json``
(certificates that were issued and have not ended), ``server.crt`` and ``server.key`` of etcd, and
the files of users. A file is replaced as a whole, its key first; a process that meets the new key
beside the old certificate keeps what it has and looks again. A process that writes here holds the
lock of the folder.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from clustermesh.certs import (
    BACKDATED,
    HALF,
    LIFETIME,
    PROCESS_LIFETIME,
    Authority,
    KeyPair,
    Validity,
    names_of,
    serial_of,
    validity_of,
)
from mesh.core.files import open_private, replace_file

#: Name of root's files, and of etcd's own.
ROOT, SERVER = "root", "server"


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of one certificate and its key."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Pki:
    """Paths of everything ``write_pki`` wrote."""

    ca: Path
    crl: Path
    server: Files
    users: Mapping[str, Files]


class Issued(msgspec.Struct, frozen=True):
    """One certificate; ``serial`` in hexadecimal digits, ``revoked``: when it was."""

    user: str
    serial: str
    ends: datetime
    revoked: datetime | None = None


def write_pki(
    directory: Path,
    users: Sequence[str],
    server_addresses: Sequence[str],
    processes: Sequence[str] = (),
    lifetime: timedelta = PROCESS_LIFETIME,
) -> Pki:
    """Write a new CA, an etcd server's and the users' certificates into ``directory``.

    ``processes`` are users whose certificates live for ``lifetime``. Files are those of the module,
    and two for each user (``files_of``); keys are readable by their owner only. ``localhost`` is
    always served.
    """
    directory.mkdir(parents=True, exist_ok=True)
    authority = Authority.create()
    replace_file(directory / "ca.crt", authority.pair.cert, mode=0o644)
    replace_file(directory / "ca.key", authority.pair.key, mode=0o600)
    served = [*server_addresses, "localhost", "127.0.0.1", "::1"]
    server = write_pair(directory, SERVER, authority.issue_server("etcd-server", served))
    folder = Folder(directory)
    with folder.locked():
        folder.revoke(())
        found = {user: write_pair(directory, user, folder.issue(user)) for user in users}
        for user in processes:
            found[user] = write_pair(directory, user, folder.issue(user, lifetime))
    return Pki(folder.ca, folder.crl, server, found)


class Folder:
    """The folder of a CA. Raises OSError and ValueError for files that are missing or wrong.

    ``issue`` and ``revoke`` are called while it is ``locked``.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca, self.crl = directory / "ca.crt", directory / "ca.crl"
        pair = KeyPair(self.ca.read_bytes(), (directory / "ca.key").read_bytes())
        self.authority = Authority(pair)
        self._list = directory / "issued.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The lock of the folder: no other process issues or revokes meanwhile."""
        with os.fdopen(open_private(self.directory / "lock"), "ab") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def issue(self, user: str, lifetime: timedelta = LIFETIME) -> KeyPair:
        """A certificate of a user, noted so that it can be revoked."""
        pair = self.authority.issue_user(user, lifetime)
        ends = validity_of(pair.cert).end
        self._save([*self._noted(), Issued(user, f"{serial_of(pair.cert):x}", ends)])
        return pair

    def revoke(self, users: Iterable[str]) -> int:
        """Write the list with all certificates of these users too; how many were added to it."""
        gone, now, rows = set(users), datetime.now(UTC), list[Issued]()
        before = self._noted()
        for row in before:
            hit = row.user in gone and row.revoked is None
            rows.append(msgspec.structs.replace(row, revoked=now) if hit else row)
        revoked = {int(row.serial, 16): row.revoked for row in rows if row.revoked}
        replace_file(self.crl, self.authority.revocation_list(revoked), mode=0o644)
        self._save(rows)
        return sum(new != old for new, old in zip(rows, before, strict=True))

    def renew(
        self, lifetime: timedelta | None = None, *, spent: float = HALF, now: datetime | None = None
    ) -> Sequence[str]:
        """Write new files for etcd and for each user of this folder, where ``spent`` of it is over.

        A user that was revoked gets none. ``lifetime`` is that of users' new certificates; without
        it that of the old ones. Returns the users that got new files.
        """
        now = now or datetime.now(UTC)
        newest = {row.user: row for row in self._noted()}  # a later row replaces the earlier one
        renewed = [
            user for user, row in newest.items() if not row.revoked and self._due(user, spent, now)
        ]
        for user in renewed:
            life = self._validity(user)
            given = lifetime or (life.end - life.begin - BACKDATED)
            write_pair(self.directory, user, self.issue(user, given))
        if self._due(SERVER, spent, now):
            old = files_of(self.directory, SERVER).cert.read_bytes()
            pair = self.authority.issue_server("etcd-server", names_of(old))
            write_pair(self.directory, SERVER, pair)
            renewed.append(SERVER)
        return renewed

    def _due(self, user: str, spent: float, now: datetime) -> bool:
        if not files_of(self.directory, user).cert.exists():
            return False
        life = self._validity(user)
        return now - life.begin >= spent * (life.end - life.begin)

    def _validity(self, user: str) -> Validity:
        return validity_of(files_of(self.directory, user).cert.read_bytes())

    def _noted(self) -> list[Issued]:
        """The certificates that count: one that has ended needs no revocation."""
        with suppress(FileNotFoundError):
            return msgspec.json.decode(self._list.read_bytes(), type=list[Issued])
        return []

    def _save(self, rows: Iterable[Issued]) -> None:
        kept = _kept(rows, datetime.now(UTC))
        replace_file(self._list, msgspec.json.encode(kept), mode=0o600)


def _kept(rows: Iterable[Issued], now: datetime) -> list[Issued]:
    """All that is valid, and the last row of each user: a folder's files may have ended."""
    every = list(rows)
    last = {row.user: row for row in every}
    return [row for row in every if row.ends > now or row is last[row.user]]


def files_of(directory: Path, user: str) -> Files:
    """Where the files of a user lie."""
    name = user.replace(":", "_")
    return Files(directory / f"{name}.crt", directory / f"{name}.key")


def write_pair(directory: Path, user: str, pair: KeyPair) -> Files:
    """Replace the files of a user, the key first."""
    files = files_of(directory, user)
    replace_file(files.key, pair.key, mode=0o600)
    replace_file(files.cert, pair.cert, mode=0o644)
    return files
