"""What the own cluster's subtree of the store says, as tables: claims, pods, its configuration.

Agents and the controller follow ``meshgate/v1/<cluster>/`` and give every batch to ``Own.take``.
A feature asks for the claims of its noun (``claims_of``): keys of other nouns are nobody's. Parsing
stops here; one unreadable key is a finding and changes nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from ipaddress import IPv4Address
from typing import Any

import msgspec

from clustermesh.etcd.auth import DEMAND, LEARNED, PROGRAMMED
from clustermesh.findings import OWN_UNREADABLE, USER_REVOKED
from clustermesh.remote.wire import Overlay, is_object_name, overlay_key, parse_ip, plain
from clustermesh.remote.wire import decode as wire_decode
from clustermesh.store.claims import numbers_prefix
from clustermesh.store.claims import rows as claim_rows
from clustermesh.store.follow import Batch, Entry, canary_of
from mesh.core.model import (
    IP,
    Beat,
    Claim,
    ClaimKey,
    Confirmed,
    Draining,
    Finding,
    Listed,
    PodEntry,
    PodRef,
)
from mesh.core.sources import ClaimTables
from mesh.core.table import Source, Table

#: Value of the key that an agent puts after all of its pods.
PODS_SYNCED = b"{}"


#: Below the cluster's own prefix: clusters that are not awaited, and requests to say so.
FORGOTTEN, TO_FORGET = "forgotten/", "forget/"
#: Below it stand the UIDs of API servers that an operator has accepted in place of a former one.
API_SERVER = "apiserver/"
#: Below it stand routers whose held withdrawals an operator has accepted, with the time of it.
ACCEPTED_PEER = "accepted/peer/"
#: Below it stands what a controller says of each pod, as the agents name it.
CONFIRMED = "confirmed/"
#: Below it stands which drains of egress addresses an operator has ended, as ``<address>/<epoch>``.
EVICTED = "evicted/"
#: The noun of claims that say that an address drains (``gateway/claims.py``).
DRAINING = "draining"
#: Below it stands what each agent says, by node; of draining egress addresses below ``egress/``.
SAID, EGRESS, LAYER2 = "status/node/", "egress", "layer2"
#: Below it stands which of the cluster's users were revoked, as ``<role>/<name>``.
REVOKED = "revoked/"
#: Below it stand the egress addresses that feeds for firewalls list.
LISTED = "feed/address/"


class _PodValue(msgspec.Struct, frozen=True, omit_defaults=True):
    addresses: list[str]
    labels: str
    vrf: str = ""


class _ConfirmedValue(msgspec.Struct, frozen=True, omit_defaults=True):
    identity: int
    addresses: list[str] = []


class _DrainingValue(msgspec.Struct, frozen=True):
    ports: int
    epoch: int


class _BeatValue(msgspec.Struct, frozen=True, omit_defaults=True):
    number: int
    silent: list[str] = []


class _RevokedValue(msgspec.Struct, frozen=True):
    at: datetime


class _LearnedValue(msgspec.Struct, frozen=True):
    labels: list[str]


class _ListedValue(msgspec.Struct, frozen=True, omit_defaults=True):
    groups: list[str]
    acknowledged: bool = False
    waits: list[str] = []
    without: list[str] = []
    leaving: bool = False


class _SyncedValue(msgspec.Struct, frozen=True):
    store: str


class Own:
    """All tables are synced once the canary stands and was listed.

    ``claims`` has the claims of each noun that a feature has asked for. A controller reads no
    ``confirmed``: it says the same itself.
    """

    def __init__(self, cluster: str, *, confirmed: bool = True) -> None:
        self.prefix = f"meshgate/v1/{cluster}/"
        self.claims: dict[str, ClaimTables] = {}
        self._pools: dict[str, str] = {}
        self.pods: Table[PodRef, PodEntry] = Table("pod entry")
        self.confirmed: Table[PodRef, Confirmed] = Table("confirmation")
        self.confirms: Table[str, None] = Table("confirmations complete")
        self._plain: dict[int, Confirmed] = {}  # most pods share one of a few
        #: What all controllers of the cluster agree on, by field.
        self.config: Table[str, Any] = Table("agreed config")
        #: Clusters that nobody waits for any more: ``meshgate cluster forget``.
        self.forgotten: Table[str, None] = Table("forgotten cluster")
        #: Those of which an operator has asked it, until the leader has written it.
        self.to_forget: Table[str, None] = Table("cluster to forget")
        #: UIDs of API servers that an operator has accepted: ``meshgate cluster accept-apiserver``.
        self.api_servers: Table[str, None] = Table("accepted API server")
        #: UDP port of the overlay by the cluster's name.
        self.ports: Table[str, int] = Table("published overlay port")
        #: Label texts of learned networks by node, as its speaker says them; for controllers.
        self.learned: Table[str, tuple[str, ...]] = Table("labels of learned networks")
        #: How many blocks of each egress address a node uses, as its agent says it; likewise.
        self.demand: Table[str, Mapping[IP, int]] = Table("blocks that nodes use")
        #: Drains of egress addresses that an operator has ended.
        self.evicted: Table[str, None] = Table("evicted egress address")
        #: What agents say of draining egress addresses; for controllers.
        self.draining: Table[tuple[str, IP], Draining] = Table("draining on nodes")
        #: What nodes say of egress addresses on layer 2; for controllers.
        self.beats: Table[str, Beat] = Table("nodes of layer 2")
        #: Egress addresses that feeds for firewalls list, as the feed says it.
        self.listed: Table[IP, Listed] = Table("address of a feed")
        #: Generation of each object that a node's agent holds, and what else it says; likewise.
        self.programmed: Table[str, Mapping[str, int]] = Table("programmed objects")
        self.findings: dict[str, Finding] = {}
        #: Random id of the store, written after all claims; changes when the store was replaced.
        self.store = ""
        #: Tables of names, and below which prefix the names stand.
        self._named = (
            (self.forgotten, FORGOTTEN),
            (self.to_forget, TO_FORGET),
            (self.api_servers, API_SERVER),
            (self.evicted, EVICTED),
        )
        self._cluster = cluster
        self._reads_confirmed = confirmed

    @property
    def is_synced(self) -> bool:
        """Whether the first complete list is in."""
        return self.pods.synced

    def take(self, batch: Batch) -> None:
        """Take in what ``Follow`` saw."""
        for key in (*batch.deletes, *(entry.key for entry in batch.puts)):
            self.findings.pop(key, None)
        self._take_claims(batch)
        for table, place in self._named:
            prefix = f"{self.prefix}{place}"
            keys = [entry.key for entry in batch.puts if entry.key.startswith(prefix)]
            table.delete(key.removeprefix(prefix) for key in batch.deletes)
            table.upsert({key.removeprefix(prefix): None for key in keys})
        if self._reads_confirmed:
            self._take_confirmed(batch)
        self._take_learned(batch)
        self._take_demand(batch)
        self._take_draining(batch)
        self._take_beats(batch)
        self._take_listed(batch)
        self._take_programmed(batch)
        if overlay_key(self._cluster) in batch.deletes:
            self.ports.delete([self._cluster])
        puts: dict[PodRef, PodEntry] = {}
        for entry in batch.puts:
            self._take_entry(entry, puts)
        gone = [ref for key in batch.deletes if (ref := self._pod_ref(key))]
        self.pods.upsert(puts)
        self.pods.delete(gone)

    def claims_of(self, noun: str, *, pool: str = "") -> ClaimTables:
        """The claims of a noun, followed from now on; see ``mesh/core/sources.py``."""
        held: Table[ClaimKey, Claim] = Table(f"{noun} claim")
        resting: Table[ClaimKey, Claim] = Table(f"resting {noun} claim")
        self._pools[noun] = pool
        return self.claims.setdefault(noun, ClaimTables(held, resting))

    @property
    def needed(self) -> Sequence[str]:
        """Prefixes with what the features of a node have asked for."""
        claims = [
            numbers_prefix(self._cluster, noun, pool) if pool else f"{self.prefix}{noun}/"
            for noun, pool in self._pools.items()
        ]
        of_all = (
            "config", "overlay", "synced", FORGOTTEN, API_SERVER, EVICTED, "pod/", CONFIRMED, LISTED
        )  # fmt: skip
        return [*(f"{self.prefix}{name}" for name in of_all), *claims]

    @property
    def needed_to_control(self) -> Sequence[str]:
        """Prefixes with what a controller reads: all but the history, which may be large."""
        more = (TO_FORGET, REVOKED, LEARNED, DEMAND, PROGRAMMED, SAID)
        return [*self.needed, *(f"{self.prefix}{name}" for name in more)]

    def synced(self) -> None:
        """The first complete list is in."""
        claims = [table for both in self.claims.values() for table in (both.held, both.resting)]
        tables: list[Source] = [
            self.config, self.ports, *claims, self.confirmed, self.confirms, self.learned,
            self.demand, self.evicted, self.draining, self.beats, self.programmed, self.pods,
            self.listed,
        ]  # fmt: skip
        for table in tables:
            table.mark_synced()

    def _take_claims(self, batch: Batch) -> None:
        rows = claim_rows(self._cluster, self.claims, batch.puts, batch.deletes)
        for key, text in rows.unreadable.items():
            self._refuse(key, text)
        held, resting, gone = _by_noun(rows.held), _by_noun(rows.resting), _by_noun(rows.gone)
        for noun in {*held, *resting, *gone}:
            claims = self.claims[noun]
            claims.held.upsert({key: rows.held[key] for key in held.get(noun, ())})
            claims.held.delete(gone.get(noun, ()))
            claims.resting.delete([*gone.get(noun, ()), *held.get(noun, ())])
            claims.resting.upsert({key: rows.resting[key] for key in resting.get(noun, ())})

    def _take_entry(self, entry: Entry, puts: dict[PodRef, PodEntry]) -> None:
        ref = self._pod_ref(entry.key)
        try:
            if ref:
                value = msgspec.json.decode(entry.value, type=_PodValue)
                addresses = tuple(parse_ip(text, "addresses") for text in value.addresses)
                vrf = sys.intern(value.vrf)
                puts[ref] = PodEntry(addresses, sys.intern(value.labels), vrf=vrf)
            elif entry.key.startswith(f"{self.prefix}pod/") and entry.key != canary_of(entry.key):
                self._refuse(entry.key, "is not pod/<node>/<namespace>/<name>")
            elif entry.key.startswith(f"{self.prefix}{REVOKED}"):
                at = msgspec.json.decode(entry.value, type=_RevokedValue).at
                self.findings[entry.key] = self._revoked(entry.key, at)
            elif entry.key == f"{self.prefix}config":
                self.config.upsert(msgspec.json.decode(entry.value, type=dict[str, Any]))
            elif entry.key == overlay_key(self._cluster):
                self.ports.upsert({self._cluster: wire_decode(Overlay, entry.value).port})
            elif entry.key == f"{self.prefix}synced":
                self.store = msgspec.json.decode(entry.value, type=_SyncedValue).store
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            self._refuse(entry.key, str(error))

    def _take_confirmed(self, batch: Batch) -> None:
        place, synced = f"{self.prefix}{CONFIRMED}", all_confirmed_key(self._cluster)
        rows: dict[PodRef, Confirmed] = {}
        for entry in batch.puts:
            if not entry.key.startswith(place):
                continue
            if entry.key == synced:
                self.confirms.upsert({self._cluster: None})
            elif ref := self._ref(place, entry.key):
                try:
                    rows[ref] = self._confirmed_of(entry.value)
                except (msgspec.DecodeError, ValueError) as error:
                    self._refuse(entry.key, str(error))
        self.confirmed.upsert(rows)
        gone = [key for key in batch.deletes if key.startswith(place)]
        self.confirmed.delete([ref for key in gone if (ref := self._ref(place, key))])
        if synced in gone:
            self.confirms.delete([self._cluster])

    def _confirmed_of(self, value: bytes) -> Confirmed:
        row = msgspec.json.decode(value, type=_ConfirmedValue)
        if row.addresses:
            return Confirmed(row.identity, tuple(parse_ip(t, "addresses") for t in row.addresses))
        return self._plain.setdefault(row.identity, Confirmed(row.identity))

    def _pod_ref(self, key: str) -> PodRef | None:
        return self._ref(f"{self.prefix}pod/", key)

    def _ref(self, place: str, key: str) -> PodRef | None:
        head, _, rest = key.partition(place)
        parts = rest.split("/")
        valid = not head and len(parts) == len(PodRef.__slots__) and all(map(is_object_name, parts))
        return PodRef(*map(sys.intern, parts)) if valid else None

    def _take_learned(self, batch: Batch) -> None:
        self.learned.delete(node for key in batch.deletes if (node := self._learned_by(key)))
        for entry in batch.puts:
            if not (node := self._learned_by(entry.key)):
                continue
            try:
                said = msgspec.json.decode(entry.value, type=_LearnedValue).labels
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                self._refuse(entry.key, str(error))
            else:
                self.learned.upsert({node: tuple(map(sys.intern, said))})

    def _take_demand(self, batch: Batch) -> None:
        place = f"{self.prefix}{DEMAND}"
        self.demand.delete(
            key.removeprefix(place) for key in batch.deletes if key.startswith(place)
        )
        for entry in batch.puts:
            if not entry.key.startswith(place):
                continue
            try:
                said = msgspec.json.decode(entry.value, type=dict[str, int])
                used = {parse_ip(text, "address"): count for text, count in said.items()}
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                self._refuse(entry.key, str(error))
            else:
                self.demand.upsert({sys.intern(entry.key.removeprefix(place)): used})

    def _take_draining(self, batch: Batch) -> None:
        gone = [named for key in batch.deletes if (named := self._drains(key))]
        rows: dict[tuple[str, IP], Draining] = {}
        for entry in batch.puts:
            if not (named := self._drains(entry.key)):
                continue
            try:
                value = msgspec.json.decode(entry.value, type=_DrainingValue)
            except (msgspec.DecodeError, ValueError) as error:
                self._refuse(entry.key, str(error))
            else:
                rows[named] = Draining(value.ports, value.epoch)
        self.draining.upsert(rows)
        self.draining.delete(gone)

    def _drains(self, key: str) -> tuple[str, IP] | None:
        """The node that speaks, and the draining address; None for other keys."""
        place = f"{self.prefix}{SAID}"
        node, _, rest = key.removeprefix(place).partition("/")
        name, _, address = rest.partition("/")
        if not key.startswith(place) or name != EGRESS:
            return None
        try:
            return sys.intern(node), parse_ip(address, "address")
        except ValueError:
            return None

    def _take_beats(self, batch: Batch) -> None:
        self.beats.delete([node for key in batch.deletes if (node := self._beats(key))])
        for entry in batch.puts:
            if not (node := self._beats(entry.key)):
                continue
            try:
                value = msgspec.json.decode(entry.value, type=_BeatValue)
                silent = tuple(IPv4Address(text) for text in value.silent)
            except (msgspec.DecodeError, ValueError) as error:
                self._refuse(entry.key, str(error))
            else:
                self.beats.upsert({node: Beat(value.number, silent)})

    def _beats(self, key: str) -> str:
        """The node whose beat this key is; empty for other keys."""
        node, _, rest = key.removeprefix(f"{self.prefix}{SAID}").partition("/")
        return sys.intern(node) if key.startswith(self.prefix) and rest == LAYER2 else ""

    def _learned_by(self, key: str) -> str:
        """The node whose speaker says the label texts of this key; empty for other keys."""
        node, _, rest = key.removeprefix(f"{self.prefix}{LEARNED}").partition("/")
        return sys.intern(node) if key.startswith(self.prefix) and rest == "labels" else ""

    def _take_listed(self, batch: Batch) -> None:
        place = f"{self.prefix}{LISTED}"
        for key in (one for one in batch.deletes if one.startswith(place)):
            with suppress(ValueError):
                self.listed.delete([parse_ip(key.removeprefix(place), "address")])
        for entry in (one for one in batch.puts if one.key.startswith(place)):
            try:
                address = parse_ip(entry.key.removeprefix(place), "address")
                self.listed.upsert({address: listed_of(entry.value)})
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                self._refuse(entry.key, str(error))

    def _take_programmed(self, batch: Batch) -> None:
        place = f"{self.prefix}{PROGRAMMED}"
        gone = [key for key in batch.deletes if key.startswith(place)]
        self.programmed.delete(key.removeprefix(place) for key in gone)
        for entry in batch.puts:
            if not entry.key.startswith(place):
                continue
            try:
                held = msgspec.json.decode(entry.value, type=dict[str, int])
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                self._refuse(entry.key, str(error))
            else:
                node = sys.intern(entry.key.removeprefix(place))
                self.programmed.upsert({node: {sys.intern(name): g for name, g in held.items()}})

    def _revoked(self, key: str, at: datetime) -> Finding:
        role, _, name = plain(key.removeprefix(f"{self.prefix}{REVOKED}")).partition("/")
        text = f"revoked {at:%F %TZ}: it can neither read nor write; what it wrote before stays"
        about = () if role == "controller" else (f"node/{name}",)
        return Finding(USER_REVOKED, f"User/{self._cluster}:{role}:{name}", "", text, about)

    def _refuse(self, key: str, text: str) -> None:
        self.findings[key] = Finding(OWN_UNREADABLE, plain(key), "value", plain(text))


def _by_noun(keys: Iterable[ClaimKey]) -> Mapping[str, list[ClaimKey]]:
    nouns: dict[str, list[ClaimKey]] = {}
    for key in keys:
        nouns.setdefault(key.noun, []).append(key)
    return nouns


def revoked_key(cluster: str, role: str, name: str) -> str:
    """The etcd key that says that a user of the cluster was revoked."""
    return f"meshgate/v1/{cluster}/{REVOKED}{role}/{name}"


def revoked_value(at: datetime) -> bytes:
    """Value of that key."""
    return msgspec.json.encode(_RevokedValue(at))


def listed_key(cluster: str, address: IP) -> str:
    """The etcd key of an address that feeds for firewalls list."""
    return f"meshgate/v1/{cluster}/{LISTED}{address}"


def listed_value(row: Listed) -> bytes:
    """Value of that key."""
    groups, waits, without = map(list, (row.groups, row.waits, row.without))
    return msgspec.json.encode(_ListedValue(groups, row.acknowledged, waits, without, row.leaving))


def listed_of(value: bytes) -> Listed:
    """The row of a value. Raises ValueError."""
    row = msgspec.json.decode(value, type=_ListedValue)
    groups, waits, without = map(tuple, (row.groups, row.waits, row.without))
    return Listed(groups, row.acknowledged, waits, without, row.leaving)


def pod_key(cluster: str, ref: PodRef) -> str:
    """The etcd key of a pod's entry."""
    return f"meshgate/v1/{cluster}/pod/{ref.node}/{ref.namespace}/{ref.name}"


