"""What routers are told of VRFs, and which of their routes are used."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from mesh.core.feature import Offer
from mesh.core.model import (
    IP,
    Claim,
    ClaimKey,
    Labels,
    NodeKey,
    PodEntry,
    PodRef,
    Requirement,
    Selector,
)
from mesh.core.received import Received, ReceivedKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects
from srv6.vrf.imports import Admitted, ImportKey
from srv6.vrf.kind import VRF, VRFS
from srv6.vrf.rows import VRFPath, VRFRoute, ZonedPrefix
from srv6.vrf.speaker import VRFInputs, VRFSpeaker
from tests.fixtures.rooms import FakeStore
from tests.fixtures.vrfs import POOL, SOURCE, node, vrf

PE, OTHER = ip_address("10.99.0.1"), ip_address("10.99.0.2")
PE_SID = IPv6Address("fcbb:bb00:5:0:100::")
NET = ip_network("10.80.1.0/24")
ADDRESSES = (ip_network("10.50.0.0/24"),)


class Speaker:
    """The speaker of ``east-1``; VRF ``blue`` is number 7 and has a SID on both nodes."""

    def __init__(self, bpffs: Path | None = Path("/nowhere"), *, whole: bool = True) -> None:
        self.objects = Objects(KINDS.nouns)
        self.store = FakeStore()
        self.pods: Table[PodRef, PodEntry] = Table("pod entry")
        self.received: Table[ReceivedKey, Received] = Table("received")
        self.carriers: Table[str, Labels] = Table("BGPPeer with a VPN family")
        self.carriers.replace({"dc1": (("fabric", "dc1"),), "dc2": ()})
        self.bfd: Table[IP, int] = Table("number of BFD session")
        self.bfd.mark_synced()
        self.trusted: Table[IP, None] = Table("router whose SIDs are accepted")
        self.trusted.replace({PE: None, OTHER: None})
        inputs = VRFInputs(
            self.store.claims_of, self.pods, self.received, self.trusted,
            self.trusted.rows.__contains__,
            lambda: IPv4Address("10.99.0.11"), lambda _: [ip_network("10.1.1.0/24")],
            self.carriers, self.bfd,
        )  # fmt: skip
        self.feature = VRFSpeaker(NodeKey("east", "east-1"), bpffs, self.objects, inputs)
        self.loop = Loop()
        self.feature.derive(self.loop)
        self.objects[NODES].replace({NodeKey("east", "east-1"): node(1)})
        for number in (1, 2):
            self.claim("locator", POOL, number, f"east-{number}")
            self.claim("sid", f"fcbb:bb01:{number}::_48_64", 0xE000, "blue/End.DT46")
        self.claim("vrf", "all", 7, "blue")
        for table in (*self.objects.tables().values(), self.trusted, self.pods, self.carriers):
            table.mark_synced()
        if whole:
            self.received.mark_synced()
        for claims in self.store.claims.values():
            claims.held.mark_synced()
            claims.resting.mark_synced()

    def claim(self, noun: str, pool: str, number: int, owner: str) -> None:
        row = Claim(noun, pool, number, owner, 1)
        self.store.claims_of(noun).held.upsert({ClaimKey(noun, pool, number): row})

    def put(self, *vrfs: VRF) -> None:
        self.objects[VRFS].upsert({one.name: one for one in vrfs})
        self.loop.derive_all()

    def hear(self, key: ReceivedKey, row: Received) -> None:
        self.received.upsert({key: row})
        self.loop.derive_all()

    def offers(self) -> list[Offer]:
        self.loop.derive_all()
        return sorted(self.feature.offers(node(1)), key=lambda one: str(one.prefix))

    def states(self) -> dict[str, tuple[str, str]]:
        rows = self.feature.imported.rows.items()
        return {f"{key.prefix} {key.peer}": (str(row.state), row.reason) for key, row in rows}

    def codes(self) -> list[str]:
        return [finding.code for finding in self.feature.findings()]


BLUE = vrf("blue", imports=("65001:100",), exports=("65001:100",), addresses=ADDRESSES)


def route(**fields: Any) -> Received:
    """A route of the PE as it comes: opaque behaviour, its function in the label."""
    made: dict[str, Any] = {
        "as_path": (64512,),
        "extended": ("target:65001:100",),
        "sid": PE_SID,
        "behaviour": 0xFFFF,
    }
    return Received(**({"next_hop": ip_address("fd99::5")} | made | fields))


def key(prefix: Any = NET, peer: IP = PE, rd: str = "65001:500") -> ReceivedKey:
    return ReceivedKey(peer, prefix, rd)


@pytest.fixture
def speaker() -> Speaker:
    made = Speaker()
    made.put(BLUE)
    return made


# --- Told ---------------------------------------------------------------------------------------


def test_pods_of_this_node_are_told_with_distinguisher_targets_and_sid(speaker: Speaker) -> None:
    """The SID whole, the behaviour explicit, no argument (RFC 9252 3, 4)."""
    speaker.claim("tenant", "blue@10.50.0.0_24_32", 9, "shop/app-1")
    own = PodEntry((ip_address("10.1.1.9"),), "", vrf="blue")
    speaker.pods.upsert(
        {
            PodRef("east-1", "shop", "app-1"): own,
            PodRef("east-1", "shop", "waits"): own,
            PodRef("east-1", "shop", "web-1"): PodEntry((ip_address("10.1.1.10"),), ""),
            PodRef("east-2", "shop", "app-2"): own,
        }
    )
    assert speaker.offers() == [
        Offer(
            ip_network("10.50.0.9/32"),
            (),
            "Pod/shop/app-1",
            "10.99.0.11:7",
            ("target:65001:100",),
            IPv6Address("fcbb:bb01:1:e000::"),
            20,
            (32, 16, 16, 0, 0, 0),
        )
    ]


def test_networks_instead_of_pods(speaker: Speaker) -> None:
    speaker.put(vrf("blue", advertise="podCIDR", rd="65001:9", labels=(("tier", "gold"),)))
    [offer] = speaker.offers()
    assert (offer.prefix, offer.rd, offer.object) == (
        ip_network("10.1.1.0/24"), "65001:9", "VRF/blue",
    )  # fmt: skip
    assert offer.labels == (("tier", "gold"),)
    networks = (ip_network("10.60.0.0/16"), ip_network("fd60::/32"))
    speaker.put(vrf("blue", advertise="prefixes", prefixes=networks))
    assert [offer.prefix for offer in speaker.offers()] == list(networks)
    speaker.put(vrf("blue", advertise="prefixes", prefixes=networks, exports=()))
    assert speaker.offers() == []


def test_a_vrf_may_say_which_peers_carry_it(speaker: Speaker) -> None:
    fabric = Selector((Requirement("fabric", "In", ("dc1",)),))
    fields = {"advertise": "podCIDR", "exports": ("65001:100",)}
    speaker.put(vrf("blue", **fields))
    assert [offer.peers for offer in speaker.offers()] == [None]
    speaker.put(vrf("blue", peers=fabric, **fields))
    assert [offer.peers for offer in speaker.offers()] == [{"dc1"}]
    speaker.carriers.delete(["dc1"])
    assert [offer.peers for offer in speaker.offers()] == [set()]


# --- Said ---------------------------------------------------------------------------------------


def test_a_route_with_a_target_of_a_vrf_becomes_a_row(speaker: Speaker) -> None:
    speaker.hear(key(), route())
    [(place, row)] = speaker.feature.prefix.rows.items()
    assert place == ZonedPrefix(7, NET)
    path = VRFPath((PE_SID,), SOURCE)
    assert row == VRFRoute((path.number,), 2)
    assert speaker.feature.path.rows == {path.number: path}
    host = ip_network("fd80::1/128")
    speaker.hear(key(host), route())
    assert set(speaker.feature.host.rows) == {ZonedPrefix(7, host)}
    speaker.received.delete([key(), key(host)])
    speaker.loop.derive_all()
    assert not speaker.feature.path.rows
    assert not speaker.feature.host.rows


def test_a_path_by_a_router_with_bfd_names_its_session(speaker: Speaker) -> None:
    """BFD says nothing of a next hop behind the router, nor of a SID that two routers lead to."""

    def numbers() -> list[int]:
        return [path.bfd for path in speaker.feature.path.rows.values()]

    speaker.bfd.upsert({PE: 3})
    speaker.hear(key(), route())
    assert numbers() == [0]
    speaker.hear(key(), route(next_hop=PE))
    assert numbers() == [3]
    speaker.bfd.upsert({PE: 5})
    speaker.loop.derive_all()
    assert numbers() == [5]
    speaker.hear(key(peer=OTHER), route(next_hop=OTHER))
    assert numbers() == [0]
    speaker.received.delete([key(peer=OTHER)])
    speaker.bfd.delete([PE])
    speaker.loop.derive_all()
    assert numbers() == [0]


def test_segments_of_the_vrf_come_first(speaker: Speaker) -> None:
    first = IPv6Address("fcbb:bb09::1")
    speaker.put(vrf("blue", imports=("65001:100",), segments=(first,)))
    speaker.hear(key(), route())
    [path] = speaker.feature.path.rows.values()
    assert path.segments == (first, PE_SID)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sid": None}, "no SRv6 SID"),
        ({"unusable": "TPOS-LEN 24 is wider than a label"}, "TPOS-LEN 24"),
        ({"behaviour": 21}, "behaviour End.DX2 (21) is none of a VRF"),
        ({"behaviour": 18}, "behaviour End.DT6 takes no IPv4"),
        ({"sid": IPv6Address("fcbb:bb01:2:e009::")}, "is in the locator of east-2, and no VRF"),
    ],
)
def test_an_unusable_route_is_shown_with_its_reason(
    speaker: Speaker, fields: dict[str, Any], reason: str
) -> None:
    speaker.hear(key(), route(**fields))
    [(state, why)] = speaker.states().values()
    assert state == "unusable"
    assert reason in why
    assert not speaker.feature.prefix.rows
    assert speaker.feature.vrf_rows()[0]["routes"] == {
        "imported": 0, "exported": 0, "unusable": 1,
    }  # fmt: skip
    assert speaker.codes() == (["V531"] if "locator" in reason else [])


def test_sids_of_a_router_count_only_where_they_are_accepted(speaker: Speaker) -> None:
    speaker.hear(key(), route())
    speaker.trusted.delete([PE])
    speaker.loop.derive_all()
    [(state, why)] = speaker.states().values()
    assert state == "unusable"
    assert "acceptSIDs" in why
    assert not speaker.feature.prefix.rows


@pytest.mark.parametrize(
    ("rd", "fields"),
    [
        ("10.99.0.11:7", {}),  # our own distinguisher
        ("65001:500", {"sid": IPv6Address("fcbb:bb01:1:e000::")}),  # our own SID
        ("65001:500", {"extended": ("target:65001:999", "origin:65001:100")}),
        ("", {}),
    ],
)
def test_echoes_and_routes_of_nobody_are_no_rows(
    speaker: Speaker, rd: str, fields: dict[str, Any]
) -> None:
    speaker.hear(key(rd=rd), route(**fields))
    assert speaker.states() == {}


def test_a_sid_of_another_vrf_closes_the_prefix(speaker: Speaker) -> None:
    """Even beside a route that could be used: nobody knows who is right."""
    speaker.claim("sid", "fcbb:bb01:2::_48_64", 0xE001, "green/End.DT46")
    speaker.hear(key(), route())
    speaker.hear(key(peer=OTHER), route(sid=IPv6Address("fcbb:bb01:2:e001::"), behaviour=20))
    assert speaker.feature.prefix.rows == {ZonedPrefix(7, NET): VRFRoute((), 2, closed=True)}
    assert speaker.codes() == ["V530"]
    speaker.hear(key(peer=OTHER), route(sid=IPv6Address("fcbb:bb01:2:e000::"), behaviour=20))
    [row] = speaker.feature.prefix.rows.values()
    assert not row.closed
    assert len(row.via) == 2


def test_the_best_path_and_equal_ones(speaker: Speaker) -> None:
    """Local preference, AS path, MED of one neighbour; at most four share the flows."""
    second = IPv6Address("fcbb:bb00:6:0:100::")
    speaker.hear(key(), route(med=10))
    speaker.hear(key(peer=OTHER), route(sid=second, med=5))
    assert speaker.states()[f"{NET} {PE}"] == ("shadowed", f"the route of {OTHER} is better")
    speaker.hear(key(), route(as_path=(64999,), med=10))
    assert {state for state, _ in speaker.states().values()} == {"used"}
    speaker.hear(key(), route(local_preference=50))
    assert speaker.states()[f"{NET} {PE}"][0] == "shadowed"
    for number in range(6):
        sid = IPv6Address(f"fcbb:bb00:7:0:{number}00::1")
        speaker.hear(key(rd=f"65001:{number}"), route(sid=sid, med=5))
    [row] = speaker.feature.prefix.rows.values()
    assert len(row.via) == 4


def test_prefixes_beyond_the_limit_are_not_used(speaker: Speaker) -> None:
    """Those that came first stay; the next one follows when one goes."""
    speaker.put(vrf("blue", imports=("65001:100",), max_prefixes=2))
    networks = [ip_network(f"10.80.{number}.0/24") for number in range(3)]
    for network in networks:
        speaker.hear(key(network), route())
    used = {place.prefix for place in speaker.feature.prefix.rows}
    assert used == set(networks[:2])
    assert speaker.codes() == ["V532"]
    speaker.received.delete([key(networks[0])])
    speaker.loop.derive_all()
    assert {place.prefix for place in speaker.feature.prefix.rows} == set(networks[1:])
    assert speaker.codes() == []


def test_rows_come_at_once_and_none_goes_before_everything_was_received() -> None:
    speaker = Speaker(whole=False)
    speaker.put(BLUE)
    speaker.hear(key(), route())
    assert speaker.feature.prefix.rows
    assert not speaker.feature.prefix.synced
    speaker.received.mark_synced()
    speaker.loop.derive_all()
    assert speaker.feature.prefix.synced
    assert speaker.feature.path.synced


def test_without_the_agents_directory_routes_are_not_used() -> None:
    speaker = Speaker(None)
    speaker.put(BLUE)
    speaker.hear(key(), route())
    assert speaker.codes() == ["V534"]


def test_a_route_that_waits_is_dropped_like_others() -> None:
    admitted, one = Admitted(), ImportKey("blue", NET, PE, "1:1")
    two = ImportKey("blue", NET, PE, "1:2")
    assert admitted.put(one, 1)
    assert not admitted.put(two, 1)
    assert list(admitted.drop(two, 1)) == []
    assert admitted.over() == {}


def flood(speaker: Speaker, count: int = 4) -> None:
    """A router's prefixes, all at once."""
    numbers = range(count)
    speaker.received.upsert({key(ip_network(f"10.90.{n}.0/24")): route() for n in numbers})
    speaker.loop.derive_all()


