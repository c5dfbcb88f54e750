"""What a pod's network namespace has, asked by system calls of a few microseconds."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from bpf import netns
from mesh.core.model import IP

#: Addresses that nobody has (RFC 5737, RFC 3849): only a default route leads to them.
_WORLD: dict[int, IP] = {4: IPv4Address("203.0.113.254"), 6: IPv6Address("2001:db8:ffff:ffff::1")}
_PORT = 9


def has(path: str, interface: str) -> bool:
    """Whether a namespace has an interface of that name."""
    try:
        with netns.enter(Path(path)):
            socket.if_nametoindex(interface)
    except OSError:
        return False
    return True


def lacks(path: str, addresses: Collection[IP], *, routes: bool) -> list[str]:
    """Which of the addresses a namespace lacks, and with ``routes`` which families' default route.

    Raises OSError when the namespace cannot be entered.
    """
    with netns.enter(Path(path)):
        return list(_lacks(addresses, routes=routes))


def _lacks(addresses: Collection[IP], *, routes: bool) -> Iterator[str]:
    for address in addresses:
        if not _usable(address, source=True):
            yield f"address {address}"
    for version in sorted({address.version for address in addresses if routes}):
        if not _usable(_WORLD[version], source=False):
            yield f"default route of IPv{version}"


def _usable(address: IP, *, source: bool) -> bool:
    """Whether a socket can have the address as its own, or as its peer; nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as made:
        try:
            if source:
                made.bind((str(address), 0))
            else:
                made.connect((str(address), _PORT))
        except OSError:
            return False
    return True
