"""A routed network of a smaller MTU between the nodes, whose uplinks have 1500.

::

    east-1 ─┐                 ┌─ east-2
            ├─ router (1400) ─┤
    west-1 ─┘                 └─ west-2
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import permutations

import pytest
from running import ECHO_PORT, Lab, report, wait

NODES = {"east-1": "10.99.0.11", "east-2": "10.99.0.12", "east-3": "10.99.0.13",
         "west-1": "10.99.0.21", "west-2": "10.99.0.22"}  # fmt: skip
GATEWAYS = ("east-2", "east-3")
ROUTER = "10.99.0.1"
FAMILIES = pytest.mark.parametrize("number", [0, 1], ids=["IPv4", "IPv6"])
NEAR, FAR = "east/shop/web-1", "west/shop/web-1"
CLIENT = "east/shop/client-1"  # covered; its gateway is another node


@contextmanager
def routed(lab: Lab, *narrow: str, metrics: str = "") -> Iterator[None]:
    """The nodes reach each other through the router; ``narrow`` is the MTU behind it."""
    ways = [(name, f"{NODES[to]}/32 via {ROUTER}") for name, to in permutations(NODES, 2)]
    ends = [("router", f"{address}/32 dev br0") for address in NODES.values()]
    routes = [(host, way, metrics) for host, way in ways]
    routes += [(host, way, " ".join(narrow)) for host, way in ends]
    try:
        for host in (*NODES, "router"):
            batch(
                lab, host, (f"replace {way} {more}" for name, way, more in routes if name == host)
            )
        yield
    finally:
        for host in (*NODES, "router"):
            batch(lab, host, (f"del {way}" for at, way, _ in routes if at == host))


def batch(lab: Lab, host: str, routes: Iterable[str]) -> None:
    """Changes of a host's routes by one command; one that is refused stops none of the others."""
    lines = "".join(f"route {one}\n" for one in routes)
    answer = lab.run("lab", "exec", host, "ip", "-force", "-batch", "-", text=lines)
    assert "replace" not in lines or answer.returncode == 0, answer.stderr


def learned(lab: Lab, host: str, to: str) -> int:
    """The MTU that the host's kernel has learned; 0: none."""
    found = json.loads(lab.output(host, "ip", "-j", "route", "get", NODES[to]))[0]
    return int(next((m["mtu"] for m in found.get("metrics", ()) if "mtu" in m), 0))


def streams(lab: Lab, pod: str, address: str, port: int, seconds: int = 6) -> None:
    found = report(lab.probe(pod, "tcp", address, port, seconds))
    assert not found["error"], found
    assert found["received"] > 1 << 20, found
    # Each direction loses its first window. Where the handshake had to wait for a processor, each
    # retransmission comes after more than a second (RFC 6298 2).
    assert found["seconds_at_zero"] <= 4, found
    assert all(found["per_second"][-2:]), found


@FAMILIES
def test_pods_learn_what_a_router_says_about_the_outer_packets(lab: Lab, number: int) -> None:
    address = lab.pod(FAR)["addresses"][number]
    with routed(lab, "mtu", "lock", "1400"), lab.echo_in(FAR):
        streams(lab, NEAR, address, ECHO_PORT)
        assert learned(lab, "east-1", "west-1") == 1400
    wait(lab.healthy, 20, "healthy again")


@FAMILIES
def test_a_path_below_what_ipv6_needs_carries_pieces(lab: Lab, number: int) -> None:
    address = lab.pod(FAR)["addresses"][number]
    with routed(lab, "mtu", "lock", "1000"), lab.echo_in(FAR):
        streams(lab, NEAR, address, ECHO_PORT)
        assert learned(lab, "east-1", "west-1") == 1000
        options = ("--rate", 100, "--size", 1200)
        found = report(lab.probe(NEAR, "udp", address, ECHO_PORT, 2, *options))
        assert found["missing"] == 0, found
    wait(lab.healthy, 20, "healthy again")


@FAMILIES
def test_the_mtu_that_a_route_was_given_counts_at_once(lab: Lab, number: int) -> None:
    """The router keeps to itself why it drops."""
    address = lab.pod(FAR)["addresses"][number]
    rules = """table inet silent {
        chain output { type filter hook output priority 0; icmp code frag-needed drop; }
    }"""
    with routed(lab, "mtu", "lock", "1400", metrics="mtu 1400"), lab.echo_in(FAR):
        lab.output("router", "nft", rules)
        try:
            streams(lab, NEAR, address, ECHO_PORT)
        finally:
            lab.output("router", "nft", "delete", "table", "inet", "silent")


@FAMILIES
def test_legacy_and_a_covered_pod_hear_of_the_path_between_node_and_gateway(
    lab: Lab, number: int
) -> None:
    legacy = lab.shown["legacy"]
    with routed(lab, "mtu", "lock", "1400"):
        streams(lab, CLIENT, legacy["addresses"][number], legacy["tcp"])
        assert 1400 in {learned(lab, "east-1", gateway) for gateway in GATEWAYS}
        assert 1400 in {learned(lab, gateway, "east-1") for gateway in GATEWAYS}
    wait(lab.healthy, 20, "healthy again")
