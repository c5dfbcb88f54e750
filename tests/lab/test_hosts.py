"""Hosts and pods of other nodes, where the fabric knows no pod CIDR: by the overlay, both ways.

The clusters have no contract with each other: each is provisional in the other one.

::

    east-1 east-2 west-1 etcd ── router (no BGP)
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from running import ECHO, ECHO_PORT, Lab, report, url, wait
from test_import_firewall import EVIL, NODE, PUBLIC_4, PUBLIC_6, findings, store, write, write_until
from wiretap import Packet, taps

HOSTS = {"east-1": ("10.99.0.11", "fd99::11"), "east-2": ("10.99.0.12", "fd99::12")}
CURL = ("curl", "-s", "-m", "3", "-o", "/dev/null", "-w", "%header{x-pod} ")
EAST_2 = ("10.1.1.0/24", "fd01:0:0:1::/64")
FAMILIES = pytest.mark.parametrize("number", [0, 1], ids=["IPv4", "IPv6"])


@pytest.fixture(scope="module")
def lab(overlay_lab: Lab) -> Lab:
    return overlay_lab


@contextmanager
def echo_on(lab: Lab, host: str) -> Iterator[None]:
    """An echo server on a host."""
    server = lab.start(host, sys.executable, ECHO, ECHO_PORT, ECHO_PORT)
    try:
        wait(lambda: str(ECHO_PORT) in lab.output(host, "ss", "-ltn"), 5, f"{host} listens")
        yield
    finally:
        server.terminate()
        server.wait(10)


def between(packets: list[Packet], one: str, other: str) -> list[Packet]:
    ends = {ip_address(one), ip_address(other)}
    return [packet for packet in packets if {packet.source, packet.destination} == ends]


def routed(lab: Lab, host: str, prefix: str) -> bool:
    """Whether the host has our route to the prefix."""
    family = "-6" if ":" in prefix else "-4"
    return "mg_vxlan" in lab.output(host, "ip", family, "route", "show", prefix)


@FAMILIES
@pytest.mark.parametrize("web", ["east/shop/web-2", "west/shop/web-1"])
def test_a_host_reaches_pods_of_other_nodes_and_of_clusters_that_announce_nothing(
    lab: Lab, web: str, number: int
) -> None:
    """The first one waits until the clusters know each other's pods: nothing is wrong before."""
    to = url(lab.pod(web)["addresses"][number])
    wait(lambda: lab.exec("east-1", *CURL, to).stdout.split() == [web], 10, f"{web} answers")


@FAMILIES
def test_both_directions_of_a_hosts_connection_are_in_the_overlay(lab: Lab, number: int) -> None:
    pod, host = lab.pod("east/shop/web-2"), HOSTS["east-1"][number]
    address = pod["addresses"][number]
    with taps(lab, "east-1", device="uplink") as made:
        lab.output("east-1", *CURL, url(address))
        seen = between(made["east-1"].packets(), host, address)
    ways = {(str(packet.source), str(packet.sender), packet.vni) for packet in seen}
    assert ways == {
        (host, HOSTS["east-1"][0], 6), (address, HOSTS["east-2"][0], pod["identity"]),
    }  # fmt: skip


@FAMILIES
def test_both_directions_of_a_pods_connection_to_a_host_are_in_the_overlay(
    lab: Lab, number: int
) -> None:
    pod, host = lab.pod("east/shop/client-1"), HOSTS["east-2"][number]
    address = pod["addresses"][number]
    with echo_on(lab, "east-2"), taps(lab, "east-2", device="uplink") as made:
        found = report(lab.probe("east/shop/client-1", "tcp", host, ECHO_PORT, 1))
        seen = between(made["east-2"].packets(), host, address)
    assert not found.get("error"), found
    ways = {(str(packet.source), str(packet.sender), packet.vni) for packet in seen}
    assert ways == {
        (address, HOSTS["east-1"][0], pod["identity"]), (host, HOSTS["east-2"][0], 6),
    }  # fmt: skip


@FAMILIES
@pytest.mark.parametrize("size", [64, 1400, 4000])
def test_datagrams_pass_whole_and_in_pieces(lab: Lab, size: int, number: int) -> None:
    pace = ("--rate", 100, "--size", size)
    host, web = HOSTS["east-2"][number], lab.pod("east/shop/web-2")["addresses"][number]
    with echo_on(lab, "east-2"), lab.echo_in("east/shop/web-2"):
        out = lab.probe("east/shop/client-1", "udp", host, ECHO_PORT, 2, *pace)
        back = lab.probe("east-1", "udp", web, ECHO_PORT, 2, *pace)
        reports = [report(out), report(back)]
    assert [found["missing"] for found in reports] == [0, 0], reports


