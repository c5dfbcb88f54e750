"""Slow packets to routers that wait for the first one: all that a process of ours ever sends.

A router that has heard one sends by itself, and the datapath answers. Once the session is up
nothing is sent from here, so a process that is late or dead changes no session that stands.
"""

from __future__ import annotations

import logging
import socket
import struct

from bgp.bfd.packet import MULTIHOP_PORT, PORT, TTL, Control, State
from bgp.bfd.rows import Session, SessionKey

log = logging.getLogger(__name__)

_UDP = struct.Struct("!HHHH")
#: IPV6_CHECKSUM of linux/in6.h: where the sum stands that the kernel fills in.
_IPV6_CHECKSUM, _CHECK_AT = 7, 6


def first(row: Session) -> Control:
    """What a session that is down says; RFC 5880 6.8.7."""
    return Control(
        State.DOWN,
        row.discriminator,
        required_us=row.interval_us,
        multiplier=row.multiplier,
        authentication=row.authentication,
    )


def datagram(row: Session) -> bytes:
    """The same with its UDP header; the sum of IPv4 is left out, that of IPv6 to the kernel."""
    body = first(row).pack()
    to = MULTIHOP_PORT if row.multihop else PORT
    return _UDP.pack(row.port, to, _UDP.size + len(body), 0) + body


def send(key: SessionKey, row: Session) -> bool:
    """Send one; False when the host cannot. The port belongs to no socket, nor need it be free."""
    family = socket.AF_INET if key.peer.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP) as out:
            out.settimeout(0)
            if family == socket.AF_INET:
                out.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, TTL)
            else:
                out.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, TTL)
                out.setsockopt(socket.IPPROTO_IPV6, _IPV6_CHECKSUM, _CHECK_AT)
            out.bind((str(key.local), 0))
            out.sendto(datagram(row), (str(key.peer), 0))
    except OSError as error:
        log.debug("event=no_bfd_packet peer=%s reason=%s", key.peer, error)
        return False
    return True
