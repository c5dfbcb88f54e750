"""RTNETLINK messages as rows; what the kernel really sends is in tests/packet."""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import IPv4Address, IPv4Network, ip_network

import pytest

from mesh.netlink import (
    Lost,
    RouteEvent,
    dump_question,
    events,
    next_hops,
    private_routes,
    question,
)

ADDRESS, GATEWAY = IPv4Address("10.99.1.11"), IPv4Address("10.99.0.1")
NEWROUTE, ERROR = 24, 2
DST, OIF, GATEWAY_ATTRIBUTE, VIA = 1, 4, 5, 18
DONE = 3


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


def test_a_dump_asks_for_a_whole_family() -> None:
    for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        asked = dump_question(version)
        assert len(asked) == struct.unpack_from("=I", asked)[0] == 28
        assert struct.unpack_from("=HH", asked, 4) == (26, 0x301)
        assert asked[16] == family


def test_of_a_dump_the_prefixes_in_private_space_count() -> None:
    """Around it, in it and at its ends; not the default route, nor one out of our devices."""
    texts = {
        "10.88.0.0/16": True, "0.0.0.0/1": True, "0.0.0.0/0": False, "11.0.0.0/8": False,
        "172.31.255.255/32": True, "172.32.0.0/16": False, "fd88::/48": True, "fe80::/64": False,
        "2001:db8::/32": False, "fc00::/6": True,
    }  # fmt: skip
    oif = struct.pack("=I", 7)

    def destination(text: str) -> list[bytes]:
        network = ip_network(text)
        return [attribute(DST, network.network_address.packed)] if network.prefixlen else []

    routes = {
        ip_network(text): route(
            1,
            ip_network(text).prefixlen,
            *(
                [attribute(DST, ip_network(text).network_address.packed)]
                if "/0" not in text
                else []
            ),
            attribute(OIF, oif),
            family=socket.AF_INET6 if ":" in text else socket.AF_INET,
        )
        for text in texts
    }
    dump, end = b"".join(routes.values()), message(DONE, 1, bytes(4))
    wanted = {ip_network(text): None for text, counts in texts.items() if counts}
    assert private_routes(dump, {8}) == (wanted, False)
    assert private_routes(dump + end, {8}) == (wanted, True)
    assert private_routes(dump, {7}) == ({}, False)


@pytest.mark.parametrize(("table", "protocol", "kind"), [(255, 2, 1), (254, 77, 1), (254, 4, 2)])
def test_a_hosts_own_addresses_and_our_own_routes_do_not_count(
    table: int, protocol: int, kind: int
) -> None:
    head = struct.pack("=BBBBBBBBI", socket.AF_INET, 8, 0, 0, table, protocol, 0, kind, 0)
    body = head + attribute(DST, bytes([10, 0, 0, 0]))
    assert private_routes(message(NEWROUTE, 1, body), ()) == ({}, False)
