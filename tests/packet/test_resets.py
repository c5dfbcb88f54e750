"""TCP that a change of egress policy has ended: both ends are reset at the next packet of either.

Towards the packet's sender with SEQ = the packet's ACK, onwards with the packet's own SEQ. What
goes into a pod is a copy, which is caught behind the pod's device.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from os import getpid

import pytest

from bpf import netns
from mesh.observe.drops import reset_rows
from tests.packet.nodes import EGRESS, LEGACY, OK, PLANS, REDIRECT, SHOT, Got, Node, pinned_in
from tests.packet.packets import TCP, UDP, Overlay, Packet, broken_checksums

Nodes = dict[str, Node]
CLIENT, SERVER = 40000, 443
SEQ, ACK = 1000, 7000
#: Seconds until a copy is behind the pod's device at the latest.
ARRIVES_S = 1.0


class Pod:
    """What arrives in the pod ``client``: RST packets of IPv4 and IPv6."""

    def __init__(self, device: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.bind((f"{device}p", 3))

    def got(self, count: int = 1) -> list[Packet]:
        """So many, and what else is there."""
        found: list[Packet] = []
        while select.select([self._socket], [], [], ARRIVES_S if len(found) < count else 0)[0]:
            wire = self._socket.recv(2000)
            packet = Packet.read(wire)
            if isinstance(packet.l4, TCP):
                assert broken_checksums(wire) == []
                found.append(packet)
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def pod(nodes: Nodes) -> Iterator[Pod]:
    opened = Pod(nodes["a"].plan.pods["client"].device)
    yield opened
    opened.close()


def client(node: Node, family: int) -> str:
    return node.plan.pods["client"][family]


def sent(node: Node, family: int, flags: str = "PA", payload: bytes = b"question") -> Packet:
    l4 = TCP(CLIENT, SERVER, flags, SEQ, ACK)
    return Packet(client(node, family), LEGACY[family], l4, payload)


def answer(node: Node, family: int, flags: str = "PA", payload: bytes = b"answer") -> Packet:
    return sent(node, family).reply(TCP(SERVER, CLIENT, flags, SEQ, ACK), payload)


def rst(packet: Packet, sequence: int) -> Packet:
    """The RST on the packet's own way."""
    assert isinstance(packet.l4, TCP)
    l4 = TCP(packet.l4.source, packet.l4.destination, "R", sequence)
    return packet.but(l4=l4, payload=b"", options=b"", first=0)


def resets(node: Node) -> list[int]:
    """To pods, to others with the egress address, to others with the pod's own."""
    _, values = node.maps["mg_reset"].dump_percpu()
    rows = reset_rows("a", values, node.objects[0].btf.enum("reset_count"))
    return [int(str(row["packets"])) for row in rows]


def plain(node: Node, family: int) -> None:
    """A connection from before the policy, which comes now."""
    node.clear("mg_egress")
    packet = Packet(client(node, family), LEGACY[family], TCP(CLIENT, SERVER, "S"))
    assert node.from_pod("client", packet).packet == packet
    assert node.from_uplink(packet.reply(TCP(SERVER, CLIENT, "SA"))).verdict == OK
    node.rows_of_egress()


# A policy comes


def test_at_the_pods_packet_both_ends_are_reset(nodes: Nodes, family: int, pod: Pod) -> None:
    a = nodes["a"]
    plain(a, family)
    before = resets(a)
    packet = sent(a, family)
    got = a.from_pod("client", packet)
    assert (got.verdict, got.dropped) == (OK, {"MID_STREAM": 1})
    assert (got.packet, broken_checksums(got.wire)) == (rst(packet, SEQ), [])
    assert pod.got() == [rst(answer(a, family), ACK)]
    assert [now - then for now, then in zip(resets(a), before, strict=True)] == [1, 0, 1]


def test_at_the_others_packet_both_ends_are_reset(nodes: Nodes, family: int, pod: Pod) -> None:
    a = nodes["a"]
    plain(a, family)
    packet = answer(a, family)
    got = a.from_uplink(packet)
    assert (got.verdict, got.dropped) == (REDIRECT, {"CONNECTION_ENDED": 1})
    assert (got.packet, broken_checksums(got.wire)) == (rst(sent(a, family), ACK), [])
    assert pod.got() == [rst(packet, SEQ)]


