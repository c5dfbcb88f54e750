"""The import firewall: what a peer publishes is checked before it reaches a map.

``Importer`` keeps the keys of one peer, ``Imports`` those of all peers in one store; the checks
are in ``judge.py``. A refused key is quarantined alone: a finding names it, its last accepted row
stays while that row itself may stay, and the other keys go on. Addresses and services depend on
the peer's nodes (pod CIDRs, tunnel endpoints) and are judged again when those change.

The cluster id that was accepted first is held until the peer's ``cluster-config`` key has gone;
another id after that drains the peer and takes it in anew. Agents and controllers run the same
code; it does no I/O.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import TypeVar

from clustermesh.remote import checks as judge
from clustermesh.remote import wire
from clustermesh.remote.changes import Draft, ImportChanges, address_row, columns
from clustermesh.remote.checks import Peer, PeerNode
from clustermesh.remote.holdings import ADDRESS_TAKEN, Holder, Ledger, OwnFacts, Refused
from clustermesh.remote.wire import (
    ADDRESSES,
    CANARIES,
    CONFIGS,
    IDENTITIES,
    NODES,
    SERVICES,
    WireError,
)
from mesh.core.model import Finding, Identity, Node, NodeKey, Service, ServiceKey
from mesh.core.table import ColumnChanges

R = TypeVar("R")

TOO_LARGE = "M132"
UNREADABLE = "M133"
TOO_MANY = "M134"
NO_CONFIG = "M137"
MORE = "M139"

#: Refusals that a change of the peer's nodes may lift.
_DEPENDENT = frozenset({judge.OUTSIDE, judge.BACKEND_OUTSIDE, judge.NO_ENDPOINT, judge.RESERVED})
_DEPENDENT_PREFIXES = (ADDRESSES, SERVICES)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one peer may publish; what is beyond is not read."""

    nodes: int = 8192
    services: int = 16_384
    identities: int = 65_536
    addresses: int = 131_072
    value: int = 64 << 10  # bytes
    service: int = 1 << 20  # bytes of one service
    findings: int = 100  # shown one by one; the rest is a number

    def keys(self, prefix: str) -> int:
        """How many keys there may be under a prefix."""
        return {
            NODES: self.nodes,
            SERVICES: self.services,
            IDENTITIES: self.identities,
            ADDRESSES: self.addresses,
        }.get(prefix, 1)


