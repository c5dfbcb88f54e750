"""Tenants' pods in the L3VPN of a router: FRR's tables, and packets both ways.

::

    client-1 client-2 (blue)    web-1 web-2 (green)      on east-1 and east-2, the same addresses
          |  SRv6                     |
        router ──────── pe ── pe-blue ── blue     10.50.0.10, fd50::10
                           └─ pe-green ── green   the same addresses

Routes go by BGP only: the edge knows no etcd. A host's log says whose packets it has got.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import Lab, wait

from bgp.routers.vty import Vty

APPS = {"blue": "client", "green": "web"}
SEND = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as sock:
    sock.settimeout(5)
    sock.connect((sys.argv[1], int(sys.argv[2])))
    sock.send(b"word")
    assert sock.recv(99) == b"word"
    print(sock.getsockname()[0])
"""


def vrf(lab: Lab, name: str, **fields: Any) -> dict[str, Any]:
    """A VRF of the pods of an app, with the route target of the edge's tenant."""
    shown = lab.shown["tenants"][name]
    spec = {
        "pods": [{"podSelector": {"matchLabels": {"app": APPS[name]}}}],
        "destinations": [*shown["networks"], "10.60.0.0/16", "fd60::/48"],
        "import": [shown["target"]],
        "addresses": ["10.60.1.0/24", "fd60:0:0:1::/64"],
    }
    head = {"apiVersion": "meshgate.io/v1alpha1", "kind": "VRF", "metadata": {"name": name}}
    return head | {"spec": spec | fields}


def manifest(lab: Lab, cluster: str = "east") -> Path:
    run = Path(lab.environment.get("MESHGATE_RUN", "/run/meshgate"))
    return run / "manifests" / cluster / "vrfs-edge.yaml"


def put(lab: Lab, **fields: Any) -> None:
    """Both VRFs; ``fields`` are those of blue."""
    documents = [vrf(lab, "blue", **fields), vrf(lab, "green")]
    manifest(lab).write_text(yaml.safe_dump_all(documents))


def pods(tenant: str) -> list[str]:
    return [f"east/shop/{APPS[tenant]}-{number}" for number in (1, 2)]


def routes(lab: Lab) -> dict[str, dict[str, Any]]:
    """Routes of the edge on east-1, by tenant and prefix."""
    found = lab.json("route", "list")
    return {
        f"{row['vrf']} {row['prefix']}": row
        for row in found
        if row["origin"] == "peer" and row["vrf"] and row["node"] == "east-1"
    }


def entries(lab: Lab) -> list[str]:
    """What the edge's kernel has, copied from FRR's tables."""
    found: list[str] = lab.json("lab", "show")["hosts"]["pe"]["fake_pe"]["entries"]
    return found


def active(lab: Lab) -> dict[tuple[str, str], str]:
    """SID by VRF and node."""
    rows = lab.json("sid", "list")
    return {(r["vrf"], r["node"]): r["sid"] for r in rows if r["state"] == "active"}


def taken(lab: Lab, tenant: str, sid: str) -> bool:
    """Whether the edge sends to the SID for this tenant, by both families."""
    there = [one for one in entries(lab) if one.startswith(f"pe-{tenant}:") and f" {sid} " in one]
    return len(there) == 2


def complete(lab: Lab) -> bool:
    sids = active(lab)
    places = [(tenant, f"east-{n}") for tenant in APPS for n in (1, 2)]
    known = all(place in sids and taken(lab, place[0], sids[place]) for place in places)
    return known and len([row for row in routes(lab).values() if row["used"]]) == 4


@pytest.fixture(scope="module")
def edge(lab: Lab) -> Iterator[Lab]:
    """The lab with both VRFs, known on both sides."""
    if not lab.shown.get("tenants"):
        pytest.fail("the lab has no edge")
    put(lab)
    try:
        wait(lambda: complete(lab), 45, "the edge and the nodes know each other's routes")
        yield lab
    finally:
        manifest(lab).unlink()
        gone = [f"pe-{tenant}:" for tenant in APPS]
        wait(lambda: not any(one.startswith(tuple(gone)) for one in entries(lab)), 20, "withdrawn")


def seen(lab: Lab, tenant: str) -> list[str]:
    return Path(lab.shown["tenants"][tenant]["log"]).read_text().splitlines()


