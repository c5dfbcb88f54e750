"""What the datapath writes is what flows and drops show."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from nodes import EGRESS, LEGACY, Node
from packets import TCP, Echo, Overlay, Packet

from mesh.health.agent import counters
from mesh.health.history import Dropped
from mesh.observe.drops import drop_rows
from mesh.observe.events import Flow, Flows, Names, reason_texts
from tests.fixtures.flow_events import EVENT


def decoded(node: Node, events: Sequence[Any]) -> list[Flow]:
    """The events of one packet, as an observer sees them."""
    reasons = {name: number for number, name in node.reasons.items()}
    flows = Flows("east", node.plan.name, reasons, Names())
    flows.append(np.array(events, events[0].dtype))
    return flows.decode(flows.select())


def test_the_unit_tests_events_have_the_layout_of_the_datapath(nodes: dict[str, Node]) -> None:
    """Field by field, from BTF."""
    real = nodes["a"].objects[0].btf.struct("event")
    fields = {name: (at[0].itemsize, at[1]) for name, at in EVENT.fields.items()}
    assert {name: (at[0].itemsize, at[1]) for name, at in real.fields.items()} == fields
    assert real["source_port"] == EVENT["source_port"]


def test_a_translated_connection_is_one_flow(nodes: dict[str, Node], family: int) -> None:
    """Source as the pod sent it, translation beside it, from its identity to the world."""
    node = nodes["a"]
    client = node.plan.pods["client"]
    got = node.from_pod("client", Packet(client[family], LEGACY[family], TCP(40000, 443, "S")))
    (flow,) = decoded(node, got.events)
    assert (str(flow.source.address), flow.source.port) == (client[family], 40000)
    assert (str(flow.destination.address), flow.destination.port) == (LEGACY[family], 443)
    assert flow.source.identity == client.identity
    assert flow.translated
    assert str(flow.translated[0]) == EGRESS[family]
    assert flow.translated[1] >= 1024
    assert (flow.verdict, flow.tcp_flags) == (1, 2)


def test_a_drop_is_one_flow_and_one_row(nodes: dict[str, Node], family: int) -> None:
    """With the same text in both."""
    node = nodes["a"]
    forged = Packet(nodes["b"].plan.pods["web"][family], LEGACY[family], TCP(40000, 80, "S"))
    got = node.from_pod("web", forged)
    (flow,) = decoded(node, got.events)
    texts = reason_texts({name: number for number, name in node.reasons.items()})
    rows = {row["number"]: row for row in drop_rows("a", *_counters(node), texts, 5.0)}
    assert (flow.verdict, flow.reason) == (2, 132)
    assert rows[132]["reason"] == texts[flow.reason] == "Invalid source IP"
    assert rows[132]["packets"] >= 1
    assert rows[132]["since"] == 5.0


def test_a_drop_is_counted_where_it_came_from(nodes: dict[str, Node], family: int) -> None:
    """Who judges the rate asks whether a stranger can cause it."""
    pod, other = nodes["a"].plan.pods["client"], nodes["b"].plan.pods["web"]
    forged = Packet(other[family], LEGACY[family], TCP(40000, 80, "S"))
    assert places(nodes["a"], 132, lambda a: a.from_pod("web", forged)) == (1, 0, 0)
    inner = Packet(pod[family], nodes["a"].plan.pods["web"][family], TCP(40000, 80, "S"))
    told = Overlay("10.99.0.12", "10.99.0.11", other.identity, inner)
    assert places(nodes["a"], 132, lambda a: a.from_uplink(told)) == (0, 1, 0)
    stranger = Packet(LEGACY[family], EGRESS[family], TCP(443, 80, "S"))
    assert places(nodes["g"], 221, lambda g: g.from_uplink(stranger)) == (0, 0, 1)


def places(node: Node, number: int, send: Callable[[Node], object]) -> tuple[int, int, int]:
    """By origin, the packets that were counted while one was sent."""
    before = counters(*_counters(node)).get(number, Dropped())
    send(node)
    one = counters(*_counters(node))[number].since(before)
    return one.pod, one.overlay, one.outside


def _counters(node: Node) -> tuple[Any, Any]:
    return node.maps["mg_drop"].dump_percpu()


def test_an_echo_request_shows_its_type(nodes: dict[str, Node], family: int) -> None:
    """Type 8 or 128, no ports."""
    node = nodes["a"]
    client = node.plan.pods["client"]
    kind = {4: 8, 6: 128}[family]
    got = node.from_pod("client", Packet(client[family], LEGACY[family], Echo(77)))
    (flow,) = decoded(node, got.events)
    assert (flow.icmp, flow.source.port) == ((kind, 0), None)
    assert flow.translated
