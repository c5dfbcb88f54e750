"""A router that says whatever a test tells it, octet by octet.

As a program (``python -m tests.interop.speaker.raw_router ASN ROUTER_ID ADDRESS``) it listens on
TCP port 179. Each line on stdin, ``TYPE:HEX``, is a message that it sends; each line on stdout is
one that it got, or ``up`` and ``down``. ``RawRouter`` is the test's end of it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from struct import pack

ROOT = Path(__file__).parents[3]
OPEN, UPDATE, NOTIFICATION, KEEPALIVE, REFRESH = 1, 2, 3, 4, 5
FAMILIES = ((1, 1), (2, 1), (1, 128), (2, 128))
HOLD_S, RESTART_S = 9, 60


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def message(kind: int, body: bytes = b"") -> bytes:
    return b"\xff" * 16 + pack("!HB", 19 + len(body), kind) + body


def opening(asn: int, router_id: str) -> bytes:
    def capability(code: int, value: bytes) -> bytes:
        return bytes((2, 2 + len(value), code, len(value))) + value

    parts = [capability(1, pack("!HBB", afi, 0, safi)) for afi, safi in FAMILIES]
    parts += [capability(2, b""), capability(70, b""), capability(65, pack("!I", asn))]
    parts.append(capability(5, b"".join(pack("!HHH", 1, safi, 2) for safi in (1, 128))))
    kept = b"".join(pack("!HBB", afi, safi, 0x80) for afi, safi in FAMILIES)
    parts.append(capability(64, pack("!H", RESTART_S) + kept))
    caps = b"".join(parts)
    short = asn if asn < 1 << 16 else 23456
    return pack("!BHH4sB", 4, short, HOLD_S, IPv4Address(router_id).packed, len(caps)) + caps


class _Router:
    """The program: one session at a time."""

    def __init__(self, asn: int, router_id: str) -> None:
        self.open = opening(asn, router_id)
        self.writer: asyncio.StreamWriter | None = None
        self.rest = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(message(OPEN, self.open))
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = await reader.readexactly(19)
                body = await reader.readexactly(int.from_bytes(head[16:18]) - 19)
                self.hear(writer, head[18], body)
        if self.writer is writer:
            self.writer = None
            tell("down")
        writer.close()

    def hear(self, writer: asyncio.StreamWriter, kind: int, body: bytes) -> None:
        if kind == OPEN:
            writer.write(message(KEEPALIVE))
        if kind != KEEPALIVE:
            tell(f"{kind}:{body.hex()}")
        elif self.writer is None:
            self.writer = writer
            tell("up")

    async def keep_alive(self) -> None:
        while True:
            await asyncio.sleep(HOLD_S / 3)
            if self.writer is not None:
                self.writer.write(message(KEEPALIVE))

    def say(self) -> None:
        part = os.read(0, 1 << 16)
        if not part:
            os._exit(0)
        *lines, self.rest = (self.rest + part).split(b"\n")
        for line in lines:
            kind, _, body = line.decode().partition(":")
            if self.writer is not None:
                self.writer.write(message(int(kind), bytes.fromhex(body)))


async def main(asn: int, router_id: str, address: str) -> None:
    router = _Router(asn, router_id)
    await asyncio.start_server(router.serve, address, 179)
    asyncio.get_running_loop().add_reader(0, router.say)
    tell("ready")
    await router.keep_alive()


class RawRouter:
    """The test's end: what the program has said, and what it is to say."""

    def __init__(self, namespace: str, asn: int, address: str) -> None:
        words = [sys.executable, "-m", "tests.interop.speaker.raw_router", str(asn), address]
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, *words, address],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.strip())

    @property
    def is_up(self) -> bool:
        states = [line for line in list(self.lines) if line in ("up", "down")]
        return states[-1:] == ["up"]

    def got(self, kind: int) -> Iterator[bytes]:
        """Bodies of the messages that came."""
        for line in list(self.lines):
            head, _, body = line.partition(":")
            if head == str(kind):
                yield bytes.fromhex(body)

    def say(self, body: bytes, kind: int = UPDATE) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{kind}:{body.hex()}\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
