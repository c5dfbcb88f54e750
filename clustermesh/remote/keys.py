"""The keys of one noun of one cluster: values, accepted rows, and the parts on which those rest.

``Keys`` does it for any noun with dictionaries. ``AddressKeys`` does the same in columns, because a
cluster has up to 131,072 addresses: a row of about 60 bytes instead of 670.
"""

from __future__ import annotations

import logging
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from clustermesh.findings import BYTES, NOT_TAKEN, TOO_LARGE, UNREADABLE
from clustermesh.remote.checks import AcceptedAddress, AddressValue, pack
from clustermesh.remote.holdings import NotAccepted
from clustermesh.remote.shared import Shared
from clustermesh.remote.texts import Texts
from clustermesh.remote.wire import WireError

log = logging.getLogger(__name__)

D = TypeVar("D")
R = TypeVar("R")
T = TypeVar("T")

#: Different tunnel endpoints whose text is kept once; a cluster could else fill the memory.
_HOSTS = 16_384
_UINT32 = range(1 << 32)
#: Characters of a refusal that are kept with its key.
_LONGEST_REFUSAL = 160


@dataclass(slots=True)
class Room:
    """Bytes of values that are kept of one cluster: of all, and of the refused ones among them."""

    most: int
    most_refused: int
    kept: int = 0
    refused: int = 0


class _Unkept(NamedTuple):
    """In place of a refused value: its hash, to know another one by, and the refusal."""

    hash: int
    refusal: NotAccepted | WireError


def taken(read: Callable[[], T]) -> T:
    """The result of ``read``. Raises NotAccepted, WireError; our mistake is a refusal, too."""
    try:
        return read()
    except (NotAccepted, WireError):
        raise
    except Exception as error:
        log.exception("event=value_not_taken")
        raise NotAccepted(NOT_TAKEN, "", repr(error)) from None


class KeyStore(Protocol):
    """The keys of one noun of one cluster; a key is spelled out as it stands in etcd."""

    shared: Shared[Any, Any, Any]

    def __contains__(self, key: str) -> bool: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[str]: ...
    def differs(self, key: str, value: bytes) -> bool:
        """Whether the value is another one than the latest, as far as that was kept."""

    def put(self, key: str, value: bytes) -> None:
        """Make it the latest value."""

    def keep(self, key: str) -> None:
        """Keep the latest value, which was accepted, beyond the next one."""

    def drop(self, key: str) -> None:
        """The key is gone; its accepted row goes when ``accept`` says so."""

    def latest(self, key: str) -> Any:
        """The content of the latest value. Raises NotAccepted, WireError."""

    def kept(self, key: str) -> Any:
        """The content of the kept value; None if there is none."""

    def drop_kept(self, key: str) -> None:
        """Forget the kept value."""

    def refuse(self, key: str, refusal: NotAccepted | WireError) -> NotAccepted | WireError:
        """The latest value is refused: keep the least that can judge it again.

        Return the refusal, or that it is not judged again, because too much has been refused.
        """

    def accepted(self, key: str) -> Any:
        """The accepted row, or None."""

    def accept(self, key: str, row: Any, nodes: Collection[str] = ()) -> None:
        """Make it the accepted row; None: there is none. The judgement rests on these parts."""

    def resting_on(self, parts: Collection[str]) -> Iterable[str]:
        """Keys whose judgement rests on one of the parts of nodes, or on one of the nodes."""

    def rows(self) -> Iterator[Any]:
        """All accepted rows."""

    @property
    def count(self) -> int:
        """How many rows are accepted."""


