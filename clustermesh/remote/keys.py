"""The keys of one noun of one cluster: what each says, what was accepted, on what that rests.

``Keys`` does it for any noun with dictionaries. ``AddressKeys`` does the same in columns, because a
cluster has up to 131,072 addresses: a row of about 60 bytes instead of 670.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from clustermesh.findings import TOO_LARGE
from clustermesh.remote.checks import AcceptedAddress, AddressValue, pack
from clustermesh.remote.holdings import NotAccepted
from clustermesh.remote.shared import Shared
from clustermesh.remote.texts import Texts
from clustermesh.remote.wire import WireError

D = TypeVar("D")
R = TypeVar("R")


#: Different tunnel endpoints whose text is kept once; a cluster could else fill the memory.
_HOSTS = 16_384
_UINT32 = range(1 << 32)


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
        """What the latest value says. Raises NotAccepted, WireError."""

    def kept(self, key: str) -> Any:
        """What the kept value says; None if there is none."""

    def drop_kept(self, key: str) -> None:
        """Forget the kept value."""

    def accepted(self, key: str) -> Any:
        """The accepted row, or None."""

    def accept(self, key: str, row: Any, nodes: Collection[str] = ()) -> None:
        """Make it the accepted row; None: there is none. The judgement rests on these nodes."""

    def resting_on(self, nodes: Collection[str]) -> set[str]:
        """Keys whose judgement rests on one of the nodes."""

    def rows(self) -> Iterator[Any]:
        """All accepted rows."""

    @property
    def count(self) -> int:
        """How many rows are accepted."""


class Keys(Generic[D, R]):
    """Any noun: values as bytes, rows in a dictionary."""

    def __init__(self, shared: Shared[Any, D, R], cluster: str) -> None:
        self.shared = shared
        self._skip = len(shared.prefix) + len(cluster) + 1
        self._latest: dict[str, bytes | int] = {}  # a number is the size of a value not kept
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
        return self._latest.get(key) != value

    def put(self, key: str, value: bytes) -> None:
        self._latest[key] = value if len(value) <= self.shared.largest else len(value)

    def keep(self, key: str) -> None:
        latest = self._latest[key]
        if isinstance(latest, bytes):
            self._kept[key] = latest

    def drop(self, key: str) -> None:
        del self._latest[key]

    def latest(self, key: str) -> D:
        latest = self._latest[key]
        if isinstance(latest, int):
            raise _too_large(latest)
        return self.shared.decode(key[self._skip :], latest)

    def kept(self, key: str) -> D | None:
        kept = self._kept.get(key)
        return None if kept is None else self.shared.decode(key[self._skip :], kept)

    def drop_kept(self, key: str) -> None:
        self._kept.pop(key, None)

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
        else:
            self._accepted[key] = row

    def resting_on(self, nodes: Collection[str]) -> set[str]:
        return set().union(*(self._dependents.get(node, ()) for node in nodes))

    def rows(self) -> Iterator[R]:
        return iter(self._accepted.values())

    @property
    def count(self) -> int:
        return len(self._accepted)


class AddressKeys:
    """Addresses. The value's hash tells whether it changed, its parts are columns."""

    def __init__(
        self, shared: Shared[Any, AddressValue, AcceptedAddress | None], cluster: str
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
        self._node = array("i")  # numbers of the nodes on which the judgement rests; -1: none
        self._host_node = array("i")
        self._count = 0
        self.count = 0  # accepted rows
        self._hosts: dict[str, str] = {}
        self._node_numbers: dict[str, int] = {}
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
            decoded = _read(self.shared, key[self._skip :], value)
        except (NotAccepted, WireError) as refusal:
            self._refusals[key] = _again(refusal)
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
            raise _again(refusal)
        if key in self._odd:
            return self._odd[key]
        slot = self._slots[key]
        return AddressValue(self._identity[slot], self._host[slot])

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
        self._node[slot], self._host_node[slot] = first, last
        self._tidy(key, slot)

    def pod(self, key: str) -> str:
        """The pod of an accepted address as its cluster names it, ``namespace/name``; or empty."""
        slot = self._slots.get(key)
        return self._pod[slot] if slot is not None and self._row_identity[slot] else ""

    def resting_on(self, nodes: Collection[str]) -> set[str]:
        numbers = [self._node_numbers[node] for node in nodes if node in self._node_numbers]
        if not numbers:
            return set()
        hit = np.isin(np.frombuffer(self._node, "i4"), numbers)
        hit |= np.isin(np.frombuffer(self._host_node, "i4"), numbers)
        return {self._keys[slot] for slot in np.flatnonzero(hit)}

    def forget_nodes(self, nodes: Collection[str]) -> None:
        """Nodes that are gone: no row rests on them any more, so their numbers are free."""
        for node in nodes:
            number = self._node_numbers.pop(node, None)
            if number is not None:
                self._free_numbers.append(number)

    def rows(self) -> Iterator[AcceptedAddress]:
        for key, slot in self._slots.items():
            if self._row_identity[slot]:
                yield pack(key[self._skip :]), self._row_identity[slot], self._row_endpoint[slot]

    def _number(self, node: str) -> int:
        number = self._node_numbers.get(node)
        if number is None:
            used = len(self._node_numbers) + len(self._free_numbers)
            number = self._free_numbers.pop() if self._free_numbers else used
            self._node_numbers[node] = number
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
        for column in (self._node, self._host_node):
            column.append(-1)
        return len(self._keys) - 1

    def _tidy(self, key: str, slot: int) -> None:
        """Free the row of a key that is gone once nothing is accepted of it."""
        if self._present[slot] or self._row_identity[slot]:
            return
        del self._slots[key]
        self._node[slot] = self._host_node[slot] = -1
        self._keys[slot] = self._host[slot] = self._pod[slot] = ""
        self._free.append(slot)


def _read(shared: Shared[Any, D, Any], name: str, value: bytes) -> D:
    """What a value says. Raises NotAccepted, WireError."""
    if len(value) > shared.largest:
        raise _too_large(len(value))
    return shared.decode(name, value)


def _too_large(size: int) -> NotAccepted:
    return NotAccepted(TOO_LARGE, "", f"value of {size} bytes is too large")


def _again(refusal: NotAccepted | WireError) -> NotAccepted | WireError:
    """The same refusal without a traceback, which would keep its frames in memory."""
    if isinstance(refusal, NotAccepted):
        return NotAccepted(refusal.code, refusal.field, refusal.text)
    return WireError(refusal.field, refusal.text)
