"""Bindings: a pod's port is one port outside to every remote, and who may send to it."""

from collections import Counter

import numpy as np
import pytest

from gateway.rows import Binding
from tests.packet.nodes import COVERED, EGRESS, LEGACY, REDIRECT, SHOT, Got, Node
from tests.packet.packets import TCP, UDP, Error, Overlay, Packet

Nodes = dict[str, Node]
OTHER = {4: "192.0.2.20", 6: "2001:db8:2::20"}
GATEWAY, NODE = "10.99.0.13", "10.99.0.11"
SWEPT_LATER_S = 30


@pytest.fixture(params=[Binding.FILTERED, Binding.OPEN], ids=["filtered", "open"])
def kind(request: pytest.FixtureRequest) -> Binding:
    return Binding(request.param)


@pytest.fixture
def a(nodes: Nodes, kind: Binding) -> Node:
    bind(nodes["a"], kind)
    return nodes["a"]


def bind(node: Node, kind: Binding) -> None:
    for family in (4, 6):
        node.egress(COVERED[family], 1, EGRESS[family], binding=int(kind))


def ask(a: Node, family: int, port: int, to: str, remote: int = 443, *, tcp: bool = False) -> Got:
    l4 = TCP(port, remote, "S") if tcp else UDP(port, remote)
    return a.from_pod("client", Packet(a.plan.pods["client"][family], to, l4))


def port_of(got: Got) -> int:
    assert got.dropped == {}
    l4 = got.overlay.inner.l4
    assert isinstance(l4, TCP | UDP)
    return l4.source


def come(a: Node, family: int, port: int, source: str, l4: TCP | UDP) -> Got:
    packet = Packet(source, EGRESS[family], l4)
    assert l4.destination == port
    return a.from_uplink(Overlay(GATEWAY, NODE, 2, packet))


def age(a: Node, seconds: int) -> None:
    keys, values = a.maps["mg_bind"].dump()
    values["used"][values["used"] != 0] -= np.uint64(seconds * 10**9)
    if len(keys):
        a.maps["mg_bind"].update(keys, values)


def rows_of(a: Node) -> dict[str, int]:
    """Rows of ``mg_bind`` by their kind."""
    names = {number: name for name, number in a.objects[0].btf.enum("bind_kind").items()}
    keys, _ = a.maps["mg_bind"].dump()
    return dict(Counter(names[int(kind)] for kind in keys["kind"]))


def test_a_port_of_a_pod_is_one_port_to_every_remote(a: Node, family: int) -> None:
    for tcp in (False, True):
        ports = {
            port_of(ask(a, family, 5000, to, remote, tcp=tcp))
            for to in (LEGACY[family], OTHER[family])
            for remote in (80, 443, 8443)
        }
        assert len(ports) == 1
    assert port_of(ask(a, family, 5001, LEGACY[family])) not in ports


def test_who_may_send_to_it_is_what_the_policy_says(a: Node, family: int, kind: Binding) -> None:
    port = port_of(ask(a, family, 5000, LEGACY[family]))
    known = come(a, family, port, LEGACY[family], UDP(9999, port))
    assert (known.verdict, known.packet.destination) == (REDIRECT, a.plan.pods["client"][family])
    assert isinstance(known.packet.l4, UDP)
    assert known.packet.l4.destination == 5000
    stranger = come(a, family, port, OTHER[family], UDP(9999, port))
    if kind is Binding.OPEN:
        assert stranger.verdict == REDIRECT
    else:
        assert stranger.dropped == {"NO_NAT_MAPPING": 1}


def test_an_answer_to_a_stranger_leaves_by_the_same_port(a: Node, family: int) -> None:
    port = port_of(ask(a, family, 5000, LEGACY[family]))
    assert come(a, family, port, LEGACY[family], UDP(9999, port)).verdict == REDIRECT
    assert port_of(ask(a, family, 5000, LEGACY[family], 9999)) == port


def test_of_tcp_only_a_syn_opens_from_outside(a: Node, family: int) -> None:
    port = port_of(ask(a, family, 5000, LEGACY[family], tcp=True))
    for flags in ("A", "SA", "R", "FA"):
        got = come(a, family, port, LEGACY[family], TCP(9999, port, flags))
        assert got.dropped == {"NO_NAT_MAPPING": 1}, flags
    assert come(a, family, port, LEGACY[family], TCP(9999, port, "S")).verdict == REDIRECT
    assert come(a, family, port, LEGACY[family], TCP(9999, port, "A")).verdict == REDIRECT


def test_an_icmp_error_opens_nothing(a: Node, family: int) -> None:
    port = port_of(ask(a, family, 5000, LEGACY[family]))
    quoted = Packet(EGRESS[family], OTHER[family], UDP(port, 443)).ip()
    kind, code = (3, 3) if family == 4 else (1, 4)
    error = Packet(OTHER[family], EGRESS[family], Error(kind, code, quoted))
    got = a.from_uplink(Overlay(GATEWAY, NODE, 2, error))
    assert (got.verdict, got.dropped) == (SHOT, {"NO_NAT_MAPPING": 1})


def test_a_binding_lives_as_long_as_a_connection_of_it(a: Node, family: int) -> None:
    port = port_of(ask(a, family, 5000, LEGACY[family]))
    age(a, SWEPT_LATER_S)
    a.sweep()
    age(a, 5)
    a.sweep()
    rows = rows_of(a)
    assert rows["BIND_POD"] == rows["BIND_PORT"] == 1
    assert port_of(ask(a, family, 5000, OTHER[family])) == port
    a.age(1000)
    a.sweep(datagram=300)
    age(a, SWEPT_LATER_S)
    a.sweep(datagram=300)
    assert rows_of(a) == {}


def test_the_next_pod_with_the_address_has_no_binding(a: Node, family: int) -> None:
    ask(a, family, 5000, LEGACY[family])
    a.forget(a.plan.pods["client"][family])
    assert not rows_of(a).keys() & {"BIND_POD", "BIND_PORT"}


def test_a_port_of_a_binding_is_nobody_elses(a: Node, family: int) -> None:
    bound = {port_of(ask(a, family, 5000 + n, LEGACY[family])) for n in range(40)}
    assert len(bound) == 40
    bind(a, Binding.NONE)
    others = {port_of(ask(a, family, 7000 + n, OTHER[family])) for n in range(40)}
    assert not bound & others


def test_ports_that_are_used_up_are_a_drop_with_a_name(a: Node, family: int) -> None:
    seen: list[int] = []
    for number in range(520):
        got = ask(a, family, 5000 + number, LEGACY[family])
        if got.dropped:
            assert got.dropped == {"NO_RUN": 1}
            break
        seen.append(port_of(got))
    assert len(seen) == len(set(seen)) == 512
    again = ask(a, family, 5000, OTHER[family])
    assert port_of(again) == seen[0]


def test_what_has_been_opened_dependent_keeps_its_port(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    before = port_of(ask(a, family, 5000, LEGACY[family]))
    bind(a, Binding.FILTERED)
    assert port_of(ask(a, family, 5000, LEGACY[family])) == before