def draining_prefix(cluster: str, node: str) -> str:
    """Below it stands what the node's agent says of draining egress addresses."""
    return f"meshgate/v1/{cluster}/{SAID}{node}/{EGRESS}/"


def draining_value(row: Draining) -> bytes:
    """Value of such a key."""
    return msgspec.json.encode(_DrainingValue(row.ports, row.epoch))


def beat_key(cluster: str, node: str) -> str:
    """The key in which a node says that it is there (egress addresses on layer 2)."""
    return f"meshgate/v1/{cluster}/{SAID}{node}/{LAYER2}"


def beat_value(row: Beat) -> bytes:
    """Value of that key."""
    return msgspec.json.encode(_BeatValue(row.number, [str(one) for one in row.silent]))


def evicted_key(cluster: str, address: IP, epoch: int) -> str:
    """The key that says that an operator has ended a drain."""
    return f"meshgate/v1/{cluster}/{EVICTED}{address}/{epoch}"


def confirmed_key(cluster: str, ref: PodRef) -> str:
    """The etcd key of what a controller says of a pod."""
    return f"meshgate/v1/{cluster}/{CONFIRMED}{ref.node}/{ref.namespace}/{ref.name}"


def all_confirmed_key(cluster: str) -> str:
    """The key that says that all pods were confirmed."""
    return f"meshgate/v1/{cluster}/{CONFIRMED}synced"


