"""Timers of policies on a node: rows of the class name their number, and the number has its row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gateway.policy import Timers
from gateway.rows import Action
from gateway.timers import MOST
from tests.fixtures.rooms import Rooms, policy
from tests.unit.agent.covered import CIDR

LONG, SHORT = Timers(tcp_established=9000), Timers(udp=120, icmp=60)


class Node(Rooms):
    """A node with a pod that is covered by what is put."""

    def __init__(self, state: Path) -> None:
        super().__init__(state, CIDR)
        self.put_node("gw-a", "10.99.1.1", "a")
        self.put_pod("one", "shop", 10)
        self.egress.derive(self.loop)
        self.pods.derive(self.loop)

    def put(self, number: int, timers: Timers) -> None:
        self.put_policy(replace(policy(f"p{number}", ["shop"], 1, "a"), timers=timers))

    def timers(self) -> dict[str, Timers | None]:
        """What connections to each network begin with; None: the usual ones."""
        self.loop.derive_all()
        rows, numbers = self.egress.egress.rows, self.egress.timers.rows
        return {
            str(key.network): numbers.get(row.timers)
            for key, row in rows.items()
            if row.action is Action.TRANSLATE and hasattr(key, "network")
        }


def test_each_networks_row_names_the_timers_of_its_policy(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.put(1, LONG)
    node.put(2, SHORT)
    node.put(3, Timers())
    found = node.timers()
    assert {found["192.1.0.0/24"], found["2001:db8:2:1::/80"]} == {LONG}
    assert found["192.2.0.0/24"] == SHORT
    assert found["192.3.0.0/24"] is None
    node.put(1, SHORT)
    assert node.timers()["192.1.0.0/24"] == SHORT
    assert LONG in node.egress.timers.rows.values(), "connections may have it"
    assert list(node.egress.findings()) == []


def test_more_sets_than_numbers_are_a_finding_of_the_youngest_policies(tmp_path: Path) -> None:
    node = Node(tmp_path)
    for number in range(1, MOST + 2):
        node.put(number, Timers(udp=120 + number))
    found = node.timers()
    assert sum(timers is None for timers in found.values()) == 2  # of both families
    assert found[f"192.{MOST + 1}.0.0/24"] is None
    assert [finding.code for finding in node.egress.findings()] == ["M270"]
