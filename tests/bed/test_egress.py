"""Pods that a policy covers: who the legacy network sees, and which way the router knows."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import NAMESPACE, Bed

from mesh.lab import enter, neighbours, processes

#: A question by ``bash``; the server echoes.
_ASK = 'exec 3<>/dev/tcp/$0/$1 && echo question >&3 && read -t 5 answer <&3 && echo "$answer"'


def sources(bed: Bed) -> list[str]:
    """Who the legacy server has seen by TCP, in their order."""
    log = Path(str(neighbours.legacy_shown(bed.lab, bed.shape)["log"]))
    rows = [line.split() for line in log.read_text().splitlines() if not line.startswith("#")]
    return [row[2] for row in rows if row[1] == "tcp"]


@pytest.fixture(params=(0, 1), ids=("IPv4", "IPv6"))
def number(request: pytest.FixtureRequest) -> int:
    """Which of the addresses."""
    return int(request.param)


def test_legacy_sees_the_egress_address_of_pods_on_each_node(
    bed: Bed, pods: list[str], number: int
) -> None:
    legacy = bed.shape.legacy
    words = (str(legacy.addresses[number]), str(legacy.tcp))
    for pod in pods:
        before = len(sources(bed))
        exec_ = ("-n", NAMESPACE, "exec", pod, "--", "bash", "-c", _ASK, *words)
        assert bed.kubectl(*exec_).strip() == "question"
        assert sources(bed)[before:] == [str(bed.cluster.egress[number])]


def test_the_router_has_the_way_to_the_egress_addresses(bed: Bed) -> None:
    """By the session of the speaker on the gateway."""
    gateways = [node for node in bed.cluster.nodes if node.labels.get("role") == "gateway"]
    vias = {str(address) for node in gateways for address in node.addresses}

    def routes() -> set[str]:
        found = set()
        for address in bed.cluster.egress:
            family = "-4" if address.version == 4 else "-6"
            words = ["ip", family, "route", "show", str(address)]
            inside = enter.argv(bed.lab.host("router"), words)
            done = subprocess.run(inside, capture_output=True, text=True, check=True)
            found |= set(done.stdout.split())
        return found

    assert processes.wait_until(lambda: len(vias & routes()) == len(bed.cluster.egress), 30)


def test_every_node_holds_what_a_policy_says_now(bed: Bed) -> None:
    """The condition follows a change; each agent has told the new generation."""
    change = '{"spec":{"excludedCIDRs":["192.0.2.99/32"]}}'
    bed.kubectl("patch", "egresspolicy", "legacy", "--type=merge", "-p", change)

    def holds() -> bool:
        policy = bed.get("egresspolicy", "legacy")
        held = {one["type"]: one for one in policy["status"]["conditions"]}["Programmed"]
        now = policy["metadata"]["generation"]
        return (held["status"], held["observedGeneration"]) == ("True", now)

    assert processes.wait_until(holds, 20, pause=0.3)
