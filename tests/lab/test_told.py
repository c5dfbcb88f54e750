"""ICMP errors that another node or a gateway originates arrive at the pod through the tunnel."""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address

import pytest
from running import Lab, report, wait
from wiretap import opened

CLIENT = "east/shop/client-1"  # covered; its gateway is another node
GATEWAY = "east-2"
GATEWAYS_OWN = {socket.AF_INET: "10.99.0.12", socket.AF_INET6: "fd99::12"}
ROUTER = {socket.AF_INET: "10.99.0.1", socket.AF_INET6: "fd99::1"}
LEGACY = {socket.AF_INET: "192.0.2.10", socket.AF_INET6: "2001:db8:2::10"}
GONE = {socket.AF_INET: "10.1.1.250", socket.AF_INET6: "fd01:0:0:1::fa"}
FAMILIES = pytest.mark.parametrize(
    "family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"]
)
#: IP_TTL, IP_RECVERR, IP_MTU_DISCOVER, IP_MTU and the same of IPv6
LEVEL = {socket.AF_INET: socket.IPPROTO_IP, socket.AF_INET6: socket.IPPROTO_IPV6}
TTL = {socket.AF_INET: 2, socket.AF_INET6: 16}
RECVERR = {socket.AF_INET: 11, socket.AF_INET6: 25}
MTU_DISCOVER = {socket.AF_INET: 10, socket.AF_INET6: 23}
MTU = {socket.AF_INET: 14, socket.AF_INET6: 24}
DISCOVER_DO = 2
ERROR_SIZE = struct.calcsize("=I4B2I")  # struct sock_extended_err


@pytest.fixture(scope="module", autouse=True)
def one_gateway(lab: Lab) -> Iterator[None]:
    """The gateway whose routes the tests change is the only one."""
    with lab.one_gateway(GATEWAY):
        yield


def refused(lab: Lab, pod: str, family: int, address: str, port: int = 5353) -> tuple[int, float]:
    """The error of a connect() and the seconds that it took."""
    with opened(lab, pod, family, socket.SOCK_STREAM) as made:
        made.settimeout(6)
        begun = time.monotonic()
        try:
            made.connect((address, port))
        except OSError as error:
            return error.errno or errno.ETIMEDOUT, time.monotonic() - begun
        return 0, time.monotonic() - begun


# Pods that are gone


@FAMILIES
def test_a_connect_to_a_gone_pod_of_another_node_fails_at_once(lab: Lab, family: int) -> None:
    for _ in range(3):
        said, took = refused(lab, CLIENT, family, GONE[family])
        assert said == errno.EHOSTUNREACH, errno.errorcode.get(said, said)
        assert took < 1


# Gateways


def told(lab: Lab, family: int, size: int, ttl: int = 64, tries: int = 10) -> tuple[int, str]:
    """The error that datagrams to the legacy server get, and its sender."""
    level = LEVEL[family]
    with opened(lab, CLIENT, family, socket.SOCK_DGRAM) as made:
        made.setsockopt(level, TTL[family], ttl)
        made.setsockopt(level, RECVERR[family], 1)
        made.setsockopt(level, MTU_DISCOVER[family], DISCOVER_DO)
        made.connect((LEGACY[family], 33434))
        made.settimeout(0)
        for _ in range(tries):
            with suppress(OSError):
                made.send(bytes(size))
            time.sleep(0.05)
            with suppress(BlockingIOError):
                _, noted, _, _ = made.recvmsg(0, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
                error = noted[0][2]
                offender = error[ERROR_SIZE:]
                at = slice(4, 8) if family == socket.AF_INET else slice(8, 24)
                return int.from_bytes(error[:4], "little"), str(ip_address(offender[at]))
    return 0, ""


@FAMILIES
@pytest.mark.parametrize("size", [33, 600])
def test_a_traceroute_through_egress_shows_the_gateway(lab: Lab, family: int, size: int) -> None:
    assert told(lab, family, size, ttl=1) == (errno.EHOSTUNREACH, GATEWAYS_OWN[family])


@contextmanager
def route(lab: Lab, family: int, *words: str) -> Iterator[None]:
    """A route of the gateway's to the legacy server."""
    to = ["-4" if family == socket.AF_INET else "-6", "route"]
    lab.output(GATEWAY, "ip", *to, "add", *words)
    try:
        yield
    finally:
        lab.output(GATEWAY, "ip", *to, "del", *words)


@FAMILIES
def test_too_big_from_the_gateway_reaches_the_pod(lab: Lab, family: int) -> None:
    narrow = route(lab, family, LEGACY[family], "via", ROUTER[family], "mtu", "lock", "1340")
    with narrow, opened(lab, CLIENT, family, socket.SOCK_DGRAM) as made:
        made.setsockopt(LEVEL[family], MTU_DISCOVER[family], DISCOVER_DO)
        made.connect((LEGACY[family], 33434))

        def learned() -> bool:
            with suppress(OSError):
                made.send(bytes(1330))
            return made.getsockopt(LEVEL[family], MTU[family]) == 1340

        wait(learned, 2, "the pod knows the MTU")


@FAMILIES
def test_a_stream_goes_on_where_the_gateways_route_is_narrow(lab: Lab, family: int) -> None:
    """TCP sends aggregates, which the gateway gets whole."""
    with route(lab, family, LEGACY[family], "via", ROUTER[family], "mtu", "lock", "1300"):
        found = report(lab.probe(CLIENT, "tcp", LEGACY[family], 7007, 3))
    assert not found["error"], found
    assert found["received"] > 1 << 20, found


@FAMILIES
def test_without_a_route_at_the_gateway_a_connect_fails_at_once(lab: Lab, family: int) -> None:
    kind = ["unreachable", LEGACY[family], *(["metric", "1"] if family == socket.AF_INET6 else [])]
    with route(lab, family, *kind):
        said, took = refused(lab, CLIENT, family, LEGACY[family], 7007)
        assert said in (errno.ENETUNREACH, errno.EHOSTUNREACH), errno.errorcode.get(said, said)
        assert took < 1
