"""Two tenants with the same addresses on the nodes of a cluster.

::

    east-1: client-1 (tenant-a)  web-1 (tenant-b)   both: 10.70.1.x, fd70:1::x, one or the other
       |          SRv6, End.DT46 of each VRF and node, routes by etcd
    east-2: client-2 (tenant-a)  web-2 (tenant-b)

Reachability and isolation: who answers says its name, and both tenants' pods have the address that
is asked.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import Lab, wait

TENANTS = {"tenant-a": "client", "tenant-b": "web"}
SERVE = """
import socket, sys, threading
name, port = sys.argv[1].encode(), int(sys.argv[2])
def tcp(family, where):
    with socket.create_server((where, port), family=family) as server:
        while True:
            peer, _ = server.accept()
            with peer:
                peer.sendall(name)
def udp(family, where):
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((where, port))
        while True:
            _, peer = sock.recvfrom(99)
            sock.sendto(name, peer)
jobs = [(job, *end) for job in (tcp, udp) for end in
        ((socket.AF_INET, sys.argv[3]), (socket.AF_INET6, sys.argv[4]))]
threads = [threading.Thread(target=job, args=rest) for job, *rest in jobs]
for one in threads:
    one.start()
print("serves", flush=True)
"""
ASK = """
import socket, sys
where, port = sys.argv[1], int(sys.argv[2])
with socket.create_connection((where, port), 5) as sock:
    said = sock.recv(99)
with socket.socket(sock.family, socket.SOCK_DGRAM) as other:
    other.settimeout(5)
    other.connect((where, port))
    for _ in range(3):
        other.send(b"?")
        assert other.recv(99) == said
