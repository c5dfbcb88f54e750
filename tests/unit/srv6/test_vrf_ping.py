"""``meshgate vrf ping``: which pod asks, by which source, and what an answer is."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Any

import pytest

from srv6.vrf.ping import Pinger
from srv6.vrf.verbs import chosen, source_of

WEB = {"cluster": "east", "namespace": "blue", "name": "app-1"}
OTHER = {"cluster": "east", "namespace": "blue", "name": "app-2"}
PODS: list[dict[str, Any]] = [
    {**OTHER, "vrf": "blue", "addresses": ["10.60.0.2"]},
    {**WEB, "vrf": "blue", "addresses": ["10.60.0.1", "fd60::1"]},
    {**WEB, "name": "app-3", "vrf": "blue", "addresses": []},
]
LINKS = [{**WEB, "netns": "/run/netns/one"}, {**OTHER, "netns": "/run/netns/two"}]


@pytest.mark.parametrize(
    ("pod", "netns"), [("", "one"), ("blue/app-1", "one"), ("blue/app-2", "two")]
)
def test_the_first_pod_of_the_vrf_asks_or_the_one_that_is_named(pod: str, netns: str) -> None:
    assert chosen(PODS, LINKS, "blue", pod)["netns"] == f"/run/netns/{netns}"


@pytest.mark.parametrize(
    ("vrf", "pod", "text"),
    [
        ("green", "", "no pod of VRF green is on this host"),
        ("blue", "blue/app-3", "there are blue/app-2, blue/app-1"),
    ],
)
def test_a_pod_that_is_not_there_is_named(vrf: str, pod: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        chosen(PODS, LINKS, vrf, pod)


def test_the_source_is_the_address_in_the_vrf() -> None:
    pod = PODS[0]
    assert source_of(pod, ip_address("10.50.0.10")) == ip_address("10.60.0.2")
    assert source_of(PODS[2], ip_address("10.50.0.10")) is None
    with pytest.raises(ValueError, match="blue/app-2 has no IPv6 address in its VRF"):
        source_of(pod, ip_address("fd50::10"))


def echo(kind: int, code: int, number: int, sequence: int) -> bytes:
    return struct.pack("!BBHHH", kind, code, 0, number, sequence)


IPV4 = b"\x45" + bytes(19)
CASES = [
    (4, IPV4 + echo(0, 0, 7, 1), ""),
    (4, IPV4 + echo(0, 0, 7, 2), None),  # a late one
    (4, IPV4 + echo(0, 0, 8, 1), None),  # another program's
    (4, IPV4 + echo(8, 0, 7, 1), None),  # our own request
    (4, IPV4 + echo(3, 13, 0, 0) + IPV4 + echo(8, 0, 7, 1), "destination unreachable (code 13)"),
    (4, IPV4 + echo(3, 13, 0, 0) + IPV4 + echo(8, 0, 9, 1), None),
    (4, IPV4 + echo(3, 13, 0, 0), None),  # cut
    (6, echo(129, 0, 7, 1), ""),
    (6, echo(1, 3, 0, 0) + bytes(40) + echo(128, 0, 7, 1), "destination unreachable (code 3)"),
    (6, echo(2, 0, 0, 1280) + bytes(40) + echo(128, 0, 7, 1), "packet too big (code 0)"),
]


@pytest.mark.parametrize(("version", "packet", "said"), CASES)
def test_what_comes_is_an_answer_an_error_or_anothers(
    version: int, packet: bytes, said: str | None
) -> None:
    pinger = Pinger.__new__(Pinger)
    pinger._version, pinger._number = version, 7  # noqa: SLF001 - no socket
    assert pinger._read(packet, 1) == said  # noqa: SLF001
