"""Which sessions a node has and which routes it announces: no I/O."""

from ipaddress import ip_address, ip_network

from bgp.desired import Peering, peerings, routes
from bgp.peer import Advertise, BGPPeer
from bgp.route import Route, RouteKey
from mesh.core.feature import Offer
from mesh.core.model import Node, Selector

ROUTER, ROUTER6 = ip_address("10.99.0.1"), ip_address("fd99::1")
V4, V6 = ip_address("10.99.0.11"), ip_address("fd99::11")
NODE = Node("east", "east-1", (V4, V6))
OWN = {
    "podCIDRs": [Offer(ip_network("10.1.0.0/24")), Offer(ip_network("fd01::/64"))],
    "srv6Locators": [Offer(ip_network("fcbb:bb01:1::/48"))],
    "egressIPs": [Offer(ip_network("198.51.100.10/32"))],
}


def peer(name: str = "router", address: object = ROUTER, *advertise: str) -> BGPPeer:
    kinds = advertise or ("podCIDRs", "egressIPs", "srv6Locators")
    entries = tuple(map(Advertise, kinds))
    return BGPPeer(name, Selector(), address, 65000, 65101, entries)  # type: ignore[arg-type]


def sessions(*peers: BGPPeer) -> list[Peering]:
    rows, findings = peerings(NODE, peers)
    assert not findings
    return list(rows.values())


def test_a_session_starts_from_the_nodes_address_of_the_routers_family() -> None:
    rows, _ = peerings(NODE, [peer(), peer("router6", ROUTER6)])
    assert rows[ROUTER].local_address == V4
    assert rows[ROUTER6].local_address == V6


def test_a_node_without_the_routers_family_has_a_finding_and_no_session() -> None:
    rows, findings = peerings(Node("east", "east-1", (V4,)), [peer("router6", ROUTER6)])
    assert not rows
    assert findings[0].code == "B205"
    assert findings[0].object == "BGPPeer/router6"
    assert findings[0].about == ("node/east-1", f"peer/{ROUTER6}")


def test_of_two_peers_with_one_address_the_first_by_name_has_it_and_both_are_named() -> None:
    rows, findings = peerings(NODE, [peer("b"), peer("a")])
    assert rows[ROUTER].name == "a"
    assert findings[0].code == "B207"
    assert findings[0].object == "BGPPeer/b"
    assert "BGPPeer a" in findings[0].text


def test_each_prefix_has_the_nodes_own_address_of_its_family_as_next_hop() -> None:
    rows, findings = routes(NODE, sessions(peer()), OWN)
    assert not findings
    assert {key.prefix: route.next_hop for key, route in rows.items()} == {
        ip_network("10.1.0.0/24"): V4,
        ip_network("198.51.100.10/32"): V4,
        ip_network("fd01::/64"): V6,
        ip_network("fcbb:bb01:1::/48"): V6,
    }


def test_a_session_gets_only_what_its_peer_advertises() -> None:
    rows, _ = routes(NODE, sessions(peer("a", ROUTER, "srv6Locators"), peer("b", ROUTER6)), OWN)
    locator = ip_network("fcbb:bb01:1::/48")
    assert [key.prefix for key in rows if key.peer == ROUTER] == [locator]
    assert len([key for key in rows if key.peer == ROUTER6]) == 4
    assert rows[RouteKey(ROUTER6, locator)] == Route(locator, V6)


def test_a_peer_that_advertises_nothing_from_this_node_is_a_finding() -> None:
    rows, findings = routes(NODE, sessions(peer("a", ROUTER, "egressIPs")), {"egressIPs": []})
    assert not rows
    assert [finding.code for finding in findings] == ["B203"]
    assert "east-1" in findings[0].text


def test_a_prefix_without_an_address_to_be_its_next_hop_is_no_route() -> None:
    node = Node("east", "east-1", (V4,))
    rows, findings = routes(node, sessions(peer()), OWN)
    assert {key.prefix.version for key in rows} == {4}
    assert [(f.code, f.object) for f in findings] == [("B213", "node/east-1")]
