"""The import firewall: keys of another cluster are checked before they reach a map.

``Importer`` keeps the keys of one cluster, ``Imports`` those of all clusters in one store. The
nouns are in ``shared.py``, the checks in ``checks.py``, the keys of one noun in ``keys.py``. A
refused key is quarantined alone: a finding names it, its last accepted row stays while that row
itself may stay, and the other keys go on. Addresses and services rest on parts of the cluster's
nodes (a pod CIDR, an address of a host) and are judged again when that part changes.

A change is kept at once, and only the last value of a key; it is judged later, cluster by
cluster, in pieces. So a cluster that changes fast costs itself (``tables.py``).

The cluster id that was accepted first is held until the ``cluster-config`` key has gone;
another id after that drains the cluster and takes it in anew. Agents and controllers run the same
code; it does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from types import MappingProxyType
from typing import Any, TypeVar

from clustermesh import findings as codes
from clustermesh.remote import wire
from clustermesh.remote.changes import Draft, ImportChanges, address_row, columns
from clustermesh.remote.checks import (
    SINGLE,
    AcceptedAddress,
    RemoteCluster,
    host_part,
    moved_parts,
    pack,
    single,
)
from clustermesh.remote.holdings import (
    Holder,
    Ledger,
    NotAccepted,
    OwnChange,
    OwnFacts,
    readable,
)
from clustermesh.remote.keys import AddressKeys, Keys, KeyStore, Room, taken
from clustermesh.remote.shared import (
    ADDRESS,
    CONFIG,
    IDENTITY,
    NODE,
    SERVICE,
    SHARED,
    SLICE,
    Shared,
)
from clustermesh.remote.slices import Slices
from clustermesh.remote.wire import CANARIES, WireError
from mesh.core.model import (
    IP,
    Finding,
    Identity,
    Node,
    NodeKey,
    PodKey,
    Service,
    ServiceKey,
)
from mesh.core.table import ColumnChanges

R = TypeVar("R")
AnyShared = Shared[Any, Any, Any]
#: Keys of one cluster by noun.
Touched = Mapping[AnyShared, Collection[str]]

#: Keys that are judged in one piece.
_JUDGED = 32

#: Characters of a key: the names of two objects and of a cluster have at most 540. Of longer ones
#: so many are judged, which are no longer than that.
_LONG_KEY, _LONG_KEYS, _LONGEST_KEY = 1024, 64, 1 << 16

#: Refusals that a change of the cluster's nodes may lift.
_DEPENDENT = frozenset({codes.OUTSIDE, codes.BACKEND_OUTSIDE, codes.NO_ENDPOINT, codes.RESERVED})
#: The field of a contract's limits by noun.
_LIMITS: Mapping[AnyShared, str] = {
    NODE: "nodes",
    IDENTITY: "identities",
    ADDRESS: "addresses",
    SERVICE: "services",
    SLICE: "services",
}
#: Refusals of a single address that end when another cluster, or we, give an address up.
_WANTING = frozenset({codes.ADDRESS_TAKEN, codes.BEYOND_PROVISIONAL})


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a cluster is read and shown; ``keys`` by noun where it is not the noun's own.

    ``bytes`` of values are kept, and of refused ones ``refused_bytes``.
    """

    keys: Mapping[AnyShared, int] = field(default_factory=dict)
    findings: int = 100  # shown one by one; the rest is a number
    bytes: int = 64 << 20
    refused_bytes: int = 2 << 20

    def of(self, noun: AnyShared) -> int:
        """How many keys of a noun there may be."""
        return self.keys.get(noun, noun.limit)


