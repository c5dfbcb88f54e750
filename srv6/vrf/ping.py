"""Echo requests from inside a pod of a VRF (RFC 792, RFC 4443 4)."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bpf.netns import enter
from mesh.core.model import IP

#: Type, code, checksum, identifier, sequence number.
_ECHO = struct.Struct("!BBHHH")
_REQUEST, _REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
_ERRORS = {
    4: {3: "destination unreachable", 11: "time exceeded"},
    6: {1: "destination unreachable", 2: "packet too big", 3: "time exceeded"},
}
#: Bytes before the ICMP header of the packet that an error carries; IPv4 says it itself.
_IPV6_HEADER = 40


@dataclass(frozen=True, slots=True)
class Echo:
    """``ms`` is the round trip; None: there was no reply, and ``error`` says what came instead."""

    sequence: int
    ms: float | None
    error: str = ""


class Pinger:
    """A raw socket in the network namespace of a pod. Raises OSError."""

    def __init__(self, netns: Path, source: IP | None, destination: IP) -> None:
        self._version, self._destination = destination.version, str(destination)
        four = destination.version == 4
        family = socket.AF_INET if four else socket.AF_INET6
        protocol = socket.IPPROTO_ICMP if four else socket.IPPROTO_ICMPV6
        with enter(netns):
            self._sock = socket.socket(family, socket.SOCK_RAW, protocol)
        try:
            if source is not None:
                self._sock.bind((str(source), 0))
        except OSError:
            self._sock.close()
            raise
        self._number = os.getpid() & 0xFFFF

    def close(self) -> None:
        """Give the socket back."""
        self._sock.close()

    def ask(self, count: int, wait_s: float) -> Iterator[Echo]:
        """One request after the other, each waited for."""
        for sequence in range(1, count + 1):
            begun = time.monotonic()
            try:
                self._sock.sendto(self._request(sequence), (self._destination, 0))
            except OSError as error:
                yield Echo(sequence, None, error.strerror or str(error))
            else:
                yield self._answer(sequence, begun, wait_s)
            if sequence < count:
                time.sleep(max(0.0, wait_s - (time.monotonic() - begun)))

    def _request(self, sequence: int) -> bytes:
        kind = _REQUEST[self._version]
        total = (kind << 8) + self._number + sequence
        # RFC 1071; of ICMPv6 the kernel makes it.
        check = 0 if self._version == 6 else ~(total + (total >> 16)) & 0xFFFF
        return _ECHO.pack(kind, 0, check, self._number, sequence)

    def _answer(self, sequence: int, begun: float, wait_s: float) -> Echo:
        while (left := begun + wait_s - time.monotonic()) > 0:
            if not select.select([self._sock], [], [], left)[0]:
                break
            said = self._read(self._sock.recv(2048), sequence)
            if said is not None:
                ms = round((time.monotonic() - begun) * 1000, 3)
                return Echo(sequence, None if said else ms, said)
        return Echo(sequence, None, "no answer")

    def _read(self, packet: bytes, sequence: int) -> str | None:
        """Empty: the reply to this request; else an error about it; None: another's."""
        message = packet[(packet[0] & 15) * 4 :] if self._version == 4 else packet
        if len(message) < _ECHO.size:
            return None
        kind, code, _, number, answered = _ECHO.unpack_from(message)
        if kind == _REPLY[self._version]:
            return "" if (number, answered) == (self._number, sequence) else None
        inner = message[_ECHO.size :]
        words = _ERRORS[self._version].get(kind)
        if words is None or not inner:
            return None
        about = inner[(inner[0] & 15) * 4 if self._version == 4 else _IPV6_HEADER :]
        if len(about) < _ECHO.size:
            return None
        asked, _, _, number, answered = _ECHO.unpack_from(about)
        mine = (asked, number, answered) == (_REQUEST[self._version], self._number, sequence)
        return f"{words} (code {code})" if mine else None
