"""Who reaches whom, and who does not: pods, services, the legacy network, both families."""

from __future__ import annotations

import json
from collections import Counter
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml
from running import ECHO_PORT, Lab, report, url

CLIENTS = [f"{cluster}/shop/client-{n}" for cluster in ("east", "west") for n in (1, 2, 3)]
WEBS = [f"{cluster}/shop/web-{n}" for cluster in ("east", "west") for n in (1, 2, 3)]
PACE = ("--rate", 200, "--size")

#: Says what became of a connection: the echo, or the error's name.
TALK = """
import errno, socket, sys
kind = socket.SOCK_STREAM if sys.argv[1] == "tcp" else socket.SOCK_DGRAM
family = socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET
s = socket.socket(family, kind)
s.settimeout(3)
try:
    s.connect((sys.argv[2], int(sys.argv[3])))
    s.send(b"hello")
    print(s.recv(100).decode())
except OSError as error:
    print(errno.errorcode.get(error.errno, type(error).__name__))
"""


def talk(lab: Lab, pod: str, protocol: str, address: str, port: int) -> str:
    """What a pod gets from an echo port."""
    return lab.python(pod, TALK, protocol, address, port).strip()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_pod_reaches_every_web_pod_in_both_families(lab: Lab, client: str) -> None:
    targets = [(web, address) for web in WEBS for address in lab.pod(web)["addresses"]]
    assert len(targets) == 12
    curl = ["curl", "-s", "-m", "5", "-w", "%header{x-pod} ", "-o", "/dev/null"]
    answer = lab.output(client, *curl, *(u for _, a in targets for u in (url(a),)))
    missing = [web for web, _ in targets if answer.split().count(web) != 2]
    assert not missing, answer


