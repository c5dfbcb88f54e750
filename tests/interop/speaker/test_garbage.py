"""UPDATEs that no router should send: the session stays, and no row is outside the rules.

Topology: frr_router.py, with a raw speaker in the router's place.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from bgp.route import Family, ServiceSID
from bgp.wire.attributes import EXTENDED_LENGTH
from bgp.wire.encode import attribute, encode
from bgp.wire.rows import Attributes, Nlri, Update
from bgp.wire.update import decode
from mesh.core import journal
from tests.interop.speaker.frr_router import DEADLINE_S, ROUTER, network, until
from tests.interop.speaker.raw_router import NOTIFICATION, REFRESH, RawRouter
from tests.interop.speaker.ribs_node import RibsNode

pytestmark = pytest.mark.slow

PEER = {"address": "10.99.0.1", "local": "10.99.0.11", "families": list(Family)}
HOP4, HOP6 = ip_address("10.99.0.1"), ip_address("fd99::1")
IS_SOAK = bool(os.environ.get("MESHGATE_SOAK"))
MUTATED = 2000 if IS_SOAK else 200
SAID = Attributes(
    as_path=(65000, 65007),
    med=5,
    communities=("65000:7",),
    large=("65000:1:2",),
    extended=("target:65000:7",),
)
#: A prefix that is announced at the end, so that all before it has been taken in.
LAST = ip_network("203.0.113.0/24")


def octets(text: str) -> bytes:
    return bytes.fromhex("".join(text.split()))


def four(*prefixes: str) -> tuple[Nlri, ...]:
    return tuple(Nlri(Family.IPV4, ip_network(one), next_hop=HOP4) for one in prefixes)


def six(*prefixes: str) -> tuple[Nlri, ...]:
    return tuple(Nlri(Family.IPV6, ip_network(one), next_hop=HOP6) for one in prefixes)


@pytest.fixture(scope="module")
def raw() -> Iterator[RawRouter]:
    with network():
        router = RawRouter(ROUTER, 65000, "10.99.0.1")
        try:
            until(lambda: "ready" in router.lines, "the router listens")
            yield router
        finally:
            router.stop()


@pytest.fixture
def node(raw: RawRouter, tmp_path: Path) -> Iterator[RibsNode]:
    node = RibsNode(tmp_path)
    node.desire(peers=[PEER])
    node.start()
    until(lambda: node.state("10.99.0.1") == "established", "the session stands")
    try:
        yield node
    finally:
        node.kill()
        pid = node.engine.pid()
        if pid:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not raw.is_up, "the session has ended")


def settle(node: RibsNode, raw: RawRouter) -> dict[str, Any]:
    """What was received, once everything before has been taken in; the session still stands."""
    raw.say(encode(Update(four(str(LAST)), (), Attributes(as_path=(65000,)))))
    until(lambda: f"10.99.0.1 {LAST}" in node.received(), "the last prefix is there")
    found = node.received()
    del found[f"10.99.0.1 {LAST}"]
    assert raw.is_up
    assert list(raw.got(NOTIFICATION)) == []
    raw.say(encode(Update((), (Nlri(Family.IPV4, LAST),))))
    return found


def kept(node: RibsNode) -> int:
    """Entries of the file that the next speaker reads."""
    file = node.engine.run_dir / "ribs.journal"
    return len(journal.read(file)) if file.exists() else 0


def cuts(body: bytes) -> Iterator[bytes]:
    """Each attribute cut at each of its octets, with the lengths around it adapted."""
    path, at = body[4 : 4 + int.from_bytes(body[2:4])], 0
    while at < len(path):
        head = 4 if path[at] & EXTENDED_LENGTH else 3
        size = head + int.from_bytes(path[at + 2 : at + head])
        for keep in range(size - head):
            cut = attribute(path[at], path[at + 1], path[at + head : at + head + keep])
            whole = path[:at] + cut + path[at + size :]
            yield body[:2] + len(whole).to_bytes(2) + whole + body[4 + len(path) :]
        at += size


def test_an_attribute_that_is_cut_at_any_octet_costs_its_route_alone(
    node: RibsNode, raw: RawRouter
) -> None:
    raw.say(encode(Update(four("10.50.0.0/16"), (), SAID)))
    count = 0
    for body in cuts(encode(Update(four("10.60.0.0/16"), (), SAID))):
        raw.say(body)
        count += 1
    assert set(settle(node, raw)) == {"10.99.0.1 10.50.0.0/16"}
    said = node.said()
    assert said["malformed"] == count
    (text,) = [text for code, text in said["findings"] if code == "B230"]
    assert text.startswith(f"10.99.0.1 has sent {count} malformed UPDATEs to node")
    assert "10.60.0.0/16" in text


def expected(bodies: list[bytes]) -> set[str]:
    """The rows within the rules: what our decoder announces, and nothing afterwards withdraws."""
    rows: set[str] = set()
    for body in bodies:
        said = decode(body, external=True)
        gone = {f"10.99.0.1 {one.rd} {one.prefix}".replace("  ", " ") for one in said.withdrawn}
        come = {f"10.99.0.1 {one.rd} {one.prefix}".replace("  ", " ") for one in said.announced}
        rows -= gone - come
        rows = rows - come if 65101 in said.attributes.as_path else rows | come
    return rows


def test_mutated_updates_never_end_the_session_nor_leave_rows(
    node: RibsNode, raw: RawRouter
) -> None:
    chance = random.Random(9252)
    three = Nlri(Family.VPNV4, ip_network("10.70.0.0/16"), "65000:1", 3, HOP6)
    updates = [Update(four("10.60.0.0/16"), (), SAID), Update(six("fd60::/32"), (), SAID)]
    whole = [encode(one) for one in (*updates, Update((three,), (), SAID))]
    bodies = []
    for _ in range(MUTATED):
        body = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 3)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        bodies.append(bytes(body))
        raw.say(bodies[-1])
    assert set(settle(node, raw)) == expected(bodies)
    assert "B230" in node.codes()
    assert len(list(raw.got(REFRESH))) <= 8, "what could not be read is asked for once a minute"


def test_prefixes_beyond_the_maximum_are_not_taken_and_the_session_stays(
    node: RibsNode, raw: RawRouter
) -> None:
    node.desire(peers=[{**PEER, "max_prefixes": 50}])
    until(node.arrived, "the maximum is configured")
    until(lambda: raw.is_up, "the session stands")
    many = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(1000)]
    for at in range(0, 1000, 500):
        raw.say(encode(Update(four(*many[at : at + 500]), (), SAID)))
    text = "10.99.0.1 has sent more than 50 prefixes of ipv4 unicast to node: 950 are not taken"
    until(lambda: ["B231", text] in node.said().get("findings", ()), "a finding says so")
    assert node.said()["counts"][0] == 50
    assert raw.is_up
    asked = len(list(raw.got(REFRESH)))
    gone = tuple(Nlri(Family.IPV4, ip_network(one)) for one in many[:50])
    raw.say(encode(Update((), gone)))
    until(lambda: len(list(raw.got(REFRESH))) > asked, "there is room: the rest is asked for")
    until(lambda: "B231" not in node.codes(), "the finding has ended")


def test_vpn_routes_have_their_sid_and_a_second_speaker_asks_for_all(
    node: RibsNode, raw: RawRouter
) -> None:
    """FRR's UPDATE as it was on the wire: next hop of 48 octets, transposed SID."""
    frr = octets(
        """0000 0090 90 0e 0044 0001 80 30 0000000000000000 fd990000000000000000000000000005
        0000000000000000 fe8000000000000068d14dfffea22593 00 70 010003 0000fde9000001f4 0a3205
        40 01 01 02 50 02 0006 02010000fde8 80 04 04 00000000 c0 10 08 0002fde900000064
        c0 28 25 05002200 01001e00 fcbbbb00000500000000000000000000 00ffff00 010006 281810001040"""
    )
    raw.say(frr)
    raw.say(encode(Update(four("10.50.0.0/16"), (), SAID)))
    key = "10.99.0.1 65001:500 10.50.5.0/24"
    until(lambda: len(node.received()) == 2, "both routes are there")
    row = node.received()[key]
    assert (row["sid"], row["next_hop"]) == ("fcbb:bb00:5:0:100::", "fd99::5")
    until(lambda: kept(node) == 3, "both, and the router's OPEN, are on the disk")
    asked = len(list(raw.got(REFRESH)))
    node.kill()
    raw.say(encode(Update((), four("10.99.0.0/24"))))
    node.start()
    until(lambda: len(list(raw.got(REFRESH))) >= asked + 4, "each family is asked for")
    until(lambda: set(node.received()) == {key, "10.99.0.1 10.50.0.0/16"}, "the rows are there")
    for afi, safi in ((1, 1), (2, 1), (1, 128), (2, 128)):
        raw.say(bytes((0, afi, 1, safi)), REFRESH)
        if (afi, safi) == (1, 128):
            raw.say(frr)
        raw.say(bytes((0, afi, 2, safi)), REFRESH)
    until(lambda: set(node.received()) == {key}, "what did not come again is gone")
    until(lambda: node.said()["synced"], "the table is complete")
    assert raw.is_up