def used(speaker: Speaker) -> list[str]:
    return sorted(str(one.prefix) for one in speaker.feature.prefix.rows)


def test_a_session_that_comes_again_is_held_to_its_limit() -> None:
    """What waited is gone with its session, too: it comes back in another order."""
    speaker = Speaker()
    speaker.put(replace(BLUE, max_prefixes=20))
    flood(speaker, 40)
    first = used(speaker)
    assert len(first) == 20
    speaker.received.delete([*speaker.received.rows])
    speaker.loop.derive_all()
    assert used(speaker) == []
    flood(speaker, 40)
    assert used(speaker) == first


def test_a_limit_that_is_raised_counts_at_once() -> None:
    speaker = Speaker()
    speaker.put(replace(BLUE, max_prefixes=2))
    flood(speaker)
    assert speaker.codes() == ["V532"]
    speaker.put(replace(BLUE, max_prefixes=3))
    assert len(used(speaker)) == 3
    speaker.put(replace(BLUE, max_prefixes=9))
    assert len(used(speaker)) == 4
    assert speaker.codes() == []
    speaker.put(replace(BLUE, max_prefixes=1))
    assert used(speaker) == ["10.90.0.0/24"]
    assert speaker.codes() == ["V532"]


def test_a_route_beyond_the_limit_is_not_in_the_way_of_another_routers() -> None:
    """The router that floods is preferred; the other one was there before."""
    speaker, place = Speaker(), ip_network("10.90.3.0/24")
    speaker.put(replace(BLUE, max_prefixes=2))
    speaker.hear(key(place, OTHER), route(as_path=(64512, 64513)))
    assert used(speaker) == [str(place)]
    flood(speaker)
    assert used(speaker) == ["10.90.0.0/24", "10.90.1.0/24", str(place)]
    shown = {(str(r["prefix"]), r["peer"]): r for r in (make() for make in speaker.feature.rows())}
    assert shown["10.90.3.0/24", OTHER]["used"]
    assert not shown["10.90.3.0/24", PE]["used"]
    assert "maxPrefixes" in shown["10.90.2.0/24", PE]["reason"]


def test_a_named_distinguisher_may_be_the_routers_own() -> None:
    """Routers of a VPN often share one; our own routes are known by their SIDs."""
    speaker = Speaker()
    speaker.put(replace(BLUE, rd="65001:500"))
    speaker.hear(key(), route())
    assert speaker.states() == {f"{NET} {PE}": ("used", "")}