def confirmed_value(row: Confirmed) -> bytes:
    """Value of a confirmed pod's key."""
    return msgspec.json.encode(_ConfirmedValue(row.identity, [str(a) for a in row.addresses]))


def programmed_key(cluster: str, node: str) -> str:
    """The etcd key of the generations that a node's agent holds."""
    return f"meshgate/v1/{cluster}/{PROGRAMMED}{node}"


def programmed_value(held: Mapping[str, int]) -> bytes:
    """Value of that key; ``held`` is the generation of each object, as findings name it."""
    return msgspec.json.encode(held, order="sorted")


def programmed_of(cluster: str, node: str, held: Mapping[str, int]) -> Mapping[str, bytes]:
    """The key with its value; none for a node that holds nothing."""
    return {programmed_key(cluster, node): programmed_value(held)} if held else {}


def pods_synced_key(cluster: str, node: str) -> str:
    """The canary of a node's pods."""
    return f"meshgate/v1/{cluster}/pod/{node}/synced"


def pod_value(entry: PodEntry) -> bytes:
    """Value of a pod's key."""
    addresses = [str(address) for address in entry.addresses]
    return msgspec.json.encode(_PodValue(addresses, entry.labels, entry.vrf))


class PodKeys:
    """Keys and values of the pods of one node."""

    def __init__(self, cluster: str, node: str) -> None:
        self._cluster, self._node = cluster, node

    @property
    def prefix(self) -> str:
        """What all keys of the node's pods begin with."""
        return f"meshgate/v1/{self._cluster}/pod/{self._node}/"

    def key(self, ref: PodRef) -> str:
        """Key of a pod."""
        return pod_key(self._cluster, ref)

    def value(self, entry: PodEntry) -> bytes:
        """Value of a pod."""
        return pod_value(entry)

    @property
    def synced(self) -> tuple[str, bytes]:
        """The key and value that say that all pods of the node are in the store."""
        return pods_synced_key(self._cluster, self._node), PODS_SYNCED