def unicast(number: int) -> list[bytes]:
    """UPDATEs of 1,000 prefixes."""
    networks = [f"{20 + (n >> 16)}.{n >> 8 & 255}.{n & 255}.0/24" for n in range(number)]
    return [
        encode(Update(four(*networks[at : at + 1000]), (), SAID)) for at in range(0, number, 1000)
    ]


def vpn(number: int) -> list[bytes]:
    """UPDATEs of one prefix with its SID."""
    sid = ServiceSID(IPv6Address("fcbb:bb00:5::"), 0xFFFF, (40, 24, 16, 0, 16, 64))
    said = replace(SAID, service=sid)
    first = Nlri(Family.VPNV4, ip_network("20.0.0.0/24"), "65000:1", 4096, HOP6)
    networks = [IPv4Network(((20 << 24) + (n << 8), 24)) for n in range(number)]
    return [encode(Update((replace(first, prefix=one),), (), said)) for one in networks]


#: The aims hold for a machine that does nothing else, as in a soak.
MANY = [("unicast", 10_000, 1.5 if IS_SOAK else DEADLINE_S)]
MANY += [("vpn", 10_000, 3.0 if IS_SOAK else DEADLINE_S)]
MANY += [("unicast", 100_000, 20.0), ("vpn", 100_000, 30.0)] if IS_SOAK else []


@pytest.mark.parametrize(("kind", "number", "limit_s"), MANY)
def test_many_routes_are_taken_in_soon_and_in_small_steps(
    node: RibsNode, raw: RawRouter, kind: str, number: int, limit_s: float
) -> None:
    bodies = unicast(number) if kind == "unicast" else vpn(number)
    began = time.monotonic()
    for body in bodies:
        raw.say(body)
    until(lambda: node.said().get("counts", [0])[0] == number, "all are there", limit_s)
    took_s = time.monotonic() - began
    said = node.said()
    sys.stdout.write(f"{number} {kind} routes: {took_s:.2f} s, {said['rss_mb']} MB {said['steps']}")
    assert raw.is_up
    until(lambda: kept(node) == number + 1, "they are on the disk")
    node.kill()
    began = time.monotonic()
    node.start()
    until(lambda: node.said().get("counts", [0])[0] == number, "the next speaker has them", limit_s)
    sys.stdout.write(f"; after a restart {time.monotonic() - began:.2f} s {node.said()['steps']}\n")
