"""Which address stands for the pods of a node, and what the configuration may say."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from bgp.agent import RoutersAgent
from bgp.peer import PEERS, Advertise, BGPPeer
from mesh.core.model import IP, Network, Node, NodeKey, Requirement, Selector
from mesh.core.reconcile import Loop
from mesh.core.strict import convert
from mesh.core.table import Table
from mesh.host.ports import with_ports
from mesh.masquerade.agent import MasqueradeAgent
from mesh.masquerade.findings import NO_ADDRESS
from mesh.masquerade.rows import Masquerade
from mesh.masquerade.settings import MasqueradeSettings
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects

ME = NodeKey("east", "east-1")
V4, V6 = ip_address("10.99.0.11"), ip_address("fd99::11")
PORTS = range(61000, 65536)
ON = MasqueradeSettings(mode="on")


def peer(*advertise: str, **labels: str) -> BGPPeer:
    chosen = tuple(Requirement(key, "In", (value,)) for key, value in labels.items())
    entries = tuple(map(Advertise, advertise))
    return BGPPeer("tor", Selector(chosen), ip_address("10.99.0.1"), 64512, 64513, entries)


class Room:
    """The room with its inputs."""

    def __init__(self, settings: MasqueradeSettings | None) -> None:
        self.objects = Objects([NODES, PEERS])
        self.node: Table[NodeKey, Node] = Table("node")
        self.routers = RoutersAgent(self.objects, ME, "podCIDRs")
        self.agent = MasqueradeAgent(
            ME, settings, self.objects[NODES], self.node, self.routers.announcing
        )
        self.loop = Loop()
        self.routers.derive(self.loop)
        self.agent.derive(self.loop)
        for table in (self.objects[NODES], self.objects[PEERS], self.node):
            table.mark_synced()

    def is_node(self, *addresses: IP, cidrs: tuple[Network, ...] = (), **labels: str) -> None:
        node = Node("east", "east-1", addresses, cidrs, labels=tuple(labels.items()))
        self.objects[NODES].upsert({ME: node})
        self.node.upsert({ME: node})

    def rows(self) -> dict[int, Masquerade]:
        self.loop.derive_all()
        return dict(self.agent.masquerade.rows)


def test_the_first_address_of_each_family_stands_for_the_pods() -> None:
    room = Room(ON)
    room.is_node(V6, V4, ip_address("10.99.0.12"))
    assert room.rows() == {4: Masquerade(V4, PORTS), 6: Masquerade(V6, PORTS)}
    assert room.agent.settings() == {"masquerade": 1}


@pytest.mark.parametrize("settings", [None, MasqueradeSettings(mode="off")])
def test_off_nothing_is_looked_up(settings: MasqueradeSettings | None) -> None:
    room = Room(settings)
    room.is_node(V4)
    assert room.rows() == {}
    assert room.agent.settings() == {"masquerade": 0}


@pytest.mark.parametrize(
    ("announces", "opens"),
    [
        (peer("podCIDRs"), False),
        (peer("podCIDRs", "egress", rack="a"), False),
        (peer("podCIDRs", rack="b"), True),
        (peer("egress"), True),
    ],
)
def test_auto_ends_where_the_world_has_routes(announces: BGPPeer, *, opens: bool) -> None:
    """What is open goes on: the row stays."""
    room = Room(MasqueradeSettings())
    room.is_node(V4, rack="a")
    assert room.rows() == {4: Masquerade(V4, PORTS)}
    room.objects[PEERS].upsert({"tor": announces})
    assert room.rows() == {4: Masquerade(V4, PORTS, opens)}
    room.objects[PEERS].delete(["tor"])
    assert room.rows() == {4: Masquerade(V4, PORTS)}


def test_on_asks_no_peer() -> None:
    room = Room(ON)
    room.is_node(V4)
    room.objects[PEERS].upsert({"tor": peer("podCIDRs")})
    assert room.rows() == {4: Masquerade(V4, PORTS)}


def test_a_family_of_pods_without_an_address_is_a_finding() -> None:
    room = Room(ON)
    both = ip_network("10.1.0.0/24"), ip_network("fd01::/64")
    room.is_node(V4, cidrs=both)
    room.rows()
    (finding,) = room.agent.findings()
    assert (finding.code, finding.object, finding.field) == (
        NO_ADDRESS, "Node/east-1", "status.addresses",
    )  # fmt: skip
    assert "IPv6" in finding.text
    room.is_node(V4, V6, cidrs=both)
    room.rows()
    assert list(room.agent.findings()) == []


def test_networks_of_the_configuration_see_the_pods() -> None:
    network = ip_network("192.168.0.0/16")
    room = Room(MasqueradeSettings(non_masquerade_cidrs=(network,)))
    assert room.agent.unmasked.rows == {network: True}


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({}, ""),
        ({"ports": "40000-50000", "nonMasqueradeCIDRs": ["10.0.0.0/8", "fd00::/8"]}, ""),
        ({"ports": "61000"}, "masquerade.ports: expected FIRST-LAST"),
        ({"ports": "70000-80000"}, "masquerade.ports: expected FIRST-LAST"),
        ({"ports": "62000-61000"}, "masquerade.ports: expected FIRST-LAST"),
        ({"ports": "61000-61009"}, "masquerade.ports: expected 64 ports or more, got 10"),
        ({"ports": "32000-40000"}, "masquerade.ports: 32000-40000 overlaps 30000-32767"),
    ],
)
def test_a_section_that_cannot_be_used_says_where(section: Any, problem: str) -> None:
    found = [str(one) for one in convert(section, MasqueradeSettings).problems("masquerade")]
    assert len(found) == bool(problem)
    assert all(text.startswith(problem) for text in found)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "61000-65535"),
        ("8080", "8080,61000-65535"),
        ("8080,9148-9150", "8080,9148-9150,61000-65535"),
        ("60998-60999", "60998-65535"),
        ("62000,64000-65535", "61000-65535"),
        ("61000-65535", "61000-65535"),
    ],
)
def test_reserved_ports_keep_those_of_others(before: str, after: str) -> None:
    assert with_ports(before, PORTS) == after
