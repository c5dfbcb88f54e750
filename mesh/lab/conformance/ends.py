"""Ends of a connection as raw sockets: frames in, frames out, and no kernel that answers by itself.

An end is a device in a network namespace without addresses, so the kernel there says nothing: each
flag of TCP, each fragment and each ICMP error on the wire is one that a case has sent.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bpf.netns import enter
from mesh.lab.conformance.packets import Packet

ETH_P_ALL = 3
BUFFER = 4 << 20
SO_RCVBUFFORCE = 33
#: How long a packet that must arrive is waited for, and one that must not.
ARRIVES_S = 2.0
QUIET_S = 0.25

Wanted = Callable[[Packet], bool]


@dataclass
class End:
    """A device whose frames we read and write; ``towards`` is the MAC of the next hop."""

    socket: socket.socket
    mac: bytes
    towards: bytes
    addresses: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def open(cls, netns: Path, device: str, towards: bytes) -> End:
        """The end in a namespace. Raises OSError."""
        with enter(netns):
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
            raw.bind((device, ETH_P_ALL))
        raw.settimeout(0)
        return cls(raw, raw.getsockname()[4], towards)

    def send(self, *packets: Packet) -> None:
        """Put packets on the wire, in this order."""
        for packet in packets:
            wire = packet.but(mac=self.towards).wire()
            self.socket.send(wire[:6] + self.mac + wire[12:])

    def take(self, wanted: Wanted, within: float = ARRIVES_S) -> Packet | None:
        """The first packet from now on that is wanted; None: none came in time."""
        end = time.monotonic() + within
        while (left := end - time.monotonic()) > 0:
            if select.select([self.socket], [], [], left)[0]:
                for packet in self._waiting():
                    if wanted(packet):
                        return packet
        return None

    def all(self, wanted: Wanted, within: float = QUIET_S) -> list[Packet]:
        """Every packet that is wanted and comes within that time."""
        found: list[Packet] = []
        end = time.monotonic() + within
        while one := self.take(wanted, end - time.monotonic()):
            found.append(one)
        return found

    def drain(self) -> None:
        """Forget what has come so far."""
        for _ in self._waiting():
            pass

    def _waiting(self) -> Iterator[Packet]:
        with contextlib.suppress(BlockingIOError):
            while True:
                wire, about = self.socket.recvfrom(1 << 16)
                if about[2] != socket.PACKET_OUTGOING:
                    with contextlib.suppress(ValueError, LookupError):
                        yield Packet.read(wire)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()
