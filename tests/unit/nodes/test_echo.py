"""Whether the fabric carries the overlay: whom an agent asks, and whom it finds silent."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, ip_address

import numpy as np
import pytest

from mesh.core.address import column
from mesh.core.model import Node, NodeKey
from mesh.core.table import Table
from mesh.identity.addresses import KIND_POD, VALUE
from mesh.identity.agent import address_table
from mesh.nodes.echo import AGAIN, PATIENCE, EchoAgent, Round, question, request
from mesh.nodes.rows import NodeHop

NODES = [IPv4Address(f"10.99.0.{number}") for number in range(11, 31)]
A, B, C = NODES[:3]


def steps(made: Round, up: Collection[IPv4Address], through: Collection[IPv4Address],
          known: Collection[IPv4Address] = NODES) -> Iterator[list[IPv4Address]]:  # fmt: skip
    """Each step of a round: nodes that are ``up`` answer pings, ``through`` whom answers echoes."""
    while True:
        asked = made.due(lambda: known)
        suspects = set(made.suspects)
        made.note(asked, set(asked) & set(through), suspects & set(asked) & set(up))
        yield asked


def after(count: int, found: Iterator[list[IPv4Address]]) -> list[list[IPv4Address]]:
    return [next(found) for _ in range(count)]


def test_each_node_is_asked_once_in_a_round_and_one_in_a_step() -> None:
    asked = after(2 * len(NODES), steps(Round(), NODES, NODES))
    assert asked == [[node] for node in NODES] * 2


def test_a_node_that_answers_pings_and_no_echoes_is_silent_until_it_answers() -> None:
    made = Round()
    after(1, steps(made, NODES, NODES[1:]))
    assert made.silent == [], "one question may be lost"
    after(PATIENCE - 1, steps(made, NODES, NODES[1:]))
    assert made.silent == [A]
    after(1, steps(made, NODES, NODES))
    assert made.silent == []


def test_a_node_that_is_off_is_not_silent() -> None:
    made = Round()
    after(3 * len(NODES), steps(made, NODES[1:], NODES[1:]))
    assert made.silent == []
    assert A not in made.suspects


def test_where_all_are_silent_the_round_goes_on_and_a_step_has_its_bound() -> None:
    made = Round()
    asked = after(len(NODES) * 3, steps(made, NODES, []))
    assert max(map(len, asked)) == AGAIN + 1
    assert {node for step in asked[: len(NODES)] for node in step} == set(NODES)
    assert made.silent == NODES


def test_nodes_that_have_gone_are_asked_no_more() -> None:
    made = Round()
    after(PATIENCE, steps(made, NODES, []))
    after(2 * len(NODES), steps(made, NODES, [], known=[B]))
    assert made.silent == [B]


def test_nobody_is_asked_where_nobody_else_is() -> None:
    assert after(3, steps(Round(), [], [], known=[])) == [[], [], []]


@pytest.mark.parametrize("number", [0, 1, 0x1234, 0xF7FE, 0xF7FF, 0xFFFF])
def test_a_ping_has_a_right_checksum(number: int) -> None:
    words = np.frombuffer(request(number), ">u2").astype(int)
    total = int(words.sum())
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
    assert words[2] == number


def test_a_question_names_its_node() -> None:
    frame = question(A, 0x88B5)
    assert len(frame) == 60
    assert frame[2:6] == A.packed
    assert not frame[0] & 1, "no group address"
    assert frame[12:15] == b"\x88\xb5\0"


def agent() -> EchoAgent:
    """East-1 knows 20 nodes of its cluster and one of another; the first three nodes have pods."""
    node: Table[NodeKey, Node] = Table("node")
    hop: Table[IPv4Address, NodeHop] = Table("hop")
    for number, endpoint in enumerate(NODES):
        key = NodeKey("east", f"east-{number}")
        node.upsert({key: Node(key.cluster, key.name, (endpoint,))})
        hop.upsert({endpoint: NodeHop(endpoint, 1)})
    hop.upsert({IPv4Address("10.99.0.99"): NodeHop(A, 2)})
    address = address_table()
    pods = [ip_address(f"10.1.0.{number}") for number in range(3)]
    rows = [(1 << 16 | 1, int(endpoint), KIND_POD, 1, 0) for endpoint in (A, B, C)]
    address.upsert(column(pods), np.array(rows, VALUE))
    return EchoAgent(NodeKey("east", "east-9"), 1, "mg_vxlan", 8472, node, hop, address)


def test_the_finding_names_nodes_with_pods_and_what_to_do() -> None:
    made = agent()
    assert list(made.findings()) == []
    after(3 * len(NODES), steps(made.round, NODES, [], known=made._known()))  # noqa: SLF001
    (one,) = made.findings()
    assert one.code == "M240"
    assert one.object == "east-9/agent"
    assert one.text.startswith("east-0 (10.99.0.11), east-1 (10.99.0.12), east-2 (10.99.0.13): a ")
    assert "let the fabric carry UDP port 8472" in one.text


def test_a_silent_node_without_pods_is_no_finding() -> None:
    """No agent runs there yet, or none is meant to."""
    made = agent()
    after(3 * len(NODES), steps(made.round, NODES, NODES[:3], known=made._known()))  # noqa: SLF001
    assert made.round.silent == NODES[3:]
    assert list(made.findings()) == []


def test_nodes_of_other_clusters_are_not_asked() -> None:
    assert set(agent()._known()) == set(NODES)  # noqa: SLF001 - what a round begins with