@FAMILIES
def test_a_host_process_reaches_all_backends_of_a_service(lab: Lab, number: int) -> None:
    row = next(r for r in lab.table("service") if (r["cluster"], r["name"]) == ("east", "web"))
    curl = f"curl -s -m 5 -o /dev/null -w '%header{{x-pod}}\\n' {url(row['addresses'][number], 80)}"
    answers = Counter(
        lab.output("east-1", "bash", "-c", f"for n in $(seq 30); do {curl}; done").split()
    )
    assert set(answers) == {"east/shop/web-1", "east/shop/web-2", "west/shop/web-1"}
    assert answers.total() == 30


@FAMILIES
def test_the_routes_carry_the_overlays_mtu(lab: Lab, number: int) -> None:
    family = ("-4", "-6")[number]
    text = lab.output("east-1", "ip", family, "route", "show", EAST_2[number])
    assert "mtu 1450" in text
    assert f"src {HOSTS['east-1'][number]}" in text


@FAMILIES
def test_hosts_reach_each_other_natively(lab: Lab, number: int) -> None:
    one, other = HOSTS["east-1"][number], HOSTS["east-2"][number]
    with taps(lab, "east-2", device="uplink") as made:
        assert "1 received" in lab.output("east-1", "ping", "-c", "1", "-W", "3", other)
        seen = between(made["east-2"].packets(), one, other)
    assert seen
    assert {packet.vni for packet in seen} == {None}


def test_a_stream_goes_on_while_the_agents_are_killed(lab: Lab) -> None:
    host, web = HOSTS["east-2"][0], lab.pod("east/shop/web-2")["addresses"][0]
    with echo_on(lab, "east-2"), lab.echo_in("east/shop/web-2"):
        out = lab.probe("east/shop/client-1", "udp", host, ECHO_PORT, 12, "--rate", 200)
        back = lab.probe("east-1", "udp", web, ECHO_PORT, 12, "--rate", 200)
        for agent in ("east-1/agent", "east-2/agent"):
            lab.kill(agent)
            lab.revive(agent)
        reports = [report(out), report(back)]
    assert [found["missing"] for found in reports] == [0, 0], reports
    wait(lab.healthy, 30, "healthy again")
    assert routed(lab, "east-1", EAST_2[0])


@FAMILIES
def test_a_native_route_takes_the_place_of_the_overlay_and_gives_it_back(
    lab: Lab, number: int
) -> None:
    """A less specific one, too, as long as it is no default route."""
    family, wide = ("-4", "-6")[number], ("10.1.0.0/16", "fd01::/48")[number]
    via = {"east-1": HOSTS["east-2"][number], "east-2": HOSTS["east-1"][number]}
    own = {"east-1": EAST_2[number], "east-2": ("10.1.0.0/24", "fd01::/64")[number]}
    pod = lab.pod("east/shop/web-2")["addresses"][number]
    with taps(lab, "east-1", device="uplink") as made:
        for host, gateway in via.items():
            lab.output(host, "ip", family, "route", "add", wide, "via", gateway)
        for host in via:
            wait(lambda h=host: not routed(lab, h, own[h]), 5, "native")  # type: ignore[misc]
        made["east-1"].packets()
        lab.output("east-1", *CURL, url(pod))
        seen = between(made["east-1"].packets(), HOSTS["east-1"][number], pod)
        for host, gateway in via.items():
            lab.output(host, "ip", family, "route", "del", wide, "via", gateway)
        for host in via:
            wait(lambda h=host: routed(lab, h, own[h]), 5, "overlay")  # type: ignore[misc]
        assert lab.output("east-1", *CURL, url(pod)).split() == ["east/shop/web-2"]
    assert seen
    assert {packet.vni for packet in seen} == {None}


def terms(lab: Lab) -> dict[str, str]:
    """Of each cluster as the other one sees it: its contract, or that it has none."""
    return {row["cluster"]: row["contract"] for row in lab.table("cluster") if row["contract"]}


def test_without_contracts_each_cluster_is_provisional(lab: Lab) -> None:
    assert terms(lab) == {"east": "provisional", "west": "provisional"}
    assert "Contracts: 0, provisional clusters: 2" in lab.run("status").stdout


def test_a_provisional_cluster_draws_nothing_that_egress_or_routes_carry(lab: Lab) -> None:
    """A node of west with a pod CIDR there is a finding, and no map of east has it."""
    there = store(lab)
    node = json.loads(there[f"{NODE}west-1"][0])
    cidrs = {
        "destination-4": {"IPv4AllocCIDR": PUBLIC_4},
        "destination-6": {"IPv4AllocCIDR": None, "IPv6AllocCIDR": PUBLIC_6},
        "route-4": {"IPv4AllocCIDR": {"IP": "10.99.0.128", "Mask": "////gA=="}},
        "route-6": {
            "IPv4AllocCIDR": None,
            "IPv6AllocCIDR": {"IP": "fd99::7:0", "Mask": "//////////////////8AAA=="},
        },
    }
    bad = {}
    for number, (name, cidr) in enumerate(cidrs.items()):
        at = [{"Type": "InternalIP", "IP": f"10.99.0.7{number}"}]
        fields = node | EVIL | {"Name": name, "IPAddresses": at, **cidr}
        bad[f"{NODE}{name}"] = json.dumps(fields)
    before, wanted = behind(lab), {key: {"M176"} for key in bad}

    def of_keys() -> dict[str, set[str]]:
        """A controller has no routes, so it takes two of the nodes in, and these have no agent."""
        found = findings(lab)
        return {key: found.get(key, set()) for key in bad}

    try:
        write_until(lab, dict(bad), there, lambda: of_keys() == wanted, "one finding each")
        assert behind(lab) == before
    finally:
        write(lab, dict.fromkeys(bad), there)
    wait(lab.healthy, 10, "healthy after")


