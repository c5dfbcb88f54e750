"""What a host sends to the address of a service without asking by a socket call stays on the host.

node a ── router ── legacy      (``wire.py``; no cgroup program: each socket is like a raw one)
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from ipaddress import ip_address

from bpf import netns
from mesh.core.address import encode_address
from tests.lab.wire import Wire, af, at, inside, make_socket

SERVICE = {4: "10.97.1.10", 6: "fd97:1::10"}
#: Errors of routers, too, and not of the port alone (linux/in.h, in6.h).
IP_RECVERR, IPV6_RECVERR = 11, 25
PROTOCOLS = {4: 0x0800, 6: 0x86DD}


@contextmanager
def heard_at_the_router(family: int) -> Iterator[list[bytes]]:
    """Packets to the service that come in by the router's bridge, once the block has ended."""
    found: list[bytes] = []
    kind = PROTOCOLS[family]
    with netns.enter(at("r")):
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(kind))
        tap.bind(("br0", kind))
    with closing(tap):
        yield found
        tap.settimeout(0.2)
        wanted = ip_address(SERVICE[family]).packed
        with suppress(TimeoutError):
            while True:
                packet = tap.recv(2000)
                if wanted in packet[:40]:
                    found.append(packet)


def ask(family: int) -> int:
    """The error that a datagram of node a to the service comes back with; 0: none in 0.3 s."""
    with closing(make_socket("a", family, socket.SOCK_DGRAM)) as made:
        made.settimeout(0.3)
        if family == 4:
            made.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        made.connect((SERVICE[family], 81))
        made.send(b"x")
        try:
            made.recv(10)
        except TimeoutError:
            return 0
        except OSError as error:
            return error.errno or -1
    return -1


def test_it_leaves_for_the_router_only_while_no_service_has_the_address(
    wire: Wire, family: int
) -> None:
    node = wire.nodes["a"]
    with heard_at_the_router(family) as before:
        assert ask(family) == errno.ENETUNREACH  # the router knows no way
    address = encode_address(ip_address(SERVICE[family]))
    node.maps["mg_service_ip"].update_one(address, (1).to_bytes(4, "little"))
    with heard_at_the_router(family) as after:
        assert ask(family) == errno.EHOSTUNREACH
    assert (len(before), after) == (1, [])
    counts = node.drop_counts() - node.counts
    reasons = {node.reasons[number]: int(count) for number, count in enumerate(counts) if count}
    assert reasons == {"DROP_NO_SERVICE": 1}


def test_a_ping_of_the_host_hears_it_too(wire: Wire, family: int) -> None:
    """A raw socket, of which no program of a cgroup is asked."""
    node = wire.nodes["a"]
    address = encode_address(ip_address(SERVICE[family]))
    node.maps["mg_service_ip"].update_one(address, (1).to_bytes(4, "little"))
    protocol = socket.IPPROTO_ICMP if family == 4 else socket.IPPROTO_ICMPV6
    echo = (
        bytes([8, 0, 0xF7, 0xFE, 0, 1, 0, 0]) if family == 4 else bytes([128, 0, 0, 0, 0, 1, 0, 0])
    )
    made = inside("a", lambda: socket.socket(af(family), socket.SOCK_RAW, protocol))
    with closing(made), heard_at_the_router(family) as heard:
        made.settimeout(2)
        made.sendto(echo, (SERVICE[family], 0))
        answer, sender = made.recvfrom(2000)
    assert heard == []
    at_icmp = (answer[0] & 15) * 4 if family == 4 else 0
    assert (sender[0], answer[at_icmp]) == (SERVICE[family], 3 if family == 4 else 1)
