"""Tunnels end at the first IPv4 address of the Node object, on whatever device the host has it.

The fabric knows no pod CIDR (``overlay_lab``)::

    east-1 east-2 west-1 etcd ── router ── 10.0.0.21 on lo of west-1
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest
from running import ECHO_PORT, Lab, report, wait
from test_changes import change, manifests
from wiretap import taps

ENDPOINT, FORMER = "10.0.0.21", "10.99.0.21"
EAST, WEST = "east/shop/web-1", "west/shop/web-1"


@pytest.fixture(scope="module")
def lab(overlay_lab: Lab) -> Lab:
    return overlay_lab


@contextmanager
def on_loopback(lab: Lab) -> Iterator[None]:
    """The address on lo of west-1, and the fabric's route to it."""
    lab.output("west-1", "ip", "addr", "add", f"{ENDPOINT}/32", "dev", "lo")
    lab.output("router", "ip", "route", "add", f"{ENDPOINT}/32", "via", FORMER)
    try:
        with manifests(lab, "west") as directory:
            change(directory / "nodes.yaml", f"address: {FORMER}", f"address: {ENDPOINT}")
            yield
    finally:
        wait(lambda: not said(lab), 30, "the former endpoint is followed")
        lab.output("west-1", "ip", "addr", "del", f"{ENDPOINT}/32", "dev", "lo")
        lab.output("router", "ip", "route", "del", f"{ENDPOINT}/32")


def said(lab: Lab) -> list[str]:
    return [f["code"] for f in lab.json("status")["findings"] if f["code"] in ("D602", "D607")]


def carried(lab: Lab) -> list[dict[str, object]]:
    """Datagrams of two sizes, each way; the kernel's device cuts the large ones."""
    found = []
    with lab.echo_in(EAST, WEST):
        for one, other in ((EAST, WEST), (WEST, EAST)):
            for address in lab.pod(other)["addresses"]:
                for size in (64, 4000):
                    pace = ("--rate", 50, "--size", size)
                    found.append(report(lab.probe(one, "udp", address, ECHO_PORT, 1, *pace)))
    return found


def test_an_endpoint_on_the_loopback_device(lab: Lab) -> None:
    before = lab.processes()["west-1/agent"]
    address = lab.pod(WEST)["addresses"][0]
    with on_loopback(lab):
        wait(lambda: not said(lab) and tunnelled(lab, address) == {ENDPOINT}, 40, "it is followed")
        assert [one["missing"] for one in carried(lab)] == [0] * 8
        assert lab.processes()["west-1/agent"] == before
        lab.kill("west-1/agent")
        lab.revive("west-1/agent")
        for _ in range(8):  # a new agent does not know the object yet
            assert not said(lab)
        assert tunnelled(lab, address) == {ENDPOINT}
    wait(lambda: tunnelled(lab, address) == {FORMER}, 20, "and given back")


def tunnelled(lab: Lab, address: str) -> set[str]:
    """Outer addresses of west-1 in packets of its pod, which has this address."""
    with taps(lab, "west-1", device="uplink") as made:
        lab.exec(EAST, "ping", "-c", "3", "-i", "0.2", "-W", "1", address)
        seen = [p for p in made["west-1"].packets() if p.source == ip_address(address)]
    return {str(p.sender) for p in seen}