print(said.decode())
"""
PORT = 7100


def vrf(name: str, app: str, number: int) -> dict[str, Any]:
    spec = {
        "pods": [{"podSelector": {"matchLabels": {"app": app}}}],
        "destinations": ["10.70.0.0/16", "fd70::/16"],
        "import": [f"65001:{number}"],
        "addresses": ["10.70.1.0/24", "fd70:1::/64"],
    }
    head = {"apiVersion": "meshgate.io/v1alpha1", "kind": "VRF", "metadata": {"name": name}}
    return head | {"spec": spec}


def pods(tenant: str) -> list[str]:
    return [f"east/shop/{TENANTS[tenant]}-{number}" for number in (1, 2)]


def tenant_addresses(lab: Lab, pod: str) -> list[str]:
    """IPv4 and IPv6, of those that the pod has."""
    found = lab.output(pod, "ip", "-o", "addr", "show", "dev", "eth0").split()
    texts = [text.partition("/")[0] for text in found if text.startswith(("10.70.", "fd70:"))]
    return sorted(texts, key=lambda text: ":" in text)


def rows(lab: Lab, noun: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = lab.json(noun, "list")
    return found


def ready(lab: Lab) -> bool:
    """Both VRFs have a SID on both nodes, and their pods have addresses."""
    sids = [(row["vrf"], row["node"]) for row in rows(lab, "sid") if row["state"] == "active"]
    wanted = {(tenant, f"east-{n}") for tenant in TENANTS for n in (1, 2)}
    return set(sids) >= wanted and all(
        len(tenant_addresses(lab, pod)) == 2 for tenant in TENANTS for pod in pods(tenant)
    )


@pytest.fixture(scope="module")
def tenants(lab: Lab) -> Iterator[Lab]:
    """The lab with both VRFs, and a server in each of their pods."""
    folder = Path(lab.environment.get("MESHGATE_RUN", "/run/meshgate")) / "manifests" / "east"
    file = folder / "vrfs.yaml"
    documents = [vrf(name, app, n) for n, (name, app) in enumerate(TENANTS.items(), 100)]
    file.write_text(yaml.safe_dump_all(documents))
    servers = []
    try:
        wait(lambda: ready(lab), 30, "both tenants are there")
        for tenant in TENANTS:
            for pod in pods(tenant):
                name = f"{tenant} {pod[-1]}"
                addresses = tenant_addresses(lab, pod)
                servers.append(lab.start(pod, "python3", "-c", SERVE, name, PORT, *addresses))
        for server in servers:
            assert server.stdout
            assert server.stdout.readline() == "serves\n"
        yield lab
    finally:
        for server in servers:
            server.send_signal(signal.SIGKILL)
            server.wait()
        file.unlink()
        wait(lambda: TENANTS.keys().isdisjoint(row["name"] for row in rows(lab, "vrf")), 15, "gone")


def asked(lab: Lab, pod: str, address: str) -> str:
    return lab.python(pod, ASK, address, PORT).strip()


def everybody(lab: Lab) -> dict[str, set[str]]:
    """Who answers the pods of each tenant, by both families, TCP and UDP."""
    return {
        tenant: {
            asked(lab, one, address)
            for one, other in (pods(tenant), pods(tenant)[::-1])
            for address in tenant_addresses(lab, other)
        }
        for tenant in TENANTS
    }


ALL = {"tenant-a": {"tenant-a 1", "tenant-a 2"}, "tenant-b": {"tenant-b 1", "tenant-b 2"}}


def test_tenants_with_the_same_addresses_reach_their_own_pods_only(tenants: Lab) -> None:
    addresses = [
        {address for pod in pods(tenant) for address in tenant_addresses(tenants, pod)}
        for tenant in TENANTS
    ]
    assert addresses[0] == addresses[1], "both tenants have the same addresses"
    assert everybody(tenants) == ALL


@pytest.mark.parametrize("number", [0, 1], ids=["IPv4", "IPv6"])
def test_a_ping_goes_from_a_pod_of_the_vrf_to_an_address_of_it(tenants: Lab, number: int) -> None:
    first, second = pods("tenant-a")
    source, to = (tenant_addresses(tenants, pod)[number] for pod in (first, second))
    from_first = ("--pod", first.partition("/")[2], "--count", "1")
    (echo,) = tenants.json("vrf", "ping", "tenant-a", to, *from_first)
    assert (echo["source"], echo["destination"], echo["error"]) == (source, to, "")
    assert echo["ms"] > 0
    nowhere = ["10.70.9.9", "fd70:9::9"][number]
    (echo,) = tenants.json("vrf", "ping", "tenant-a", nowhere, *from_first)
    assert (echo["ms"], echo["error"]) == (None, "destination unreachable (code 0)")


def test_the_mesh_knows_no_tenant_address(tenants: Lab) -> None:
    """No host route, no address of the mesh; the pods' own addresses work as before."""
    shown = {row["address"] for row in rows(tenants, "address")}
    for tenant in TENANTS:
        for pod in pods(tenant):
            node = tenants.pod(pod)["node"]
            for address in tenant_addresses(tenants, pod):
                assert address not in shown
                route = tenants.output(node, "ip", "route", "show", "table", "all", address)
                assert "mgp" not in route
    other = tenants.pod("east/shop/web-2")["addresses"][0]
    assert tenants.exec("east/shop/client-1", "ping", "-c", "1", "-W", "2", other).returncode == 0


def test_the_lists_say_what_is_there(tenants: Lab) -> None:
    found = {row["name"]: row for row in rows(tenants, "vrf")}
    assert set(found) >= set(TENANTS)
    assert [*found["tenant-a"]] == [
        "name", "number", "rd", "import", "export", "pods", "sids", "routes",
    ]  # fmt: skip
    assert found["tenant-a"]["pods"] == 3
    assert len(found["tenant-b"]["sids"]) == 3
    assert found["tenant-a"]["number"] != found["tenant-b"]["number"]
    [shown] = tenants.json("vrf", "show", "tenant-a")
    assert shown == found["tenant-a"]


def test_tenants_go_on_without_agents_speakers_and_controllers(tenants: Lab) -> None:
    """What is in the maps needs nobody."""
    killed = [
        "east-1/agent", "east-2/agent", "east-1/controller",
        "east-1/speaker", "east-2/speaker",
    ]  # fmt: skip
    tenants.kill(*killed)
    try:
        assert everybody(tenants) == ALL
    finally:
        tenants.revive(*killed)
    wait(lambda: ready(tenants), 30, "all processes are back")
    assert everybody(tenants) == ALL
