"""Two pods with one address, in zones 1 and 2 of one node: each has its own connections.

The node is a, its gateway g. Both pods are covered, so each leaves with the egress address, and the
answer finds the one that asked, although everything but the port is the same.
"""

import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from os import getpid

import pytest

from bpf import netns
from tests.packet.nodes import (
    EGRESS,
    LEGACY,
    OK,
    PLANS,
    REDIRECT,
    Got,
    Node,
    Pod,
    addr,
    pinned_in,
    zoned,
)  # fmt: skip
from tests.packet.packets import TCP, UDP, Echo, Overlay, Packet, Transport
from tests.packet.test_fragments import BODY, check_ok, wires

Nodes = dict[str, Node]
DEVICE, IDENTITY = 1, 2  # enum zone_of
SHARED = PLANS["a"].pods["client"]
FAR = PLANS["b"].pods["client"]
#: Zone by the pod's name in the plan: its device.
ZONES = {"web": 1, "client": 2}
PODS = {
    "web": replace(SHARED, device="dpw0", identity=0x10011, mac=bytes.fromhex("0a0000000011")),
    "client": replace(SHARED, device="dpw1", identity=0x10012, mac=bytes.fromhex("0a0000000012")),
}
#: Identities of pods of node b in the two zones.
FAR_IDENTITIES = {"web": 0x10021, "client": 0x10022}


@pytest.fixture
def node(loaded: dict[str, Node]) -> Iterator[Node]:
    space = loaded["a"].space
    with pinned_in(f"dpw-{getpid()}-zones") as directory:
        made = Node(PLANS["a"], space, directory, zones=1)
        try:
            made.clear("mg_pod_addr")
            for name, zone in ZONES.items():
                rows_of_zone(made, name, zone)
            with netns.enter(space):
                yield made
        finally:
            made.close()


def rows_of_zone(node: Node, name: str, zone: int) -> None:
    pod: Pod = PODS[name]
    node.pod(pod, zone)
    known = {"kind": 1, "cluster": 1}
    for text in pod.addresses.values():
        row = known | {"identity": pod.identity, "node": int(IPv4Address(node.plan.endpoint))}
        node.maps["mg_address"].update_one(zoned(text, zone), row)
    for text in FAR.addresses.values():
        row = {"identity": FAR_IDENTITIES[name], "node": int(IPv4Address(PLANS["b"].endpoint))}
        node.maps["mg_address"].update_one(zoned(text, zone), known | row)
    for kind, number in ((DEVICE, node.devices[pod.device]), (IDENTITY, FAR_IDENTITIES[name])):
        node.maps["mg_zone"].update_one({"kind": kind, "number": number}, {"zone": zone})


def port_of(got: Got) -> int:
    l4 = got.overlay.inner.l4
    assert isinstance(l4, TCP | UDP | Echo)
    return l4.id if isinstance(l4, Echo) else l4.source


ANSWERS = {
    TCP: lambda port: TCP(443, port, "SA"),
    UDP: lambda port: UDP(53, port),
    Echo: lambda port: Echo(port, answer=True),
}


@pytest.mark.parametrize("l4", [TCP(40000, 443, "S"), UDP(5000, 53), Echo(77)], ids=str)
def test_each_gets_the_answers_to_its_own_questions(
    node: Node, nodes: Nodes, family: int, l4: Transport
) -> None:
    packet = Packet(SHARED[family], LEGACY[family], l4, b"question")
    sent = {name: node.from_pod(name, packet) for name in PODS}
    for name, got in sent.items():
        assert (got.verdict, got.dropped, len(got.events)) == (REDIRECT, {}, 1)
        assert (got.overlay.inner.source, got.overlay.vni) == (EGRESS[family], PODS[name].identity)
    assert port_of(sent["web"]) != port_of(sent["client"])
    for name, got in sent.items():
        assert nodes["g"].from_uplink(got.wire).dropped == {}
        answer = Packet(LEGACY[family], EGRESS[family], ANSWERS[type(l4)](port_of(got)), b"a")
        back = nodes["g"].from_uplink(answer)
        home = node.from_uplink(back.wire)
        assert (home.verdict, home.dropped) == (REDIRECT, {})
        assert home.wire[:6] == PODS[name].mac
        assert home.packet.destination == SHARED[family]
    again = {name: node.from_pod(name, packet) for name in PODS}
    if not isinstance(l4, TCP):
        assert {name: port_of(got) for name, got in again.items()} == {
            name: port_of(got) for name, got in sent.items()
        }
    assert node.count(f"mg_ct_v{family}") == node.count(f"mg_nat_v{family}") == 2