def test_what_the_host_routes_to_the_pod_ends_alike(nodes: Nodes, family: int, pod: Pod) -> None:
    """The other end's packets may come by another device than the uplink."""
    a = nodes["a"]
    plain(a, family)
    got = a.to_pod("client", answer(a, family))
    assert (got.verdict, got.dropped) == (REDIRECT, {"CONNECTION_ENDED": 1})
    assert got.packet == rst(sent(a, family), ACK)
    assert pod.got() == [rst(answer(a, family), SEQ)]


def test_the_pods_own_address_leaves_once_and_once_for_a_challenge(
    nodes: Nodes, family: int, pod: Pod
) -> None:
    """RFC 5961 3.2: who expects another sequence number says which, in an ACK without payload."""
    a = nodes["a"]
    plain(a, family)
    assert a.from_pod("client", sent(a, family)).verdict == OK
    for packet in (sent(a, family), sent(a, family, "A", b"")):
        assert a.from_pod("client", packet).verdict == SHOT
    assert a.from_uplink(answer(a, family)).verdict == SHOT
    challenge = a.from_uplink(answer(a, family, "A", b""))
    assert (challenge.verdict, challenge.packet) == (REDIRECT, rst(sent(a, family), ACK))
    assert a.from_uplink(answer(a, family, "A", b"")).verdict == SHOT
    assert len(pod.got(6)) == 6, "the pod is answered each time"


def test_a_reset_goes_onwards_and_has_no_answer(nodes: Nodes, family: int, pod: Pod) -> None:
    a = nodes["a"]
    plain(a, family)
    got = a.from_pod("client", sent(a, family, "R", b""))
    assert (got.verdict, got.packet) == (OK, rst(sent(a, family), SEQ))
    back = a.from_uplink(answer(a, family, "R", b""))
    assert (back.verdict, back.packet) == (OK, answer(a, family, "R", b""))
    assert pod.got(0) == []


@pytest.mark.parametrize("flags", ["F", "P"])
def test_without_an_ack_nobody_knows_what_its_sender_expects(
    nodes: Nodes, family: int, pod: Pod, flags: str
) -> None:
    a = nodes["a"]
    plain(a, family)
    assert a.from_pod("client", sent(a, family, flags)).packet == rst(sent(a, family), SEQ)
    assert pod.got(0) == []


def test_options_stay_and_payload_goes(nodes: Nodes, pod: Pod) -> None:
    a = nodes["a"]
    for family, changes in (
        (4, {"options": b"\x01\x01\x01\x00"}),
        (6, {"options": bytes([6, 0, 1, 4, 0, 0, 0, 0]), "first": 60}),
    ):
        plain(a, family)
        packet = sent(a, family, payload=b"x" * 1001).but(**changes)
        got = a.from_pod("client", packet)
        assert (got.packet, broken_checksums(got.wire)) == (rst(packet, SEQ).but(**changes), [])
        assert [one.l4 for one in pod.got()] == [TCP(SERVER, CLIENT, "R", ACK)]


