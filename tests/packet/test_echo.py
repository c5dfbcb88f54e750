"""Echoes of the overlay: a node sends one back to a node of its cluster, and notes its answers."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from os import getpid

import pytest

from bpf import netns
from tests.packet.nodes import OK, PLANS, REDIRECT, SHOT, Node, pinned_in
from tests.packet.packets import UDP, Packet, broken_checksums

Nodes = dict[str, Node]

A, B, W, STRANGER = (*(PLANS[name].endpoint for name in "abw"), "10.99.0.99")
QUESTION, ANSWER = 0, 1
ECHO = 0x88B5
PAD = bytes(45)


def frame(node: str, kind: int = QUESTION, protocol: int = ECHO) -> bytes:
    """As the agent sends it out of the overlay's device."""
    to = b"\x02\0" + IPv4Address(node).packed
    return to + b"\x02" * 6 + protocol.to_bytes(2, "big") + bytes([kind]) + PAD


def echo(
    source: str, destination: str, kind: int, protocol: int = ECHO, port: int = 8472
) -> Packet:
    """As it is on the wire."""
    vxlan = struct.pack("!II", 8 << 24, 6 << 8)
    inner = frame(destination, kind, protocol)
    return Packet(source, destination, UDP(40000, port, checksum=False), vxlan + inner)


def heard(node: Node, endpoint: str) -> int | None:
    found = node.maps["mg_echo"].lookup(IPv4Address(endpoint).packed)
    return None if found is None else int(found)


def ask(node: Node, endpoint: str, *, made: bool = True) -> None:
    """The row that the agent makes before it asks."""
    node.clear("mg_echo")
    if made:
        node.maps["mg_echo"].update_one(IPv4Address(endpoint).packed, 0)


def test_a_question_goes_back_as_an_answer_with_a_right_header(nodes: Nodes) -> None:
    got = nodes["a"].from_uplink(echo(B, A, QUESTION))
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    assert got.packet == echo(A, B, ANSWER).but(payload=echo(B, A, ANSWER).payload)
    assert broken_checksums(got.wire) == []


def test_an_answer_goes_to_the_port_of_the_node_that_asks(nodes: Nodes) -> None:
    """Both while the port of a cluster changes, and in a cluster that has another one."""
    space = nodes["a"].space
    with pinned_in(f"dpw-{getpid()}-echo-port") as directory, netns.enter(space):
        ported = Node(PLANS["a"], space, directory, overlay_port=8473)
        try:
            for port in (8472, 8473):
                endpoint = IPv4Address(B)
                row = {"next_hop": int(endpoint), "cluster": PLANS["b"].cluster, "port": port}
                ported.maps["mg_node"].update_one(endpoint.packed, row)
                got = ported.from_uplink(echo(B, A, QUESTION, port=8473))
                assert (got.verdict, got.dropped) == (REDIRECT, {})
                assert got.packet == echo(A, B, ANSWER, port=port).but(
                    payload=echo(B, A, ANSWER).payload
                )
                assert broken_checksums(got.wire) == []
        finally:
            ported.close()


def test_an_answer_is_noted_for_the_node_that_was_asked(nodes: Nodes) -> None:
    node = nodes["a"]
    ask(node, B)
    got = node.from_uplink(echo(B, A, ANSWER))
    assert (got.verdict, got.dropped) == (OK, {})
    assert (heard(node, B) or 0) > 0


def test_an_answer_that_was_not_asked_for_makes_no_row(nodes: Nodes) -> None:
    node = nodes["a"]
    ask(node, B, made=False)
    assert node.from_uplink(echo(B, A, ANSWER)).dropped == {}
    assert heard(node, B) is None


@pytest.mark.parametrize("kind", [QUESTION, ANSWER])
def test_other_clusters_and_strangers_get_nothing(nodes: Nodes, kind: int) -> None:
    node = nodes["a"]
    ask(node, W)
    got = node.from_uplink(echo(W, A, kind))
    assert (got.verdict, got.dropped) == (SHOT, {"UNSUPPORTED_L3_PROTOCOL": 1})
    got = node.from_uplink(echo(STRANGER, A, kind))
    assert (got.verdict, got.dropped) == (SHOT, {"UNKNOWN_SENDER": 1})
    assert heard(node, W) == 0


def test_another_protocol_is_no_echo(nodes: Nodes) -> None:
    got = nodes["a"].from_uplink(echo(B, A, QUESTION, 0x0806))
    assert (got.verdict, got.dropped) == (SHOT, {"UNSUPPORTED_L3_PROTOCOL": 1})


def test_questions_share_the_rate_of_errors(nodes: Nodes) -> None:
    """So nobody gets more answers out of a node than it would get ICMP errors."""
    space = nodes["a"].space
    with pinned_in(f"dpw-{getpid()}-echo-rate") as directory, netns.enter(space):
        quiet = Node(PLANS["a"], space, directory, icmp_errors=0)
        try:
            got = quiet.from_uplink(echo(B, A, QUESTION))
            assert (got.verdict, got.dropped) == (OK, {})
        finally:
            quiet.close()


def test_a_frame_of_the_agent_goes_to_the_node_that_it_names(nodes: Nodes) -> None:
    node = nodes["a"]
    got = node.run("mg_to_vxlan", frame(B), ifindex=node.devices["dpwup"])
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    got = node.run("mg_to_vxlan", frame(STRANGER), ifindex=node.devices["dpwup"])
    assert (got.verdict, got.dropped) == (SHOT, {"NO_TUNNEL_ENDPOINT": 1})
    got = node.run("mg_to_vxlan", frame(B, protocol=0x0806), ifindex=node.devices["dpwup"])
    assert (got.verdict, got.dropped) == (OK, {})