def test_fragments_of_one_datagram_number_are_kept_apart(node: Node, family: int) -> None:
    """Same addresses, same number: only the zone tells which ports a later fragment has."""
    parts = {
        name: wires(Packet(SHARED[family], LEGACY[family], UDP(port, 53), BODY))
        for name, port in (("web", 5000), ("client", 6000))
    }
    assert node.from_pod("web", parts["web"][0]).dropped == {}
    assert node.from_pod("client", parts["client"][1]).dropped == {"FRAGMENT_NOT_FOUND": 1}
    left: dict[str, list[bytes]] = {name: [] for name in parts}
    for step in range(3):
        for name in PODS:
            got = node.from_pod(name, parts[name][step])
            assert (got.verdict, got.overlay.inner.source) == (REDIRECT, EGRESS[family])
            left[name].append(got.wire[50:])
    assert all(check_ok(wire) for wire in left.values())
    assert node.count("mg_frag") == 2


def test_an_overlay_packet_goes_to_the_pod_in_the_zone_of_its_identity(
    node: Node, family: int
) -> None:
    packet = Packet(FAR[family], SHARED[family], UDP(1, 2), b"x")
    for name, pod in PODS.items():
        wire = Overlay("10.99.0.12", "10.99.0.11", FAR_IDENTITIES[name], packet).wire()
        got = node.from_uplink(wire)
        assert (got.verdict, got.dropped, got.wire[:6]) == (REDIRECT, {}, pod.mac)
        reply = node.from_pod(name, packet.reply(UDP(2, 1)))
        assert (reply.overlay.destination, reply.overlay.vni) == ("10.99.0.12", pod.identity)
        assert reply.events == [], "the connection is known in its zone"
    assert node.count(f"mg_ct_v{family}") == 2


def test_a_pod_of_another_zone_is_no_pod(node: Node, family: int) -> None:
    """Neither to a pod beside it, nor to the world, which is in zone 0."""
    other = PLANS["a"].pods["web"][family]
    node.pod(replace(PODS["client"], addresses={family: other}), ZONES["client"])
    got = node.from_pod("web", Packet(SHARED[family], other, UDP(1, 2)))
    assert (got.verdict, got.packet.destination) == (OK, other)
    native = Packet(LEGACY[family], other, UDP(1, 2))
    assert node.from_uplink(native).verdict == OK
    foreign = Packet(other, LEGACY[family], UDP(1, 2))
    assert node.from_pod("web", foreign).dropped == {"INVALID_SOURCE_IP": 1}


def test_what_an_address_had_in_one_zone_is_forgotten_there_only(node: Node, family: int) -> None:
    packet = Packet(SHARED[family], LEGACY[family], UDP(5000, 53))
    for name in PODS:
        node.from_pod(name, packet)
    assert node.forget(SHARED[family]) == 0
    assert node.forget(SHARED[family], ZONES["web"]) == 1
    keys, _ = node.maps[f"mg_ct_v{family}"].dump()
    assert keys["zone"].tolist() == [ZONES["client"]]


def test_a_key_of_zone_0_has_the_bytes_that_it_had_before_zones(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    first = wires(Packet(SHARED[family], LEGACY[family], UDP(5000, 53), BODY))[0]
    a.from_pod("client", first)
    source, destination = addr(SHARED[family]), addr(LEGACY[family])
    if family == 4:
        source, destination = source[12:], destination[12:]
    keys, _ = a.maps[f"mg_ct_v{family}"].dump()
    assert keys[0].tobytes() == source + destination + struct.pack("!HHB3x", 5000, 53, 17)
    keys, _ = a.maps["mg_frag"].dump()
    pair = addr(SHARED[family]) + addr(LEGACY[family])
    assert keys[0].tobytes() == pair + struct.pack("=II", 4711, 17)
