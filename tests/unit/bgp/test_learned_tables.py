"""The tables of a speaker's learned routes: what arrives, what is used, what the kernel gets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from bgp.desired import Peering
from bgp.learned.findings import NO_IDENTITIES, PROTECTED, TOO_MANY_LABELS, UNREACHED
from bgp.learned.rows import LearnedKey, State
from bgp.learned.settings import BGPSettings
from bgp.learned.speaker import Inputs, LearnedSpeaker, peering_of
from bgp.learned.telling import MOST_SETS
from bgp.peer import ImportRule, PrefixMatch
from bgp.route import PeerKey
from mesh.core.model import IP, Network, Node, NodeKey
from mesh.core.received import Received, ReceivedKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.identity.labels import learned_text
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects
from mesh.route_table import Hop

ME = NodeKey("east", "east-1")
ROUTER, OTHER = ip_address("10.99.0.1"), ip_address("10.99.0.2")
LEGACY, SECOND = ip_network("192.0.2.0/24"), ip_network("192.0.3.0/24")
RULE = ImportRule(
    accept=True,
    prefixes=(
        PrefixMatch(ip_network("0.0.0.0/0"), 0, 32),
        PrefixMatch(ip_network("::/0"), 0, 128),
    ),
    labels=(("65000:100", "site", "hq"),),
)
HQ = learned_text("east", (("site", "hq"),))


class Kernel:
    """A route table that knows the links of a host."""

    def __init__(self, links: AbstractSet[Network] | None = frozenset()) -> None:
        self.hops: dict[IP, Hop | str] = {ROUTER: Hop(ROUTER, 2), OTHER: Hop(OTHER, 2)}
        self.links = links
        self.asked: list[IP] = []
        self.number = 4100

    def hop(self, address: IP) -> Hop | str:
        self.asked.append(address)
        return self.hops.get(address, "cannot be reached: Network is unreachable")

    def connected(self) -> AbstractSet[Network]:
        if self.links is None:
            raise OSError("routes cannot be read")
        return self.links


@dataclass
class World:
    """The tables of one speaker."""

    loop: Loop = field(default_factory=Loop)
    objects: Objects = field(default_factory=lambda: Objects(KINDS.nouns))
    peerings: Table[PeerKey, Peering] = field(default_factory=lambda: Table("peering"))
    received: Table[ReceivedKey, Received] = field(default_factory=lambda: Table("received"))
    numbers: Table[str, int] = field(default_factory=lambda: Table("number"))
    pools: Table[Network, None] = field(default_factory=lambda: Table("the pool of pods"))
    kernel: Kernel = field(default_factory=Kernel)

    def __post_init__(self) -> None:
        inputs = Inputs(self.peerings, self.received, self.numbers, [self.pools])
        pods = {ip_network("10.1.1.0/24"): None}
        self.it = LearnedSpeaker(ME, BGPSettings(), None, self.objects, inputs, lambda _: pods)
        self.it.table = self.kernel  # type: ignore[assignment]
        self.it.derive(self.loop)
        self.it.look()
        node = Node("east", "east-1", (ip_address("10.99.0.11"),))
        self.objects[NODES].upsert({ME: node})
        self.pools.upsert({ip_network("10.1.0.0/16"): None})
        self.peer(ROUTER)
        for table in (self.objects[NODES], self.peerings, self.pools, self.numbers):
            table.mark_synced()

    def peer(self, address: PeerKey, *rules: ImportRule) -> None:
        peering = Peering(
            "router", address, 65000, ip_address("10.99.0.11"), 65101, 90, 120, (),
            origin="BGPPeer/router", imports=rules or (RULE,),
        )  # fmt: skip
        self.peerings.upsert({address: peering})

    def hear(self, *prefixes: Network, peer: IP = ROUTER, **fields: Any) -> None:
        row = Received(fields.pop("next_hop", peer), **fields)
        self.received.upsert({ReceivedKey(peer, prefix): row for prefix in prefixes})
        self.loop.derive_all()

    def codes(self) -> list[str]:
        return [finding.code for finding in self.it.findings()]


def states(world: World) -> dict[str, State]:
    return {str(key.prefix): row.state for key, row in world.it.learned.rows.items()}


def test_a_route_is_used_until_its_router_takes_it_back() -> None:
    world = World()
    world.hear(LEGACY, communities=("65000:100",))
    assert world.it.learned.rows[LearnedKey(LEGACY, ROUTER)].used
    assert world.it.route.rows == {LEGACY: (Hop(ROUTER, 2),)}
    assert world.it.text.rows == {LEGACY: HQ}
    world.received.delete([ReceivedKey(ROUTER, LEGACY)])
    world.loop.derive_all()
    assert not world.it.learned.rows
    assert not world.it.route.rows
    assert not world.it.text.rows


def test_nothing_counts_as_whole_before_received_is() -> None:
    """Else a restarted speaker would remove routes before its routers have been asked again."""
    world = World()
    world.hear(LEGACY)
    tables = (world.it.learned, world.it.route, world.it.text)
    assert world.it.route.rows
    assert not any(table.synced for table in tables)
    world.received.mark_synced()
    world.loop.derive_all()
    assert all(table.synced for table in tables)


def test_nothing_counts_as_whole_before_links_are_known() -> None:
    """A route of before that says "not here" would be removed, and packets would go astray."""
    world = World(kernel=Kernel(None))
    world.hear(LEGACY)
    world.received.mark_synced()
    world.loop.derive_all()
    assert not world.it.route.synced
    world.kernel.links = {ip_network("10.99.0.0/24")}
    world.it.look()
    world.loop.derive_all()
    assert world.it.route.synced
    assert world.it.route.rows[ip_network("10.99.0.0/24")] == ()


def test_a_next_hop_is_asked_for_once_and_again_when_a_link_changes() -> None:
    world = World()
    world.hear(LEGACY, SECOND)
    world.hear(ip_network("192.0.4.0/24"))
    assert world.kernel.asked == [ROUTER]
    world.kernel.hops[ROUTER] = "cannot be reached: Network is unreachable"
    world.it.look()
    world.loop.derive_all()
    assert not [way for way in world.it.route.rows.values() if way]
    assert set(states(world).values()) == {State.UNREACHED}
    assert world.codes() == [UNREACHED]


def test_networks_on_our_links_stay_there() -> None:
    """A shorter prefix that is learned would lead to them through the router."""
    world = World()
    link = ip_network("10.99.0.0/24")
    world.kernel.links = {link}
    world.hear(ip_network("10.0.0.0/8"), link)
    world.it.look()
    world.loop.derive_all()
    assert world.it.route.rows == {link: (), ip_network("10.0.0.0/8"): (Hop(ROUTER, 2),)}
    assert states(world)["10.99.0.0/24"] is State.SHADOWED


def test_without_a_rule_of_import_the_host_stays_as_it_is() -> None:
    world = World()
    world.kernel.links = {ip_network("10.99.0.0/24")}
    world.peerings.upsert({ROUTER: _without_rules(world)})
    world.hear(LEGACY)
    world.it.look()
    world.loop.derive_all()
    assert not world.it.route.rows
    assert not world.it.rule.rows
    world.peer(ROUTER)
    world.loop.derive_all()
    assert set(world.it.route.rows) == {LEGACY, ip_network("10.99.0.0/24")}
    assert set(world.it.rule.rows) == {ip_network("10.1.1.0/24")}


def _without_rules(world: World) -> Peering:
    world.peer(ROUTER, ImportRule(accept=False))
    return Peering(
        "router", ROUTER, 65000, ip_address("10.99.0.11"), 65101, 90, 120, ()
    )  # fmt: skip


def test_a_prefix_of_ours_is_not_used_and_named_with_its_peer() -> None:
    world = World()
    world.hear(ip_network("10.1.3.0/24"), ip_network("10.99.0.11/32"), ip_network("0.0.0.0/0"))
    assert set(states(world).values()) == {State.PROTECTED}
    assert not world.it.route.rows
    (finding,) = world.it.findings()
    assert finding.code == PROTECTED
    assert "10.99.0.1 sends" in finding.text
    assert "(and 2 more)" in finding.text
    assert finding.object == "BGPPeer/router"


def test_a_rule_that_changes_changes_the_routes() -> None:
    world = World()
    world.hear(LEGACY, SECOND)
    world.peer(ROUTER, ImportRule(accept=True, prefixes=(PrefixMatch(LEGACY, 24, 24),)))
    world.loop.derive_all()
    assert states(world) == {"192.0.2.0/24": State.USED, "192.0.3.0/24": State.NOT_ACCEPTED}


def test_a_member_of_a_range_has_the_rules_of_the_range() -> None:
    world = World()
    world.peer(ip_network("10.98.0.0/24"))
    member = ip_address("10.98.0.7")
    assert peering_of(member, world.peerings.rows) is not None
    assert peering_of(ip_address("10.97.0.7"), world.peerings.rows) is None
    world.hear(LEGACY, peer=member, next_hop=ROUTER)
    assert world.it.learned.rows[LearnedKey(LEGACY, member)].used


def test_vpn_routes_are_not_these_tables() -> None:
    world = World()
    world.received.upsert({ReceivedKey(ROUTER, LEGACY, "65000:1"): Received(ROUTER)})
    world.loop.derive_all()
    assert not world.it.learned.rows


def test_an_identity_comes_with_its_number_and_goes_with_the_route() -> None:
    world = World()
    world.hear(LEGACY, SECOND, communities=("65000:100",))
    assert not world.it.identity.rows
    world.numbers.upsert({HQ: 65800})
    world.loop.derive_all()
    assert world.it.identity.rows == {LEGACY: 65800, SECOND: 65800}
    world.received.delete([ReceivedKey(ROUTER, LEGACY)])
    world.loop.derive_all()
    assert world.it.identity.rows == {SECOND: 65800}


def told(world: World) -> dict[str, Any]:
    world.it.look()
    return {key: json.loads(value) for key, value in world.it.key.rows.items()}


def test_etcd_gets_counts_and_label_sets_and_no_route() -> None:
    world = World()
    world.hear(LEGACY, communities=("65000:100",))
    world.hear(SECOND)
    world.hear(ip_network("10.1.3.0/24"))
    world.received.mark_synced()
    world.loop.derive_all()
    assert told(world) == {
        "meshgate/v1/east/learned/east-1/counts": {"received": 3, "used": 2},
        "meshgate/v1/east/learned/east-1/labels": {"labels": [HQ]},
    }
    world.received.replace({})
    world.loop.derive_all()
    assert told(world) == {}


def labelled(numbers: Iterable[int]) -> ImportRule:
    labels = tuple((f"65000:{number}", "number", str(number)) for number in numbers)
    return ImportRule(accept=True, prefixes=RULE.prefixes, labels=labels)


def test_too_many_label_sets_are_a_finding_and_the_key_is_bounded() -> None:
    world = World()
    count = MOST_SETS + 5
    world.peer(ROUTER, labelled(range(count)))
    for number in range(count):
        prefix = ip_network((0xC6130000 + (number << 8), 24))
        world.received.upsert(
            {ReceivedKey(ROUTER, prefix): Received(ROUTER, communities=(f"65000:{number}",))}
        )
    world.received.mark_synced()
    world.loop.derive_all()
    assert len(told(world)["meshgate/v1/east/learned/east-1/labels"]["labels"]) == MOST_SETS
    assert world.codes() == [TOO_MANY_LABELS, NO_IDENTITIES]


class Counted(Table[ReceivedKey, Received]):
    """Counts how often somebody looks at all rows."""

    looks = 0

    @property
    def rows(self) -> Mapping[ReceivedKey, Received]:
        self.looks += 1
        return super().rows


def test_a_look_at_links_costs_next_hops_and_not_routes() -> None:
    """It is due every two seconds, and a full table has 100,000 routes."""
    received = Counted("received")
    world = World(received=received)
    world.hear(LEGACY, SECOND)
    world.received.mark_synced()
    world.loop.derive_all()
    before = received.looks
    world.it.look()
    assert received.looks == before
    assert b'"received":2,"used":2' in world.it.key.rows[f"{world.it.told}counts"]
    world.received.delete([ReceivedKey(ROUTER, prefix) for prefix in (LEGACY, SECOND)])
    world.loop.derive_all()
    world.it.look()
    assert not world.it.hop.rows, "nothing is asked for a next hop of no route"
    assert not world.it.key.rows


def test_a_next_hop_of_vpn_routes_is_not_looked_up() -> None:
    world = World()
    world.received.upsert({ReceivedKey(ROUTER, LEGACY, "65000:1"): Received(OTHER)})
    world.loop.derive_all()
    assert not world.kernel.asked
