"""A sender's share of the events: what is beyond it is counted, and others' are still shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import getpid
from typing import Any

import pytest

from bpf import netns
from tests.packet.nodes import LEGACY, PLANS, Node, pinned_in
from tests.packet.packets import TCP, UDP, Overlay, Packet

SHARE, DROPS = 32, 8
#: A window may end meanwhile, and the next one gives another share.
SENT = 10 * SHARE
A, B = PLANS["a"].endpoint, PLANS["b"].endpoint
WEB, CLIENT = PLANS["a"].pods["web"], PLANS["a"].pods["client"]
FAR, FAR_TOO = PLANS["b"].pods["web"], PLANS["b"].pods["client"]

Event = Mapping[str, Any]


@pytest.fixture(scope="module")
def alone(loaded: dict[str, Node]) -> Iterator[Node]:
    with pinned_in(f"dpw-{getpid()}-shares") as directory:
        node = Node(PLANS["a"], loaded["a"].space, directory, event_share=SHARE, drop_share=DROPS)
        yield node
        node.close()


@pytest.fixture
def node(alone: Node) -> Iterator[Node]:
    alone.reset()
    empty = dict.fromkeys(("window", "events", "drops", "unshown", "total"), 0)
    for number in range(alone.maps["mg_event_rate"].max_entries):
        alone.maps["mg_event_rate"].update_one(number, empty)
    with netns.enter(alone.space):
        yield alone


def unshown(node: Node) -> int:
    _, values = node.maps["mg_event_rate"].dump()
    return int(values["total"].sum())


def opened(node: Node, family: int) -> list[Event]:
    """Events of a pod that opens connections without end."""
    events = []
    for port in range(SENT):
        packet = Packet(WEB[family], FAR[family], TCP(1024 + port, 80, "S"))
        events += node.from_pod("web", packet).events
    return events


def test_a_pod_does_not_push_the_others_out(node: Node, family: int) -> None:
    shown = opened(node, family)
    assert SHARE <= len(shown) <= 2 * SHARE
    assert len(shown) + unshown(node) == SENT
    packet = Packet(CLIENT[family], FAR[family], TCP(1, 80, "S"))
    assert len(node.from_pod("client", packet).events) == 1


def test_the_next_event_says_how_many_are_missing(node: Node, family: int) -> None:
    shown = opened(node, family)
    keys, values = node.maps["mg_event_rate"].dump()
    values["window"] -= 1
    node.maps["mg_event_rate"].update(keys, values)
    packet = Packet(WEB[family], FAR[family], TCP(1, 80, "S"))
    (event,) = node.from_pod("web", packet).events
    assert sum(1 + int(each["unshown"]) for each in [*shown, event]) == SENT + 1
    assert event["unshown"]


def test_drops_have_a_smaller_share_whatever_source_they_claim(node: Node) -> None:
    shown: list[Event] = []
    for last in range(SENT):
        packet = Packet(f"10.9.{last // 250}.{last % 250}", LEGACY[4], UDP(1, 2))
        shown += node.from_pod("web", packet).events
    assert DROPS <= len(shown) <= 2 * DROPS
    assert len(shown) + unshown(node) == SENT
    packet = Packet("10.9.9.9", LEGACY[4], UDP(1, 2))
    assert len(node.from_pod("client", packet).events) == 1


def test_of_another_nodes_pods_each_has_a_share(node: Node, family: int) -> None:
    def arrived(pod: Any, port: int) -> list[Event]:
        inner = Packet(pod[family], WEB[family], TCP(port, 80, "S"))
        return node.from_uplink(Overlay(B, A, pod.identity, inner)).events

    shown = [event for port in range(SENT) for event in arrived(FAR, 1024 + port)]
    assert SHARE <= len(shown) <= 2 * SHARE
    assert len(arrived(FAR_TOO, 1)) == 1


def test_strangers_have_the_share_of_whom_they_ask(node: Node, family: int) -> None:
    """Their sources are anybody's."""
    shown: list[Event] = []
    for number in range(SENT):
        source = {4: f"192.0.{number // 250}.{number % 250 + 1}", 6: f"2001:db8::{number:x}"}
        packet = Packet(source[family], WEB[family], TCP(1, 80, "S"))
        shown += node.from_uplink(packet).events
    assert SHARE <= len(shown) <= 2 * SHARE
    packet = Packet(LEGACY[family], CLIENT[family], TCP(1, 80, "S"))
    assert len(node.from_uplink(packet).events) == 1


def test_of_the_pods_behind_an_uplink_each_has_a_share(node: Node, family: int) -> None:
    """They have one device there; the source is known to be the pod's."""
    node.masquerade(family)

    def left(source: str, port: int) -> list[Event]:
        return node.to_uplink(Packet(source, LEGACY[family], UDP(port, 53))).events

    shown = [event for port in range(SENT) for event in left(WEB[family], 1024 + port)]
    assert SHARE <= len(shown) <= 2 * SHARE
    assert len(left(CLIENT[family], 1)) == 1