class Importer:
    """The accepted rows of one cluster, kept up to date with its keys."""

    def __init__(
        self,
        cluster: str,
        ledger: Ledger,
        limits: Limits | None = None,
        nouns: Sequence[AnyShared] = SHARED,
    ) -> None:
        self.cluster = RemoteCluster(cluster, ledger)
        self.canaries: set[str] = set()  # prefixes that the cluster has written completely
        self._limits = limits or Limits()
        self._about = (f"cluster/{wire.plain(cluster)}",)
        self._config = wire.config_key(cluster)
        room = Room(self._limits.bytes, self._limits.refused_bytes)
        self._addresses = AddressKeys(ADDRESS, cluster, room)
        self._keys: dict[AnyShared, KeyStore] = {
            noun: self._addresses if noun is ADDRESS else Keys(noun, cluster, room)
            for noun in nouns
        }
        self._by_prefix = {noun.prefix: noun for noun in nouns}
        self._refused: dict[str, Finding] = {}
        self._refused_nodes: dict[str, None] = {}
        self._waiting: dict[str, AnyShared] = {}  # refused keys that another node may bring in
        self._slices = Slices()
        self._ignored: AnyShared = SLICE  # of the two forms of services
        self._in_part: set[str] = set()  # refused keys of which a part is accepted
        self._singles: dict[str, int] = {}  # keys of addresses that stand by themselves
        self._wanting: dict[str, int] = {}  # keys of addresses that others have
        self._over: dict[AnyShared, dict[str, None]] = {}  # keys over the contract's limits
        self.contract_changed = False  # so everything is to be judged again
        self._moved: set[str] = set()  # single addresses that came or went, as ``single`` says
        self._unread: dict[AnyShared, int] = dict.fromkeys(nouns, 0)
        self._noted: dict[AnyShared, dict[str, None]] = {}  # keys that are not judged yet
        self._paged: dict[AnyShared, dict[str, None]] = {}  # and those of a list that goes on
        self._canaries: dict[str, bool] = {}  # those that were put or are gone, likewise
        self._again: set[str] | None = None  # nodes that are judged again, and all refused ones
        self._own_changed = False  # since: then in the order of their keys
        self._addresses_again: dict[int, None] = {}
        self._beyond: dict[AnyShared, dict[str, bytes]] = {}  # of pages, and of no room as yet
        self._is_listing = False
        self._long: set[str] = set()  # keys that are longer than any that is meant
        self._draining = False
        #: Another id is being taken over: rows go with the one, and come back with the other.
        self.changes_id = False

    # --- Accepted rows ---------------------------------------------------------------------

    def rows(self, noun: Shared[Any, Any, R]) -> list[R]:
        """Accepted rows of a noun."""
        return list(self._keys[noun].rows())

    def keys_of(self, prefix: str) -> Iterable[str]:
        """All keys of a prefix, accepted or not."""
        noun = self._by_prefix.get(prefix)
        return list(self._keys[noun]) if noun else ()

    @property
    def nodes(self) -> dict[NodeKey, Node]:
        """Accepted nodes."""
        return {NODE.key(node): node.row for node in self.rows(NODE)}

    @property
    def services(self) -> dict[ServiceKey, Service]:
        """Accepted services, in the form that is read."""
        return {SERVICE.key(row): row for row in self.rows(SERVICE)} | self._slices.services

    @property
    def is_complete(self) -> bool:
        """Whether the canaries of all that is read of the cluster stand."""
        offers = self.cluster.capabilities
        if not offers.synced_canaries:
            return bool(self.cluster.id)  # it puts none
        only = offers.endpoint_slices_export_mode == wire.SLICES_ONLY
        services = wire.SLICES if only else wire.SERVICES
        return {wire.NODES, wire.IDENTITIES, wire.ADDRESSES, services} <= self.canaries

    @property
    def identities(self) -> dict[int, Identity]:
        """Accepted identities."""
        return {IDENTITY.key(row): row for row in self.rows(IDENTITY)}

    @property
    def addresses(self) -> ColumnChanges:
        """Accepted addresses, all of them."""
        rows = {
            key: address_row(identity, endpoint, self.cluster.id)
            for key, identity, endpoint in self._addresses.rows()
        }
        keys, values = columns(rows)
        return ColumnChanges(keys, values, keys[:0])

    @property
    def findings(self) -> dict[str, Finding]:
        """Refusals by etcd key; the first ones, then their number."""
        name = wire.plain(self.cluster.name)
        shown = dict(islice(self._refused.items(), self._limits.findings))
        for noun, unread in self._unread.items():
            if unread:
                limit, place = self._limits.of(noun), f"{noun.prefix}{name}/"
                text = f"more than {limit} keys: {unread} further ones are not read"
                shown[place] = Finding(codes.TOO_MANY, place, "keys", text, self._about)
        for noun, over in self._over.items():
            if over:
                place, given = f"{noun.prefix}{name}/", self._given(noun)
                text = f"{len(over)} keys more than the {given} of spec.limits in its contract"
                shown[f"{place} over"] = Finding(codes.OVER_LIMIT, place, "keys", text, self._about)
        hidden = len(self._refused) - self._limits.findings
        if hidden > 0:
            place, text = f"cilium/cache/*/v1/{name}/", f"{hidden} further keys are refused"
            shown[place] = Finding(codes.MORE, place, "keys", text, self._about)
        judged = not (self.has_work or self._paged)
        has_keys = judged and any(self._keys.values())
        if not self.cluster.id and has_keys and self._config not in shown:
            text = f"cluster {name} has keys but no cluster config: none is used"
            place = wire.plain(self._config)
            shown[self._config] = Finding(codes.NO_CONFIG, place, "", text, self._about)
        return shown

    # --- Keys in ------------------------------------------------------------------------------

    def apply(self, puts: Mapping[str, bytes], deletes: Collection[str] = ()) -> ImportChanges:
        """Take in keys that were put and keys that are gone; return the changed rows."""
        draft = Draft()
        self.settle(draft, puts, deletes)
        return draft.changes()

    def note(self, puts: Mapping[str, bytes]) -> None:
        """Take in keys of a page of a list."""
        self._is_listing = True
        for key, value in puts.items():
            noun = self._noun(key)
            if noun is None:
                self._note_canary(key, stands=True)
            elif self._is_beyond(noun, key):
                self._put_beyond(noun, key, value)
            elif self._remember(noun, key, value):
                self._paged.setdefault(noun, {})[key] = None

    def tell(self, puts: Mapping[str, bytes], deletes: Collection[str]) -> None:
        """Take in keys that were put and keys that are gone, at the end of a list or later."""
        for key in deletes:
            noun = self._noun(key)
            if noun is None:
                self._note_canary(key, stands=False)
            else:
                self._forget(noun, key)
        for noun, keys in self._paged.items():
            self._noted.setdefault(noun, {}).update(keys)
        self._paged = {}
        for rows in (*self._left_over(), puts):
            self._take(rows)

    def settle(self, draft: Draft, puts: Mapping[str, bytes], deletes: Collection[str]) -> None:
        """``tell``, and ``settling`` at once."""
        self.tell(puts, deletes)
        finish(self.settling(draft))

    def settling(self, draft: Draft) -> Iterator[None]:
        """Judge all changes, and keys that are to be judged again; changed rows go into a draft.

        In pieces. Between these more may be told, which the next run judges, but there is one run
        of an importer at a time.
        """
        touched, self._noted = self._noted, {}
        canaries, self._canaries = self._canaries, {}
        again, self._again = self._again, None
        order, self._own_changed = self._own_changed, False
        addresses, self._addresses_again = self._addresses_again, {}
        if self.contract_changed:
            yield from self._settling_contract(draft, touched)
            touched = {}
        has_config = self._config in self._keys[CONFIG]
        lacks = has_config and (not self.cluster.id or self._config in self._refused)
        due = CONFIG in touched or (again is not None and lacks)
        if due and (yield from self._settling_config(draft)):
            touched = {}  # another id: everything has been judged
        if self.cluster.id:
            if again is not None:
                nodes = self._nodes_again(again, in_order=order)
                touched[NODE] = {**touched.get(NODE, {}), **dict.fromkeys(nodes)}
            keys = (wire.address_key(self.cluster.name, readable(here)) for here in addresses)
            if found := [key for key in keys if key in self._addresses]:
                touched[ADDRESS] = {**touched.get(ADDRESS, {}), **dict.fromkeys(found)}
            yield from self._settling_rows(draft, touched)
        self._take_canaries(canaries)
        if self.cluster.id:
            yield from self._choosing_form(draft)

    def _take_canaries(self, told: Mapping[str, bool]) -> None:
        """A canary counts when everything before it has been judged."""
        for canary, stands in told.items():
            if stands:
                self.canaries.add(canary)
            else:
                self.canaries.discard(canary)

    @property
    def has_work(self) -> bool:
        """Whether something is to be judged."""
        told = bool(self._noted or self._canaries or self.contract_changed)
        return told or bool(self._addresses_again) or self._again is not None

    def _choosing_form(self, draft: Draft) -> Iterator[None]:
        """Read slices of a cluster that publishes nothing else; change once all are there."""
        offers = self.cluster.capabilities
        only = offers.endpoint_slices_export_mode == wire.SLICES_ONLY
        form, other = (SLICE, SERVICE) if only else (SERVICE, SLICE)
        ready = form.prefix in self.canaries or not offers.synced_canaries
        if form is self._ignored and ready:
            self._ignored = other
            both = [noun for noun in (SERVICE, SLICE) if noun in self._keys]
            everything = {noun: dict.fromkeys(self._keys[noun]) for noun in both}
            yield from self._settling_rows(draft, everything)

    def _left_over(self) -> Sequence[Mapping[str, bytes]]:
        """Keys of a list for which there was no room; those without any are counted anew."""
        if self._is_listing:
            self._unread, self._is_listing = dict.fromkeys(self._unread, 0), False
        beyond, self._beyond = self._beyond, {}
        return list(beyond.values())

    def _take(self, puts: Mapping[str, bytes]) -> None:
        for key, value in puts.items():
            noun = self._noun(key)
            if noun is None:
                self._note_canary(key, stands=True)
            elif self._is_beyond(noun, key):
                self._unread[noun] += 1
            elif self._remember(noun, key, value):
                self._noted.setdefault(noun, {})[key] = None

    def pod_of(self, address: IP) -> PodKey | None:
        """The pod of an accepted address, as the cluster names it."""
        namespace, _, name = self._addresses.pod(
            f"{ADDRESS.prefix}{self.cluster.name}/{address}"
        ).partition("/")
        return PodKey(self.cluster.name, namespace, name) if name else None

    @property
    def is_gone(self) -> bool:
        """The cluster has left: it has no key any more."""
        held = any(self._keys.values()) or self.canaries or self._beyond
        return not (held or self.has_work or self._paged)

    def judge_again(self, nodes: Collection[str] | None = None) -> bool:
        """Have refused nodes judged again after others gave something up, the first refused first.

        Whether there are any. With ``nodes``, after our own facts changed: those as well, all in
        the order of their keys.
        """
        has_config = self._config in self._keys[CONFIG]
        lacks = has_config and (not self.cluster.id or self._config in self._refused)
        due = bool(lacks or nodes or self._refused_nodes)
        if due:
            self._again = (self._again or set()) | set(nodes or ())
            self._own_changed |= nodes is not None
        return due

    def judge_contract(self) -> None:
        """Have everything judged again: the contract is another one than before."""
        self.contract_changed = True

    def _settling_contract(self, draft: Draft, told: Touched) -> Iterator[None]:
        """Judge everything again, and keys that are gone.

        Where the contract allows fewer rows, the last keys go first.
        """
        self.contract_changed = False
        everything = {noun: [*told.get(noun, ()), *keys] for noun, keys in self._keys.items()}
        for noun, keys in everything.items():
            given = self._given(noun)
            if given is not None and self._keys[noun].count > given:
                keys.reverse()
        touched = {noun: dict.fromkeys(keys) for noun, keys in everything.items()}
        if touched[CONFIG] and (yield from self._settling_config(draft)):
            return  # another id: everything has been judged
        if self.cluster.id:
            yield from self._settling_rows(draft, touched)

    def judge_addresses(self, addresses: Iterable[int]) -> None:
        """Have single addresses judged again that have changed hands."""
        self._addresses_again.update(dict.fromkeys(addresses))

    def _nodes_again(self, nodes: Collection[str], *, in_order: bool) -> list[str]:
        refused = list(self._refused_nodes)
        if not in_order or not (nodes or refused):
            return refused
        again = {*refused, *(wire.node_key(self.cluster.name, node) for node in nodes)}
        return [key for key in self._keys[NODE] if key in again]

    def _noun(self, key: str) -> AnyShared | None:
        return self._by_prefix.get(wire.split_key(key)[0])

    def _canary(self, key: str) -> str:
        """The prefix that a canary's key speaks of; empty for another key."""
        if not key.startswith(CANARIES):
            return ""
        return key[len(CANARIES) + len(self.cluster.name) + 1 :] + "/"

    def _note_canary(self, key: str, *, stands: bool) -> None:
        canary = self._canary(key)
        if canary:
            self._canaries[canary] = stands

    def _is_beyond(self, noun: AnyShared, key: str) -> bool:
        """Whether there is no room for the key."""
        keys = self._keys[noun]
        full = len(keys) >= self._limits.of(noun) and key not in keys
        return full or (len(key) > _LONG_KEY and not self._has_room_for_long(key))

    def _has_room_for_long(self, key: str) -> bool:
        return key in self._long or (len(self._long) < _LONG_KEYS and len(key) <= _LONGEST_KEY)

    def _put_beyond(self, noun: AnyShared, key: str, value: bytes) -> None:
        """Keep keys that may find room at the end of the list, when gone keys have left.

        At most as many can leave as there may be, so no more are kept.
        """
        beyond = self._beyond.setdefault(noun, {})
        room = key in beyond or len(beyond) < self._limits.of(noun)
        beyond[key] = value if room else b""

    def _remember(self, noun: AnyShared, key: str, value: bytes) -> bool:
        """Keep a value; whether it has to be judged. The last accepted one is kept until then."""
        keys = self._keys[noun]
        if not keys.differs(key, value):
            return False
        waits = key in self._noted.get(noun, ()) or key in self._paged.get(noun, ())
        stands = key not in self._refused or key in self._in_part
        if key in keys and self.cluster.id and stands and not waits:
            keys.keep(key)
        keys.put(key, value)
        if len(key) > _LONG_KEY:
            self._long.add(key)
        return True

    def _forget(self, noun: AnyShared, key: str) -> None:
        """Drop a value; its row goes when that has been judged."""
        keys = self._keys[noun]
        if key not in keys:
            self._unread[noun] = max(0, self._unread[noun] - 1)
            return
        keys.drop_kept(key)
        keys.drop(key)
        self._long.discard(key)
        self._noted.setdefault(noun, {})[key] = None

    # --- Judging ------------------------------------------------------------------------------

    def _settling_config(self, draft: Draft) -> Generator[None, None, bool]:
        """Judge the cluster config; whether the id is another one now."""
        key = self._config
        if key not in self._keys[CONFIG]:
            self.cluster.config_gone, self.cluster.claimed = True, 0
            self._clear(key)
            return False
        accepted, _ = self._judged(CONFIG, key)
        if accepted is None:
            return False
        self.cluster.config_gone = False
        if accepted == self.cluster.id:
            return False
        yield from self._changing_id(draft, accepted)
        return True

    def _changing_id(self, draft: Draft, accepted: int) -> Iterator[None]:
        everything = {noun: dict.fromkeys(keys) for noun, keys in self._keys.items()}
        self.changes_id = bool(self.cluster.id)
        if self.cluster.id:
            self._draining = True  # every key counts as gone, and its row is forgotten
            yield from self._settling_rows(draft, everything)
            self._draining = False
            self.cluster.ledger.drop_id(self.cluster.name, self.cluster.id)
        self.cluster.id = accepted
        yield from self._settling_rows(draft, everything)
        self.changes_id = False

    def _settling_rows(self, draft: Draft, touched: Touched) -> Iterator[None]:
        moved = yield from self._settling_nodes(draft, touched.get(NODE, ()))
        again = self._resting(moved)
        for noun in self._keys:
            if noun in (CONFIG, NODE):
                continue
            keys = touched.get(noun, ())
            others = list(again.get(noun, ()))
            if noun.rests_on_nodes and self._moved:  # addresses are judged before services
                others.append(self._keys[noun].resting_on(self._moved))
            rest = (key for key in chain(*others) if key not in keys)
            for number, key in enumerate(chain(rest, list(keys)), 1):
                self._settle_row(draft, noun, key)
                if number % _JUDGED == 0:
                    yield
        yield from self._settling_over(draft)
        self._moved.clear()
        for service, row in self._slices.changed():
            key = wire.service_key(service.cluster, service.namespace, service.name)
            draft.put(SERVICE, service, row or self._keys[SERVICE].accepted(key))
        self._addresses.forget_parts(part for part in moved if not self.cluster.has_part(part))

    def _settling_over(self, draft: Draft) -> Iterator[None]:
        """Judge keys for which the contract's limits have room again, the first one first."""
        for noun in [one for one in self._over if one is not NODE]:
            while keys := self._with_room(noun):
                for number, key in enumerate(keys, 1):
                    self._settle_row(draft, noun, key)
                    if number % _JUDGED == 0:
                        yield

    def _given(self, noun: AnyShared) -> int | None:
        """How many rows of a noun the cluster's contract allows; None: any number."""
        contract = self.cluster.contract
        field = _LIMITS.get(noun)
        return getattr(contract.limits, field) if contract and field else None

    def _with_room(self, noun: AnyShared) -> list[str]:
        """As many keys over the limit as there is room for now."""
        over, given = self._over.get(noun, {}), self._given(noun)
        count = self._slices.count if noun is SLICE else self._keys[noun].count
        return list(islice(over, None if given is None else max(0, given - count)))

    def _is_over(self, noun: AnyShared, key: str, others: int) -> bool:
        """Whether the contract's limits have no room for a key beside others; then it is noted."""
        given = self._given(noun)
        if given is None or others < given:
            return False
        self._over.setdefault(noun, {})[key] = None
        self._clear(key)
        self._keys[noun].drop_kept(key)
        return True

    def _others(self, noun: AnyShared, key: str) -> int:
        """How many rows there are beside that of a key; the node's own addresses are none."""
        keys = self._keys[noun]
        if noun is SLICE or (noun is ADDRESS and self._name(noun, key) in self.cluster.hosts):
            return 0
        return keys.count - (keys.accepted(key) is not None)

    def _resting(self, moved: Collection[str]) -> Mapping[AnyShared, list[Iterable[str]]]:
        """Keys that rest on parts that moved, and those that a node may bring in."""
        if not moved:
            return {}
        again: dict[AnyShared, list[Iterable[str]]] = {
            noun: [keys.resting_on(moved)]
            for noun, keys in self._keys.items()
            if noun.rests_on_nodes
        }
        mark, place = host_part(""), f"{ADDRESS.prefix}{self.cluster.name}/"
        own = (place + part.removeprefix(mark) for part in moved if part.startswith(mark))
        again.setdefault(ADDRESS, []).append([key for key in own if key in self._addresses])
        waiting: dict[AnyShared, list[str]] = {}
        for key, noun in self._waiting.items():
            waiting.setdefault(noun, []).append(key)
        for noun, keys_waiting in waiting.items():
            again.setdefault(noun, []).append(keys_waiting)
        return again

    def _settling_nodes(
        self, draft: Draft, keys: Collection[str]
    ) -> Generator[None, None, set[str]]:
        """Judge nodes, and refused ones again while others give way; the parts that moved."""
        moved: set[str] = set()
        ledger = self.cluster.ledger
        present = self._keys[NODE].__contains__
        todo: Iterable[str] = sorted(keys, key=present)  # the gone ones first
        while todo:
            seen, progress = ledger.revision, False
            for number, key in enumerate(todo, 1):
                progress |= self._settle_node(draft, key, moved)
                if number % _JUDGED == 0:
                    yield
            room = self._with_room(NODE)
            if not progress and ledger.revision == seen and not room:
                break
            todo = [*room, *self._refused_nodes]
        return moved

    def _settle_node(self, draft: Draft, key: str, moved: set[str]) -> bool:
        name = self._name(NODE, key)
        node, _ = self._judged(NODE, key)
        before = self.cluster.nodes.get(name)
        if node == before:
            return False
        if before is not None:
            self.cluster.leave(name)
        if node is None:
            self.cluster.ledger.drop(Holder(self.cluster.name, name))
        else:
            self.cluster.enter(node)
        if parts := moved_parts(node, before):
            moved |= {name, *parts}
        self._keys[NODE].accept(key, node)
        draft.put(NODE, NodeKey(self.cluster.name, name), node.row if node else None)
        return True

    def _settle_row(self, draft: Draft, noun: AnyShared, key: str) -> None:
        keys = self._keys[noun]
        row, nodes = self._judged(noun, key)
        of = row.of if noun is SLICE and row is not None else None
        if of and self._is_over(noun, key, self._slices.others(of)):
            row, nodes = None, ()
        before = keys.accepted(key)
        keys.accept(key, row, nodes)
        if noun is ADDRESS:
            self._note_single(key, nodes)
        if row == before:
            return
        if noun is ADDRESS:
            self._draft_address(draft, row, before)
        elif noun is SLICE:
            self._slices.put(key, row, before)
        else:
            draft.put(noun, noun.key(row if row is not None else before), row)

    def _note_single(self, key: str, nodes: Sequence[str]) -> None:
        """Note whether an address stands by itself, and whether another cluster has it."""
        cluster, pods = self.cluster.name, self.cluster.ledger.pods
        if (nodes[:1] == (SINGLE,)) != (key in self._singles):
            gone = self._singles.pop(key, None)
            if gone is None:
                self._singles[key] = self._number(key)
            else:
                self.cluster.ledger.drop_pod(cluster, gone)
            self._moved.add(single(self._number(key)))
        refused = self._refused.get(key)
        wants = refused is not None and refused.code in _WANTING
        if wants != (key in self._wanting) and "/" not in self._name(ADDRESS, key):
            gone = self._wanting.pop(key, None)
            if gone is None:
                self._wanting[key] = self._number(key)
                pods.wait(cluster, self._wanting[key])
            else:
                pods.leave(cluster, gone)

    def _number(self, key: str) -> int:
        return int.from_bytes(pack(self._name(ADDRESS, key)), "big")

    def _draft_address(
        self, draft: Draft, row: AcceptedAddress | None, before: AcceptedAddress | None
    ) -> None:
        if before is not None:
            draft.addresses[before[0]] = None
        if row is not None:
            draft.addresses[row[0]] = address_row(row[1], row[2], self.cluster.id)

    def _judged(self, noun: AnyShared, key: str) -> tuple[Any, Sequence[str]]:
        """The row of the latest value, else of the one before it while that may stay.

        Also the nodes on which the judgement rests.
        """
        keys = self._keys[noun]
        self._over.get(noun, {}).pop(key, None)
        if self._draining or key not in keys or noun is self._ignored:
            self._clear(key)
            keys.drop_kept(key)
            return None, ()
        if self._is_over(noun, key, self._others(noun, key)):
            return None, ()
        try:
            judged = taken(partial(self._judge, noun, key, keys.latest))
        except (NotAccepted, WireError) as refusal:
            self._refuse(noun, key, refusal)
            part, rests = _still_accepted(refusal)
            if part is not None:
                keys.drop_kept(key)
                return part, rests
            row, nodes = self._judged_before(noun, key)
            return row, (*nodes, *rests)
        self._clear(key)
        keys.drop_kept(key)
        return judged

    def _judge(
        self, noun: AnyShared, key: str, value: Callable[[str], Any]
    ) -> tuple[Any, Sequence[str]]:
        return noun.judge(self.cluster, self._name(noun, key), value(key))

    def _judged_before(self, noun: Shared[Any, Any, R], key: str) -> tuple[R | None, Sequence[str]]:
        keys = self._keys[noun]
        try:
            kept = taken(partial(keys.kept, key))
            if kept is not None:
                name = self._name(noun, key)
                return taken(partial(noun.judge, self.cluster, name, kept))
        except (NotAccepted, WireError) as refusal:
            part, rests = _still_accepted(refusal)
            if part is not None:
                return part, rests
            keys.drop_kept(key)
        return None, ()

    def _refuse(self, noun: AnyShared, key: str, refusal: NotAccepted | WireError) -> None:
        refusal = self._keys[noun].refuse(key, refusal)
        code = refusal.code if isinstance(refusal, NotAccepted) else codes.UNREADABLE
        place, field, text = map(wire.plain, (key, refusal.field, refusal.text))
        self._refused[key] = Finding(code, place, field, text, self._about)
        if noun is NODE:
            self._refused_nodes[key] = None
        self._in_part.discard(key)
        if _still_accepted(refusal)[0] is not None:
            self._in_part.add(key)
        if noun is not NODE and (code in _DEPENDENT or code == codes.ADDRESS_TAKEN):
            self._waiting[key] = noun

    def _clear(self, key: str) -> None:
        self._refused.pop(key, None)
        self._refused_nodes.pop(key, None)
        self._waiting.pop(key, None)
        self._in_part.discard(key)

    def _name(self, noun: AnyShared, key: str) -> str:
        """The part of a key behind the cluster."""
        return key[len(noun.prefix) + len(self.cluster.name) + 1 :]


