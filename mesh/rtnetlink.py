"""The form of RTNETLINK messages. Pure.

``orders.py`` makes messages of this form, ``netlink.py`` reads those that come in masses. Source:
rtnetlink(7); linux/netlink.h, rtnetlink.h, if_link.h, if_addr.h, neighbour.h. Numbers have the
host's byte order.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address
from typing import Final

from mesh.core.model import IP

HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
ATTRIBUTE: Final = struct.Struct("=HH")  # rtattr: length, type
LINK: Final = struct.Struct("=BxHiII")  # ifinfomsg: family, device type, index, flags, change
ADDRESS: Final = struct.Struct("=BBBBi")  # ifaddrmsg: family, prefix length, flags, scope, index
#: rtmsg: family, dst, src, tos, table, protocol, scope, type, flags.
ROUTE: Final = struct.Struct("=BBBBBBBBI")
NEIGHBOUR: Final = struct.Struct("=BxxxiHBB")  # ndmsg: family, index, state, flags, type
NUMBER: Final = struct.Struct("=I")
CODE: Final = struct.Struct("=i")

ERROR, DONE = 2, 3  # NLMSG_…
REQUEST, ACK, DUMP = 1, 4, 0x300  # NLM_F_…
NEWLINK, DELLINK, GETLINK = 16, 17, 18  # RTM_…
NEWADDR, DELADDR = 20, 21
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH = 28
IFF_UP: Final = 1
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
NDA_DST: Final = 1


def message(kind: int, flags: int, sequence: int, *parts: bytes) -> bytes:
    """A message with its header."""
    body = b"".join(parts)
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute with its padding."""
    size = ATTRIBUTE.size + len(value)
    return ATTRIBUTE.pack(size, kind) + value + bytes(aligned(size) - size)


def number(kind: int, value: int) -> bytes:
    """An attribute of 32 bits."""
    return attribute(kind, NUMBER.pack(value))


def family(address: IP) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6


def aligned(size: int) -> int:
    """Where the next message or attribute begins."""
    return (size + 3) & ~3
