"""What a connection goes through: rows that are away for a while, tuples that are used again."""

import pytest

from tests.packet.nodes import EGRESS, LEGACY, OK, Got, Node
from tests.packet.packets import TCP, UDP, Echo, Error, Overlay, Packet, Transport

Nodes = dict[str, Node]
EVERYTHING = {4: "0.0.0.0/0", 6: "::/0"}


@pytest.fixture
def a(nodes: Nodes) -> Node:
    return nodes["a"]


def send(a: Node, family: int, l4: Transport, to: str | None = None) -> Got:
    return a.from_pod("client", Packet(a.plan.pods["client"][family], to or LEGACY[family], l4))


def back(a: Node, family: int, l4: Transport) -> Got:
    packet = Packet(LEGACY[family], EGRESS[family], l4)
    return a.from_uplink(Overlay("10.99.0.13", "10.99.0.11", 2, packet))


def port_of(got: Got) -> int:
    l4 = got.overlay.inner.l4
    return l4.id if isinstance(l4, Echo) else l4.source


def fill(a: Node, family: int) -> list[int]:
    """One answered connection for each of the 256 ports of a's only block."""
    a.own_blocks(family, 3)
    ports = []
    for number in range(256):
        ports.append(port_of(send(a, family, TCP(10000 + number, 443, "S"))))
        back(a, family, TCP(443, ports[-1], "SA"))
    return ports


# Rows that are away for a while


@pytest.mark.parametrize(
    "l4", [TCP(40000, 80, "S"), UDP(5000, 53), Echo(77)], ids=["SYN", "UDP", "ping"]
)
def test_what_was_sent_to_the_mesh_before_its_row_came_is_not_translated_for_ever(
    nodes: Nodes, family: int, l4: Transport
) -> None:
    """S9: the sender repeats itself from the same port and never pauses; a second later it is."""
    a, web = nodes["a"], nodes["w"].plan.pods["web"]
    a.egress(EVERYTHING[family], 1, EGRESS[family])
    for name in ("mg_address", "mg_addr_cidr"):
        a.clear(name)
    assert send(a, family, l4, web[family]).overlay.inner.source == EGRESS[family]
    a.rows_of_nodes()
    a.age(1)
    got = send(a, family, l4, web[family])
    assert got.overlay.inner.source == a.plan.pods["client"][family]
    assert a.count(f"mg_nat_v{family}") == 0
    answer = {TCP: TCP(80, 40000, "SA"), UDP: UDP(53, 5000), Echo: Echo(77, answer=True)}[type(l4)]
    home = Overlay("10.99.0.21", "10.99.0.11", web.identity, got.overlay.inner.reply(answer))
    assert a.from_uplink(home).dropped == {}


def test_the_mesh_answers_what_was_translated_while_its_row_was_away(
    nodes: Nodes, family: int
) -> None:
    """A subscriber that says one word in between, and then only listens."""
    a, web = nodes["a"], nodes["w"].plan.pods["web"]
    a.egress(EVERYTHING[family], 1, EGRESS[family])
    packet = send(a, family, UDP(5000, 53), web[family]).overlay.inner
    for name in ("mg_address", "mg_addr_cidr"):
        a.clear(name)
    send(a, family, UDP(5000, 53), web[family])
    a.rows_of_nodes()
    a.age(1)
    news = Overlay("10.99.0.21", "10.99.0.11", web.identity, packet.reply(UDP(53, 5000)))
    assert a.from_uplink(news).dropped == {}
    assert send(a, family, UDP(5000, 53), web[family]).overlay.inner == packet
    assert a.count(f"mg_nat_v{family}") == 0


def test_a_host_answers_what_was_translated_while_its_row_was_away(a: Node, family: int) -> None:
    """A name server on the pod's node."""
    host = {4: "10.99.0.11", 6: "fd99::11"}[family]
    a.egress(EVERYTHING[family], 1, EGRESS[family])
    a.clear("mg_address")
    send(a, family, UDP(5000, 53), host)
    a.rows_of_nodes()
    a.age(1)
    packet = Packet(a.plan.pods["client"][family], host, UDP(5000, 53))
    assert a.to_pod("client", packet.reply(UDP(53, 5000))).dropped == {}
    got = a.from_pod("client", packet)
    assert (got.verdict, got.packet, got.dropped) == (OK, packet, {})


def test_what_the_host_routes_to_a_pod_is_no_answer_to_a_translation(a: Node, family: int) -> None:
    """From another device than the uplink, say: it neither keeps a translation nor opens a way."""
    send(a, family, UDP(5000, 53))
    answer = Packet(LEGACY[family], a.plan.pods["client"][family], UDP(53, 5000))
    assert a.to_pod("client", answer).dropped == {"NO_NAT_MAPPING": 1}
    a.age(100)
    assert a.sweep(datagram=99) == (0, 1)


def test_an_error_about_what_became_the_meshs_takes_no_port_away(nodes: Nodes, family: int) -> None:
    a, web = nodes["a"], nodes["w"].plan.pods["web"]
    a.egress(EVERYTHING[family], 1, EGRESS[family])
    for name in ("mg_address", "mg_addr_cidr"):
        a.clear(name)
    send(a, family, UDP(5000, 53), web[family])
    a.rows_of_nodes()
    a.age(1)
    quoted = Packet(web[family], a.plan.pods["client"][family], UDP(53, 5000)).ip()
    error = Error({4: 3, 6: 1}[family], {4: 3, 6: 4}[family], quoted)
    assert send(a, family, error, web[family]).dropped == {"NO_EGRESS_GATEWAY": 1}
    assert a.count(f"mg_nat_v{family}") == 1