class Imports:
    """All other clusters of one store; our own cluster's keys are not looked at."""

    def __init__(
        self,
        own: OwnFacts,
        limits: Limits | None = None,
        nouns: Sequence[AnyShared] = SHARED,
    ) -> None:
        self.ledger = Ledger(own)
        self.importers: dict[str, Importer] = {}
        self._limits = limits
        self._nouns = nouns
        self._prefixes = {CANARIES, *(noun.prefix for noun in nouns)}
        #: Clusters that are to be judged, in the order in which they were told.
        self.waiting: dict[str, None] = {}
        self._seen = self.ledger.revision  # when refused nodes were last to be judged again
        self._noted: dict[str, None] = {}  # clusters of the pages of a list, as they came

    def keys_of(self, prefix: str, cluster: str) -> Iterable[str]:
        """The keys of a prefix of a cluster."""
        importer = self.importers.get(cluster)
        return importer.keys_of(prefix) if importer else ()

    def note(self, puts: Mapping[str, bytes]) -> None:
        """Take in a page of a list. It is judged when the list is complete, as if it came with it.

        So the order in which clusters come first is that of the list, however it is cut.
        """
        for cluster, (put, _) in self._by_cluster(puts, ()).items():
            self._noted[cluster] = None
            self._importer(cluster).note(put)

    def tell(self, puts: Mapping[str, bytes], deletes: Collection[str] = ()) -> None:
        """Take in keys of any cluster; ``waiting`` then has the clusters that are to be judged."""
        noted, self._noted = self._noted, {}
        given = self._by_cluster(puts, deletes)
        for cluster in {**noted, **dict.fromkeys(given)}:
            put, gone = given.get(cluster, ({}, []))
            self._importer(cluster).tell(put, gone)
            self.waiting[cluster] = None

    def apply(self, puts: Mapping[str, bytes], deletes: Collection[str] = ()) -> ImportChanges:
        """Take in keys of any cluster; return the changed rows of all clusters."""
        self.tell(puts, deletes)
        return self._all_settled()

    def update_own(self, own: OwnFacts) -> ImportChanges:
        """``change_own`` to all facts of this cluster, judged at once."""
        self._note_own(self.ledger.update_own(own))
        return self._all_settled()

    def change_own(self, change: OwnChange) -> None:
        """Take in changed facts of ours: keys that they concern are to be judged again; ours win.

        A cluster whose contract has changed is to be judged as a whole.
        """
        holders = self.ledger.change_own(change)
        if not change.more:
            changed, others = self.ledger.change_contracts(change.contracts)
            holders |= others
            for name in sorted(changed & self.importers.keys()):
                self.importers[name].judge_contract()
                self.waiting.setdefault(name)
        self._note_own(holders)

    def _note_own(self, holders: Iterable[Holder]) -> None:
        meeting = dict[str, set[str]]()
        for holder in holders:
            meeting.setdefault(holder.cluster, set()).add(holder.node)
        if self.ledger.revision != self._seen:
            self._seen = self.ledger.revision
            for name, importer in self.importers.items():
                if importer.judge_again(meeting.get(name, ())):
                    self.waiting.setdefault(name)

    def settling(self, cluster: str, draft: Draft) -> Iterator[None]:
        """Judge the waiting keys of a cluster, in pieces; others may be judged between these.

        Afterwards ``follow_up`` names further keys that are to be judged.
        """
        self.waiting.pop(cluster, None)
        importer = self.importers.get(cluster)
        if importer is None:
            return
        yield from importer.settling(draft)
        if importer.is_gone:
            self.ledger.drop_id(cluster, importer.cluster.id)
            del self.importers[cluster]

    def by_contract(self, cluster: str) -> bool:
        """Whether a cluster is to be judged because its contract has changed."""
        return cluster in self.importers and self.importers[cluster].contract_changed

    def may_be_written(self, cluster: str) -> bool:
        """Whether a part of a run's changes so far is right without the rest."""
        importer = self.importers.get(cluster)
        return importer is None or not importer.changes_id

    def follow_up(self) -> None:
        """Refused nodes and addresses are judged again when a cluster has given something up."""
        if self.ledger.revision != self._seen:
            self._seen = self.ledger.revision
            for name, importer in self.importers.items():
                if importer.judge_again():
                    self.waiting.setdefault(name)
        again, self.ledger.pods.again = self.ledger.pods.again, {}
        for name, addresses in again.items():
            if name in self.importers:
                self.importers[name].judge_addresses(addresses)
                self.waiting.setdefault(name)

    def _all_settled(self) -> ImportChanges:
        draft = Draft()
        self.follow_up()
        while self.waiting:
            for cluster in list(self.waiting):
                finish(self.settling(cluster, draft))
            self.follow_up()
        return draft.changes()

    @property
    def findings(self) -> Mapping[str, Finding]:
        """The findings of all clusters by etcd key."""
        findings = {f"{one.object} {one.field}": one for one in self.ledger.in_force.findings}
        for name, importer in self.importers.items():
            findings.update(importer.findings)
            contract = self.ledger.contracts.get(name)
            if contract is not None and importer.cluster.claimed not in (0, contract.id):
                text = f"cluster {name} says {importer.cluster.claimed}, not {contract.id}"
                found = contract.finding(codes.CONTRACT_ID, "spec.id", text)
                findings[f"{found.object} {found.field}"] = found
        return MappingProxyType(findings)

    def _importer(self, cluster: str) -> Importer:
        importer = self.importers.get(cluster)
        if importer is None:
            importer = Importer(cluster, self.ledger, self._limits, nouns=self._nouns)
            self.importers[cluster] = importer
        return importer

    def _by_cluster(
        self, puts: Mapping[str, bytes], deletes: Collection[str]
    ) -> Mapping[str, tuple[dict[str, bytes], list[str]]]:
        """Keys of the nouns that are read, by cluster; without our own."""
        rows: dict[str, tuple[dict[str, bytes], list[str]]] = {}
        for key, value in puts.items():
            if cluster := self._cluster(key):
                rows.setdefault(cluster, ({}, []))[0][key] = value
        for key in deletes:
            if cluster := self._cluster(key):
                rows.setdefault(cluster, ({}, []))[1].append(key)
        return rows

    def _cluster(self, key: str) -> str:
        prefix, cluster = wire.split_key(key)
        return cluster if prefix in self._prefixes and cluster != self.ledger.own_cluster else ""


def finish(pieces: Iterator[None]) -> Any:
    """Run to the end; the value that the generator returns."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value


def _still_accepted(refusal: NotAccepted | WireError) -> tuple[Any, tuple[str, ...]]:
    """The accepted part of a refused value, or None; and the parts on which the judgement rests."""
    return (refusal.part, refusal.rests) if isinstance(refusal, NotAccepted) else (None, ())