def test_a_copy_on_its_way_into_a_pod_passes(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    plain(a, family)
    copy = rst(answer(a, family), ACK)
    got = a.to_pod("client", copy, mark=0x6D677273)
    assert (got.verdict, got.packet, got.dropped) == (OK, copy, {})


# What ends nothing


def silent(got: Got, pod: Pod) -> bool:
    return (got.verdict, pod.got(0)) == (SHOT, [])


def test_a_packet_without_an_entry_is_not_answered(nodes: Nodes, family: int, pod: Pod) -> None:
    a = nodes["a"]
    assert silent(a.from_pod("client", sent(a, family)), pod)
    stray = answer(a, family, "A", b"")
    assert a.from_uplink(stray).verdict == OK, "to the pod, as ever"
    pod.got(0)
    assert silent(a.from_pod("client", sent(a, family)), pod), "an entry that a stranger made"


def test_what_others_opened_goes_on(nodes: Nodes, family: int, pod: Pod) -> None:
    a = nodes["a"]
    opening = Packet(LEGACY[family], client(a, family), TCP(50000, 22, "S"))
    a.from_uplink(opening)
    got = a.from_pod("client", opening.reply(TCP(22, 50000, "SA")))
    assert (got.verdict, got.dropped) == (OK, {})
    assert a.from_uplink(opening.but(l4=TCP(50000, 22, "A"))).dropped == {}
    assert pod.got(0) == []


def test_a_row_of_the_mesh_that_is_missing_ends_nothing(
    nodes: Nodes, family: int, pod: Pod
) -> None:
    """For a moment its pods count as the world, and the policy covers the world."""
    a, web = nodes["a"], nodes["w"].plan.pods["web"]
    a.egress({4: "0.0.0.0/0", 6: "::/0"}[family], 1, EGRESS[family])
    packet = Packet(client(a, family), web[family], TCP(CLIENT, 80, "S"))
    assert a.from_pod("client", packet).dropped == {}
    for name in ("mg_address", "mg_addr_cidr"):
        a.clear(name)
    assert silent(a.from_pod("client", packet.but(l4=TCP(CLIENT, 80, "PA"))), pod)


def test_a_class_without_room_ends_nothing(nodes: Nodes, family: int, pod: Pod) -> None:
    a = nodes["a"]
    plain(a, family)
    a.pod(replace(a.plan.pods["client"], egress=0x7FFFFFFF))
    assert silent(a.from_pod("client", sent(a, family)), pod)
    assert a.from_uplink(answer(a, family)).packet == answer(a, family)


@pytest.mark.parametrize("name", ["mg_egress_addr", "mg_node", "mg_block", "mg_own_block"])
def test_rows_of_egress_that_are_missing_end_nothing(
    nodes: Nodes, family: int, pod: Pod, name: str
) -> None:
    a = nodes["a"]
    translated(a, family)
    a.clear(name)
    got = a.from_pod("client", sent(a, family))
    assert not isinstance(got.packet.l4, TCP) or "R" not in got.packet.l4.flags
    assert pod.got(0) == []


def test_a_gateway_that_changes_hands_ends_nothing(nodes: Nodes, family: int, pod: Pod) -> None:
    a = nodes["a"]
    translated(a, family)
    a.gateways(family)
    assert silent(a.from_pod("client", sent(a, family)), pod)
    a.gateways(family, "b")
    assert a.from_pod("client", sent(a, family)).overlay.destination == "10.99.0.12"


def test_datagrams_are_not_reset(nodes: Nodes, family: int, pod: Pod) -> None:
    a = nodes["a"]
    packet = Packet(client(a, family), LEGACY[family], UDP(5000, 53))
    a.from_pod("client", packet)
    a.ended(family, "g")
    assert silent(a.from_pod("client", packet), pod)


# The address has gone, or the port


def translated(node: Node, family: int) -> Packet:
    """A connection as the gateway sees it."""
    packet = Packet(client(node, family), LEGACY[family], TCP(CLIENT, SERVER, "S"))
    got = node.from_pod("client", packet)
    assert got.dropped == {}
    return got.packet if node.plan.name == "g" else got.overlay.inner


def test_an_address_without_a_policy_resets_both_at_the_pods_packet(
    nodes: Nodes, family: int, pod: Pod
) -> None:
    a, g = nodes["a"], nodes["g"]
    seen = translated(a, family)
    for node in (a, g):
        node.clear("mg_egress")
        node.ended(family, "g")
        node.gateway(family, "g", sends=False, accepts=True)
    packet = sent(a, family)
    got = a.from_pod("client", packet)
    assert (got.verdict, got.dropped) == (REDIRECT, {"NO_EGRESS_GATEWAY": 1})
    assert got.overlay.destination == "10.99.0.13"
    out = g.from_uplink(got.wire)
    assert (out.verdict, out.dropped, broken_checksums(out.wire)) == (REDIRECT, {}, [])
    assert out.packet == rst(seen, SEQ).but(ttl=63)
    assert pod.got() == [rst(answer(a, family), ACK)]


def test_an_address_without_a_policy_resets_both_at_the_others_packet(
    nodes: Nodes, family: int, pod: Pod
) -> None:
    a, g = nodes["a"], nodes["g"]
    seen = translated(a, family)
    assert isinstance(seen.l4, TCP)
    for node in (a, g):
        node.clear("mg_egress")
        node.ended(family, "g")
        node.gateway(family, "g", sends=False, accepts=True)
    back = g.from_uplink(seen.reply(TCP(SERVER, seen.l4.source, "PA", SEQ, ACK), b"answer"))
    got = a.from_uplink(back.wire)
    assert (got.verdict, got.dropped) == (REDIRECT, {"CONNECTION_ENDED": 1})
    out = g.from_uplink(got.wire)
    assert (out.verdict, broken_checksums(out.wire)) == (REDIRECT, [])
    assert out.packet == rst(seen, ACK).but(ttl=63)
    assert pod.got() == [rst(answer(a, family), SEQ)]


def test_on_the_gateways_own_node_it_needs_no_tunnel(nodes: Nodes, family: int, pod: Pod) -> None:
    g = nodes["g"]
    seen = translated(g, family)
    assert isinstance(seen.l4, TCP)
    g.clear("mg_egress")
    g.ended(family, "g")
    g.gateway(family, "g", sends=False, accepts=True)
    out = g.from_pod("client", sent(g, family))
    assert out.packet == rst(seen, SEQ).but(ttl=63)
    back = g.from_uplink(seen.reply(TCP(SERVER, seen.l4.source, "PA", SEQ, ACK), b"answer"))
    assert back.packet == rst(seen, ACK).but(ttl=63)
    assert pod.got(2) == [rst(answer(g, family), ACK), rst(answer(g, family), SEQ)]


@pytest.mark.parametrize("how", ["the rest is over", "the block is another node's"])
def test_outwards_goes_only_what_this_node_still_holds(
    nodes: Nodes, family: int, pod: Pod, how: str
) -> None:
    a = nodes["a"]
    translated(a, family)
    if how == "the rest is over":
        a.clear("mg_egress")
        a.ended(family)
    else:
        for number in (3, 9):
            a.block(family, number, "b")
    assert a.from_pod("client", sent(a, family)).verdict == SHOT
    assert pod.got() == [rst(answer(a, family), ACK)]


def test_another_policys_address_ends_what_had_the_last_one(
    nodes: Nodes, family: int, pod: Pod
) -> None:
    """The policy covers the pod with another address, and the last one belongs to none."""
    a = nodes["a"]
    seen = translated(a, family)
    other = {4: "198.51.100.99", 6: "2001:db8:100::99"}[family]
    destination = {4: "192.0.2.0/24", 6: "2001:db8:2::/48"}[family]
    a.egress(str(ip_network(destination)), 1, other)
    a.ended(family, "g")
    got = a.from_pod("client", sent(a, family))
    assert got.dropped == {"MID_STREAM": 1}
    assert got.overlay.inner == rst(seen, SEQ)
    assert pod.got() == [rst(answer(a, family), ACK)]


def test_an_address_that_is_back_goes_on(nodes: Nodes, family: int, pod: Pod) -> None:
    a = nodes["a"]
    seen = translated(a, family)
    a.ended(family, "g")
    a.rows_of_egress()
    assert a.from_pod("client", sent(a, family)).overlay.inner.source == seen.source
    assert isinstance(seen.l4, TCP)
    back = seen.reply(TCP(SERVER, seen.l4.source, "PA", SEQ, ACK))
    home = a.from_uplink(Overlay("10.99.0.13", "10.99.0.11", 2, back))
    assert (home.verdict, home.dropped) == (REDIRECT, {})
    assert pod.got(0) == []


# The rate


def test_resets_share_the_rate_of_icmp_errors(nodes: Nodes, family: int, pod: Pod) -> None:
    space = nodes["a"].space
    with pinned_in(f"dpw-{getpid()}-reset-rate") as directory, netns.enter(space):
        quiet = Node(PLANS["a"], space, directory, icmp_errors=0)
        try:
            plain(quiet, family)
            got = quiet.from_pod("client", sent(quiet, family))
            assert (got.verdict, got.dropped) == (SHOT, {"MID_STREAM": 1})
            assert pod.got(0) == []
        finally:
            quiet.close()
