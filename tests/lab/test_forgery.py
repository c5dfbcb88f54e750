"""Forged sources, from pods and on the overlay: a named drop each, and nothing arrives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from running import Lab, wait
from wiretap import send_from_pod, send_overlay, taps, udp

MARK = b"forged!!"
POD, TARGET = "east/shop/web-1", "west/shop/web-1"
#: Of the target's cluster, on its other node.
NEIGHBOUR = "west/shop/client-2"


class Facts:
    """Addresses by name, in one family."""

    def __init__(self, lab: Lab, at: int) -> None:
        rows = lab.table("pod")
        self.pods = {f"{r['cluster']}/{r['namespace']}/{r['name']}": r for r in rows}
        self.pod = {name: row["addresses"][at] for name, row in self.pods.items()}
        self.identity = {name: row["identity"] for name, row in self.pods.items()}
        self.node = {row["name"]: row["addresses"][at] for row in lab.table("node")}
        self.endpoint = {row["name"]: row["addresses"][0] for row in lab.table("node")}
        self.egress = {row["cluster"]: row["addresses"][at] for row in lab.shown["egress"]}
        self.legacy = lab.shown["legacy"]["addresses"][at]
        self.stranger = ("203.0.113.9", "2001:db8:ffff::1")[at]
        blocks = [b for b in lab.table("block") if b["address"] == self.egress["east"]]
        self.port = {row["node"]: row["first"] + 7 for row in blocks}


@pytest.fixture(scope="module", params=[0, 1], ids=["IPv4", "IPv6"])
def facts(lab: Lab, request: pytest.FixtureRequest) -> Facts:
    return Facts(lab, request.param)


def drops(lab: Lab, node: str) -> dict[int, int]:
    """Packets by reason."""
    return {r["number"]: r["packets"] for r in lab.table("drop") if r["node"] == node}


def refused(lab: Lab, node: str, reasons: list[int], target: str, send: Callable[[], None]) -> None:
    """What is sent is counted once under each reason and nothing else, and does not arrive."""
    before = drops(lab, node)

    def counted() -> list[int]:
        now = drops(lab, node)
        return sorted(n for n in now for _ in range(now[n] - before.get(n, 0)))

    with taps(lab, target) as made:
        send()
        wait(lambda: len(counted()) >= len(reasons), 5, f"{reasons} are counted")
        got = [p for p in made[target].packets() if p.vni is None and MARK in p.payload]
    assert counted() == sorted(reasons)
    assert not got


@pytest.mark.parametrize("target", [TARGET, "legacy"])
def test_a_pod_sends_only_from_its_own_address(lab: Lab, facts: Facts, target: str) -> None:
    """Not from another pod's, a node's, the egress address or any other."""
    to = facts.legacy if target == "legacy" else facts.pod[target]
    forged = [
        *(facts.pod["east/shop/client-1"], facts.pod["west/shop/client-1"]),
        *(facts.node["east-1"], facts.node["west-1"], facts.egress["east"], facts.stranger),
    ]

    def send() -> None:
        for source in forged:
            send_from_pod(lab, POD, udp(source, to, 5555, 7007, MARK))

    refused(lab, "east-1", [132] * len(forged), target, send)


#: what is wrong, reason, who sends, VNI (a pod's name: its identity), pod or node of the source.
#: Nodes of other clusters may be of another make and say 2 and 6 of their pods: the identity that
#: counts is that of the pod's row. Nodes of our own cluster never do.
OVERLAY: list[tuple[str, int, str, Any, str]] = [
    ("the outer source is no node", 172, "etcd", POD, POD),
    ("the VNI is of another cluster", 192, "east-1", TARGET, POD),
    ("the VNI is reserved", 171, "east-1", 1, POD),
    ("the VNI is that of a gateway's reply", 171, "west-2", 2, NEIGHBOUR),
    ("the inner source is behind another node", 132, "east-1", POD, "east/shop/web-2"),
    ("the inner source is of another cluster", 132, "east-1", POD, "west/shop/client-2"),
    ("a node's VNI with a pod's source", 132, "west-2", 6, NEIGHBOUR),
    ("a node's VNI with another node's source", 132, "east-1", 6, "east-2"),
]


def test_the_overlay_delivers_only_what_its_sender_may_send(lab: Lab, facts: Facts) -> None:
    sources = facts.pod | facts.node

    def send() -> None:
        for _, _, host, vni, source in OVERLAY:
            number = facts.identity[vni] if isinstance(vni, str) else vni
            packet = udp(sources[source], facts.pod[TARGET], 5555, 7007, MARK)
            send_overlay(lab, host, facts.endpoint["west-1"], number, packet)

    refused(lab, "west-1", [reason for _, reason, *_ in OVERLAY], TARGET, send)


def test_a_gateway_forwards_only_from_ports_of_the_senders_blocks(lab: Lab, facts: Facts) -> None:
    """Not another node's, nobody's, nor those of another cluster's node."""

    def send() -> None:
        for host, port in (("east-1", "east-2"), ("west-1", "east-1"), ("east-1", "")):
            number = facts.port[port] if port else 60_000
            packet = udp(facts.egress["east"], facts.legacy, number, 7007, MARK)
            identity = facts.identity[f"{host[:4]}/shop/client-1"]
            send_overlay(lab, host, facts.endpoint["east-2"], identity, packet)

    refused(lab, "east-2", [220] * 3, "legacy", send)


def test_replies_come_from_the_gateway_of_their_address(lab: Lab, facts: Facts) -> None:
    """Another node's, another cluster's gateway's and those to a pod's own address are refused."""
    reply = udp(facts.legacy, facts.egress["east"], 7007, facts.port["east-1"], MARK)
    direct = udp(facts.legacy, facts.pod["east/shop/client-1"], 7007, 5555, MARK)

    def send() -> None:
        for host, packet in (("west-1", reply), ("west-2", reply), ("east-2", direct)):
            send_overlay(lab, host, facts.endpoint["east-1"], 2, packet)

    refused(lab, "east-1", [224] * 3, "east/shop/client-1", send)
