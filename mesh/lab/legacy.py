"""The legacy server: TCP and UDP echo on both families, and a log of who came.

One line per TCP connection and per UDP flow: ``<time> <tcp|udp> <source address> <source port>``;
a UDP flow is new again after 30 s of silence. Started by path, without the project on
``sys.path``: ``legacy.py TCP_PORT UDP_PORT``; the log is its standard output. Also the echo peer
of the kill tests, hence the large receive buffers and the limit of open files.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
import time
from datetime import UTC, datetime

FLOW_IDLE_S = 30.0
BUFFER = 4 << 20
READS_PER_WAKE = 64
SO_RCVBUFFORCE = 33


class _TcpEcho(asyncio.Protocol):
    """Bytes go back as they came; a peer that does not read is not read from either."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # what a TCP server makes
        self.transport = transport
        _note("tcp", transport.get_extra_info("peername"))

    def data_received(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def pause_writing(self) -> None:
        if self.transport is not None:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.transport is not None:
            self.transport.resume_reading()


class _UdpEcho:
    """Datagrams go back as they came."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.seen: dict[tuple[str, int], float] = {}

    def read(self) -> None:
        """Answer what has arrived, a bounded number per wake-up."""
        for _ in range(READS_PER_WAKE):
            try:
                payload, peer = self.socket.recvfrom(65535)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error about an earlier answer
            self._greet(peer)
            try:
                self.socket.sendto(payload, peer)
            except OSError as error:
                print(f"# no answer to {peer[0]} {peer[1]}: {error}", flush=True)

    def _greet(self, peer: tuple[str, int]) -> None:
        now = time.monotonic()
        if now - self.seen.get(peer[:2], -FLOW_IDLE_S) >= FLOW_IDLE_S:
            _note("udp", peer)
        self.seen[peer[:2]] = now


def _note(protocol: str, peer: tuple[str, int]) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    print(now, protocol, peer[0], peer[1], flush=True)


def _listener(family: socket.AddressFamily, kind: socket.SocketKind, port: int) -> socket.socket:
    sock = socket.socket(family, kind)
    sock.settimeout(0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if kind == socket.SOCK_DGRAM:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    sock.bind(("" if family == socket.AF_INET else "::", port))
    return sock


async def serve(tcp_port: int, udp_port: int) -> None:
    """Echo for ever."""
    loop = asyncio.get_running_loop()
    for family in (socket.AF_INET, socket.AF_INET6):
        datagrams = _UdpEcho(_listener(family, socket.SOCK_DGRAM, udp_port))
        loop.add_reader(datagrams.socket, datagrams.read)
        streams = _listener(family, socket.SOCK_STREAM, tcp_port)
        await loop.create_server(_TcpEcho, sock=streams, backlog=4096)
    await asyncio.Event().wait()


def main() -> None:
    """Raise the limit of open files, then serve."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))


if __name__ == "__main__":
    main()