class Keys(Generic[D, R]):
    """Any noun: values as bytes, rows in a dictionary."""

    def __init__(self, shared: Shared[Any, D, R], cluster: str, room: Room) -> None:
        self.shared = shared
        self._skip = len(shared.prefix) + len(cluster) + 1
        self._room = room
        self._refused: set[str] = set()  # keys whose latest value is kept and refused
        self._latest: dict[str, bytes | _Unkept] = {}
        self._kept: dict[str, bytes] = {}  # accepted before the latest, which is refused
        self._accepted: dict[str, R] = {}
        self._dependents: defaultdict[str, set[str]] = defaultdict(set)  # node -> keys
        self._rests_on: dict[str, Collection[str]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._latest

    def __len__(self) -> int:
        return len(self._latest)

    def __iter__(self) -> Iterator[str]:
        return iter(self._latest)

    def differs(self, key: str, value: bytes) -> bool:
        latest = self._latest.get(key)
        return latest.hash != hash(value) if isinstance(latest, _Unkept) else latest != value

    def put(self, key: str, value: bytes) -> None:
        self._let_go(key)
        room = self._room
        if len(value) > self.shared.largest:
            self._latest[key] = _Unkept(hash(value), _too_large(len(value)))
        elif room.kept + len(value) > room.most:
            text = f"more than {room.most} bytes of values: this one is not read"
            self._latest[key] = _Unkept(hash(value), NotAccepted(BYTES, "", text))
        else:
            self._latest[key] = value
            room.kept += len(value)

    def _let_go(self, key: str) -> None:
        """The latest value takes no room any more."""
        latest = self._latest.get(key)
        if isinstance(latest, bytes):
            self._room.kept -= len(latest)
            self._pardon(key, latest)

    def _pardon(self, key: str, latest: bytes) -> None:
        if key in self._refused:
            self._refused.discard(key)
            self._room.refused -= len(latest)

    def refuse(self, key: str, refusal: NotAccepted | WireError) -> NotAccepted | WireError:
        latest = self._latest[key]
        if isinstance(latest, _Unkept) or key in self._refused:
            return refusal
        if not isinstance(refusal, WireError) and refusal.code != UNREADABLE:
            if self._room.refused + len(latest) <= self._room.most_refused:
                self._refused.add(key)
                self._room.refused += len(latest)
                return refusal
            if refusal.part is not None:
                return refusal  # of this value a part is in use
            text = f"{refusal.text}; not judged again before it is written or listed again"
            refusal = NotAccepted(BYTES, refusal.field, text)
        self._let_go(key)
        self._latest[key] = _Unkept(hash(latest), without_traceback(refusal))
        return refusal

    def keep(self, key: str) -> None:
        latest = self._latest[key]
        if isinstance(latest, bytes):
            self.drop_kept(key)
            self._kept[key] = latest
            self._room.kept += len(latest)

    def drop(self, key: str) -> None:
        self._let_go(key)
        del self._latest[key]

    def latest(self, key: str) -> D:
        latest = self._latest[key]
        if isinstance(latest, _Unkept):
            raise without_traceback(latest.refusal)
        return self.shared.decode(key[self._skip :], latest)

    def kept(self, key: str) -> D | None:
        kept = self._kept.get(key)
        return None if kept is None else self.shared.decode(key[self._skip :], kept)

    def drop_kept(self, key: str) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._room.kept -= len(kept)

    def accepted(self, key: str) -> R | None:
        return self._accepted.get(key)

    def accept(self, key: str, row: R | None, nodes: Collection[str] = ()) -> None:
        for node in self._rests_on.pop(key, ()):
            self._dependents[node].discard(key)
            if not self._dependents[node]:
                del self._dependents[node]
        if nodes:
            self._rests_on[key] = nodes
        for node in nodes:
            self._dependents[node].add(key)
        if row is None:
            self._accepted.pop(key, None)
            return
        self._accepted[key] = row
        latest = self._latest.get(key)
        if isinstance(latest, bytes) and key not in self._kept:
            self._pardon(key, latest)

    def resting_on(self, parts: Collection[str]) -> Iterable[str]:
        return dict.fromkeys(key for part in parts for key in self._dependents.get(part, ()))

    def rows(self) -> Iterator[R]:
        return iter(self._accepted.values())

    @property
    def count(self) -> int:
        return len(self._accepted)


class AddressKeys:
    """Addresses. The value's hash tells whether it changed, its parts are columns."""

    def __init__(
        self, shared: Shared[Any, AddressValue, AcceptedAddress | None], cluster: str, _: Room
    ) -> None:
        self.shared = shared
        self._skip = len(shared.prefix) + len(cluster) + 1
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._keys: list[str] = []
        self._present = bytearray()  # the key exists; else only its accepted row still does
        self._hash = array("q")
        self._identity = array("I")
        self._host: list[str] = []
        self._pod = Texts()
        self._row_identity = array("I")  # of the accepted row; 0: there is none
        self._row_endpoint = array("I")
        self._cidr = array("i")  # numbers of the parts on which the judgement rests; -1: none
        self._endpoint = array("i")
        self._count = 0
        self.count = 0  # accepted rows
        self._hosts: dict[str, str] = {}
        self._part_numbers: dict[str, int] = {}
        self._free_numbers: list[int] = []
        self._refusals: dict[str, NotAccepted | WireError] = {}  # latest values that cannot be read
        self._odd: dict[str, AddressValue] = {}  # those whose identity is no 32-bit number
        self._kept: dict[str, AddressValue] = {}

    def __contains__(self, key: str) -> bool:
        slot = self._slots.get(key)
        return slot is not None and bool(self._present[slot])

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return (key for key, slot in self._slots.items() if self._present[slot])

    def differs(self, key: str, value: bytes) -> bool:
        return key not in self or self._hash[self._slots[key]] != hash(value)

    def put(self, key: str, value: bytes) -> None:
        slot = self._slot(key)
        self._hash[slot] = hash(value)
        self._refusals.pop(key, None)
        self._odd.pop(key, None)
        try:
            decoded = taken(lambda: _read(self.shared, key[self._skip :], value))
        except (NotAccepted, WireError) as refusal:
            self._refusals[key] = without_traceback(refusal)
            return
        if decoded.identity not in _UINT32:
            self._odd[key] = decoded
            return
        self._identity[slot] = decoded.identity
        if len(self._hosts) >= _HOSTS:
            self._hosts.clear()
        self._host[slot] = self._hosts.setdefault(decoded.host, decoded.host)
        self._pod[slot] = decoded.pod

    def keep(self, key: str) -> None:
        if key not in self._refusals:
            self._kept[key] = self.latest(key)

    def drop(self, key: str) -> None:
        slot = self._slots[key]
        self._present[slot] = False
        self._count -= 1
        self._refusals.pop(key, None)
        self._odd.pop(key, None)
        self._tidy(key, slot)

    def latest(self, key: str) -> AddressValue:
        refusal = self._refusals.get(key)
        if refusal is not None:
            raise without_traceback(refusal)
        if key in self._odd:
            return self._odd[key]
        slot = self._slots[key]
        return AddressValue(self._identity[slot], self._host[slot])

    def refuse(self, key: str, refusal: NotAccepted | WireError) -> NotAccepted | WireError:  # noqa: ARG002 - a value takes the same room, refused or not
        return refusal

    def kept(self, key: str) -> AddressValue | None:
        return self._kept.get(key)

    def drop_kept(self, key: str) -> None:
        self._kept.pop(key, None)

    def accepted(self, key: str) -> AcceptedAddress | None:
        slot = self._slots.get(key)
        if slot is None or not self._row_identity[slot]:
            return None
        return pack(key[self._skip :]), self._row_identity[slot], self._row_endpoint[slot]

    def accept(self, key: str, row: AcceptedAddress | None, nodes: Collection[str] = ()) -> None:
        slot = self._slots.get(key)
        if slot is None:
            return
        had = bool(self._row_identity[slot])
        _, self._row_identity[slot], self._row_endpoint[slot] = row or (b"", 0, 0)
        self.count += bool(self._row_identity[slot]) - had
        first, last = (*map(self._number, nodes), -1, -1)[:2]
        self._cidr[slot], self._endpoint[slot] = first, last
        self._tidy(key, slot)

    def pod(self, key: str) -> str:
        """The pod of an accepted address as its cluster names it, ``namespace/name``; or empty."""
        slot = self._slots.get(key)
        return self._pod[slot] if slot is not None and self._row_identity[slot] else ""

    def resting_on(self, parts: Collection[str]) -> Iterable[str]:
        numbers = [self._part_numbers[part] for part in parts if part in self._part_numbers]
        if not numbers:
            return ()
        hit = np.isin(np.frombuffer(self._cidr, "i4"), numbers)
        hit |= np.isin(np.frombuffer(self._endpoint, "i4"), numbers)
        # A hundred thousand keys are not listed at once. Another key may get a slot meanwhile: it
        # is judged once too often.
        slots = np.flatnonzero(hit).tolist()
        return (key for slot in slots if (key := self._keys[slot]))

    def forget_parts(self, parts: Iterable[str]) -> None:
        """Parts that are gone: no row rests on them any more, so their numbers are free."""
        for part in parts:
            number = self._part_numbers.pop(part, None)
            if number is not None:
                self._free_numbers.append(number)

    def rows(self) -> Iterator[AcceptedAddress]:
        for key, slot in self._slots.items():
            if self._row_identity[slot]:
                yield pack(key[self._skip :]), self._row_identity[slot], self._row_endpoint[slot]

    def _number(self, part: str) -> int:
        number = self._part_numbers.get(part)
        if number is None:
            used = len(self._part_numbers) + len(self._free_numbers)
            number = self._free_numbers.pop() if self._free_numbers else used
            self._part_numbers[part] = number
        return number

    def _slot(self, key: str) -> int:
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = self._free.pop() if self._free else self._grow()
            self._keys[slot] = key
        if not self._present[slot]:
            self._present[slot] = True
            self._count += 1
        return slot

    def _grow(self) -> int:
        self._keys.append("")
        self._present.append(False)
        self._hash.append(0)
        self._host.append("")
        self._pod.append("")
        for column in (self._identity, self._row_identity, self._row_endpoint):
            column.append(0)
        for column in (self._cidr, self._endpoint):
            column.append(-1)
        return len(self._keys) - 1

    def _tidy(self, key: str, slot: int) -> None:
        """Free the row of a key that is gone once nothing is accepted of it."""
        if self._present[slot] or self._row_identity[slot]:
            return
        del self._slots[key]
        self._cidr[slot] = self._endpoint[slot] = -1
        self._keys[slot] = self._host[slot] = self._pod[slot] = ""
        self._free.append(slot)


def _read(shared: Shared[Any, D, Any], name: str, value: bytes) -> D:
    """The content of a value. Raises NotAccepted, WireError."""
    if len(value) > shared.largest:
        raise _too_large(len(value))
    return shared.decode(name, value)


def _too_large(size: int) -> NotAccepted:
    return NotAccepted(TOO_LARGE, "", f"value of {size} bytes is too large")


def without_traceback(refusal: NotAccepted | WireError) -> NotAccepted | WireError:
    """The same refusal without a traceback, which would keep its frames in memory."""
    field, text = refusal.field[:_LONGEST_REFUSAL], refusal.text[:_LONGEST_REFUSAL]
    if isinstance(refusal, NotAccepted):
        return NotAccepted(refusal.code, field, text)
    return WireError(field, text)
