"""A real etcd for one test: a process of our own on free loopback ports, killed at the end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from clustermesh.etcd.client import Client, EtcdAddress
from clustermesh.issued import Pki
from clustermesh.store.leader import Deposed, Fence
from tests.patience import patient

T = TypeVar("T")


#: Below the ephemeral ports, which any connection may take; a slice of its own for each process.
_PORTS = itertools.count(10_000 + os.getpid() % 312 * 64)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that no other test process is given."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


class Etcd:
    """One member; ``pki`` switches client certificates on."""

    def __init__(self, directory: Path, pki: Pki | None = None) -> None:
        self.directory = directory
        self.pki = pki
        self.address = f"127.0.0.1:{free_port()}"
        self.peer = f"http://127.0.0.1:{free_port()}"
        self.log = directory / "etcd.log"
        self.election_ms = 200  # alone it elects itself: a short wait makes a quick start
        self.name = "test"
        self.cluster = f"test={self.peer}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> EtcdAddress:
        if self.pki is None:
            return EtcdAddress((self.address,))
        return self.endpoint_of("root")

    def endpoint_of(self, user: str) -> EtcdAddress:
        assert self.pki is not None
        files = self.pki.users[user]
        return EtcdAddress((self.address,), self.pki.ca, files.cert, files.key)

    def start(self, *more: str) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command(), *more], stdout=log, stderr=subprocess.STDOUT
            )
        self._await_port()

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; after SIGSTOP no thread of the member runs any more."""
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGSTOP:  # a thread goes on until it enters the kernel
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def wipe(self) -> None:
        """Remove the data of a killed member: the next start is an empty store."""
        shutil.rmtree(self.directory / "data")

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self.kill()

    def _command(self) -> Sequence[str]:
        scheme = "https" if self.pki else "http"
        url = f"{scheme}://{self.address}"
        command = [
            "etcd", f"--name={self.name}", f"--data-dir={self.directory / 'data'}",
            f"--listen-client-urls={url}", f"--advertise-client-urls={url}",
            f"--listen-peer-urls={self.peer}", f"--initial-advertise-peer-urls={self.peer}",
            f"--initial-cluster={self.cluster}",
            f"--election-timeout={self.election_ms}",
            f"--heartbeat-interval={self.election_ms // 10}",
        ]  # fmt: skip
        if self.pki:
            command += [
                "--client-cert-auth", f"--trusted-ca-file={self.pki.ca}",
                f"--cert-file={self.pki.server.cert}", f"--key-file={self.pki.server.key}",
                f"--client-crl-file={self.pki.crl}", "--enable-grpc-gateway=false",
            ]  # fmt: skip
        return command

    def _await_port(self) -> None:
        host, _, port = self.address.rpartition(":")
        end = time.monotonic() + 20
        while time.monotonic() < end:
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()[-2000:]
            with (
                contextlib.suppress(OSError),
                socket.create_connection((host.strip("[]"), int(port)), 1),
            ):
                return
            time.sleep(0.02)
        raise AssertionError(f"etcd does not listen: {self.log.read_text()[-2000:]}")


@contextlib.contextmanager
def running(directory: Path, pki: Pki | None = None) -> Iterator[Etcd]:
    server = Etcd(directory, pki)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def three_members(directory: Path) -> Iterator[Sequence[Etcd]]:
    """A cluster of three."""
    members = [Etcd(directory / f"m{number}") for number in range(3)]
    for number, member in enumerate(members):
        member.name, member.election_ms = f"m{number}", 1000
        member.cluster = ",".join(f"m{n}={other.peer}" for n, other in enumerate(members))
    try:
        for member in members:
            member.start()
        yield members
    finally:
        for member in members:
            member.stop()


class Leadership:
    """A leadership that the test gives and takes by hand."""

    KEY = "meshgate/v1/east/leader"

    def __init__(self) -> None:
        self.fence: Fence | None = None

    def current(self) -> Fence:
        if self.fence is None:
            raise Deposed("stands by")
        return self.fence

    async def take(self, client: Client) -> Fence:
        """Depose whoever leads."""
        lease = (await client.grant(600)).ID
        await client.delete(self.KEY)
        self.fence = Fence(self.KEY, await client.put(self.KEY, b"one", lease), lease)
        return self.fence


@contextlib.asynccontextmanager
async def client_of(endpoint: EtcdAddress) -> Any:
    client = Client(endpoint)
    try:
        yield client
    finally:
        await client.aclose()


@contextlib.asynccontextmanager
async def task_of(coroutine: Any) -> Any:
    """Run a coroutine beside the test; its error fails the test at the end."""
    task = asyncio.create_task(coroutine)
    try:
        yield task
    finally:
        if not task.done():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


#: Of the Alarm call: what to do, and which alarm (etcd's rpc.proto).
RAISE, DISARM = 1, 2
NO_SPACE, CORRUPT = 1, 2


async def maintain(client: Client, method: str, request: bytes) -> None:
    """One call of the Maintenance service that the product does not make."""
    path = f"/etcdserverpb.Maintenance/{method}"
    await client.connected().unary_unary(path, bytes, bytes)(request)


async def alarm(client: Client, action: int, kind: int) -> None:
    """Raise or disarm an alarm of the member that answers."""
    member, number = bytearray(), (await client.status()).header.member_id
    while number > 0x7F:  # a varint of protobuf
        member.append(number & 0x7F | 0x80)
        number >>= 7
    member.append(number)
    await maintain(client, "Alarm", bytes([0x08, action, 0x10, *member, 0x18, kind]))


async def until(condition: Callable[[], object], what: str, within_s: float = 20) -> None:
    """Poll a condition with a deadline."""
    end = time.monotonic() + patient(within_s)
    while not condition():
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.01)


async def until_async(
    condition: Callable[[], Awaitable[object]], what: str, within_s: float = 20
) -> None:
    end = time.monotonic() + patient(within_s)
    while not await condition():
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.05)
