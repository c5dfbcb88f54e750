"""Each change of bgp/exabgp/patches.py: stock ExaBGP has the defect, the changed one has not.

A test of the first kind fails when a new ExaBGP has mended it: then the change goes.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import TypeVar

import pytest
from exabgp.logger import log
from exabgp.reactor.api.processes import ProcessError, Processes
from exabgp.reactor.delay import Delay

import bgp.exabgp.relay
from bgp.desired import Peering
from bgp.exabgp import patches as exa
from bgp.exabgp.channel import Channel
from bgp.exabgp.config import config_text
from bgp.exabgp.engine import Engine
from bgp.exabgp.launcher import SETTINGS
from bgp.exabgp.lines import NEIGHBORS, SessionEvent, dumped_neighbors

pytestmark = pytest.mark.slow

T = TypeVar("T")

ROOT = Path(__file__).parents[3]
STOCK = ["-m", "exabgp", "server"]
CHANGED = ["-c", "import sys; from bgp.exabgp import patches; sys.exit(patches.main(sys.argv[1]))"]
#: Nobody listens there.
PORT = "1"
AWAY, OTHER = "127.0.0.77", "127.0.0.78"
TRIES = 5


def config(engine: Engine, *peers: str) -> str:
    rows = [
        Peering(f"p{peer}", ip_address(peer), 65000, ip_address("127.0.0.1"), 65101, 9, 120, ())
        for peer in peers
    ]
    return config_text(rows, IPv4Address("127.0.0.1"), relay(engine))


def relay(engine: Engine) -> list[str]:
    """Stock ExaBGP has no folder, so these paths are absolute."""
    paths = [bgp.exabgp.relay.__file__, engine.socket, engine.socket.with_suffix(".pid")]
    return [sys.executable, "-I", "-S", "-u", *map(str, paths)]


class ExaBGP:
    """One ExaBGP, stock or changed, and a channel to it."""

    def __init__(self, directory: Path, program: list[str]) -> None:
        self.engine = Engine(directory)
        self.events: list[SessionEvent] = []
        self.engine.write_config(config(self.engine, AWAY))
        settings = {f"exabgp.{name}": value for name, value in SETTINGS.items()}
        self.process = subprocess.Popen(
            [sys.executable, *program, str(self.engine.config)],
            env={**os.environ, **settings, "PYTHONPATH": str(ROOT), "exabgp.tcp.port": PORT},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def channel(self) -> Channel:
        end = time.monotonic() + 20
        while not self.engine.socket.exists():
            assert time.monotonic() < end, "the relay listens"
            await asyncio.sleep(0.02)
        return await Channel.open(self.engine.socket, self.events.append)


def with_exabgp(
    directory: Path, program: list[str], tell: Callable[[ExaBGP, Channel], Awaitable[T]]
) -> T:
    async def run() -> T:
        channel = await exabgp.channel()
        listening = asyncio.create_task(channel.listen())
        try:
            await channel.attach()
            return await tell(exabgp, channel)
        finally:
            channel.close()
            await listening

    exabgp = ExaBGP(directory, program)
    try:
        return asyncio.run(run())
    finally:
        exabgp.process.kill()
        exabgp.process.wait()


async def reloads(exabgp: ExaBGP, channel: Channel) -> list[bool]:
    """Whether each reload, said right behind a route, was there when acknowledged."""
    results = []
    for number in range(TRIES):
        peers = [AWAY, OTHER] if number % 2 == 0 else [AWAY]
        exabgp.engine.write_config(config(exabgp.engine, *peers))
        route = f"neighbor {AWAY} announce route 10.9.{number}.0/24 next-hop 127.0.0.1"
        assert not await channel.tell([route, "reload"])
        (line,) = [said for said in await channel.ask(NEIGHBORS) if said.startswith("[")]
        results.append({str(row.peer) for row in dumped_neighbors(line)} == set(peers))
    return results


def test_stock_acknowledges_a_reload_that_it_forgets(tmp_path: Path) -> None:
    assert not all(with_exabgp(tmp_path, STOCK, reloads))


def test_changed_acknowledges_a_reload_when_it_is_done(tmp_path: Path) -> None:
    assert all(with_exabgp(tmp_path, CHANGED, reloads))


async def first_reason(exabgp: ExaBGP, _: Channel) -> str:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        for event in exabgp.events:
            if event.state == "down":
                return event.text
        await asyncio.sleep(0.02)
    raise AssertionError("no session has gone down")


def test_stock_does_not_say_why_a_connection_ended(tmp_path: Path) -> None:
    assert with_exabgp(tmp_path, STOCK, first_reason) == "closing connection"


def test_changed_says_why_a_connection_ended(tmp_path: Path) -> None:
    reason = with_exabgp(tmp_path, CHANGED, first_reason)
    assert reason == "closing connection: Broken TCP connection"


@pytest.fixture
def dead_relay(monkeypatch: pytest.MonkeyPatch) -> Processes:
    """ExaBGP's helpers, one of which has ended unnoticed."""
    log.silence()
    monkeypatch.setattr(Processes, "write", Processes.write)  # restored after the test
    child = subprocess.Popen(["true"], stdin=subprocess.PIPE, bufsize=0)
    child.wait()
    processes = Processes()
    vars(processes)["_process"]["relay"] = child
    return processes


def broken(processes: Processes) -> list[str]:
    """Helpers whose sessions ExaBGP gives up."""
    return list(vars(processes)["_broken"])


def test_stock_gives_a_session_up_when_it_writes_to_a_dead_relay(dead_relay: Processes) -> None:
    with pytest.raises(ProcessError):
        dead_relay.write("relay", "an event")
    assert "relay" in broken(dead_relay)


def test_changed_goes_on_when_it_writes_to_a_dead_relay(dead_relay: Processes) -> None:
    exa.broken_pipe_is_no_end()
    dead_relay.write("relay", "an event")
    assert broken(dead_relay) == []


def longest_pause() -> float:
    delay = Delay()
    for _ in range(50):
        delay.increase()
    return float(vars(delay)["_next"])


def test_stock_tries_a_router_that_was_away_once_a_minute() -> None:
    assert longest_pause() == 60


def test_changed_tries_a_router_that_was_away_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Delay, "increase", Delay.increase)  # restored after the test
    exa.soon_again()
    assert longest_pause() == 10


def folder_of(program: list[str], directory: Path) -> Path:
    def folder(exabgp: ExaBGP) -> Path:
        return Path(f"/proc/{exabgp.process.pid}/cwd").readlink()

    async def tell(exabgp: ExaBGP, _: Channel) -> Path:
        return folder(exabgp)

    return with_exabgp(directory, program, tell)


def test_stock_leaves_the_folder_in_which_it_was_started(tmp_path: Path) -> None:
    assert folder_of(STOCK, tmp_path) == Path("/")


def test_changed_stays_in_the_folder_in_which_it_was_started(tmp_path: Path) -> None:
    assert folder_of(CHANGED, tmp_path) == Path.cwd()
