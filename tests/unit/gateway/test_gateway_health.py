"""What an agent makes of the datapath's judgement of gateways."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import reduce
from ipaddress import IPv4Address, ip_address
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from gateway import health, live, nouns
from gateway.health import GatewayHealth
from gateway.live import Live, LiveState
from mesh.core.model import IP, Node, NodeKey
from mesh.core.table import Table

V4, V6 = ip_address("198.51.100.10"), ip_address("2001:db8:100::10")
ONE, TWO, OWN = (IPv4Address(f"10.99.0.{n}") for n in (12, 13, 11))
UP = Live(LiveState.UP, 5, 5, 5, 0, 300, 0)
DOWN = Live(LiveState.DOWN, 5, 4, 7, 3, 300, 1)


def node(name: str, address: IPv4Address) -> Node:
    return Node("east", name, (address,))


def agent(sets: dict[IP, tuple[IPv4Address, ...]], **seen: Live) -> GatewayHealth:
    """The health of an agent on east-1 that has looked once."""
    addresses: Table[IP, tuple[IPv4Address, ...]] = Table("egress address")
    addresses.replace(sets)
    nodes: Table[NodeKey, Node] = Table("node")
    nodes.replace(
        {NodeKey("east", name): node(name, at) for name, at in (("east-2", ONE), ("east-3", TWO))}
    )
    made = GatewayHealth(NodeKey("east", "east-1"), OWN, "mg_vxlan", addresses, nodes)
    made.seen = {{"one": ONE, "two": TWO}[name]: row for name, row in seen.items()}
    return made


def test_a_node_judges_all_gateways_but_itself_each_once() -> None:
    sets = {V4: (OWN, ONE, TWO), V6: (ONE,)}
    assert [*live.others(sets, OWN)] == [ONE, TWO]


def test_an_entry_is_read_as_the_datapath_wrote_it() -> None:
    names = ("sent", "heard", "since", "asked", "answered", "took", "state", "good", "downs")
    value = np.zeros((), [(name, "u8" if name in names[:3] else "u4") for name in names])
    for number, name in enumerate(names, 1):
        value[name] = number
    value["state"], value["answered"] = 1, 0xFFFFFFFF
    _, row = live.decode_live(int(ONE), value)
    assert row == Live(LiveState.DOWN, 1, 2, 3, 5, 6, 9)


@pytest.mark.parametrize(
    ("row", "healthy"),
    [(live.UNKNOWN, None), (UP, True), (DOWN, False), (Live(LiveState.UP, 9, 0, 0, 2, 0, 0), None)],
)
def test_whether_a_gateway_is_healthy(row: Live, healthy: object) -> None:
    assert row.healthy is healthy


def test_a_probe_goes_where_no_packets_go_and_again_where_nobody_answers() -> None:
    seen = {
        ONE: Live(LiveState.UP, 100, 100, 1, 0, 1, 0),
        TWO: Live(LiveState.UP, 900, 100, 1, 1, 1, 0),
        OWN: Live(LiveState.UP, 900, 900, 1, 0, 1, 0),
    }
    assert live.due(seen, now_ns=1000, pause_ns=900) == [ONE, TWO]


def test_the_column_of_the_list_has_times_of_the_clock() -> None:
    since = time.monotonic_ns() - 5_000_000_000
    found = agent({V4: (ONE, TWO)}, one=Live(LiveState.DOWN, 1, 1, since, 3, 1, 1))
    first, second = found.columns([node("east-2", ONE), node("east-3", TWO)])["gateways"]
    assert (first["node"], first["healthy"]) == ("east-2", False)
    assert first["since"] == pytest.approx(time.time() - 5, abs=0.5)
    assert first["silentTo"] == {"east-1": first["since"]}
    assert second == nouns.gateway_view("east-3", "east-1")


def cell(*rows: tuple[str, bool | None, float | None], by: str = "x") -> list[dict[str, Any]]:
    """What node ``by`` says."""
    return [nouns.gateway_view(name, by, at, healthy=is_) for name, is_, at in rows]


def judged(*views: list[dict[str, Any]]) -> list[tuple[str, bool | None, float | None]]:
    both = reduce(nouns.EGRESS.joined["gateways"], views)
    return [(row["node"], row["healthy"], row["since"]) for row in both]


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (("a", True, 5.0), ("a", False, 9.0), ("a", False, 9.0)),
        (("a", False, 8.0), ("a", False, 9.0), ("a", False, 8.0)),
        (("a", None, None), ("a", True, 9.0), ("a", True, 9.0)),
        (("a", True, 5.0), ("a", True, 4.0), ("a", True, 4.0)),
        (("a", None, None), ("b", True, 4.0), ("a", None, None)),
    ],
)
def test_views_of_several_nodes_become_one_and_what_is_wrong_counts(
    one: Any, other: Any, both: Any
) -> None:
    assert judged(cell(one, by="x"), cell(other, by="y")) == [both]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_gateway_that_is_cut_off_is_no_witness_against_the_others(order: Sequence[int]) -> None:
    views = [
        cell(("a", True, 1.0), ("b", False, 7.0), by="x"),
        cell(("a", None, None), ("b", False, 8.0), by="a"),
        cell(("a", False, 6.0), ("b", None, None), by="b"),
    ]
    assert judged(*(views[n] for n in order)) == [("a", True, 1.0), ("b", False, 7.0)]


def test_two_gateways_that_do_not_hear_each_other_are_both_named() -> None:
    views = [cell(("a", False, 6.0), by="b"), cell(("b", False, 7.0), by="a")]
    views = [cell(("a", None, None), ("b", None, None), by="x"), *views]
    assert judged(*views) == [("a", False, 6.0), ("b", False, 7.0)]


def test_a_silent_gateway_is_a_finding_that_names_both_nodes() -> None:
    (found,) = agent({V4: (ONE, TWO)}, one=DOWN, two=UP).findings()
    assert (found.code, found.object, found.field) == ("M229", "east-1/agent", "gateway east-2")
    assert set(found.about) == {"node/east-1", "node/east-2"}
    assert "east-2 (10.99.0.12) has not answered east-1 since" in found.text


def test_an_address_without_a_living_gateway_is_a_finding_and_says_where_to_look() -> None:
    found = {f.field: f for f in agent({V4: (ONE, TWO)}, one=DOWN, two=DOWN).findings()}
    assert "look at east-1's own uplink first" in found[str(V4)].text
    assert found[str(V4)].code == "M230"
    found = {f.field: f for f in agent({V4: (ONE,), V6: (TWO,)}, one=DOWN, two=UP).findings()}
    assert "gateways of other addresses answer" in found[str(V4)].text
    assert str(V6) not in found


def test_a_gateway_that_has_never_answered_gets_packets_and_no_drop_is_said() -> None:
    never = Live(LiveState.DOWN, 5, 0, 7, 3, 0, 1)
    (found,) = agent({V4: (ONE,)}, one=never).findings()
    assert found.code == "M229"
    assert "east-2 (10.99.0.12) has never answered east-1" in found.text
    assert "it gets packets all the same" in found.text


def test_the_frame_of_the_agent_names_the_gateway() -> None:
    sent = health.frame(ONE, 0x88B5, 2)
    assert len(sent) == 60
    assert sent[2:6] == ONE.packed
    assert sent[12:15] == b"\x88\xb5\x02"


def test_people_see_which_gateway_does_not_answer() -> None:
    row = {
        "cluster": "east", "policy": "erp", "addresses": [], "gateway": "east-2", "pods": [],
        "gateways": cell(("east-2", False, 1.0), ("east-3", True, 1.0)),
    }  # fmt: skip
    assert nouns.EGRESS.noted
    shown = nouns.EGRESS.noted(row, lambda _: "")
    assert shown["gateways"] == ["east-2 (does not answer)", "east-3"]
    assert nouns.EGRESS.shown
    assert nouns.EGRESS.shown.row(row)["gateways"] == shown["gateways"]
