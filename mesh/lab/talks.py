"""Conversations that a drill watches: TCP connections of three sorts and numbered datagrams.

Started by path, without the project on ``sys.path``::

    talks.py serve PORT
    talks.py talk PORT ADDRESS… --connections 50 --lanes 4 --rate 250

Both end at SIGTERM with a report, one JSON object. Connections and lanes are spread over the
addresses. Of three connections one sends and is echoed, one is pushed to and says nothing, and one
is idle until the end; then each must answer once more. A lane is a UDP flow with numbered datagrams
each way, by the clock of each end, so that a direction's loss says nothing of the other one.

A gap is the time, by the sender's clock, from the last datagram that came to the next one that
came, where some between them did not. A receiver or sender that stalls makes no gap.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass

BUFFER = 64 << 20
SO_RCVBUFFORCE = 33
#: Lane, number, send time in ns.
DATAGRAM = struct.Struct("!QQQ")
PUSH, ASK = b"P", b"?"
#: Seconds between two words of a connection; how long the last answers may take.
PAUSE_S, LAST_S = 0.1, 20.0
TICK_S = 0.001
#: A lane that has been silent for so long gets nothing more.
SILENT_S = 10.0


@dataclass
class Received:
    """One direction of a lane, at its receiver."""

    came: int = 0
    highest: int = -1
    sent_ns: int = 0
    gap_ns: int = 0
    gaps: int = 0

    def take(self, number: int, sent_ns: int) -> None:
        """A datagram; one that was overtaken is only counted."""
        self.came += 1
        if number <= self.highest:
            return
        if number > self.highest + 1 and self.sent_ns:
            self.gap_ns = max(self.gap_ns, sent_ns - self.sent_ns)
            self.gaps += 1
        self.highest, self.sent_ns = number, sent_ns

    def report(self) -> dict[str, float]:
        """Of the numbers up to the highest one."""
        lost = max(0, self.highest + 1 - self.came)
        return {
            "came": self.came,
            "lost": lost,
            "gaps": self.gaps,
            "gap_ms": round(self.gap_ns / 1e6, 1),
        }


@dataclass
class Sender:
    """Numbered datagrams at a fixed rate."""

    sock: socket.socket
    lane: int
    rate: int
    begun: float
    peer: tuple[str, int] | None = None
    number: int = 0

    def due(self, now: float) -> None:
        """Send what the clock asks for."""
        wanted = int((now - self.begun) * self.rate)
        while self.number < wanted:
            text = DATAGRAM.pack(self.lane, self.number, time.monotonic_ns())
            self.number += 1
            try:
                if self.peer:
                    self.sock.sendto(text, self.peer)
                else:
                    self.sock.send(text)
            except OSError:
                continue  # an ICMP error, or no room: lost, and counted so


def _datagrams(sock: socket.socket) -> list[tuple[bytes, tuple[str, int]]]:
    """What has arrived, at most some."""
    found = []
    for _ in range(64):
        try:
            text, peer = sock.recvfrom(2048)
        except BlockingIOError:
            break
        except OSError:
            continue
        found.append((text, peer))
    return found


def _udp(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    sock.settimeout(0)
    return sock


class Server:
    """Echoes, pushes where asked to, and answers each lane with a lane of its own."""

    def __init__(self, port: int, rate: int) -> None:
        self._port, self._rate = port, rate
        self._lanes: dict[int, tuple[Received, Sender]] = {}
        self._heard: dict[int, float] = {}

    async def run(self, stop: asyncio.Event) -> dict[str, object]:
        """Serve until ``stop``; the report by lane."""
        loop = asyncio.get_running_loop()
        for address in ("0.0.0.0", "::"):  # noqa: S104 - whoever asks, in a lab
            sock = _udp(address)
            if address == "::":
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address, self._port))
            loop.add_reader(sock, self._read, sock)
            await asyncio.start_server(self._talk, address, self._port, backlog=512)
        print("ready", flush=True)
        while not stop.is_set():
            now = time.monotonic()
            for lane, (_, sender) in self._lanes.items():
                if now - self._heard[lane] < SILENT_S:
                    sender.due(now)
            await asyncio.sleep(TICK_S)
        return {f"{lane:x}": received.report() for lane, (received, _) in self._lanes.items()}

    def _read(self, sock: socket.socket) -> None:
        for text, peer in _datagrams(sock):
            lane, number, sent_ns = DATAGRAM.unpack_from(text)
            now = self._heard[lane] = time.monotonic()
            if lane not in self._lanes:
                self._lanes[lane] = Received(), Sender(sock, lane, self._rate, now, peer)
            self._lanes[lane][0].take(number, sent_ns)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pushing: asyncio.Task[None] | None = None
        with contextlib.suppress(OSError):
            while text := await reader.read(4096):
                if text.startswith(PUSH) and pushing is None:
                    pushing = asyncio.create_task(_push(writer))
                writer.write(text)
                await writer.drain()
        if pushing:
            pushing.cancel()
        writer.close()


async def _push(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while True:
            writer.write(b"pushed ")
            await writer.drain()
            await asyncio.sleep(PAUSE_S)


class Connection:
    """One TCP connection; ``sort`` is ``sends``, ``pushed`` or ``idle``."""

    def __init__(self, address: str, port: int, sort: str) -> None:
        self._peer, self.sort = (address, port), sort
        self.error = ""
        self.silent_s = 0.0  # the longest time without a word, where words come all the time
        self._words = 0
        self._came = asyncio.Event()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Connect and say the first word."""
        self._reader, self._writer = await asyncio.open_connection(*self._peer)
        self._tasks.append(asyncio.create_task(self._listen(self._reader)))
        self._writer.write(PUSH if self.sort == "pushed" else ASK)
        if self.sort == "sends":
            self._tasks.append(asyncio.create_task(self._send(self._writer)))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        last = time.monotonic()
        try:
            while text := await reader.read(4096):
                now = time.monotonic()
                if self.sort != "idle":
                    self.silent_s = max(self.silent_s, now - last)
                last = now
                self._words += 1
                if ASK in text:
                    self._came.set()
            self.error = self.error or "closed"
        except OSError as error:
            self.error = self.error or str(error)

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                writer.write(b"word ")
                await writer.drain()
                await asyncio.sleep(PAUSE_S)

    async def last(self) -> bool:
        """Whether one more question is answered."""
        if self.error or self._writer is None:
            return False
        self._came.clear()
        try:
            self._writer.write(ASK)
            await asyncio.wait_for(self._came.wait(), LAST_S)
        except TimeoutError:
            self.error = self.error or f"no answer in {LAST_S:.0f} s"
        except OSError as error:
            self.error = self.error or str(error)
        return not self.error

    def close(self) -> None:
        """Give all up."""
        for task in self._tasks:
            task.cancel()
        if self._writer:
            self._writer.close()