def behind(lab: Lab) -> str:
    """The pod CIDRs that the datapath of east-1 knows."""
    pin = f"{lab.shown['hosts']['east-1']['bpffs']}/mg_addr_cidr"
    return lab.output("east-1", "bpftool", "map", "dump", "pinned", pin)


@contextmanager
def contracts(lab: Lab) -> Iterator[None]:
    """Each cluster gives the other one its pods, nodes and services, and lets its hosts in."""
    paths = []
    for mine, other, number in (("east", "west", 2), ("west", "east", 1)):
        spec = {
            "cluster": other, "id": number, "hosts": True, "namespaces": ["shop"],
            "podCIDRs": [f"10.{number}.0.0/16", f"fd0{number}::/48"],
            "nodeCIDRs": ["10.99.0.0/24", "fd99::/64", f"fcbb:bb0{number}::/32"],
            "serviceCIDRs": [f"10.97.{number}.0/24", f"fd97:{number}::/112"],
        }  # fmt: skip
        document = {"apiVersion": "meshgate.io/v1alpha1", "kind": "ClusterPeer"}
        document |= {"metadata": {"name": other}, "spec": spec}
        paths.append(Path(lab.shown["manifests"][mine]) / "hosts.json")
        paths[-1].write_text(json.dumps(document))
    try:
        given = {"east": "ClusterPeer/east", "west": "ClusterPeer/west"}
        wait(lambda: terms(lab) == given, 10, "the contracts are in force")
        yield
    finally:
        for path in paths:
            path.unlink()
        wait(lambda: set(terms(lab).values()) == {"provisional"}, 10, "they are gone")


@FAMILIES
def test_by_contract_a_peers_host_is_reached_by_the_overlay_both_ways(
    lab: Lab, number: int
) -> None:
    """Without one its packets come by the overlay and the answers leave natively."""
    pod, host = lab.pod("east/shop/web-1"), ("10.99.0.21", "fd99::21")[number]
    address = pod["addresses"][number]
    there = (host, "10.99.0.21", 6)

    def ways() -> set[tuple[str, str, int | None]]:
        with taps(lab, "west-1", device="uplink") as made:
            lab.output("west-1", *CURL, url(address))
            seen = between(made["west-1"].packets(), host, address)
        return {(str(packet.source), str(packet.sender), packet.vni) for packet in seen}

    assert ways() == {there, (address, "None", None)}
    with contracts(lab):
        back = (address, HOSTS["east-1"][0], pod["identity"])
        wait(lambda: ways() == {there, back}, 10, "both directions in the overlay")
    wait(lambda: ways() == {there, (address, "None", None)}, 10, "natively again")
    assert lab.healthy(), lab.run("status").stdout


def test_a_fabric_that_stops_the_overlay_is_a_finding_until_it_does_not(lab: Lab) -> None:
    """In one direction: of each pair of nodes both say so, because no answer comes back."""
    chain = (
        "chain c { type filter hook forward priority 0; ip saddr 10.99.0.11 udp dport 8472 drop; }"
    )
    lab.output("router", "nft", f"add table bridge stops {{ {chain}; }}")
    try:
        wait(lambda: stopped(lab) == {"east-1/agent", "east-2/agent"}, 40, "both agents say it")
        texts = [one["text"] for one in lab.json("status")["findings"] if one["code"] == "M240"]
        assert {"east-1 (10.99.0.11)" in one for one in texts} == {True, False}
        assert {"let the fabric carry UDP port 8472" in one for one in texts} == {True}
    finally:
        lab.output("router", "nft", "delete table bridge stops")
    wait(lambda: not stopped(lab), 20, "the finding has ended")
    wait(lab.healthy, 90, "healthy again")


def stopped(lab: Lab) -> set[str]:
    return {one["object"] for one in lab.json("status")["findings"] if one["code"] == "M240"}


def test_the_lab_is_healthy_and_nothing_was_dropped_for_its_source(lab: Lab) -> None:
    assert lab.healthy(), lab.run("status").stdout
    reasons = {row["reason"] for row in lab.table("drop")}
    assert not [each for each in reasons if "source" in str(each).lower()], reasons