@pytest.mark.parametrize("name", ["mg_egress_addr", "mg_node"])
def test_attempts_without_a_gateway_hold_no_port(a: Node, family: int, name: str) -> None:
    """Or none would be left when it is back."""
    a.own_blocks(family, 3)
    a.clear(name)
    for number in range(256):
        assert send(a, family, TCP(10000 + number, 443, "S")).dropped
    a.rows_of_nodes()
    a.rows_of_egress()
    a.own_blocks(family, 3)
    assert send(a, family, TCP(20000, 443, "S")).dropped == {}


def test_what_a_pod_resets_without_a_gateway_has_ended(a: Node, family: int) -> None:
    """A reset is sent once: the port would be held for two hours."""
    ports = fill(a, family)
    a.clear("mg_egress_addr")
    assert send(a, family, TCP(10003, 443, "RA")).dropped == {"NO_EGRESS_GATEWAY": 1}
    a.rows_of_egress()
    a.own_blocks(family, 3)
    assert port_of(send(a, family, TCP(20000, 443, "S"))) == ports[3]


def test_datagrams_without_a_gateway_are_no_new_connections(a: Node, family: int) -> None:
    port = port_of(send(a, family, UDP(5000, 53)))
    a.clear("mg_egress_addr")
    got = send(a, family, UDP(5000, 53))
    assert got.dropped == {"NO_EGRESS_GATEWAY": 1}
    assert [e["verdict"] for e in got.events] == [2]
    a.rows_of_egress()
    got = send(a, family, UDP(5000, 53))
    assert (port_of(got), got.events) == (port, [])


def test_a_syn_after_its_policy_has_gone_opens_a_connection_of_its_own(
    a: Node, family: int
) -> None:
    """A client with a port of its own tries again; the old connection's end was never seen."""
    send(a, family, TCP(40000, 443, "S"))
    for name in ("mg_egress", "mg_egress_addr"):
        a.clear(name)
    assert send(a, family, TCP(40000, 443, "PA")).dropped == {"NO_EGRESS_GATEWAY": 1}
    got = send(a, family, TCP(40000, 443, "S"))
    assert (got.verdict, got.dropped) == (OK, {})
    assert a.count(f"mg_nat_v{family}") == 0


def test_a_connection_without_a_gateway_is_dropped_and_goes_on_when_one_is_back(
    a: Node, family: int
) -> None:
    """Its policy has gone, too: it keeps address and port."""
    port = port_of(send(a, family, TCP(40000, 443, "S")))
    for name in ("mg_egress", "mg_egress_addr"):
        a.clear(name)
    for _ in range(3):
        assert send(a, family, TCP(40000, 443, "PA")).dropped == {"NO_EGRESS_GATEWAY": 1}
    a.rows_of_egress()
    a.clear("mg_egress")
    assert port_of(send(a, family, TCP(40000, 443, "PA"))) == port


# What others opened


def test_a_ping_is_never_an_answer(a: Node, family: int) -> None:
    """An answer that nobody had asked for does not open the way out."""
    client = a.plan.pods["client"][family]
    a.from_uplink(Packet(LEGACY[family], client, Echo(77, answer=True)))
    assert send(a, family, Echo(77)).overlay.inner.source == EGRESS[family]


def test_a_stray_packet_does_not_keep_legacy_from_opening(a: Node, family: int) -> None:
    """What is left of a connection that the pod has forgotten, and a client with a fixed port."""
    client = a.plan.pods["client"][family]
    stray = Packet(LEGACY[family], client, TCP(50000, 22, "A"))
    a.from_uplink(stray)
    a.from_uplink(stray.but(l4=TCP(50000, 22, "S")))
    got = a.from_pod("client", stray.reply(TCP(22, 50000, "SA")))
    assert (got.verdict, got.dropped) == (OK, {})


# Tuples that are used again


def test_a_connection_that_is_opened_again_has_no_end_of_the_last_one(a: Node, family: int) -> None:
    """The server forgot the half-closed one; the new one's server closes its half first."""
    ports = fill(a, family)
    send(a, family, TCP(10003, 443, "FA"))
    assert port_of(send(a, family, TCP(10003, 443, "S"))) == ports[3]
    for flags in ("SA", "FA"):
        back(a, family, TCP(443, ports[3], flags))
    assert send(a, family, TCP(20000, 443, "S")).dropped == {"NO_RUN": 1}
    assert send(a, family, TCP(10003, 443, "PA")).dropped == {}


def test_a_reset_of_what_had_ended_does_not_bring_it_back(a: Node, family: int) -> None:
    """The pod's last ACK and the reset cross."""
    ports = fill(a, family)
    send(a, family, TCP(10003, 443, "FA"))
    for flags in ("FA", "R"):
        back(a, family, TCP(443, ports[3], flags))
    assert send(a, family, TCP(10003, 443, "A")).dropped == {}
    assert port_of(send(a, family, TCP(20000, 443, "S"))) == ports[3]
