"""Short connections, each with an answer of its own: what a change of programs may break.

Started by path, without the project on ``sys.path``::

    churn.py serve PORT                                             answers TCP
    churn.py ask NAME TCP_PORT UDP_PORT ADDRESS… --rate 250         until SIGTERM

Half of the connections are TCP (connect, payload, echo, close), half are UDP (question, answer).
Each payload names this pod and a number, so an answer that another pod should have got is seen. The
report is one JSON object.

A TCP segment that was lost comes again, so the connection succeeds. Both ends ask their kernels how
often they sent one again. Time alone tells nothing: on a busy machine the server may be late.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

#: Place in ``struct tcp_info`` (linux/tcp.h).
TOTAL_RETRANS = 100
ANSWER_S = 3.0
#: An answer that takes longer is reported.
SLOW_S = 0.9
BACKLOG = 1024


@dataclass
class Report:
    """``again``: TCP connections in which this end's kernel had to send a segment again."""

    seconds: float = 0.0
    opened: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    wrong: int = 0
    again: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)


class Answer(NamedTuple):
    """The seconds until connected and answered; how often segments had been sent again by then."""

    payload: bytes
    times: tuple[float, ...]
    again: tuple[int, ...] = ()


def sent_again(made: socket.socket) -> int:
    """How often the kernel has sent a segment of the connection again."""
    info = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TOTAL_RETRANS + 4)
    return int.from_bytes(info[TOTAL_RETRANS:], sys.byteorder)


def _tcp(address: str, port: int, payload: bytes) -> Answer:
    begin = time.monotonic()
    with socket.create_connection((address, port), timeout=ANSWER_S) as made:
        connected, again = time.monotonic() - begin, sent_again(made)
        made.sendall(payload)
        got = b""
        while len(got) < len(payload) and (more := made.recv(1000)):
            got += more
        return Answer(got, (connected, time.monotonic() - begin), (again, sent_again(made)))


def _udp(address: str, port: int, payload: bytes) -> Answer:
    begin = time.monotonic()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        made.settimeout(ANSWER_S)
        made.connect((address, port))
        made.send(payload)
        return Answer(made.recv(1000), (time.monotonic() - begin,))


Ask = Callable[[str, int, bytes], Answer]


class Lane:
    """One kind of connection to one address, at a fixed rate, by a few threads."""

    THREADS = 4

    def __init__(self, kind: str, ask: Ask, peer: tuple[str, int]) -> None:
        self.kind, self._ask, self._peer = f"{kind} {peer[0]}", ask, peer
        self._lock = threading.Lock()
        self._number = 0

    def run(self, name: str, rate: float, report: Report, stop: threading.Event) -> None:
        """Ask until told to stop."""
        begin = time.monotonic()
        while not stop.is_set():
            now = time.monotonic()
            with self._lock:
                due = begin + self._number / rate
                number = self._number
                self._number += due <= now
            if due > now:
                time.sleep(due - now)
                continue
            self._one(f"{name} {self.kind} {number}".encode(), report, begin)

    def _one(self, payload: bytes, report: Report, begin: float) -> None:
        start = time.monotonic()
        at = f"{self.kind} at {start - begin:.2f} s"
        try:
            got = self._ask(*self._peer, payload)
        except OSError as error:
            report.failed.append(f"{at}: {error}")
            return
        finally:
            with self._lock:
                report.opened[self.kind] = report.opened.get(self.kind, 0) + 1
        report.wrong += got.payload != payload
        words = f"{at}: after {', '.join(f'{one:.2f} s' for one in got.times)}, again {got.again}"
        if any(got.again):
            report.again.append(words)
        elif time.monotonic() - start > SLOW_S:
            report.slow.append(words)


class Server(asyncio.Protocol):
    """Answers with what was asked, and looks at each connection once the other end closes it."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """A question, or a part of one."""
        assert self._transport
        self._transport.write(data)

    def eof_received(self) -> None:
        """The client has its answer."""
        assert self._transport
        name, *_ = peer = self._transport.get_extra_info("peername")
        self._report.opened[name] = self._report.opened.get(name, 0) + 1
        if again := sent_again(self._transport.get_extra_info("socket")):
            self._report.again.append(f"the server of {peer}: {again}")


async def serve(port: int, report: Report) -> None:
    """Answer until SIGTERM."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    both = socket.create_server(
        ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
    )
    await loop.create_server(lambda: Server(report), sock=both, backlog=BACKLOG)
    await stop.wait()


def ask(options: argparse.Namespace, report: Report) -> None:
    """Run all lanes until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    ports = {"tcp": (_tcp, options.tcp_port), "udp": (_udp, options.udp_port)}
    lanes = [
        Lane(kind, ask, (address, port))
        for address in options.address
        for kind, (ask, port) in ports.items()
    ]
    rate = options.rate / len(lanes)
    threads = [
        threading.Thread(target=lane.run, args=(options.name, rate, report, stop))
        for lane in lanes
        for _ in range(Lane.THREADS)
    ]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    stop.wait()
    report.seconds = time.monotonic() - begin
    for thread in threads:
        thread.join()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    modes = parser.add_subparsers(dest="mode", required=True)
    modes.add_parser("serve").add_argument("port", type=int)
    asker = modes.add_parser("ask")
    asker.add_argument("name")
    asker.add_argument("tcp_port", type=int)
    asker.add_argument("udp_port", type=int)
    asker.add_argument("address", nargs="+")
    asker.add_argument("--rate", type=float, default=250)
    return parser


def main() -> None:
    """Run one mode and print its report."""
    options, report = _parser().parse_args(), Report()
    if options.mode == "serve":
        asyncio.run(serve(options.port, report))
    else:
        ask(options, report)
    sys.stdout.write(f"{json.dumps(asdict(report))}\n")


if __name__ == "__main__":
    main()
