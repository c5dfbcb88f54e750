"""Blocks of a size of their own: the pod's node, its gateway and the sweep find the same block."""

import numpy as np
import pytest

from gateway.blocks import SIZE_SHIFT, SIZES
from tests.packet.nodes import BLOCK_SIZE, EGRESS, LEGACY, LIMITS, PLANS, Node, addr, addr_value
from tests.packet.packets import TCP, UDP, Packet
from tests.packet.test_walk_egress import inward, outward, ports

Nodes = dict[str, Node]
NUMBERS = {"a": (11, 2), "g": (5,)}
OTHERS = [size for size in SIZES if size != BLOCK_SIZE]
REST_NS = 130 * 10**9


@pytest.fixture(params=OTHERS)
def size(request: pytest.FixtureRequest, nodes: Nodes, family: int) -> int:
    """On every node the blocks of the address have this size; the configured ones are gone."""
    for node in nodes.values():
        node.clear("mg_block")
        node.maps["mg_block_size"].update_one(addr(EGRESS[family]), np.uint32(request.param))
        for owner, numbers in NUMBERS.items():
            for number in numbers:
                node.block(family, coded(number, request.param), owner)
        own = NUMBERS.get(node.plan.name, ())
        node.own_blocks(family, *(coded(number, request.param) for number in own))
    return int(request.param)


def coded(number: int, size: int) -> int:
    return size << SIZE_SHIFT | number


def first_of(number: int, size: int) -> int:
    return 1024 + number * size


def ask(nodes: Nodes, family: int, port: int, name: str = "a") -> Packet:
    """A datagram of a pod as legacy sees it."""
    client = nodes[name].plan.pods["client"]
    return outward(nodes, name, Packet(client[family], LEGACY[family], UDP(port, 5353)))


@pytest.mark.parametrize("name", ["a", "g"])
def test_a_connection_has_a_port_of_the_nodes_blocks_and_answers_come_back(
    nodes: Nodes, family: int, size: int, name: str
) -> None:
    client = nodes[name].plan.pods["client"]
    seen = ask(nodes, family, 5000, name)
    port, _ = ports(seen)
    assert (port - 1024) // size == NUMBERS[name][0]
    got = inward(nodes, name, seen.reply(UDP(5353, port), b"answer"))
    assert (got.destination, ports(got)) == (client[family], (5353, 5000))


def test_a_whole_block_is_lent_and_then_the_next_one(nodes: Nodes, family: int, size: int) -> None:
    a = nodes["a"]
    taken = {ports(ask(nodes, family, 5000 + n))[0] for n in range(80)}
    assert {(port - 1024) // size for port in taken} <= {*NUMBERS["a"]}
    keys, values = a.maps["mg_block_runs"].dump()
    lent = [int(word).bit_count() for word in values["taken"]]
    runs = dict(zip(keys["number"].tolist(), lent, strict=True))
    assert {*runs} <= {coded(number, size) for number in NUMBERS["a"]}
    assert sum(runs.values()) == a.count("mg_run")
    assert runs[coded(NUMBERS["a"][0], size)] == min(a.count("mg_run"), size // 16)


def test_a_gateway_lets_nobody_use_the_block_of_another(
    nodes: Nodes, family: int, size: int
) -> None:
    sent = nodes["a"].from_pod(
        "client",
        Packet(nodes["a"].plan.pods["client"][family], LEGACY[family], TCP(40000, 443, "S")),
    )
    g = nodes["g"]
    for number in NUMBERS["a"]:
        g.block(family, coded(number, size), "b")
    assert g.from_uplink(sent.wire).dropped == {"BLOCK_NOT_OWNED": 1}
    port = first_of(40, size) % 60000
    scan = Packet(LEGACY[family], EGRESS[family], TCP(443, port, "S"))
    assert g.from_uplink(scan).dropped == {"BLOCK_NO_OWNER": 1}


def test_rows_of_the_configured_size_are_not_taken_for_such_blocks(
    nodes: Nodes, family: int, size: int
) -> None:
    """What a former claim of the address had: other ports than those with the same number."""
    g = nodes["g"]
    port = first_of(NUMBERS["a"][0], size)
    answer = Packet(LEGACY[family], EGRESS[family], UDP(5353, port))
    assert g.from_uplink(answer).overlay.destination == PLANS["a"].endpoint
    g.clear("mg_block_size")
    assert g.from_uplink(answer).dropped == {"BLOCK_NO_OWNER": 1}


def test_runs_come_back_to_their_block(nodes: Nodes, family: int, size: int) -> None:
    a = nodes["a"]
    ask(nodes, family, 5000)
    key = {"address": addr_value(EGRESS[family]), "number": coded(NUMBERS["a"][0], size)}
    assert a.maps["mg_block_runs"].lookup(key)["taken"]
    a.age(1000)
    a.sweep(**dict.fromkeys((*LIMITS, "one_shot"), 1))
    keys, values = a.maps["mg_run"].dump()
    values["returned"] = np.uint64(max(a.second() * (1 << 30) - REST_NS, 1))
    a.maps["mg_run"].update(keys, values)
    a.sweep()
    assert a.count("mg_run") == 0
    assert not a.maps["mg_block_runs"].lookup(key)["taken"]
