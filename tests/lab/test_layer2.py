"""Egress addresses on layer 2: the router asks on the fabric who has them, and one gateway answers.

::

    web-1 (east-1) ─┬─ east-2 ─┬─ br0 ── router ── firewall ── legacy
                    └─ east-3 ─┘

The owner is killed, cut, stopped and drained under load.

A gateway that is gone is found out by the node that sends to it, and replaced because that node
says so (D213). What that may cost is judged by what was measured meanwhile: the gap outwards is the
time until it was found out. Then the agent that has found out, etcd, the controller, etcd again and
the agent of the new owner have work to do, one after the other, which takes as much longer than on
a quiet machine as other work does.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from running import SOAK, Lab, egress, evict, wait
from test_ended import manifest

from gateway.layer2 import mac_text, virtual_mac

POD = "east/shop/web-1"
ITS_NODE = "east-1"
#: What is allowed on a quiet machine: all of it, and behind the time until it was found out.
MOST_MS, WORK_MS = 150.0, 100.0
ADDRESSES = {4: "10.99.0.129", 6: "fd99::81"}
MACS = {family: mac_text(virtual_mac(ip_address(text))) for family, text in ADDRESSES.items()}
NETWORKS = {4: "10.99.0.128/30", 6: "fd99::80/126"}
ROUTER = {4: "10.99.0.1", 6: "fd99::1"}
GATEWAYS = ("east-2", "east-3")
LOAD = ("--lanes", "8", "--rate", "1000") if SOAK else ("--lanes", "2", "--rate", "100")
MANIFEST = f"""
apiVersion: meshgate.io/v1alpha1
kind: EgressPool
metadata: {{name: segment}}
spec: {{cidrs: [{NETWORKS[4]}, "{NETWORKS[6]}"], announce: L2}}
---
apiVersion: meshgate.io/v1alpha1
kind: EgressPolicy
metadata: {{name: segment}}
spec:
  selectors: [{{podSelector: {{matchLabels: {{app: web}}}}}}]
  destinationCIDRs: [192.0.2.0/24, "2001:db8:2::/64"]
  pool: segment
  gateways: {{nodeSelector: {{matchLabels: {{role: gateway}}}}}}