class Talks:
    """The client's side of all conversations."""

    def __init__(self, addresses: list[str], port: int, rate: int) -> None:
        self._addresses, self._port, self._rate = addresses, port, rate
        self._lanes: list[tuple[Received, Sender]] = []
        self._connections: list[Connection] = []

    async def run(self, connections: int, lanes: int, stop: asyncio.Event) -> dict[str, object]:
        """Talk until ``stop``; then ask every connection once more."""
        sorts = ("sends", "pushed", "idle")
        for number in range(connections):
            address = self._addresses[number % len(self._addresses)]
            sort = sorts[number // len(self._addresses) % 3]
            self._connections.append(Connection(address, self._port, sort))
        await asyncio.gather(*(each.open() for each in self._connections))
        for number in range(lanes):
            self._open_lane(self._addresses[number % len(self._addresses)])
        print("ready", flush=True)
        while not stop.is_set():
            now = time.monotonic()
            for _, sender in self._lanes:
                sender.due(now)
            await asyncio.sleep(TICK_S)
        survived = await asyncio.gather(*(each.last() for each in self._connections))
        return self._report(survived)

    def _open_lane(self, address: str) -> None:
        sock = _udp(address)
        sock.connect((address, self._port))
        lane = int.from_bytes(os.urandom(8), "big")
        received = Received()
        self._lanes.append((received, Sender(sock, lane, self._rate, time.monotonic())))
        asyncio.get_running_loop().add_reader(sock, self._read, sock, received)

    @staticmethod
    def _read(sock: socket.socket, received: Received) -> None:
        for text, _ in _datagrams(sock):
            _, number, sent_ns = DATAGRAM.unpack_from(text)
            received.take(number, sent_ns)

    def _report(self, survived: list[bool]) -> dict[str, object]:
        ends = [
            {"sort": each.sort, "error": each.error, "silent_s": round(each.silent_s, 3)}
            for each in self._connections
        ]
        for each in self._connections:
            each.close()
        return {
            "connections": len(survived),
            "survived": sum(survived),
            "errors": sorted({f"{end['sort']}: {end['error']}" for end in ends if end["error"]}),
            "silent_s": max((float(str(end["silent_s"])) for end in ends), default=0.0),
            "lanes": {f"{sender.lane:x}": back.report() for back, sender in self._lanes},
        }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("side", choices=("serve", "talk"))
    parser.add_argument("port", type=int)
    parser.add_argument("addresses", nargs="*")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--lanes", type=int, default=4)
    parser.add_argument("--rate", type=int, default=250, help="datagrams a second, lane and way")
    return parser


async def _main(options: argparse.Namespace) -> dict[str, object]:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if options.side == "serve":
        return await Server(options.port, options.rate).run(stop)
    talks = Talks(options.addresses, options.port, options.rate)
    return await talks.run(options.connections, options.lanes, stop)


def main() -> int:
    """Serve or talk until SIGTERM; print the report."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(json.dumps(asyncio.run(_main(_parser().parse_args()))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
