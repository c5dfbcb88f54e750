"""The direct path of egress: the pod's node sends straight while the agent says so; echoes.

a: client -> egress address -> legacy      by a's own routes, back by g as ever
a: echo with the egress address -> g       straight; g answers over the overlay
"""

from __future__ import annotations

import struct
import time
from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest

from gateway.direct import packet
from tests.packet.nodes import (
    BLOCKS,
    EGRESS,
    LEGACY,
    OK,
    PLANS,
    REDIRECT,
    SHOT,
    Node,
    addr,
    addr_value,
)
from tests.packet.packets import TCP, UDP, Packet, broken_checksums

Nodes = dict[str, Node]

ECHO_DIRECT, PORT, NUMBER = 4, 8474, 0x2C2C2C2C
OUTER, INNER, SIZE = 14, 14 + 50, 100
FIRST = 1024


def until(node: Node, family: int, seconds: float) -> None:
    """The agent's word for the egress address."""
    end = time.monotonic_ns() + int(seconds * 1e9)
    node.maps["mg_direct"].update_one(addr(EGRESS[family]), {"until": end})


def host(name: str, family: int) -> str:
    endpoint = PLANS[name].endpoint
    return endpoint if family == 4 else f"fd99::{endpoint.rpartition('.')[2]}"


def port_of(name: str, node: Node) -> int:
    """The first port of the first block of a node."""
    return FIRST + BLOCKS[name][0] * int(str(node.settings["block_size"]))


def echo(
    nodes: Nodes, family: int, *, to: str = "g", source: str = "", port: int = 0, at: int = PORT
) -> bytes:
    """An echo of node a, as it comes in at a gateway."""
    ports = port or port_of("a", nodes["a"]), at
    inner = packet(
        ip_address(source or EGRESS[family]), ip_address(host(to, family)), ports, NUMBER
    )
    return b"\2" * 12 + (b"\x08\0" if family == 4 else b"\x86\xdd") + inner


def asked(node: Node, family: int, gateway: str, number: int = NUMBER) -> None:
    key = {"address": addr_value(EGRESS[family]), "node": int(IPv4Address(PLANS[gateway].endpoint))}
    node.maps["mg_direct_echo"].update_one(key, {"asked": number})


def answered(node: Node, family: int, gateway: str) -> bool:
    key = {"address": addr_value(EGRESS[family]), "node": int(IPv4Address(PLANS[gateway].endpoint))}
    row: Any = node.maps["mg_direct_echo"].lookup(key)
    return bool(int(row["answered"]))


@pytest.mark.parametrize("l4", [UDP(5000, 53), TCP(5000, 443, "S")], ids=str)
def test_packets_go_straight_as_long_as_the_agents_word_holds(
    nodes: Nodes, family: int, l4: UDP | TCP
) -> None:
    a = nodes["a"]
    sent = Packet(a.plan.pods["client"][family], LEGACY[family], l4)
    until(a, family, 60)
    got = a.from_pod("client", sent)
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    straight = got.packet
    assert (straight.source, straight.destination) == (EGRESS[family], LEGACY[family])
    assert straight.ttl == sent.ttl - 1
    assert broken_checksums(got.wire) == []
    until(a, family, -1)
    if isinstance(l4, TCP):
        sent = sent.but(l4=TCP(5000, 443, "A"))
    got = a.from_pod("client", sent)
    assert got.overlay.destination == PLANS["g"].endpoint
    left = nodes["g"].from_uplink(got.wire).packet
    assert left.source == EGRESS[family], "address and port stay the same"
    assert left.l4.source == straight.l4.source


def test_without_a_word_packets_go_by_the_gateway(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    got = a.from_pod("client", Packet(a.plan.pods["client"][family], LEGACY[family], UDP(1, 9)))
    assert got.overlay.destination == PLANS["g"].endpoint


def test_the_answer_comes_back_by_the_gateway(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    until(a, family, 60)
    client = a.plan.pods["client"][family]
    seen = a.from_pod("client", Packet(client, LEGACY[family], UDP(5000, 53))).packet
    back = Packet(LEGACY[family], EGRESS[family], UDP(53, seen.l4.source))
    got = a.from_uplink(nodes["g"].from_uplink(back).wire)
    assert (got.packet.destination, got.packet.l4.destination) == (client, 5000)


def test_while_no_gateway_lives_nothing_goes_straight(nodes: Nodes, family: int) -> None:
    """Nobody would bring the answer back."""
    a = nodes["a"]
    until(a, family, 60)
    row = {"sent": time.monotonic_ns(), "heard": 1, "state": 1, "asked": 9, "answered": 6}
    a.maps["mg_gw_live"].update_one(IPv4Address(PLANS["g"].endpoint).packed, row)
    got = a.from_pod("client", Packet(a.plan.pods["client"][family], LEGACY[family], UDP(1, 9)))
    assert (got.verdict, got.dropped) == (SHOT, {"NO_EGRESS_GATEWAY": 1})


def test_a_gateway_answers_an_echo_over_the_overlay(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    asked(a, family, "g")
    got = nodes["g"].from_uplink(echo(nodes, family))
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    assert broken_checksums(got.wire) == []
    assert len(got.wire) == INNER + SIZE
    assert got.wire[OUTER + 16 : OUTER + 20] == IPv4Address(PLANS["a"].endpoint).packed
    assert got.wire[INNER - 2 : INNER] == b"\x88\xb5"
    assert struct.unpack_from("!B7xI", got.wire, INNER) == (ECHO_DIRECT, NUMBER)
    assert not answered(a, family, "g")
    heard = a.from_uplink(got.wire)
    assert (heard.verdict, heard.dropped) == (OK, {})
    assert answered(a, family, "g")


def test_an_answer_to_another_echo_says_nothing(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    asked(a, family, "g", NUMBER + 1)
    asked(a, family, "b")
    a.from_uplink(nodes["g"].from_uplink(echo(nodes, family)).wire)
    assert not answered(a, family, "g")
    assert not answered(a, family, "b"), "it is not the one that has answered"


@pytest.mark.parametrize(
    "other",
    [
        {"source": "stranger"}, {"port": 1023}, {"port": FIRST + 60_000}, {"at": PORT + 1},
        {"to": "b"},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_echo_is_the_hosts(nodes: Nodes, family: int, other: dict[str, Any]) -> None:
    """Of a stranger, from a port of nobody, to another port, to a node that is no gateway."""
    if "source" in other:
        other = {"source": LEGACY[family]}
    got = nodes[str(other.get("to", "g"))].from_uplink(echo(nodes, family, **other))
    assert (got.verdict, got.dropped) == (OK, {})
