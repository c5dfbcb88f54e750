"""The import firewall: what another cluster publishes is checked before it reaches a map.

``Importer`` keeps the keys of one cluster, ``Imports`` those of all clusters in one store. The
nouns are in ``shared.py``, the checks in ``checks.py``, the keys of one noun in ``keys.py``. A
refused key is quarantined alone: a finding names it, its last accepted row stays while that row
itself may stay, and the other keys go on. Addresses and services depend on the cluster's nodes (pod
CIDRs, tunnel endpoints) and are judged again when those change.

The cluster id that was accepted first is held until the ``cluster-config`` key has gone;
another id after that drains the cluster and takes it in anew. Agents and controllers run the same
code; it does no I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Any, TypeVar

from clustermesh import findings as codes
from clustermesh.remote import wire
from clustermesh.remote.changes import Draft, ImportChanges, address_row, columns
from clustermesh.remote.checks import (
    SINGLE,
    AcceptedAddress,
    RemoteCluster,
    RemoteNode,
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
from clustermesh.remote.keys import AddressKeys, Keys, KeyStore
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
#: Refusals of a single address that somebody else's, or something of ours, may lift.
_WANTING = frozenset({codes.ADDRESS_TAKEN, codes.BEYOND_PROVISIONAL})


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a cluster is read and shown; ``keys`` by noun where it is not the noun's own."""

    keys: Mapping[AnyShared, int] = field(default_factory=dict)
    findings: int = 100  # shown one by one; the rest is a number

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
        self._addresses = AddressKeys(ADDRESS, cluster)
        self._keys: dict[AnyShared, KeyStore] = {
            noun: self._addresses if noun is ADDRESS else Keys(noun, cluster) for noun in nouns
        }
        self._by_prefix = {noun.prefix: noun for noun in nouns}
        self._refused: dict[str, Finding] = {}
        self._refused_nodes: dict[str, None] = {}
        self._waiting: dict[str, AnyShared] = {}  # refused keys that another node may bring in
        self._slices = Slices()
        self._ignored: AnyShared = SLICE  # of the two forms of services
        self._in_part: set[str] = set()  # refused keys of which a part is accepted
        self._singles: dict[str, int] = {}  # keys of addresses that stand by themselves
        self._wanting: dict[str, int] = {}  # keys of addresses that somebody else has
        self._over: dict[AnyShared, dict[str, None]] = {}  # keys over the contract's limits
        self._moved: set[str] = set()  # single addresses that came or went, as ``single`` says
        self._unread: dict[AnyShared, int] = dict.fromkeys(nouns, 0)
        self._noted: dict[AnyShared, dict[str, None]] = {}  # keys of pages, not judged yet
        self._beyond: dict[AnyShared, dict[str, bytes]] = {}  # of pages, and of no room as yet
        self._is_listing = False
        self._draining = False

    # --- What is accepted ---------------------------------------------------------------------

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
        """What is refused, by etcd key; the first ones, then their number."""
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
        if not self.cluster.id and any(self._keys.values()) and self._config not in shown:
            text = f"cluster {name} has keys but no cluster config: none is used"
            place = wire.plain(self._config)
            shown[self._config] = Finding(codes.NO_CONFIG, place, "", text, self._about)
        return shown

    # --- Keys in ------------------------------------------------------------------------------

    def apply(self, puts: Mapping[str, bytes], deletes: Collection[str] = ()) -> ImportChanges:
        """Take in keys that were put and keys that are gone; return what that changes."""
        draft = Draft()
        self.settle(draft, puts, deletes)
        return draft.changes()

    def note(self, puts: Mapping[str, bytes]) -> None:
        """Take in keys of a page without judging: ``settle`` does when the list is complete."""
        self._is_listing = True
        for key, value in puts.items():
            noun = self._noun(key)
            if noun is None:
                self._note_canary(key)
            elif self._is_beyond(noun, key):
                self._put_beyond(noun, key, value)
            elif self._remember(noun, key, value):
                self._noted.setdefault(noun, {})[key] = None

    def settle(self, draft: Draft, puts: Mapping[str, bytes], deletes: Collection[str]) -> None:
        """``settling`` at once."""
        finish(self.settling(draft, puts, deletes))

    def settling(
        self, draft: Draft, puts: Mapping[str, bytes], deletes: Collection[str]
    ) -> Iterator[None]:
        """``apply`` into a draft that several clusters share; also of what was noted.

        In pieces, between which nothing else may be told to any importer.
        """
        touched, self._noted = self._noted, {}
        for key in deletes:
            noun = self._noun(key)
            if noun is None:
                self.canaries.discard(self._canary(key))
            elif self._forget(noun, key):
                touched.setdefault(noun, {})[key] = None
        for rows in (*self._left_over(), puts):
            self._take(rows, touched)
        if CONFIG in touched and (yield from self._settling_config(draft)):
            touched = {}  # another id: everything has been judged
        if self.cluster.id:
            yield from self._settling_rows(draft, touched)
            yield from self._choosing_form(draft)

    def _choosing_form(self, draft: Draft) -> Iterator[None]:
        """Read slices of a cluster that publishes nothing else; change once all are there."""
        offers = self.cluster.capabilities
        only = offers.endpoint_slices_export_mode == wire.SLICES_ONLY
        form, other = (SLICE, SERVICE) if only else (SERVICE, SLICE)
        ready = form.prefix in self.canaries or not offers.synced_canaries
        if form is self._ignored and ready:
            self._ignored = other
            both = [noun for noun in (SERVICE, SLICE) if noun in self._keys]
            yield from self._settling_rows(draft, {noun: list(self._keys[noun]) for noun in both})

    def _left_over(self) -> Sequence[Mapping[str, bytes]]:
        """Keys of a list for which there was no room; those without any are counted anew."""
        if self._is_listing:
            self._unread, self._is_listing = dict.fromkeys(self._unread, 0), False
        beyond, self._beyond = self._beyond, {}
        return list(beyond.values())

    def _take(self, puts: Mapping[str, bytes], touched: dict[AnyShared, dict[str, None]]) -> None:
        for key, value in puts.items():
            noun = self._noun(key)
            if noun is None:
                self._note_canary(key)
            elif self._is_beyond(noun, key):
                self._unread[noun] += 1
            elif self._remember(noun, key, value):
                touched.setdefault(noun, {})[key] = None

    def pod_of(self, address: IP) -> PodKey | None:
        """The pod of an accepted address, as the cluster names it."""
        namespace, _, name = self._addresses.pod(
            f"{ADDRESS.prefix}{self.cluster.name}/{address}"
        ).partition("/")
        return PodKey(self.cluster.name, namespace, name) if name else None

    @property
    def is_gone(self) -> bool:
        """The cluster has left: it has no key any more."""
        return not any(self._keys.values()) and not self.canaries

    def settle_again(self, draft: Draft, nodes: Collection[str] | None = None) -> None:
        """Judge refused nodes again after others gave something up, the first refused first.

        With ``nodes``, after our own facts changed: those as well, all in the order of their keys.
        """
        has_config = self._config in self._keys[CONFIG]
        if has_config and (not self.cluster.id or self._config in self._refused):
            finish(self._settling_config(draft))
        if self.cluster.id:
            finish(self._settling_rows(draft, {NODE: self._nodes_again(nodes)}))

    def settling_contract(self, draft: Draft) -> Iterator[None]:
        """Judge everything again, by another contract than before, in pieces.

        Where there are more rows than it allows, the last keys go first.
        """
        everything = {noun: list(keys) for noun, keys in self._keys.items()}
        for noun, keys in everything.items():
            given = self._given(noun)
            if given is not None and self._keys[noun].count > given:
                keys.reverse()
        if everything[CONFIG] and (yield from self._settling_config(draft)):
            return  # another id: everything has been judged
        if self.cluster.id:
            yield from self._settling_rows(draft, everything)

    def settle_addresses(self, draft: Draft, addresses: Iterable[int]) -> None:
        """Judge single addresses again that have changed hands."""
        keys = (wire.address_key(self.cluster.name, readable(here)) for here in addresses)
        again = [key for key in keys if key in self._addresses]
        if self.cluster.id and again:
            finish(self._settling_rows(draft, {ADDRESS: again}))

    def _nodes_again(self, nodes: Collection[str] | None) -> list[str]:
        refused = list(self._refused_nodes)
        if nodes is None or not (nodes or refused):
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

    def _note_canary(self, key: str) -> None:
        canary = self._canary(key)
        if canary:
            self.canaries.add(canary)

    def _is_beyond(self, noun: AnyShared, key: str) -> bool:
        """Whether there is no room for the key."""
        keys = self._keys[noun]
        return len(keys) >= self._limits.of(noun) and key not in keys

    def _put_beyond(self, noun: AnyShared, key: str, value: bytes) -> None:
        """Keep what may find room at the end of the list, when gone keys have left.

        At most as many can leave as there may be, so no more are kept.
        """
        beyond = self._beyond.setdefault(noun, {})
        room = key in beyond or len(beyond) < self._limits.of(noun)
        beyond[key] = value if room else b""

    def _remember(self, noun: AnyShared, key: str, value: bytes) -> bool:
        """Keep a value; whether it has to be judged."""
        keys = self._keys[noun]
        if not keys.differs(key, value):
            return False
        stands = key not in self._refused or key in self._in_part
        if key in keys and self.cluster.id and stands:
            keys.keep(key)
        keys.put(key, value)
        return True

    def _forget(self, noun: AnyShared, key: str) -> bool:
        """Drop a value; whether that may change rows."""
        if key not in self._keys[noun]:
            self._unread[noun] = max(0, self._unread[noun] - 1)
            return False
        self._keys[noun].drop(key)
        return True

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
        everything = {noun: list(keys) for noun, keys in self._keys.items()}
        if self.cluster.id:
            self._draining = True  # every key counts as gone, and forgets what it was
            yield from self._settling_rows(draft, everything)
            self._draining = False
            self.cluster.ledger.drop_id(self.cluster.name, self.cluster.id)
        self.cluster.id = accepted
        yield from self._settling_rows(draft, everything)

    def _settling_rows(self, draft: Draft, touched: Touched) -> Iterator[None]:
        moved = yield from self._settling_nodes(draft, touched.get(NODE, ()))
        again = self._again(moved)
        for noun in self._keys:
            if noun in (CONFIG, NODE):
                continue
            keys, others = touched.get(noun, ()), again.get(noun, set())
            if noun.rests_on_nodes and self._moved:  # addresses are judged before services
                others = others | self._keys[noun].resting_on(self._moved)
            others = others.difference(keys)
            for number, key in enumerate((*others, *keys), 1):
                self._settle_row(draft, noun, key)
                if number % _JUDGED == 0:
                    yield
        yield from self._settling_over(draft)
        self._moved.clear()
        for service, row in self._slices.changed():
            key = wire.service_key(service.cluster, service.namespace, service.name)
            draft.put(SERVICE, service, row or self._keys[SERVICE].accepted(key))
        self._addresses.forget_nodes([name for name in moved if name not in self.cluster.nodes])

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

    def _again(self, moved: Collection[str]) -> Mapping[AnyShared, set[str]]:
        """Keys that rest on nodes that moved, and those that a node may bring in."""
        if not moved:
            return {}
        again = {
            noun: keys.resting_on(moved) for noun, keys in self._keys.items() if noun.rests_on_nodes
        }
        for key, noun in self._waiting.items():
            again.setdefault(noun, set()).add(key)
        return again

    def _settling_nodes(
        self, draft: Draft, keys: Collection[str]
    ) -> Generator[None, None, set[str]]:
        """Judge nodes, and refused ones again while others give way; the nodes that moved."""
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
        if _reach(node) != _reach(before):
            moved.add(name)
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
        """Note whether an address stands by itself, and whether somebody else has it."""
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
            judged = noun.judge(self.cluster, self._name(noun, key), keys.latest(key))
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

    def _judged_before(self, noun: Shared[Any, Any, R], key: str) -> tuple[R | None, Sequence[str]]:
        keys = self._keys[noun]
        try:
            kept = keys.kept(key)
            if kept is not None:
                return noun.judge(self.cluster, self._name(noun, key), kept)
        except (NotAccepted, WireError) as refusal:
            part, rests = _still_accepted(refusal)
            if part is not None:
                return part, rests
            keys.drop_kept(key)
        return None, ()

    def _refuse(self, noun: AnyShared, key: str, refusal: NotAccepted | WireError) -> None:
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
        """What follows the cluster in a key."""
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
        self._noted: dict[str, None] = {}  # clusters of the pages of a list, as they came

    def keys_of(self, prefix: str, cluster: str) -> Iterable[str]:
        """The keys of a prefix of a cluster."""
        importer = self.importers.get(cluster)
        return importer.keys_of(prefix) if importer else ()

    def note(self, puts: Mapping[str, bytes]) -> None:
        """Take in a page of a list. It is judged by the next ``apply``, as if it came with it.

        So the order in which clusters come first is that of the list, however it is cut.
        """
        for cluster, (put, _) in self._by_cluster(puts, ()).items():
            self._noted[cluster] = None
            self._importer(cluster).note(put)

    def apply(self, puts: Mapping[str, bytes], deletes: Collection[str] = ()) -> ImportChanges:
        """Take in keys of any cluster; return what that changes, over all clusters."""
        draft: Draft = finish(self.applying(puts, deletes))
        return draft.changes()

    def applying(
        self, puts: Mapping[str, bytes], deletes: Collection[str] = ()
    ) -> Generator[None, None, Draft]:
        """``apply`` in pieces, between which nothing else may be told."""
        draft, seen = Draft(), self.ledger.revision
        noted, self._noted = self._noted, {}
        given = self._by_cluster(puts, deletes)
        for cluster in {**noted, **dict.fromkeys(given)}:
            put, gone = given.get(cluster, ({}, []))
            yield from self._settling(cluster, draft, put, gone)
        self._settle_refused(draft, seen)
        return draft

    def update_own(self, own: OwnFacts) -> ImportChanges:
        """``change_own`` to what this cluster has as a whole."""
        draft, seen = Draft(), self.ledger.revision
        self._judge_again(draft, self.ledger.update_own(own), seen)
        return draft.changes()

    def change_own(self, change: OwnChange) -> Draft:
        """``changing_own`` at once."""
        draft: Draft = finish(self.changing_own(change))
        return draft

    def changing_own(self, change: OwnChange) -> Generator[None, None, Draft]:
        """Judge what changed facts of ours concern; ours win over accepted ones.

        A cluster whose contract has changed is judged as a whole, in pieces.
        """
        ledger, seen = self.ledger, self.ledger.revision
        holders, contracts = ledger.change_own(change), set[str]()
        if not change.more:
            contracts, others = ledger.change_contracts(change.contracts)
            holders |= others
        draft = Draft()
        for name in sorted(contracts & self.importers.keys()):
            yield from self.importers[name].settling_contract(draft)
        self._judge_again(draft, holders, seen)
        return draft

    def _settle_addresses(self, draft: Draft) -> None:
        """Judge single addresses again that have changed hands."""
        again, self.ledger.pods.again = self.ledger.pods.again, {}
        for name, addresses in again.items():
            if name in self.importers:
                self.importers[name].settle_addresses(draft, addresses)

    def _judge_again(self, draft: Draft, holders: Iterable[Holder], seen: int) -> None:
        meeting: dict[str, set[str]] = {}
        for holder in holders:
            meeting.setdefault(holder.cluster, set()).add(holder.node)
        if self.ledger.revision != seen:
            seen = self.ledger.revision
            for name, importer in self.importers.items():
                importer.settle_again(draft, meeting.get(name, ()))
            self._settle_refused(draft, seen)

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

    def _settle_refused(self, draft: Draft, seen: int) -> None:
        """Judge refused nodes again while a cluster releases prefixes that others may have."""
        while self.ledger.revision != seen or self.ledger.pods.again:
            if self.ledger.revision != seen:
                seen = self.ledger.revision
                for importer in self.importers.values():
                    importer.settle_again(draft)
            self._settle_addresses(draft)

    def _settling(
        self, cluster: str, draft: Draft, puts: Mapping[str, bytes], deletes: Collection[str]
    ) -> Iterator[None]:
        importer = self._importer(cluster)
        yield from importer.settling(draft, puts, deletes)
        if importer.is_gone:
            self.ledger.drop_id(cluster, importer.cluster.id)
            del self.importers[cluster]

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
    """Run to the end; what the generator returns."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value


def _still_accepted(refusal: NotAccepted | WireError) -> tuple[Any, tuple[str, ...]]:
    """What is accepted of a refused value, or None; and on what the judgement rests."""
    return (refusal.part, refusal.rests) if isinstance(refusal, NotAccepted) else (None, ())


def _reach(node: RemoteNode | None) -> object:
    """What addresses and services of a node rest on."""
    return (node.row.pod_cidrs, node.row.addresses, node.row.routers) if node else None
