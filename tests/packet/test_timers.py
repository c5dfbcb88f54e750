"""Timers of a policy: its connections end by them, all others by the usual limits."""

import pytest

from tests.packet.nodes import COVERED, EGRESS, LEGACY, LIMITS, Node
from tests.packet.packets import TCP, UDP, Echo, Packet, Transport
from tests.packet.test_sweep import open_, receive

Nodes = dict[str, Node]
OWN, AGE_S = 5, 100
ONE_SHOTS = ("one_shot", "known_answered", "known_unanswered")


@pytest.fixture
def a(nodes: Nodes) -> Node:
    node = nodes["a"]
    timers(node, 0)
    for family in (4, 6):
        node.egress(COVERED[family], 1, EGRESS[family], timers=OWN)
    return node


def timers(node: Node, seconds: int, **others: int) -> None:
    names = ("established", "transitory", "datagram", "echo")
    node.maps["mg_timers"].update_one(OWN, dict.fromkeys(names, seconds) | others)


def sweep(node: Node, seconds: int, *, pressed: int = 0) -> tuple[int, int]:
    """A sweep whose usual limits are all so many seconds."""
    return node.sweep(**dict.fromkeys((*LIMITS, *ONE_SHOTS), seconds), pressed=pressed)


@pytest.mark.parametrize(
    ("timer", "l4", "flags"),
    [
        ("transitory", TCP(40000, 443, "S"), ""),
        ("transitory", TCP(40000, 443, "S"), "SA"),
        ("transitory", TCP(40000, 443, "S"), "RA"),
        ("established", TCP(40000, 443, "S"), "SA A"),
        ("datagram", UDP(5000, 53), ""),
        ("datagram", UDP(5000, 5353), ""),
        ("echo", Echo(7), ""),
    ],
)
def test_each_state_has_the_timer_of_its_policy(
    a: Node, family: int, timer: str, l4: Transport, flags: str
) -> None:
    seen = open_(a, family, l4)
    for flag in flags.split():
        if flag == "A":
            open_(a, family, TCP(40000, 443, "A"))
        else:
            receive(a, seen, flag)
    a.age(AGE_S)
    timers(a, 1, **{timer: 2 * AGE_S})
    assert sweep(a, 0) == (1, 0)
    timers(a, 2 * AGE_S, **{timer: AGE_S - 1})
    assert sweep(a, 3 * AGE_S) == (0, 1)
    assert a.count(f"mg_ct_v{family}") == a.count(f"mg_nat_v{family}") == 0


def test_a_timer_that_a_policy_does_not_say_is_the_usual_one(a: Node, family: int) -> None:
    open_(a, family, UDP(5000, 5353))
    a.age(AGE_S)
    assert sweep(a, 2 * AGE_S) == (1, 0)
    assert sweep(a, AGE_S - 1) == (0, 1)


def test_a_connection_keeps_the_timers_that_it_has_begun_with(a: Node, family: int) -> None:
    timers(a, 2 * AGE_S)
    open_(a, family, UDP(5000, 5353))
    a.egress(COVERED[family], 1, EGRESS[family])
    open_(a, family, UDP(5001, 5353))
    open_(a, family, UDP(5000, 5353))
    a.age(AGE_S)
    assert sweep(a, 1) == (1, 1)


def test_a_connection_of_a_number_without_a_row_has_the_usual_limits(a: Node, family: int) -> None:
    open_(a, family, UDP(5000, 5353))
    a.maps["mg_timers"].delete_one(OWN)
    a.age(AGE_S)
    assert sweep(a, 2 * AGE_S) == (1, 0)
    assert sweep(a, AGE_S - 1) == (0, 1)


def test_a_full_table_keeps_no_one_shot_for_its_policy(a: Node, family: int) -> None:
    timers(a, 2 * AGE_S)
    open_(a, family, UDP(5000, 5353))
    seen = open_(a, family, TCP(40000, 443, "S"))
    receive(a, seen, "RA")
    open_(a, family, TCP(40001, 443, "S"))
    a.age(AGE_S)
    assert sweep(a, 1) == (3, 0)
    assert sweep(a, 1, pressed=1) == (1, 2)


def test_the_sweep_says_which_timers_are_in_use(a: Node, family: int) -> None:
    packet = Packet(a.plan.pods["client"][family], LEGACY[family], UDP(5000, 5353))
    assert a.maps["mg_timers"].lookup(OWN)["used"] == 0
    assert a.from_pod("client", packet).dropped == {}
    sweep(a, AGE_S)
    assert a.maps["mg_timers"].lookup(OWN)["used"] != 0
