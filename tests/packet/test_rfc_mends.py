"""What the conformance cases ask of single programs: checksums of ICMP errors, hairpins, ids."""

import struct

import pytest

from tests.packet.nodes import EGRESS, LEGACY, REDIRECT, SHOT, Node
from tests.packet.packets import UDP, Echo, Error, Other, Overlay, Packet

Nodes = dict[str, Node]
GATEWAY, NODE = "10.99.0.13", "10.99.0.11"


def opened(nodes: Nodes, family: int, name: str = "a", **fields: object) -> Packet:
    """A datagram of a pod, as the world sees it."""
    client = nodes[name].plan.pods["client"]
    packet = Packet(client[family], LEGACY[family], UDP(5000, 443), b"question").but(**fields)
    got = nodes[name].from_pod("client", packet)
    assert got.dropped == {}
    return got.packet if name == "g" else got.overlay.inner


def error(family: int, quoted: bytes, *, flip: int = 0) -> Packet:
    kind, code = (3, 3) if family == 4 else (1, 4)
    packet = Packet(LEGACY[family], EGRESS[family], Error(kind, code, quoted), df=False)
    body = bytearray(packet.ip()[20 if family == 4 else 40 :])
    body[2:4] = struct.pack("!H", struct.unpack_from("!H", body, 2)[0] ^ flip)
    return packet.but(l4=Other(packet.protocol), payload=bytes(body))


@pytest.mark.parametrize("size", [28, 29, 64, 128, 548, 1000, 1221])
def test_an_error_of_any_length_is_summed_up(nodes: Nodes, family: int, size: int) -> None:
    seen = opened(nodes, family, payload=bytes(range(256)) * 5)
    quoted = seen.ip()[: max(size, 48)]
    sound = nodes["a"].from_uplink(Overlay(GATEWAY, NODE, 2, error(family, quoted)))
    assert (sound.verdict, sound.dropped) == (REDIRECT, {})
    broken = nodes["a"].from_uplink(Overlay(GATEWAY, NODE, 2, error(family, quoted, flip=0x100)))
    assert (broken.verdict, broken.dropped) == (SHOT, {"ICMP_CHECKSUM": 1})


def test_an_error_that_quotes_a_broken_header_goes_nowhere(nodes: Nodes) -> None:
    quoted = bytearray(opened(nodes, 4).ip())
    quoted[11] ^= 1
    got = nodes["a"].from_uplink(Overlay(GATEWAY, NODE, 2, error(4, bytes(quoted))))
    assert (got.verdict, got.dropped) == (SHOT, {"ICMP_CHECKSUM": 1})


def test_an_id_without_df_is_another_one_outside_and_comes_back_in_errors(nodes: Nodes) -> None:
    seen = opened(nodes, 4, df=False, id=7)
    assert seen.id != 7
    assert opened(nodes, 4, df=False, id=8).id == (seen.id + 1) % 65536
    got = nodes["a"].from_uplink(Overlay(GATEWAY, NODE, 2, error(4, seen.ip())))
    assert isinstance(got.packet.l4, Error)
    assert Packet.read_ip(got.packet.l4.quoted).id == 7
    assert opened(nodes, 4, df=True, id=7).id == 7


def test_what_is_for_an_egress_address_turns_at_its_gateway(nodes: Nodes, family: int) -> None:
    for node in nodes.values():
        node.egress(f"{EGRESS[family]}", 1, EGRESS[family])
    a, g = nodes["a"], nodes["g"]
    client = a.plan.pods["client"]
    port = 1024 + 5 * 256 + 3  # of node b
    out = a.from_pod("client", Packet(client[family], EGRESS[family], UDP(5000, port), b"hello"))
    assert out.dropped == {}
    turned = g.from_uplink(Overlay(NODE, GATEWAY, client.identity, out.overlay.inner))
    assert (turned.verdict, turned.dropped) == (REDIRECT, {})
    assert (turned.packet.source, turned.packet.destination) == (EGRESS[family], EGRESS[family])
    assert turned.packet.ttl == 63


def test_a_pod_of_the_gateway_itself_comes_in_again(nodes: Nodes, family: int) -> None:
    g = nodes["g"]
    g.egress(f"{EGRESS[family]}", 1, EGRESS[family])
    client = g.plan.pods["client"]
    port = 1024 + 5 * 256 + 3
    first = g.from_pod("client", Packet(client[family], EGRESS[family], UDP(5000, port), b"hello"))
    assert (first.verdict, first.dropped) == (REDIRECT, {})
    assert first.packet.source == EGRESS[family]
    second = g.from_uplink(first.packet)
    assert (second.verdict, second.dropped) == (REDIRECT, {})
    assert (second.overlay.destination, second.overlay.vni) == ("10.99.0.12", 2)


def test_a_query_without_an_id_is_told_that_it_is_prohibited(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    client = a.plan.pods["client"]
    for number in range(600):
        ping = Packet(client[family], LEGACY[family], Echo(10_000 + number), b"ping")
        got = a.from_pod("client", ping)
        if got.dropped:
            break
    assert isinstance(got.packet.l4, Error)
    assert (got.packet.l4.type, got.packet.l4.code) == ((3, 13) if family == 4 else (1, 1))
