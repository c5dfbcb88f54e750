"""RTNETLINK messages as rows; what the kernel really sends is in tests/packet."""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import IPv4Address, IPv4Network

import pytest

from mesh.netlink import Lost, RouteEvent, events, next_hops, question

ADDRESS, GATEWAY = IPv4Address("10.99.1.11"), IPv4Address("10.99.0.1")
NEWROUTE, ERROR = 24, 2
DST, GATEWAY_ATTRIBUTE, VIA = 1, 5, 18


def attribute(kind: int, value: bytes) -> bytes:
    padding = bytes(-len(value) % 4)
    return struct.pack("=HH", 4 + len(value), kind) + value + padding


def message(kind: int, sequence: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body


def route(sequence: int, bits: int, *attributes: bytes, family: int = socket.AF_INET) -> bytes:
    head = struct.pack("=BBBBBBBBI", family, bits, 0, 0, 254, 4, 0, 1, 0)
    return message(NEWROUTE, sequence, head + b"".join(attributes))


def test_a_question_names_the_address_and_its_number() -> None:
    asked = question(ADDRESS, 7)
    assert len(asked) == struct.unpack_from("=I", asked)[0] == 36
    assert struct.unpack_from("=I", asked, 8) == (7,)
    assert asked[16] == socket.AF_INET
    assert asked.endswith(ADDRESS.packed)


def test_an_answer_is_a_gateway_or_the_address_itself() -> None:
    asked = {1: ADDRESS, 2: GATEWAY}
    via = route(1, 32, attribute(DST, ADDRESS.packed), attribute(GATEWAY_ATTRIBUTE, GATEWAY.packed))
    near = route(2, 32, attribute(DST, GATEWAY.packed))
    assert next_hops(via + near, asked) == {ADDRESS: GATEWAY, GATEWAY: GATEWAY}


def test_an_answer_to_an_older_question_is_nobodys() -> None:
    assert next_hops(route(1, 32, attribute(DST, ADDRESS.packed)), {2: ADDRESS}) == {}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (message(ERROR, 1, struct.pack("=i", -errno.ENETUNREACH) + bytes(16)), errno.ENETUNREACH),
        (route(1, 32, attribute(VIA, bytes(18))), errno.EAFNOSUPPORT),
    ],
    ids=["no route", "an IPv6 neighbour"],
)
def test_an_answer_without_a_next_hop_is_an_error(answer: bytes, code: int) -> None:
    found = next_hops(answer, {1: ADDRESS})[ADDRESS]
    assert isinstance(found, OSError)
    assert found.errno == code
    assert str(ADDRESS) in str(found)


def test_a_route_without_a_destination_is_the_default_route() -> None:
    assert events(route(0, 0)) == [RouteEvent(IPv4Network("0.0.0.0/0"))]


def test_several_messages_are_several_events_and_ipv6_is_none() -> None:
    one = route(0, 24, attribute(DST, IPv4Address("10.99.1.0").packed))
    other = route(0, 24, attribute(DST, bytes(16)), family=socket.AF_INET6)
    assert events(one + other + one) == [RouteEvent(IPv4Network("10.99.1.0/24"))] * 2


def test_a_torn_datagram_is_a_gap() -> None:
    whole = route(0, 24, attribute(DST, IPv4Address("10.99.1.0").packed))
    for size in range(1, len(whole)):
        assert events(whole[:size]) == [Lost()], size
        assert events(whole + whole[:size])[1:] == [Lost()], size
    assert events(message(NEWROUTE, 0, b"\x02")) == [Lost()]


def test_an_unknown_message_is_no_event() -> None:
    assert events(message(99, 0, bytes(40))) == []
    assert events(b"") == []
