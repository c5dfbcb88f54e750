"""ICMP errors about translated connections, both ways, and about plain ones."""

import pytest

from tests.packet.nodes import EGRESS, LEGACY, OK, REDIRECT, ROUTER, Node
from tests.packet.packets import TCP, UDP, Echo, Error, Overlay, Packet, Transport, broken_checksums

Nodes = dict[str, Node]
UNREACHABLE = {4: (3, 3), 6: (1, 4)}
EXCEEDED = {4: (11, 0), 6: (3, 0)}

CONNECTIONS: list[tuple[str, Transport]] = [
    ("TCP", TCP(40000, 443, "S")),
    ("UDP", UDP(5000, 53)),
    ("ping", Echo(77)),
]


def send(nodes: Nodes, name: str, packet: Packet) -> Packet:
    """The packet as it left the gateway."""
    got = nodes[name].from_pod("client", packet)
    if name != "g":
        got = nodes["g"].from_uplink(got.wire)
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    return got.packet


@pytest.mark.parametrize("name", ["a", "g"])
@pytest.mark.parametrize("cut", [8, 12, 1000], ids=["8 bytes", "12 bytes", "all"])
@pytest.mark.parametrize("l4", [c[1] for c in CONNECTIONS], ids=[c[0] for c in CONNECTIONS])
def test_an_error_of_a_router_reaches_the_pod_about_the_packet_it_sent(
    nodes: Nodes, family: int, name: str, l4: Transport, cut: int
) -> None:
    packet = Packet(nodes[name].plan.pods["client"][family], LEGACY[family], l4, b"x" * 40)
    seen = send(nodes, name, packet)
    quoted = seen.ip()[: {4: 20, 6: 40}[family] + cut]
    error = Packet(ROUTER[family], EGRESS[family], Error(*EXCEEDED[family], quoted))

    got = nodes["g"].from_uplink(error)
    if name != "g":
        assert got.overlay.inner == error
        got = nodes[name].from_uplink(got.wire)
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    assert (got.packet.source, got.packet.destination) == (ROUTER[family], packet.source)
    assert isinstance(got.packet.l4, Error)
    restored = packet.but(ttl=seen.ttl).ip()[: len(quoted)]
    assert got.packet.l4.quoted == restored
    assert broken_checksums(got.wire) == []


@pytest.mark.parametrize("name", ["a", "g"])
@pytest.mark.parametrize("cut", [8, 1000], ids=["8 bytes", "all"])
def test_an_error_of_the_pod_leaves_with_the_egress_address(
    nodes: Nodes, family: int, name: str, cut: int
) -> None:
    client = nodes[name].plan.pods["client"][family]
    seen = send(nodes, name, Packet(client, LEGACY[family], UDP(5000, 53)))
    answer = seen.reply(UDP(53, seen.l4.source), b"late answer")
    got = nodes["g"].from_uplink(answer)
    if name != "g":
        got = nodes[name].from_uplink(got.wire)
    quoted = got.packet.ip()[: {4: 20, 6: 40}[family] + cut]
    error = Packet(client, LEGACY[family], Error(*UNREACHABLE[family], quoted))

    out = nodes[name].from_pod("client", error)
    if name != "g":
        out = nodes["g"].from_uplink(out.wire)
    assert (out.verdict, out.dropped) == (REDIRECT, {})
    assert (out.packet.source, out.packet.destination) == (EGRESS[family], LEGACY[family])
    assert isinstance(out.packet.l4, Error)
    assert out.packet.l4.quoted == answer.ip()[: len(quoted)]
    assert broken_checksums(out.wire) == []


def test_errors_neither_refresh_nor_close(nodes: Nodes, family: int) -> None:
    a, name = nodes["a"], f"mg_ct_v{family}"
    client = a.plan.pods["client"][family]
    seen = send(nodes, "a", Packet(client, LEGACY[family], TCP(40000, 443, "S")))
    before = a.maps[name].dump()[1].copy()
    error = Packet(LEGACY[family], EGRESS[family], Error(*UNREACHABLE[family], seen.ip()))
    got = a.from_uplink(nodes["g"].from_uplink(error).wire)
    assert (got.verdict, got.events) == (REDIRECT, [])
    assert (a.maps[name].dump()[1] == before).all()
    assert a.count(f"mg_nat_v{family}") == 1


def test_an_error_about_nothing_is_dropped_at_the_node(nodes: Nodes, family: int) -> None:
    forged = Packet(EGRESS[family], LEGACY[family], TCP(1024 + 3 * 256, 443, "S"))
    error = Packet(ROUTER[family], EGRESS[family], Error(*UNREACHABLE[family], forged.ip()))
    got = nodes["a"].from_uplink(nodes["g"].from_uplink(error).wire)
    assert got.dropped == {"NO_NAT_MAPPING": 1}


def test_an_error_whose_inside_is_not_its_receivers_is_malformed(nodes: Nodes, family: int) -> None:
    forged = Packet(LEGACY[family], EGRESS[family], TCP(443, 1024 + 3 * 256, "S"))
    error = Packet(ROUTER[family], EGRESS[family], Error(*UNREACHABLE[family], forged.ip()))
    assert nodes["g"].from_uplink(error).dropped == {"INVALID_PACKET": 1}


def test_errors_between_pods_pass(nodes: Nodes, family: int) -> None:
    a, b = nodes["a"], nodes["b"]
    client, web = a.plan.pods["client"][family], b.plan.pods["web"][family]
    packet = Packet(client, web, UDP(5000, 53))
    b.from_uplink(a.from_pod("client", packet).wire)
    error = packet.reply(Error(*UNREACHABLE[family], packet.ip()))
    got = a.from_uplink(b.from_pod("web", error).wire)
    assert (got.verdict, got.packet, got.events) == (REDIRECT, error, [])


def test_errors_about_what_legacy_opened_do_not_show_the_pods_address(
    nodes: Nodes, family: int
) -> None:
    """S10: of ICMP only echo replies leave a covered pod untranslated."""
    a = nodes["a"]
    a.declare("client", 53)
    opening = Packet(LEGACY[family], a.plan.pods["client"][family], UDP(5000, 53))
    a.from_uplink(opening)
    error = opening.reply(Error(*UNREACHABLE[family], opening.ip()))
    assert a.from_pod("client", error).dropped == {"NO_NAT_MAPPING": 1}


def test_an_error_of_a_router_reaches_an_uncovered_pod(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    packet = Packet(a.plan.pods["web"][family], LEGACY[family], UDP(5000, 53))
    a.from_pod("web", packet)
    error = Packet(ROUTER[family], packet.source, Error(*EXCEEDED[family], packet.ip()))
    got = a.from_uplink(error)
    assert (got.verdict, got.packet) == (OK, error)


def test_an_overlay_error_needs_a_source_behind_its_sender(nodes: Nodes, family: int) -> None:
    a, b = nodes["a"], nodes["b"]
    packet = Packet(a.plan.pods["web"][family], b.plan.pods["web"][family], UDP(5000, 53))
    error = Packet(ROUTER[family], packet.source, Error(*EXCEEDED[family], packet.ip()))
    overlay = Overlay("10.99.0.12", "10.99.0.11", b.plan.pods["web"].identity, error)
    assert a.from_uplink(overlay).dropped == {"INVALID_SOURCE_IP": 1}
