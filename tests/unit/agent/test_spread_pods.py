"""A node whose pods fill an address: further pods leave by the next one, and nobody else moves."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from mesh.core.model import IP, Pod, PodKey
from mesh.core.table import Table
from tests.fixtures.rooms import Rooms, policy
from tests.unit.agent.covered import CIDR

A, B = ip_address("198.51.1.10"), ip_address("198.51.1.20")
FULL = 308  # runs: 60 % of 32 blocks


class Node(Rooms):
    """Pods `a`, `b`, … of an application that leaves by A or B."""

    def __init__(self, state: Path) -> None:
        super().__init__(state, CIDR)
        one = policy("p1", ["shop"], 1, "a")
        self.put_node("gw-a", "10.99.1.1", "a")
        self.put_policy(replace(one, addresses=(A, B, one.addresses[1])))
        self.egress.wired = self.wired = Table[PodKey, Pod]("wired")
        self.egress.derive(self.loop)
        self.pods.derive(self.loop)
        self.egress.lent.begin(())

    def add(self, name: str) -> IP:
        """Its address."""
        number = ord(name)
        self.put_pod(name, "shop", number)
        address = ip_address(f"10.1.0.{number}")
        pod = Pod("east", "shop", name, "east-1", addresses=(address,))
        self.wired.upsert({PodKey("east", "shop", name): pod})
        return address

    def leaves_by(self) -> dict[str, str]:
        """The address by which new IPv4 connections of each pod leave."""
        self.loop.derive_all()
        numbers, rows = self.egress.mark.numbers.rows, self.egress.egress.rows
        return {
            pod.name: str(row.address)
            for pod, number in numbers.items()
            for key, row in rows.items()
            if key.egress_class == number and row.address in (A, B)
        }


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def lend(node: Node, address: IP, pod: IP, *runs: int, lent: bool = True) -> None:
    node.egress.lent.take((address, run, pod, lent) for run in runs)


def test_a_pod_that_comes_when_an_address_is_full_takes_the_next_one(node: Node) -> None:
    first = node.add("a")
    assert node.leaves_by() == {"a": str(A)}
    lend(node, A, first, *range(FULL - 1))
    node.add("b")
    assert node.leaves_by() == {"a": str(A), "b": str(A)}
    lend(node, A, first, FULL)
    node.add("c")
    assert node.leaves_by() == {"a": str(A), "b": str(B), "c": str(B)}


def test_a_pod_with_ports_stays_and_comes_back_to_no_other(node: Node) -> None:
    first, second = node.add("a"), node.add("b")
    lend(node, A, first, *range(FULL))
    assert node.leaves_by() == {"a": str(A), "b": str(B)}
    lend(node, B, second, 1)
    lend(node, A, first, *range(FULL), lent=False)
    assert node.leaves_by() == {"a": str(A), "b": str(B)}
    lend(node, B, second, 1, lent=False)
    lend(node, B, first, *range(FULL))
    assert node.leaves_by() == {"a": str(B), "b": str(A)}


def test_an_agent_that_begins_anew_leaves_pods_where_their_ports_are(node: Node) -> None:
    first, second = node.add("a"), node.add("b")
    node.egress.lent.begin([(A, 1, first), (B, 1, second)])
    assert node.leaves_by() == {"a": str(A), "b": str(B)}