@pytest.mark.parametrize("number", [0, 1], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("client", ["east/shop/client-1", "west/shop/client-2"])
def test_a_global_service_is_answered_by_both_clusters(lab: Lab, client: str, number: int) -> None:
    cluster = client.partition("/")[0]
    service = next(r for r in lab.table("service") if (r["cluster"], r["name"]) == (cluster, "web"))
    target = url(service["addresses"][number], 80)
    loop = (
        f"for n in $(seq 80); do curl -s -m 5 -o /dev/null -w '%header{{x-pod}}\\n' {target}; done"
    )
    answers = Counter(lab.output(client, "bash", "-c", loop).split())
    assert set(answers) == set(WEBS), answers
    assert answers.total() == 80


def test_a_service_shows_its_own_address_to_the_client(lab: Lab) -> None:
    service = next(r for r in lab.table("service") if (r["cluster"], r["name"]) == ("east", "web"))
    for address in service["addresses"]:
        curl = ("curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{remote_ip}", url(address, 80))
        assert lab.output("east/shop/client-1", *curl) == address


@pytest.mark.parametrize("size", [64, 1300, 4000])
def test_datagrams_pass_the_overlay_whole_and_in_pieces(lab: Lab, size: int) -> None:
    target = lab.pod("west/shop/web-2")["addresses"]
    with lab.echo_in("west/shop/web-2"):
        transfers = [
            lab.probe(
                "east/shop/client-1", "udp", address, ECHO_PORT, 2, "--rate", 200, "--size", size
            )
            for address in target
        ]
        reports = [report(transfer) for transfer in transfers]
    assert [found["missing"] for found in reports] == [0, 0], reports


@pytest.mark.parametrize("size", [64, 4000])
@pytest.mark.parametrize("client", ["east/shop/client-1", "east/shop/client-2"])
def test_datagrams_pass_egress_whole_and_in_pieces(lab: Lab, client: str, size: int) -> None:
    legacy = lab.shown["legacy"]
    for address in legacy["addresses"]:  # IPv6 learns its path MTU by the first packet's loss
        report(lab.probe(client, "udp", address, legacy["udp"], 1, "--rate", 2, "--size", size))
    transfers = [
        lab.probe(client, "udp", address, legacy["udp"], 2, *PACE, size)
        for address in legacy["addresses"]
    ]
    reports = [report(transfer) for transfer in transfers]
    assert [found["missing"] for found in reports] == [0, 0], reports


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_covered_pod_is_seen_with_its_clusters_egress_address(
    lab: Lab, client: str, protocol: str
) -> None:
    legacy, cluster = lab.shown["legacy"], client.partition("/")[0]
    allowed = next(r["addresses"] for r in lab.shown["egress"] if r["cluster"] == cluster)
    before = len(lab.legacy_log())
    for address in legacy["addresses"]:
        assert talk(lab, client, protocol, address, legacy[protocol]) == "hello"
    seen = [line[2] for line in lab.legacy_log()[before:] if line[1] == protocol]
    assert sorted(seen) == sorted(allowed)


@pytest.mark.parametrize("client", CLIENTS)
def test_ping_passes_egress(lab: Lab, client: str) -> None:
    for address in lab.shown["legacy"]["addresses"]:
        assert "1 received" in lab.output(client, "ping", "-c", "1", "-W", "3", address)


@pytest.mark.parametrize("web", ["east/shop/web-1", "west/shop/web-2"])
def test_an_uncovered_pod_is_refused_by_the_firewall(lab: Lab, web: str) -> None:
    legacy, before = lab.shown["legacy"], lab.refused()
    seen = len(lab.legacy_log())
    got = [talk(lab, web, "tcp", address, legacy["tcp"]) for address in legacy["addresses"]]
    assert got == ["ECONNREFUSED", "ECONNREFUSED"]
    assert lab.refused() - before >= 2
    assert len(lab.legacy_log()) == seen


@pytest.mark.parametrize("client", ["east/shop/client-1", "west/shop/client-2"])
def test_errors_of_the_legacy_side_reach_the_pod(lab: Lab, client: str) -> None:
    legacy = lab.shown["legacy"]
    for address in legacy["addresses"]:
        assert talk(lab, client, "tcp", address, legacy["closed"]) == "ECONNREFUSED"
        assert talk(lab, client, "udp", address, legacy["closed"]) == "ECONNREFUSED"


@pytest.mark.parametrize(
    ("pod", "udp"),
    [
        ("east/shop/client-1", "TimeoutError"),
        ("west/shop/client-2", "TimeoutError"),
        ("east/shop/web-2", "hello"),
    ],
)
def test_what_legacy_opens_is_answered_from_the_pods_own_address(
    lab: Lab, pod: str, udp: str
) -> None:
    """Datagrams only from a port that the pod declares (D190): others get the egress address."""
    addresses = lab.pod(pod)["addresses"]
    with lab.echo_in(pod):
        for address in addresses:
            assert talk(lab, "legacy", "tcp", address, ECHO_PORT) == "hello"
            assert talk(lab, "legacy", "udp", address, ECHO_PORT) == udp


def test_nodes_have_no_firewall_rule(lab: Lab) -> None:
    for node in (f"{cluster}-{n}" for cluster in ("east", "west") for n in (1, 2, 3)):
        assert not lab.output(node, "nft", "list", "ruleset").strip()


def test_the_router_has_exactly_the_expected_routes(lab: Lab) -> None:
    nodes = lab.table("node")
    wanted = {cidr for row in nodes for cidr in row["podCIDRs"]} | {row["locator"] for row in nodes}
    for row in lab.shown["egress"]:
        wanted |= {f"{a}/{ip_address(a).max_prefixlen}" for a in row["addresses"]}
    shape = Path(lab.environment["MESHGATE_RUN"]) / "topology.yaml"
    wanted.add(yaml.safe_load(shape.read_text())["pe"]["locator"])
    vtysh = ("vtysh", "--vty_socket", lab.shown["vtySocketDir"], "-c")
    got: set[str] = set()
    for family in ("ipv4", "ipv6"):
        text = lab.output("router", *vtysh, f"show bgp {family} unicast json")
        got |= set(json.loads(text)["routes"])
    assert got == wanted
