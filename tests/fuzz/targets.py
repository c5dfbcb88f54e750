"""Whatever somebody else writes, a reader of it raises its own errors and no others.

A target is a function that feeds one odd input to a part; what it raises is a bug.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

import msgspec
import yaml

from bgp.exabgp import lines, said
from bgp.wire import opening, update
from clustermesh import findings as codes
from clustermesh.contract import Contract, Limits
from clustermesh.controller import Foreign
from clustermesh.etcd.names import is_readable, key_bytes, key_text
from clustermesh.remote import checks, slices, wire
from clustermesh.remote.holdings import NotAccepted, OwnChange, OwnFacts
from clustermesh.remote.importer import Imports
from clustermesh.remote.leftovers import Leftovers
from clustermesh.remote.wire import WireError
from clustermesh.store import claims
from clustermesh.store.agreed import config_findings, id_findings
from clustermesh.store.follow import Batch, Entry, canary_of
from clustermesh.store.own import Own
from mesh.core.model import Address, Backend, Node, PodKey, Service, ServicePort
from mesh.core.strict import Wrong
from mesh.objects import reading
from mesh.objects.kinds import KINDS
from mesh.observe import tables
from mesh.pools.foreign import meet
from tests.fuzz.documents import DOCUMENTS
from tests.fuzz.mutations import Mutations

#: Errors that say whose mistake it is.
TYPED = (NotAccepted, WireError)

NODE = Node("west", "w1", (ip_address("10.99.0.21"),), (ip_network("10.2.0.0/24"),))
SERVICE = Service(
    "west", "shop", "web", (ip_address("10.97.2.10"),), (ServicePort("http", "TCP", 80),),
    is_global=True, is_shared=True,
    backends=(Backend(ip_address("10.2.0.5"), 8080, "http", "TCP", "west"),),
)  # fmt: skip
POD = Address(ip_address("10.2.0.5"), 2 << 16 | 5, "west", ip_address("10.99.0.21"))
LABELS = f"k8s:app=web;{wire.CLUSTER_LABEL}=west;"
#: Right keys of a cluster.
RIGHT: Mapping[str, bytes] = {
    wire.config_key("west"): wire.cluster_config(2),
    wire.node_key("west", "w1"): wire.node_value(NODE, 2),
    wire.service_key("west", "shop", "web"): wire.service_value(SERVICE, 2),
    wire.identity_key("west", 2 << 16 | 5): LABELS.encode(),
    wire.address_key("west", POD.address): wire.address_value(
        POD, PodKey("west", "shop", "p"), LABELS
    ),
    **{
        wire.slice_key("west", "shop", name): value
        for name, value in slices.slice_values(SERVICE, 2).items()
    },
    **{wire.canary_key("west", prefix): b"now" for prefix in (wire.NODES, wire.ADDRESSES)},
}
CONTRACT = Contract("west", "west", 2, (ip_network("10.2.0.0/16"),), (ip_network("10.99.0.0/24"),))
OWN_KEYS: Mapping[str, bytes] = {
    "meshgate/v1/east/config": b'{"name": "east", "podCIDRs": ["10.1.0.0_16_24"]}',
    "meshgate/v1/east/synced": b'{"store": "one"}',
    "meshgate/v1/east/pod/n1/shop/web-1": b'{"addresses": ["10.1.0.2"], "labels": "k8s:a=b;"}',
    "meshgate/v1/east/pod/n1/synced": b"{}",
    "meshgate/v1/east/block/198.51.100.1/number/5": b'{"owner": "n1/0"}',
    "meshgate/v1/east/block/198.51.100.1/owner/n1": b'{"number": 5}',
    "meshgate/v1/east/forget/west": b"{}",
    "meshgate/v1/east/forgotten/west": b"{}",
    "cilium/kvstoremesh-lock/1": b"{}",
}
EVENTS = (
    {"exabgp": "5.0.0", "type": "state", "neighbor": {
        "address": {"local": "10.0.0.1", "peer": "10.0.0.2"}, "state": "down", "reason": "x"}},
    {"exabgp": "5.0.0", "type": "negotiated", "neighbor": {
        "address": {"peer": "fd00::2"}, "negotiated": {"families": ["ipv4 unicast"]}}},
    {"exabgp": "5.0.0", "type": "notification", "neighbor": {
        "address": {"peer": "10.0.0.2"}, "direction": "receive",
        "message": {"body": "0x0602046279650a"}}},
    {"exabgp": "5.0.0", "type": "notification", "neighbor": {
        "address": {"peer": "10.0.0.2"}, "direction": "send",
        "notification": {"code": 2, "subcode": 2, "message": "(65001)"}}},
    {"exabgp": "5.0.0", "type": "update", "neighbor": {
        "address": {"peer": "10.0.0.2"}, "direction": "send",
        "message": {"category": 5, "body": "0x00010001"}}},
)  # fmt: skip
SAID = (
    b"10.99.0.1 | next-hop fd99::11 community [ 1:2 ] extended-community [ 0x0002fde900000064 ] "
    b"med 5 bgp-prefix-sid-srv6 ( l3-service fcbb::1 0x0013 [ 32,16,16,0,0,0 ] ) rd 1:2 label 3 "
    b"| 10.1.0.0/24"
)
UPDATE = bytes.fromhex(
    "000000644001010040020602010000fde8800e2000018018000000000000000000fd99000000000000000000000000"
    "0001007000003100 00fde9000000010a014dc010080002fde900000064c02825050022000100".replace(" ", "")
    + "1e00fcbbbb000001007700000000000000000000130001000620101000000018140001"
)
OPEN = bytes.fromhex("04fde800090a630001140206010400010001020641040000fde8400640780001010080")
ROUTE = {
    "peer": {"address": "10.0.0.2"},
    "route": {"nlri": {"prefix": "10.1.0.0/24", "nexthop": "10.0.0.1"}},
}
NEIGHBOR = {
    "fsm": "ESTABLISHED",
    "peer": {"address": "10.0.0.2", "families": {"ipv4 unicast": True}},
}


def read_wire(odd: Mutations) -> None:
    """A value of another cluster, each by itself."""
    key, value = odd.one_of(list(RIGHT.items()))
    value = odd.json(json.loads(value)) if value.startswith(b"{") else odd.bytes(value)
    name = key.split("/west/")[-1]
    readers: tuple[Callable[[], object], ...] = (
        lambda: wire.node_row(wire.decode(wire.WireNode, value)),
        lambda: wire.router_addresses(wire.decode(wire.WireNode, value)),
        lambda: wire.service_row(wire.decode(wire.WireService, value)),
        lambda: wire.decode(wire.ClusterConfig, value),
        lambda: slices.slice_row(slices.decode(value)),
        lambda: checks.read_address(name, value),
    )
    for reader in readers:
        with suppress(*TYPED):
            reader()


class Judge:
    """The import firewall over a long history; one of odd keys and values."""

    def __init__(self) -> None:
        self.imports = Imports(OwnFacts("east", 1, (ip_network("10.1.0.0/16"),)))
        self.imports.apply(RIGHT)

    def __call__(self, odd: Mutations) -> None:
        key, value = odd.one_of(list(RIGHT.items()))
        if odd.chance.random() < 0.3:
            key = key_text(odd.bytes(key.encode()))
        if odd.chance.random() < 0.05:
            given = odd.one_of([(), (CONTRACT,), (replace(CONTRACT, limits=Limits(addresses=1)),)])
            self.imports.change_own(OwnChange(contracts=given))
        if odd.chance.random() < 0.2:
            self.imports.apply({}, [key])
        elif odd.chance.random() < 0.3:
            self.imports.apply(RIGHT)
        else:
            odd_value = odd.json(json.loads(value)) if value.startswith(b"{") else odd.bytes(value)
            self.imports.apply({key: odd_value})
        for one in self.imports.findings.values():
            if one.code == codes.NOT_TAKEN:
                raise AssertionError(one)
        tables.encode([replace(one, code=one.code) for one in self.imports.findings.values()])


def read_documents(odd: Mutations) -> None:
    """A manifest: what is wrong with it is a finding or ``Wrong``."""
    documents = [odd.tree(odd.one_of(DOCUMENTS)) for _ in range(odd.chance.randrange(1, 3))]
    text = yaml.safe_dump_all(documents)
    if odd.chance.random() < 0.2:
        text = odd.bytes(text.encode(errors="replace")).decode(errors="replace")
    with suppress(Wrong):
        content = reading.read(KINDS, "east", "m.yaml", text)
        other = yaml.safe_dump(odd.one_of(DOCUMENTS))
        again = reading.read(KINDS, "east", "m.yaml", other, content)
        for one in (*content.findings, *again.findings):
            assert "mistake" not in one.text, one


def read_bgp(odd: Mutations) -> None:
    """A line of ExaBGP."""
    line = odd.json(odd.one_of(EVENTS)).decode(errors="replace")
    with suppress(ValueError):
        heard = lines.event(line)
        if isinstance(heard, lines.Heard):
            heard.refresh()
    update.decode(odd.bytes(UPDATE), asn4=odd.chance.random() < 0.5, external=True)
    opening.decode(odd.bytes(OPEN))
    with suppress(ValueError):
        said.dumped_route(odd.json(ROUTE).decode(errors="replace"))
    with suppress(ValueError):
        list(said.routes(odd.bytes(SAID).decode(errors="replace")))
    with suppress(ValueError):
        lines.dumped_neighbors(odd.json([NEIGHBOR, NEIGHBOR]).decode(errors="replace"))


class StoreKeys:
    """All that looks at keys of the store, over a long history."""

    def __init__(self) -> None:
        self.own = Own("east")
        self.nouns = ("block", "podcidr", "identity")
        for noun in self.nouns:
            self.own.claims_of(noun)
        self.foreign = Foreign("east", [ip_network("10.1.0.0/16")], meet)
        self.leftovers = Leftovers(lambda *_: ())
        self.revision = 10

    def __call__(self, odd: Mutations) -> None:
        right = {**RIGHT, **OWN_KEYS}
        key, value = odd.one_of(list(right.items()))
        raw = odd.bytes(key.encode(), rate=0.7)
        assert key_bytes(key_text(raw)) == raw
        key, self.revision = key_text(raw), self.revision + 1
        if not is_readable(key):
            return  # ``Follow`` hands these to nobody
        value = odd.json(json.loads(value)) if value.startswith(b"{") else odd.bytes(value)
        entry = Entry(key, value, self.revision, self.revision, odd.one_of((0, 1, 2, 3)))
        gone = odd.chance.random() < 0.3
        batch = Batch(self.revision, () if gone else (entry,), (key,) if gone else ())
        canary_of(key)
        wire.split_key(key)
        self.own.take(batch)
        self.foreign.take(batch)
        self.leftovers.take(batch.puts, batch.deletes)
        rows = claims.rows("east", self.nouns, batch.puts, batch.deletes)
        for held in rows.held.values():
            msgspec.msgpack.encode((held.pool, held.number, held.owner, held.epoch))
        tables.encode([id_findings("east", 1, {key: value}), list(self.own.findings.values())])
        config_findings(key, value, {"name": "east"})


@dataclass(frozen=True)
class Target:
    """A name, and what makes the function that takes one odd input."""

    name: str
    make: Callable[[], Callable[[Mutations], None]]


TARGETS = (
    Target("wire", lambda: read_wire),
    Target("judge", Judge),
    Target("documents", lambda: read_documents),
    Target("bgp", lambda: read_bgp),
    Target("store", StoreKeys),
)


def run(target: Target, seed: int, seconds: float, least: int = 50) -> int:
    """Feed odd inputs for so long; how many. Raises what the target does, with the seed."""
    end, count = time.monotonic() + seconds, 0
    take = target.make()
    while count < least or time.monotonic() < end:
        one = seed + count
        try:
            take(Mutations(one))
        except Exception as error:
            raise AssertionError(f"{target.name}: seed {seed}, input {count}: {error!r}") from error
        count += 1
    return count
