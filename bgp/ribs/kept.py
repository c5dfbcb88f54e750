"""Both tables on the disk, so that they outlive a killed speaker: a journal in its run directory.

A key is ``in``, ``out`` or ``open`` with router, prefix and route distinguisher; values are the row
in MessagePack, and for ``open`` the router's OPEN as it came. Changes of a second share one write,
which a thread does. After a power cut or a kill in the middle the state before those changes is
read (``mesh/core/journal.py``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path

import msgspec

from mesh.core import journal
from mesh.core.files import in_words
from mesh.core.journal import Journal
from mesh.core.model import IP
from mesh.core.received import Received, ReceivedKey
from mesh.core.table import Table
from mesh.core.ticks import tick

log = logging.getLogger(__name__)

#: Seconds between writes.
PAUSE_S = 1.0
#: Rows that are encoded or decoded between two turns of the event loop.
_STEP = 500


class _Row(msgspec.Struct, array_like=True, omit_defaults=True):
    """``Received`` with text for addresses; what a later version adds stands at the end."""

    next_hop: str
    as_path: tuple[int, ...] = ()
    communities: tuple[str, ...] = ()
    large: tuple[str, ...] = ()
    extended: tuple[str, ...] = ()
    med: int | None = None
    local_preference: int | None = None
    sid: str | None = None
    behaviour: int = 0
    structure: tuple[int, int, int, int, int, int] | None = None
    label: int = 0
    unusable: str = ""
    origin: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Row)


class Kept:
    """The file of one speaker."""

    def __init__(
        self,
        file: Path,
        incoming: Table[ReceivedKey, Received],
        outgoing: Table[ReceivedKey, Received],
    ) -> None:
        #: Why rows cannot be kept or read, in words.
        self.problem = ""
        #: The OPEN of each router as it came.
        self.openings: dict[IP, bytes] = {}
        self._file = file
        self._journal = Journal(file)
        self._tables = {"in": incoming, "out": outgoing}
        self._written: dict[str, int | None] = dict.fromkeys(self._tables)  # revisions on the disk
        self._changed = asyncio.Event()
        self._loaded = asyncio.Event()
        self._opened: dict[IP, bytes | None] = {}  # openings that are not written yet
        for table in self._tables.values():
            table.listen(self._changed.set)

    def open(self, peer: IP, body: bytes | None) -> None:
        """Note a router's OPEN; None: the session is no more."""
        if self.openings.get(peer) == body:
            return
        self.openings.pop(peer, None)
        if body is not None:
            self.openings[peer] = body
        self._opened[peer] = body
        self._changed.set()

    async def load(self) -> Mapping[str, list[tuple[ReceivedKey, Received]]]:
        """The rows of the last speaker, by table; none when there is no file, or a damaged one.

        Nothing is written before ``begin``.
        """
        found: dict[str, list[tuple[ReceivedKey, Received]]] = {name: [] for name in self._tables}
        try:
            entries = await asyncio.to_thread(journal.read, self._file)
        except FileNotFoundError:
            return found
        except (OSError, ValueError) as error:
            self.problem = f"{self._file} cannot be read: {error}"
            return found
        same: dict[bytes, Received] = {}
        for number, (key, value) in enumerate(entries.items()):
            try:
                self._read(found, same, key, value)
            except (ValueError, KeyError, msgspec.MsgspecError) as error:
                self.problem = f"{self._file} has an entry that cannot be read: {error}"
            if number % _STEP == 0:
                await asyncio.sleep(0)
        return found

    def _read(
        self,
        found: Mapping[str, list[tuple[ReceivedKey, Received]]],
        same: dict[bytes, Received],
        name: str,
        value: bytes,
    ) -> None:
        kind, peer, *rest = name.split(" ")
        if kind == "open":
            self.openings[ip_address(peer)] = value
            return
        if value not in same:
            same[value] = _received(_decoder.decode(value))
        key = ReceivedKey(ip_address(peer), ip_network(rest[0]), rest[1])
        found[kind].append((key, same[value]))

    def begin(self) -> None:
        """The tables have what was read: from now on they are what the file is to have."""
        self._loaded.set()

    async def run(self) -> None:
        """Write until cancelled, from the time when the tables have what was read."""
        await self._loaded.wait()
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._save()
                self.problem = ""
            except OSError as error:
                self._written = dict.fromkeys(self._tables)
                text = f"{self._file} cannot be written: {in_words(error)}"
                if not self.problem:
                    log.warning("event=routes_not_kept error=%s", error)
                self.problem = text
                self._changed.set()
            await tick(PAUSE_S)

    def close(self) -> None:
        """Let another process write."""
        self._journal.close()

    async def _save(self) -> None:
        """Write what has changed; everything when that is not known, or is most of it."""
        changed = {
            name: None if since is None else self._tables[name].changes(since)
            for name, since in self._written.items()
        }
        revisions = {name: table.revision for name, table in self._tables.items()}
        opened, self._opened = self._opened, {}
        if any(one is None for one in changed.values()):
            rows = {f"open {peer}": body for peer, body in self.openings.items()}
            for name, table in self._tables.items():
                rows |= await _entries(name, table.rows)
            await asyncio.to_thread(self._journal.replace, rows)
        else:
            changes: dict[str, bytes | None] = {
                f"open {peer}": body for peer, body in opened.items()
            }
            for name, one in changed.items():
                if one is not None:
                    changes |= dict.fromkeys(await _names(name, one.delete))
                    changes |= await _entries(name, one.upsert)
            if changes:
                await asyncio.to_thread(self._journal.append, changes)
        self._written = dict(revisions)


async def _entries(kind: str, rows: Mapping[ReceivedKey, Received]) -> dict[str, bytes]:
    """The rows as entries, made in steps."""
    made: dict[str, bytes] = {}
    same: dict[int, bytes] = {}
    for number, (key, row) in enumerate(list(rows.items())):
        if id(row) not in same:
            same[id(row)] = _encoder.encode(_row(row))
        made[_name(kind, key)] = same[id(row)]
        if number % _STEP == _STEP - 1:
            await asyncio.sleep(0)
    return made


async def _names(kind: str, keys: Collection[ReceivedKey]) -> list[str]:
    """The names of entries, made in steps."""
    made: list[str] = []
    for number, key in enumerate(keys):
        made.append(_name(kind, key))
        if number % _STEP == _STEP - 1:
            await asyncio.sleep(0)
    return made


def _name(kind: str, key: ReceivedKey) -> str:
    return f"{kind} {key.peer} {key.prefix} {key.rd}"


def _row(row: Received) -> _Row:
    return _Row(
        next_hop=str(row.next_hop),
        as_path=row.as_path,
        communities=row.communities,
        large=row.large,
        extended=row.extended,
        med=row.med,
        local_preference=row.local_preference,
        sid=None if row.sid is None else str(row.sid),
        behaviour=row.behaviour,
        structure=row.structure,
        label=row.label,
        unusable=row.unusable,
        origin=row.origin,
    )


def _received(row: _Row) -> Received:
    return Received(
        next_hop=ip_address(row.next_hop),
        as_path=row.as_path,
        communities=row.communities,
        large=row.large,
        extended=row.extended,
        med=row.med,
        local_preference=row.local_preference,
        sid=None if row.sid is None else IPv6Address(row.sid),
        behaviour=row.behaviour,
        structure=row.structure,
        label=row.label,
        unusable=row.unusable,
        origin=row.origin,
    )
