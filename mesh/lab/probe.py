"""What a running transfer loses: numbered datagrams, or one TCP stream, against an echo server.

The server is ``legacy.py``.

Started by path, without the project on ``sys.path``::

    probe.py udp ADDRESS PORT --seconds 60 --rate 1000   numbered datagrams, there and back
    probe.py tcp ADDRESS PORT --seconds 60               one stream, there and back

Every datagram is echoed, so a missing number was lost on the way there or back. Receive buffers are
4 MB on both sides: a wake-up that comes late loses nothing. SIGTERM ends a transfer early. The
report is one JSON object; exit status 0 means nothing was lost.
"""

from __future__ import annotations

import argparse
import json
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from threading import Event

BUFFER = 4 << 20
SO_RCVBUFFORCE = 33
NUMBER = struct.Struct("!QQ")
#: How long a straggler is waited for after the last datagram.
LINGER_S = 2.0
TCP_CHUNK = 16 << 10
TCP_RATE = 2 << 20


@dataclass
class UdpReport:
    """``missing`` counts numbers that never came back; gaps are between two arrivals, in ms."""

    sent: int = 0
    received: int = 0
    missing: int = 0
    duplicates: int = 0
    longest_gap_ms: float = 0.0
    errors: list[str] = field(default_factory=list)
    first_missing: list[int] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Nothing lost, nothing doubled."""
        return self.sent > 0 and self.missing == 0 and self.duplicates == 0


@dataclass
class TcpReport:
    """``seconds_at_zero``: the longest run of whole seconds without a byte."""

    received: int = 0
    seconds: int = 0
    seconds_at_zero: int = 0
    reset: bool = False
    error: str = ""
    per_second: list[int] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """The connection lived and never stood still."""
        return self.received > 0 and not self.reset and not self.error and not self.seconds_at_zero


class UdpProbe:
    """Sends numbers at a fixed rate and ticks off what comes back; ``stop`` ends it early."""

    def __init__(self, address: str, port: int, size: int, stop: Event) -> None:
        self._stop = stop
        self.socket = _datagram_socket(address)
        self.socket.connect((address, port))
        self.report = UdpReport()
        self._padding = bytes(max(0, size - NUMBER.size))
        self._run = time.time_ns()
        self._seen = bytearray()
        self._last = 0.0

    def run(self, seconds: float, rate: int) -> UdpReport:
        """Send for ``seconds``, wait for stragglers, count."""
        begin, total = time.monotonic(), int(seconds * rate)
        self._seen = bytearray(total)
        while self.report.sent < total and not self._stop.is_set():
            due = min(total, int((time.monotonic() - begin) * rate) + 1)
            while self.report.sent < due:
                self._send()
            self._receive(begin + self.report.sent / rate)
        end = time.monotonic() + LINGER_S
        while self.report.received < self.report.sent and time.monotonic() < end:
            self._receive(end)
        return self._counted()

    def _send(self) -> None:
        number = self.report.sent
        self.report.sent += 1
        try:
            self.socket.send(NUMBER.pack(self._run, number) + self._padding)
        except OSError as error:
            self._note(error)

    def _receive(self, until: float) -> None:
        """Take in what arrives before ``until``."""
        while True:
            wait = max(0.0, until - time.monotonic())
            if not select.select([self.socket], [], [], wait)[0]:
                return
            try:
                payload = self.socket.recv(65535)
            except OSError as error:
                self._note(error)
                continue
            self._tick(*NUMBER.unpack_from(payload))
            if time.monotonic() >= until:
                return

    def _tick(self, run: int, number: int) -> None:
        if run != self._run:
            return
        now = time.monotonic()
        if self._last:
            gap = (now - self._last) * 1000
            self.report.longest_gap_ms = max(self.report.longest_gap_ms, round(gap, 1))
        self._last = now
        if self._seen[number]:
            self.report.duplicates += 1
            return
        self._seen[number] = 1
        self.report.received += 1

    def _note(self, error: OSError) -> None:
        if len(self.report.errors) < 10:  # enough to see the kind
            self.report.errors.append(f"{error.strerror} before {self.report.sent}")

    def _counted(self) -> UdpReport:
        seen = self._seen[: self.report.sent]
        missing = [number for number, came in enumerate(seen) if not came]
        self.report.missing, self.report.first_missing = len(missing), missing[:10]
        return self.report


class TcpProbe:
    """One paced stream through an echo server; counts what comes back each second.

    ``stop`` ends it early; then the second that was begun does not count. ``segment``: bytes of a
    segment at most, in both directions; 0: what the path takes.
    """

    def __init__(self, address: str, port: int, stop: Event, segment: int = 0) -> None:
        self._stop = stop
        self.report = TcpReport()
        self._peer = (address, port)
        self._segment = segment

    def run(self, seconds: int, rate: int) -> TcpReport:
        """Send and receive for ``seconds``."""
        bins = [0] * seconds
        try:
            family = socket.AF_INET6 if ":" in self._peer[0] else socket.AF_INET
            with socket.socket(family) as stream:
                stream.settimeout(5)
                if self._segment:
                    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, self._segment)
                stream.connect(self._peer)
                self._transfer(stream, bins, rate)
        except ConnectionResetError as error:
            self.report.reset, self.report.error = True, str(error)
        except OSError as error:
            self.report.error = str(error)
        self.report.seconds, self.report.per_second = len(bins), bins
        self.report.received = sum(bins)
        self.report.seconds_at_zero = longest_zero(bins)
        return self.report

    def _transfer(self, stream: socket.socket, bins: list[int], rate: int) -> None:
        stream.settimeout(0)
        begin, sent, chunk = time.monotonic(), 0, bytes(TCP_CHUNK)
        while (elapsed := time.monotonic() - begin) < len(bins):
            wants = [stream] if sent < elapsed * rate else []
            readable, writable, _ = select.select([stream], wants, [], 0.01)
            if readable:
                bins[int(elapsed)] += _read(stream)
            if writable:
                sent += stream.send(chunk)
            if self._stop.is_set():
                del bins[int(elapsed) :]


def _read(stream: socket.socket) -> int:
    got = len(stream.recv(1 << 20))
    if not got:
        raise ConnectionAbortedError("the other side closed the connection")
    return got


def longest_zero(bins: list[int]) -> int:
    """The longest run of zeros."""
    longest = run = 0
    for count in bins:
        run = 0 if count else run + 1
        longest = max(longest, run)
    return longest


def _datagram_socket(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    sock.settimeout(0)
    return sock


def _udp(options: argparse.Namespace, stop: Event) -> UdpReport:
    probe = UdpProbe(options.address, options.port, options.size, stop)
    return probe.run(options.seconds, options.rate)


def _tcp(options: argparse.Namespace, stop: Event) -> TcpReport:
    probe = TcpProbe(options.address, options.port, stop, options.segment)
    return probe.run(int(options.seconds), options.rate)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    modes = parser.add_subparsers(dest="mode", required=True)
    for mode, rate in (("udp", 1000), ("tcp", TCP_RATE)):
        sender = modes.add_parser(mode)
        sender.add_argument("address")
        sender.add_argument("port", type=int)
        sender.add_argument("--seconds", type=float, default=10)
        sender.add_argument("--rate", type=int, default=rate, help="datagrams or bytes a second")
        sender.add_argument("--size", type=int, default=64, help="bytes of a datagram")
        sender.add_argument("--segment", type=int, default=0, help="bytes of a TCP segment at most")
    return parser


def main() -> int:
    """Run one mode; print its report."""
    options = _parser().parse_args()
    modes: dict[str, Callable[[argparse.Namespace, Event], UdpReport | TcpReport]]
    modes = {"udp": _udp, "tcp": _tcp}
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    report = modes[options.mode](options, stop)
    print(json.dumps(asdict(report)))
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main())
