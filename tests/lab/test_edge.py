"""The provider edge of the lab: FRR as control plane, kernel seg6 as datapath, tenants kept apart.

::

    nodes ── router ── pe ─┬─ pe-blue ─ blue      10.50.0.10, fd50::10
                           └─ pe-green ─ green    the same addresses

The tenants' pods are not part of these tests. What a node would send is made here by the kernel of
the router, which encapsulates for the SIDs of the edge.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from running import Lab, wait

from bgp.routers.vty import Vty

TENANTS = ("blue", "green")
FAMILIES = pytest.mark.parametrize("family", ["ipv4", "ipv6"])
SEND = (
    "import socket, sys; s = socket.socket("
    "socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM); "
    "s.bind(('', int(sys.argv[3]))); s.sendto(b'word', (sys.argv[1], int(sys.argv[2])))"
)
LOCATOR = "fcbb:bbfe:0:5::/64"


def table(lab: Lab, host: str, command: str) -> Any:
    """The JSON that a host's bgpd prints."""
    folder = lab.shown["hosts"]["pe"]["vtySocketDir"] if host == "pe" else lab.shown["vtySocketDir"]
    with Vty(Path(folder) / "bgpd.vty") as vty:
        return vty.json(command)


def sids(lab: Lab) -> dict[str, str]:
    """SID of each tenant's VRF and family, by the device and the action that the fake gave it."""
    found = {}
    for line in lab.json("lab", "show")["hosts"]["pe"]["fake_pe"]["entries"]:
        words = line.split()
        if words[0] == "pe:":
            found[f"{words[-1]} {words[5]}"] = words[1].partition("/")[0]
    return found


def seen(lab: Lab, tenant: str) -> list[str]:
    return Path(lab.shown["tenants"][tenant]["log"]).read_text().splitlines()


def test_the_edge_has_a_session_and_gives_its_tenants_networks_to_the_router(lab: Lab) -> None:
    def learned() -> bool:
        found = {
            (rd, prefix)
            for family in ("ipv4", "ipv6")
            for rd, rows in table(lab, "router", f"show bgp {family} vpn")
            .get("routes", {})
            .get("routeDistinguishers", {})
            .items()
            for prefix in rows
        }
        networks = ("10.50.0.0/24", "fd50::/64")
        return {(f"10.99.0.5:{n}", one) for n in (1, 2) for one in networks} <= found

    wait(learned, 20, "the router has the VPN routes of both tenants")


def test_the_router_leads_to_the_edges_locator(lab: Lab) -> None:
    command = ("ip", "-6", "route", "show", LOCATOR)
    wait(lambda: "proto bgp" in lab.output("router", *command), 20, "the router has the locator")


def test_the_fake_has_a_sid_of_bgpd_for_each_tenant_and_family(lab: Lab) -> None:
    wait(lambda: len(sids(lab)) == 4, 20, "four SIDs")
    with Vty(Path(lab.shown["hosts"]["pe"]["vtySocketDir"]) / "bgpd.vty") as vty:
        said = vty.ask("show bgp segment-routing srv6")
    assert all(sid in said for sid in sids(lab).values())
    status = lab.json("lab", "show")["hosts"]["pe"]["fake_pe"]
    assert not status["refused"]
    assert "bgpd's tables" in status["does"]


@contextmanager
def encapsulated(lab: Lab, address: str, sid: str) -> Iterator[None]:
    """A route of the router's kernel to a tenant's host, through a SID of the edge."""
    family = "-6" if ":" in address else "-4"
    route = (address, "encap", "seg6", "mode", "encap", "segs", sid, "dev", "br0")
    lab.output("router", "ip", family, "route", "add", *route)
    try:
        yield
    finally:
        lab.output("router", "ip", family, "route", "del", address)


@FAMILIES
@pytest.mark.parametrize("tenant", TENANTS)
def test_a_packet_for_a_tenants_sid_reaches_that_tenant_alone(
    lab: Lab, tenant: str, family: str
) -> None:
    wait(lambda: len(sids(lab)) == 4, 20, "four SIDs")
    number = int(family == "ipv6")
    told = lab.shown["tenants"][tenant]
    address, action = told["addresses"][number], ("End.DX4", "End.DX6")[number]
    port = 20_000 + 10 * TENANTS.index(tenant) + number
    with encapsulated(lab, address, sids(lab)[f"{tenant} {action}"]):
        lab.output("router", sys.executable, "-c", SEND, address, told["udp"], port)
    wait(lambda: any(line.endswith(f" {port}") for line in seen(lab, tenant)), 5, "it arrives")
    (other,) = set(TENANTS) - {tenant}
    assert not any(line.endswith(f" {port}") for line in seen(lab, other))


@FAMILIES
def test_a_tenant_reaches_nothing_without_a_route_of_the_vpn(lab: Lab, family: str) -> None:
    """Not the edge's address, not the router's, not a node's: its VRF has no way there."""
    targets = {"ipv4": ("10.99.0.5", "10.99.0.1"), "ipv6": ("fd99::5", "fd99::1", "fd99::11")}
    for target in targets[family]:
        assert lab.exec("blue", "ping", "-c", "1", "-W", "1", target).returncode, target


def test_the_fake_removes_what_bgpd_has_lost(lab: Lab) -> None:
    wait(lambda: len(sids(lab)) == 4, 20, "four SIDs")
    assert lab.run("lab", "stop", "pe/bgpd").returncode == 0
    try:
        wait(lambda: not sids(lab), 10, "no entries without bgpd")
        left = lab.output("pe", "ip", "-j", "-6", "route", "show", "table", "60")
        assert json.loads(left or "[]") == []
    finally:
        lab.revive("pe/bgpd")
    wait(lambda: len(sids(lab)) == 4, 30, "four SIDs again")


def test_bfdd_knows_its_profile_and_sessions_without_an_answer_stay_up(lab: Lab) -> None:
    with Vty(Path(lab.shown["vtySocketDir"]) / "bfdd.vty") as vty:
        peers = {row["peer"]: row for row in vty.json("show bfd peers")}
    assert "10.99.0.11" in peers
    assert peers["10.99.0.11"]["receive-interval"] == 300
    assert peers["10.99.0.11"]["detect-multiplier"] == 3
    assert all(row["state"].lower() == "established" for row in lab.table("peer"))