"""


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - figures


@pytest.fixture(scope="module")
def segment(bfd_lab: Lab) -> Iterator[Lab]:
    """The lab with a pool that is announced on layer 2."""
    for family, address in ADDRESSES.items():  # its group is none that the firewall fetches
        allowed = (f"egress{family}", f"{{ {address} }}")
        bfd_lab.output("firewall", "nft", "add", "element", "inet", "firewall", *allowed)
    with manifest(bfd_lab, "segment.yaml", MANIFEST):
        wait(lambda: all(owner(bfd_lab, f) for f in ADDRESSES), 30, "the addresses have owners")
        with bfd_lab.echo_in(POD):
            yield bfd_lab
    wait(lambda: states(bfd_lab) <= {"draining"}, 30, "what the policy had drains")
    # What has been closed has its ports for four minutes. A drain can be ended once it is a claim.
    wait(lambda: not states(bfd_lab) or evicted(bfd_lab), 30, "its connections are ended")
    wait(lambda: not egress(bfd_lab, "release", "segment").returncode, 90, "its feed is released")
    bfd_lab.settle()


def owners(lab: Lab) -> dict[str, str]:
    """Node by address, as ``egress list`` says it."""
    rows = [row for row in lab.table("egress") if row["policy"] == "segment"]
    found: dict[str, str] = {}
    for row in rows:
        found |= row["owners"] or {}
    return found


def states(lab: Lab) -> set[str]:
    return {str(row["state"]) for row in lab.table("egress") if row["policy"] == "segment"}


def evicted(lab: Lab) -> bool:
    """Whether the drains of all addresses were there to be ended."""
    return all(not evict(lab, address).returncode for address in ADDRESSES.values())


def owner(lab: Lab, family: int) -> str:
    return owners(lab).get(ADDRESSES[family], "")


def neighbour(lab: Lab, family: int) -> str:
    """The MAC address that the router has for the address, asked anew."""
    address = ADDRESSES[family]
    lab.exec("router", "ip", f"-{family}", "neigh", "del", address, "dev", "br0")
    lab.exec("router", "ping", f"-{family}", "-c", "1", "-W", "1", address)
    said = lab.output("router", "ip", f"-{family}", "-j", "neigh", "show", address)
    rows: list[dict[str, Any]] = json.loads(said or "[]")
    return next((row.get("lladdr", "") for row in rows), "")


def port(lab: Lab, family: int) -> str:
    """The port of the bridge behind which the switch has the virtual MAC address."""
    rows = json.loads(lab.output("router", "bridge", "-j", "fdb", "show", "br", "br0"))
    found = [row["ifname"] for row in rows if row["mac"] == MACS[family]]
    return str(found[0]) if found else ""


@pytest.mark.parametrize("family", [4, 6])
def test_the_router_learns_the_virtual_mac_behind_the_owner(segment: Lab, family: int) -> None:
    assert neighbour(segment, family) == MACS[family]
    assert port(segment, family) == owner(segment, family)


def test_packets_come_from_the_address_and_go_back(segment: Lab) -> None:
    found = drill(segment, GATEWAYS[0], "none", "--seconds", "1")
    assert (found["outwards"]["lost"], found["back"]["lost"]) == (0, 0), found


def drill(lab: Lab, gateway: str, how: str, *more: object) -> dict[str, Any]:
    words = ("egress", "drill", "--kill", gateway, "--how", how, "--pod", POD, *LOAD, *more)
    said = lab.run(*words, "-o", "json")
    assert said.stdout, said.stderr
    found: dict[str, Any] = json.loads(said.stdout)
    for way in ("outwards", "back"):
        gaps = ", ".join(f"{gap:.0f}" for gap in found[way]["gaps_ms"])
        lost, came = found[way]["lost"], found[way]["came"]
        say(f"{gateway} {how} {more} {way}: {lost} of {came + lost} lost, gaps {gaps or 'none'} ms")
    assert found["survived"] == found["connections"] == 50, found
    return found


@contextmanager
def slowness() -> Iterator[list[float]]:
    """How many times its processor time some work has taken at most, when it has ended."""
    found, ended = [1.0], threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            begun, worked = time.monotonic(), time.thread_time()
            while (spent := time.thread_time() - worked) < 0.005:
                pass
            found[0] = max(found[0], (time.monotonic() - begun) / spent)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def replaced(lab: Lab, node: str, since: int) -> dict[str, set[str]]:
    """Why the controller has replaced this owner: who said that it is silent, by address."""
    path = Path(lab.environment["MESHGATE_RUN"]) / "east-1/controller.log"
    found: dict[str, set[str]] = {}
    for line in path.read_text().splitlines()[since:]:
        _, event, text = line.partition("event=owner_wanted ")
        words = dict(word.split("=") for word in text.partition(" silent_to=")[0].split())
        if event and words["before"] == node:
            said = {*text.partition(" silent_to=")[2].split()}
            found.setdefault(words["address"], said)
    return found


def lines(lab: Lab) -> int:
    """How many lines the controller's log has."""
    path = Path(lab.environment["MESHGATE_RUN"]) / "east-1/controller.log"
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("how", ["drain", "hang", "kill-agent"])
def test_an_owner_without_its_agent_or_its_role_costs_nothing(segment: Lab, how: str) -> None:
    wait(lambda: bool(owner(segment, 4)), 30, "there is an owner")
    node = owner(segment, 4)
    found = drill(segment, node, how, "--seconds", "4" if how == "drain" else "5")
    assert (found["outwards"]["lost"], found["back"]["lost"]) == (0, 0), found
    wait(lambda: all(neighbour(segment, f) == MACS[f] for f in ADDRESSES), 20, "it answers")


@pytest.mark.parametrize(("how", "_"), [("cut", 1), ("kill", 1), ("cut", 2), ("kill", 2)])
def test_an_owner_that_is_gone_is_replaced_as_soon_as_it_is_found_out(
    segment: Lab, how: str, _: int
) -> None:
    """Each way twice: what a node has said before makes it no worse a witness."""
    wait(lambda: len(owners(segment)) == len(ADDRESSES), 30, "the addresses have owners")
    node, since = owner(segment, 4), lines(segment)
    owned = {address for address, name in owners(segment).items() if name == node}
    with slowness() as slow:
        found = drill(segment, node, how, "--seconds", "4")
    found_out = replaced(segment, node, since)
    assert found_out.keys() == owned
    for address, said in found_out.items():
        assert ITS_NODE in said, f"{address}: replaced since {said} had found it out"
    detected = max(found["outwards"]["gaps_ms"], default=0.0)
    most = max(MOST_MS, detected + WORK_MS * slow[0])
    say(f"{node} {how}: found out in {detected:.0f} ms, {slow[0]:.1f} times as slow: {most:.0f} ms")
    assert max(found["back"]["gaps_ms"], default=0.0) <= most, found
    wait(lambda: all(neighbour(segment, f) == MACS[f] for f in ADDRESSES), 20, "it answers")
