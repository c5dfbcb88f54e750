"""What runs inside a namespace of a measurement: who asks, who answers, who opens and holds.

Started by path of the module, ``python -m tests.bench.queries MODE …``; prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import resource
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

#: Longest that a query or a connection is waited for.
PATIENCE_S = 3.0
CONNECT_S = 1.0
#: The first source port or ICMP id; each query has one of its own.
FIRST = 2000
ECHO = {4: (8, 0, socket.IPPROTO_ICMP), 6: (128, 129, socket.IPPROTO_ICMPV6)}
#: IP_RECVERR and IPV6_RECVERR of linux/in.h: Linux tells nobody else that a host is unreachable.
HEAR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
_WORD = b"one word"


def family_of(address: str) -> socket.AddressFamily:
    """AF_INET or AF_INET6."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def paced(
    rate: float, seconds: float, act: Callable[[int], None], idle: Callable[[float], None]
) -> int:
    """Call ``act`` so often a second, and ``idle`` with the seconds between; how often it was."""
    begin, count = time.monotonic(), int(rate * seconds)
    for number in range(count):
        idle(begin + number / rate - time.monotonic())
        act(number)
    return count


# Who answers


def answer(address: str, port: int, delay_s: float) -> None:
    """Datagrams go back as they came, that much later, for ever."""
    sock = socket.socket(family_of(address), socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind((address, port))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    due: list[tuple[float, bytes, Any]] = []
    while True:
        wait = max(0.0, due[0][0] - time.monotonic()) if due else None
        if select.select([sock], [], [], wait)[0]:
            payload, peer = sock.recvfrom(100)
            heapq.heappush(due, (time.monotonic() + delay_s, payload, peer))
        while due and due[0][0] <= time.monotonic():
            _, payload, peer = heapq.heappop(due)
            with suppress(OSError):
                sock.sendto(payload, peer)


# Who asks


@dataclass(slots=True)
class Asking:
    """UDP queries, each from a port of its own."""

    source: str
    remote: tuple[str, int]
    answered: int = 0
    errors: int = 0
    _poll: Any = field(default_factory=select.epoll)
    _open: dict[int, socket.socket] = field(default_factory=dict)
    _due: list[tuple[float, int]] = field(default_factory=list)

    def ask(self, number: int) -> None:
        """One more."""
        sock = socket.socket(family_of(self.source), socket.SOCK_DGRAM)
        sock.settimeout(0)
        sock.setsockopt(*HEAR[sock.family], 1)
        sock.bind((self.source, FIRST + number))
        sock.connect(self.remote)
        self._open[sock.fileno()] = sock
        self._due.append((time.monotonic() + PATIENCE_S, sock.fileno()))
        self._poll.register(sock, select.EPOLLIN)
        with suppress(OSError):
            sock.send(_WORD)

    def idle(self, seconds: float) -> None:
        """Take what comes for so long."""
        end = time.monotonic() + max(0.0, seconds)
        while True:
            left = max(0.0, end - time.monotonic())
            for number, _ in self._poll.poll(left):
                self._read(number)
            while self._due and self._due[0][0] < time.monotonic():
                self._close(self._due.pop(0)[1])
            if not left:
                return

    def _read(self, number: int) -> None:
        try:
            self._open[number].recv(100)
            self.answered += 1
        except OSError:
            self.errors += 1
        self._close(number)

    def _close(self, number: int) -> None:
        if sock := self._open.pop(number, None):
            self._due = [one for one in self._due if one[1] != number]
            self._poll.unregister(sock)
            sock.close()


def ask(source: str, address: str, port: int, rate: float, seconds: float) -> dict[str, int]:
    """Queries at a rate; how many were answered, and how many heard of an error."""
    asking = Asking(source, (address, port))
    asked = paced(rate, seconds, asking.ask, asking.idle)
    asking.idle(PATIENCE_S)
    return {"asked": asked, "answered": asking.answered, "errors": asking.errors}


def ping(source: str, address: str, rate: float, seconds: float) -> dict[str, int]:
    """Echo requests, each with an id of its own."""
    version = ip_address(source).version
    request, _, protocol = ECHO[version]
    sock = socket.socket(family_of(source), socket.SOCK_RAW, protocol)
    sock.bind((source, 0))
    sock.settimeout(0)
    sock.setsockopt(*HEAR[sock.family], 1)
    seen: set[int] = set()
    errors = 0

    def send(number: int) -> None:
        body = struct.pack(">BBHHH", request, 0, 0, FIRST + number, 1)
        check = -sum(struct.unpack(">4H", body)) % 0xFFFF
        with suppress(OSError):
            sock.sendto(struct.pack(">BBHHH", request, 0, check, FIRST + number, 1), (address, 0))

    def take(wait_s: float) -> None:
        nonlocal errors
        end = time.monotonic() + max(0.0, wait_s)
        while True:
            left = max(0.0, end - time.monotonic())
            if not select.select([sock], [], [], left)[0]:
                if not left:
                    return
            elif _hears(sock):
                errors += 1
            else:
                seen.update(_replied(sock, version))

    asked = paced(rate, seconds, send, take)
    take(1)
    return {"asked": asked, "answered": len(seen), "errors": errors}


def _hears(sock: socket.socket) -> bool:
    """Whether an ICMP error has come: each stands in the queue, however many come at once."""
    try:
        sock.recvmsg(200, 500, socket.MSG_ERRQUEUE)
    except BlockingIOError:
        return False
    return True


def _replied(sock: socket.socket, version: int) -> Iterator[int]:
    """The id of an echo reply that has come."""
    with suppress(OSError):  # the last ICMP error once more
        raw = sock.recv(200)
        at = (raw[0] & 15) * 4 if version == 4 else 0
        if raw[at] == ECHO[version][1]:
            yield struct.unpack_from(">H", raw, at + 4)[0]


# Who opens and holds


def hold(
    source: str, address: str, port: int, rate: float, seconds: float, later_s: float
) -> dict[str, float]:
    """TCP connections at a rate, held; each must echo at once, and once more afterwards."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    held: list[socket.socket] = []
    slowest, failed = 0.0, 0

    def open_one(_: int) -> None:
        nonlocal slowest, failed
        begin = time.monotonic()
        try:
            sock = socket.create_connection((address, port), CONNECT_S, (source, 0))
        except OSError:
            failed += 1
            return
        slowest = max(slowest, time.monotonic() - begin)
        held.append(sock)

    opened = paced(rate, seconds, open_one, lambda wait: time.sleep(max(0.0, wait)))
    at_once = sum(map(_echoes, held))
    time.sleep(later_s)
    return {
        "asked": opened, "failed": failed, "slowest_ms": 1000 * slowest,
        "lost": 2 * len(held) - at_once - sum(map(_echoes, held)),
    }  # fmt: skip


def _echoes(sock: socket.socket) -> bool:
    try:
        sock.settimeout(PATIENCE_S)
        sock.sendall(_WORD)
        return sock.recv(100) == _WORD
    except OSError:
        return False


def listen(first_port: int, ports: int) -> None:
    """Listening sockets of both families, whose connections nobody takes, for ever."""
    servers = []
    for port in range(first_port, first_port + ports):
        for family in (socket.AF_INET, socket.AF_INET6):
            server = socket.socket(family, socket.SOCK_STREAM)
            if family == socket.AF_INET6:
                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            server.bind(("", port))
            server.listen(128)
            servers.append(server)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while servers:
        time.sleep(60)


def echo(port: int) -> None:
    """TCP of both families: bytes go back as they came, for ever."""
    asyncio.run(_echo(port))


async def _echo(port: int) -> None:
    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while text := await reader.read(1000):
            writer.write(text)
        writer.close()

    server = await asyncio.start_server(back, ["0.0.0.0", "::"], port)  # noqa: S104  # all pods
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await server.serve_forever()


def main(mode: str, *words: str) -> None:
    """See the functions of these names."""
    modes: dict[str, Callable[..., Any]] = {
        "answer": answer, "listen": listen, "echo": echo, "ask": ask, "ping": ping, "hold": hold,
    }  # fmt: skip
    found = modes[mode](*map(_value, words))
    sys.stdout.write(json.dumps(found) + "\n")


def _value(word: str) -> str | float:
    """Numbers as such: ports and counts whole."""
    try:
        return int(word) if word.isdigit() else float(word)
    except ValueError:
        return word


if __name__ == "__main__":
    main(*sys.argv[1:])