class Importer:
    """The accepted rows of one peer, kept up to date with its keys."""

    def __init__(
        self,
        peer: str,
        ledger: Ledger,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.peer = Peer(peer, ledger)
        self.canaries: set[str] = set()  # prefixes that the peer has written completely
        self._limits, self._clock = limits or Limits(), clock
        self._config_gone = False
        self._latest: dict[str, bytes | int] = {}  # a number is the size of a value not kept
        self._kept: dict[str, bytes] = {}  # accepted before the latest, which is refused
        self._refused: dict[str, Finding] = {}
        self._waiting: set[str] = set()  # refused keys that another node may bring in
        self._dependents: defaultdict[str, set[str]] = defaultdict(set)  # node -> keys
        self._rests_on: dict[str, tuple[str, ...]] = {}
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._unread: defaultdict[str, int] = defaultdict(int)
        self._nodes: dict[str, Node] = {}
        self._services: dict[str, Service] = {}
        self._identities: dict[str, Identity] = {}
        self._addresses: dict[str, tuple[bytes, int, int]] = {}

    # --- What is accepted ---------------------------------------------------------------------

    @property
    def nodes(self) -> dict[NodeKey, Node]:
        """Accepted nodes."""
        return {NodeKey(row.cluster, row.name): row for row in self._nodes.values()}

    @property
    def services(self) -> dict[ServiceKey, Service]:
        """Accepted services."""
        return {_service_key(row): row for row in self._services.values()}

    @property
    def identities(self) -> dict[int, Identity]:
        """Accepted identities."""
        return {row.id: row for row in self._identities.values()}

    @property
    def addresses(self) -> ColumnChanges:
        """Accepted addresses, all of them."""
        rows = {
            key: address_row(identity, endpoint, self.peer.id)
            for key, identity, endpoint in self._addresses.values()
        }
        keys, values = columns(rows)
        return ColumnChanges(keys, values, keys[:0])

    @property
    def findings(self) -> dict[str, Finding]:
        """What is refused, by etcd key; the first ones, then their number."""
        name = wire.plain(self.peer.name)
        shown = dict(islice(self._refused.items(), self._limits.findings))
        for prefix, unread in self._unread.items():
            if unread:
                limit, place = self._limits.keys(prefix), f"{prefix}{name}/"
                text = f"more than {limit} keys: {unread} further ones are not read"
                shown[place] = Finding(TOO_MANY, place, "keys", text, self._clock())
        hidden = len(self._refused) - self._limits.findings
        if hidden > 0:
            place = f"cilium/cache/*/v1/{name}/"
            shown[place] = Finding(MORE, place, "keys", f"{hidden} further keys are refused")
        config = wire.config_key(self.peer.name)
        if not self.peer.id and self._latest and config not in shown:
            text = f"cluster {name} has keys but no cluster config: none is used"
            shown[config] = Finding(NO_CONFIG, wire.plain(config), "", text)
        return shown

    # --- Keys in ------------------------------------------------------------------------------

    def apply(self, puts: Mapping[str, bytes], deletes: Collection[str] = ()) -> ImportChanges:
        """Take in keys that were put and keys that are gone; return what that changes."""
        draft = Draft()
        self.settle(draft, puts, deletes)
        return draft.changes()

    def settle(self, draft: Draft, puts: Mapping[str, bytes], deletes: Collection[str]) -> None:
        """``apply`` into a draft that several peers share."""
        touched: defaultdict[str, list[str]] = defaultdict(list)
        for key in deletes:
            if self._forget(key):
                touched[wire.prefix_of(key)].append(key)
        for key, value in puts.items():
            if self._remember(key, value):
                touched[wire.prefix_of(key)].append(key)
        if CONFIGS in touched and self._settle_config(draft):
            return  # another id: everything has been judged
        if self.peer.id:
            self._settle_rows(draft, touched)

    @property
    def is_gone(self) -> bool:
        """The peer has left: it has no key any more."""
        return not self._latest and not self.canaries

    def settle_again(self, draft: Draft, *, everything: bool) -> None:
        """Judge refused nodes again, after others gave something up; or all, after we took it."""
        config = wire.config_key(self.peer.name)
        if config in self._latest and (not self.peer.id or config in self._refused):
            self._settle_config(draft)
        if self.peer.id:
            again = list(self._latest) if everything else list(self._refused)
            self._settle_rows(draft, {NODES: [key for key in again if key.startswith(NODES)]})

    def _remember(self, key: str, value: bytes) -> bool:
        """Keep a value; whether it has to be judged."""
        prefix = wire.prefix_of(key)
        if prefix == CANARIES:
            self.canaries.add(self._name(key) + "/")
            return False
        before = self._latest.get(key)
        if before == value:
            return False
        if before is None:
            if self._counts[prefix] >= self._limits.keys(prefix):
                self._unread[prefix] += 1
                return False
            self._counts[prefix] += 1
        elif isinstance(before, bytes) and self.peer.id and key not in self._refused:
            self._kept[key] = before
        limit = self._limits.service if prefix == SERVICES else self._limits.value
        self._latest[key] = value if len(value) <= limit else len(value)
        return True

    def _forget(self, key: str) -> bool:
        """Drop a value; whether that may change rows."""
        prefix = wire.prefix_of(key)
        self.canaries.discard(self._name(key) + "/" if prefix == CANARIES else "")
        if self._latest.pop(key, None) is None:
            self._unread[prefix] = max(0, self._unread[prefix] - 1)
            return False
        self._counts[prefix] -= 1
        return True

    # --- Judging ------------------------------------------------------------------------------

    def _settle_config(self, draft: Draft) -> bool:
        """Judge the cluster config; whether the id is another one now."""
        key = wire.config_key(self.peer.name)
        if key not in self._latest:
            self._config_gone = True
            self._clear(key)
            return False
        found = self._judged(
            key, lambda _, value: judge.cluster_id(self.peer, value, replaces=self._config_gone)
        )
        if found is None:
            return False
        self._config_gone = False
        if found == self.peer.id:
            return False
        self._change_id(draft, found)
        return True

    def _change_id(self, draft: Draft, found: int) -> None:
        latest = self._latest
        if self.peer.id:
            self._latest = {}  # drains: every key counts as gone, and forgets what it was
            self._settle_rows(draft, _by_prefix(latest))
            self.peer.ledger.drop_id(self.peer.name, self.peer.id)
            self._latest = latest
        self.peer.id = found
        self._settle_rows(draft, _by_prefix(latest))

    def _settle_rows(self, draft: Draft, touched: Mapping[str, Collection[str]]) -> None:
        moved = self._settle_nodes(draft, touched.get(NODES, ()))
        for key in touched.get(IDENTITIES, ()):
            self._settle_identity(draft, key)
        again = set(self._waiting) if moved else set[str]()
        again.update(*(self._dependents[node] for node in moved))
        for key in again.difference(touched.get(ADDRESSES, ()), touched.get(SERVICES, ())):
            self._settle_dependent(draft, key)
        for prefix in _DEPENDENT_PREFIXES:
            for key in touched.get(prefix, ()):
                self._settle_dependent(draft, key)

    def _settle_nodes(self, draft: Draft, keys: Collection[str]) -> set[str]:
        """Judge nodes, and refused ones again while others give way; the nodes that moved."""
        moved: set[str] = set()
        ledger = self.peer.ledger
        todo: Iterable[str] = sorted(keys, key=self._latest.__contains__)  # the gone ones first
        while todo:
            seen, progress = ledger.revision, False
            for key in todo:
                progress |= self._settle_node(draft, key, moved)
            if not progress and ledger.revision == seen:
                break
            todo = [key for key in self._refused if key.startswith(NODES)]
        return moved

    def _settle_node(self, draft: Draft, key: str, moved: set[str]) -> bool:
        name = self._name(key)
        found = self._judged(key, lambda at, value: judge.node(self.peer, at, value))
        before = self.peer.nodes.get(name)
        if found == before:
            return False
        if before is not None:
            self.peer.leave(name)
        if found is None:
            self.peer.ledger.drop(Holder(self.peer.name, name))
        else:
            self.peer.enter(found)
        if _reach(found) != _reach(before):
            moved.add(name)
        row = found.row if found else None
        draft.nodes[NodeKey(self.peer.name, name)] = _store(self._nodes, key, row)
        return True

    def _settle_identity(self, draft: Draft, key: str) -> None:
        row = self._judged(key, lambda at, value: judge.identity(self.peer, at, value))
        before = self._identities.get(key)
        if row != before:
            _store(self._identities, key, row)
            draft.identities[_either(row, before).id] = row

    def _settle_dependent(self, draft: Draft, key: str) -> None:
        for node in self._rests_on.pop(key, ()):
            self._dependents[node].discard(key)
        if key.startswith(ADDRESSES):
            self._settle_address(draft, key)
        else:
            self._settle_service(draft, key)

    def _settle_service(self, draft: Draft, key: str) -> None:
        found = self._judged(key, lambda at, value: judge.service(self.peer, at, value))
        row = self._rest_on(key, found[1], found[0]) if found else None
        before = self._services.get(key)
        if row != before:
            _store(self._services, key, row)
            draft.services[_service_key(_either(row, before))] = row

    def _settle_address(self, draft: Draft, key: str) -> None:
        found = self._judged(key, lambda at, value: judge.address(self.peer, at, value))
        row = self._rest_on(key, found[1], found[0]) if found else None
        before = self._addresses.get(key)
        if row == before:
            return
        _store(self._addresses, key, row)
        if before is not None:
            draft.addresses[before[0]] = None
        if row is not None:
            draft.addresses[row[0]] = address_row(row[1], row[2], self.peer.id)

    def _rest_on(self, key: str, nodes: Collection[str], row: R) -> R:
        self._rests_on[key] = tuple(nodes)
        for node in nodes:
            self._dependents[node].add(key)
        return row

    def _judged(self, key: str, check: Callable[[str, bytes], R]) -> R | None:
        """The row of the latest value, else of the one before it while that may stay."""
        latest = self._latest.get(key)
        if latest is None:
            self._clear(key)
            self._kept.pop(key, None)
            return None
        name = self._name(key)
        try:
            if isinstance(latest, int):
                raise Refused(TOO_LARGE, "", f"value of {latest} bytes is too large")  # noqa: TRY301  # judged like the rest
            row = check(name, latest)
        except (Refused, WireError) as refusal:
            self._refuse(key, refusal)
            return self._judged_before(key, check)
        self._clear(key)
        self._kept.pop(key, None)
        return row

    def _judged_before(self, key: str, check: Callable[[str, bytes], R]) -> R | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        try:
            return check(self._name(key), kept)
        except (Refused, WireError):
            del self._kept[key]
            return None

    def _refuse(self, key: str, refusal: Refused | WireError) -> None:
        code = refusal.code if isinstance(refusal, Refused) else UNREADABLE
        before = self._refused.get(key)
        since = before.since if before and before.code == code else self._clock()
        text = wire.plain(refusal.text)
        self._refused[key] = Finding(code, wire.plain(key), wire.plain(refusal.field), text, since)
        if code in _DEPENDENT or code == ADDRESS_TAKEN:
            self._waiting.add(key)

    def _clear(self, key: str) -> None:
        self._refused.pop(key, None)
        self._waiting.discard(key)

    def _name(self, key: str) -> str:
        """What follows the cluster in a key."""
        return key[len(wire.prefix_of(key)) + len(self.peer.name) + 1 :]


class Imports:
    """All peers of one store; our own cluster's keys are not looked at."""

    def __init__(self, own: OwnFacts, limits: Limits | None = None) -> None:
        self.ledger = Ledger(own)
        self.peers: dict[str, Importer] = {}
        self._limits = limits

    def apply(self, puts: Mapping[str, bytes], deletes: Collection[str] = ()) -> ImportChanges:
        """Take in keys of any cluster; return what that changes, over all peers."""
        draft, seen = Draft(), self.ledger.revision
        for cluster, (put, gone) in _by_cluster(puts, deletes).items():
            if cluster not in ("", self.ledger.own.cluster):
                self._settle(cluster, draft, put, gone)
        self._settle_refused(draft, seen)
        return draft.changes()

    def update_own(self, own: OwnFacts) -> ImportChanges:
        """Judge everything against changed facts of ours, which win over accepted ones."""
        draft, seen = Draft(), self.ledger.revision
        self.ledger.update_own(own)
        if self.ledger.revision != seen:
            seen = self.ledger.revision
            for importer in self.peers.values():
                importer.settle_again(draft, everything=True)
            self._settle_refused(draft, seen)
        return draft.changes()

    @property
    def findings(self) -> Mapping[str, Finding]:
        """The findings of all peers by etcd key."""
        found: dict[str, Finding] = {}
        for importer in self.peers.values():
            found.update(importer.findings)
        return MappingProxyType(found)

    def _settle_refused(self, draft: Draft, seen: int) -> None:
        """What one peer gave up may be what another was refused."""
        while self.ledger.revision != seen:
            seen = self.ledger.revision
            for importer in self.peers.values():
                importer.settle_again(draft, everything=False)

    def _settle(
        self, cluster: str, draft: Draft, puts: Mapping[str, bytes], deletes: Collection[str]
    ) -> None:
        importer = self.peers.get(cluster)
        if importer is None:
            importer = self.peers[cluster] = Importer(cluster, self.ledger, self._limits)
        importer.settle(draft, puts, deletes)
        if importer.is_gone:
            self.ledger.drop_id(cluster, importer.peer.id)
            del self.peers[cluster]


def _by_cluster(
    puts: Mapping[str, bytes], deletes: Collection[str]
) -> Mapping[str, tuple[dict[str, bytes], list[str]]]:
    found: dict[str, tuple[dict[str, bytes], list[str]]] = {}
    for key, value in puts.items():
        found.setdefault(wire.cluster_of(key), ({}, []))[0][key] = value
    for key in deletes:
        found.setdefault(wire.cluster_of(key), ({}, []))[1].append(key)
    return found


def _by_prefix(keys: Iterable[str]) -> Mapping[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for key in keys:
        found[wire.prefix_of(key)].append(key)
    return found


def _reach(node: PeerNode | None) -> object:
    """What addresses and services of a node rest on."""
    return (node.row.pod_cidrs, node.row.addresses, node.routers) if node else None


def _service_key(row: Service) -> ServiceKey:
    return ServiceKey(row.cluster, row.namespace, row.name)


def _either(row: R | None, before: R | None) -> R:
    found = row if row is not None else before
    assert found is not None  # noqa: S101  # the caller saw that they differ
    return found


def _store(rows: dict[str, R], key: str, row: R | None) -> R | None:
    if row is None:
        rows.pop(key, None)
    else:
        rows[key] = row
    return row