def say(lab: Lab, tenant: str) -> None:
    """Each pod of a tenant gets its word back from the host of its tenant, by both families."""
    shown = lab.shown["tenants"][tenant]
    for pod in pods(tenant):
        for address in shown["addresses"]:
            source = lab.python(pod, SEND, address, shown["udp"]).strip()
            assert source.startswith(("10.60.1.", "fd60:0:0:1:")), "the tenant address"


def test_pods_reach_the_host_of_their_tenant_and_no_other(edge: Lab) -> None:
    for tenant in APPS:
        before = {one: len(seen(edge, one)) for one in APPS}
        say(edge, tenant)
        after = {one: len(seen(edge, one)) for one in APPS}
        got = {one: after[one] - before[one] for one in APPS}
        assert got == {one: 4 if one == tenant else 0 for one in APPS}


def test_the_router_has_our_sids_and_we_have_its_own(edge: Lab) -> None:
    """Its SIDs come transposed, with an opaque behaviour; ours are those in its kernel."""
    local = {one.split()[1].partition("/")[0] for one in entries(edge) if one.startswith("pe:")}
    found = routes(edge)
    assert {row["sid"] for row in found.values()} == local
    for tenant in APPS:
        for network in edge.shown["tenants"][tenant]["networks"]:
            assert found[f"{tenant} {network}"]["used"]
    with Vty(Path(edge.shown["hosts"]["pe"]["vtySocketDir"]) / "bgpd.vty") as vty:
        text = str(vty.json("show bgp ipv4 vpn"))
    assert all(f"10.99.0.1{n}:" in text for n in (1, 2)), "a distinguisher of each node"


def test_another_sid_is_used_at_once_and_the_old_one_goes_on(edge: Lab) -> None:
    """A change loses nothing: the old SID rests, and decapsulates what is still on its way."""
    node, old = "east-1", active(edge)["blue", "east-1"]
    locator = next(row["locator"] for row in edge.json("node", "list") if row["name"] == node)
    new = str(IPv6Network(locator)[0x100 << 64])
    put(edge, sid=new)
    wait(lambda: taken(edge, "blue", active(edge).get(("blue", node), "-")), 20, "the new SID")
    changed = active(edge)["blue", node]
    assert changed != old
    states = {row["sid"]: row["state"] for row in edge.json("sid", "list")}
    assert states[old] == "resting"
    say(edge, "blue")
    put(edge)
    wait(lambda: taken(edge, "blue", old) and complete(edge), 20, "its owner has the old SID again")
    say(edge, "blue")


def test_tenants_of_two_clusters_reach_each_other_by_bgp(edge: Lab) -> None:
    """The same tenant, with addresses of its own in each cluster; no etcd says a word of it."""
    file = manifest(edge, "west")
    west = vrf(edge, "blue", addresses=["10.60.2.0/24", "fd60:0:0:2::/64"])
    file.write_text(yaml.safe_dump(west))

    def reached(address: str) -> bool:
        ping = "ping", "-c", "1", "-W", "1", address
        return edge.exec("east/shop/client-1", *ping).returncode == 0

    try:
        for address in ("10.60.2.1", "10.60.2.2", "fd60:0:0:2::1", "fd60:0:0:2::2"):
            wait(partial(reached, address), 30, f"{address} answers")
            ping = "ping", "-c", "1", "-W", "1", address
            assert edge.exec("east/shop/web-1", *ping).returncode, "green has no such pod"
    finally:
        file.unlink()
    wait(lambda: not reached("10.60.2.1"), 20, "it is gone")
    wait(lambda: complete(edge), 20, "all is as before")


def test_a_speaker_that_is_killed_and_a_vrf_that_loses_its_target(edge: Lab) -> None:
    edge.kill("east-1/speaker")
    say(edge, "blue")
    edge.revive("east-1/speaker")
    wait(lambda: complete(edge), 30, "its routes are as before")
    put(edge, **{"import": ["65000:999"], "export": []})
    wait(lambda: not any(name.startswith("blue") for name in routes(edge)), 20, "nothing imported")
    wait(
        lambda: not any(one.startswith("pe-blue:") for one in entries(edge)),
        20,
        "nothing announced",
    )
    say(edge, "green")
    put(edge)
    wait(lambda: complete(edge), 20, "all is back")
    say(edge, "blue")
