"""Each change of bgp/exabgp/patches.py: stock ExaBGP has the defect, the changed one has not.

A test of the first kind fails when a new ExaBGP has mended it: then the change goes.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import TypeVar

import pytest
from exabgp.logger import log
from exabgp.reactor.api.processes import ProcessError, Processes
from exabgp.reactor.delay import Delay

import bgp.exabgp.relay
from bgp.desired import Peering
from bgp.exabgp import bulk
from bgp.exabgp import patches as exa
from bgp.exabgp.channel import Channel, CommandRefused
from bgp.exabgp.commands import BFD_DOWN, LEVEL, NEIGHBORS, OPENS, ROUTES, teardown
from bgp.exabgp.config import config_text
from bgp.exabgp.engine import Engine
from bgp.exabgp.launcher import SETTINGS
from bgp.exabgp.lines import Heard, SessionEvent, dumped_neighbors
from tests.interop.speaker.raw_router import KEEPALIVE, NOTIFICATION, OPEN, message, opening

pytestmark = pytest.mark.slow

T = TypeVar("T")

ROOT = Path(__file__).parents[3]
STOCK = ["-m", "exabgp", "server"]
CHANGED = ["-c", "import sys; from bgp.exabgp import patches; sys.exit(patches.main(sys.argv[1]))"]
#: Nobody listens there.
PORT = "1"
AWAY, OTHER = "127.0.0.77", "127.0.0.78"
TRIES = 5


def config(engine: Engine, *peers: str, port: int = 179) -> str:
    ours = ip_address("127.0.0.1")
    rows = [
        Peering(f"p{peer}", ip_address(peer), 65000, ours, 65101, 9, 120, (), port=port)
        for peer in peers
    ]
    return config_text(rows, IPv4Address("127.0.0.1"), relay(engine))


def relay(engine: Engine) -> list[str]:
    """Stock ExaBGP has no folder, so these paths are absolute."""
    paths = [bgp.exabgp.relay.__file__, engine.socket, engine.socket.with_suffix(".pid")]
    return [sys.executable, "-I", "-S", "-u", *map(str, paths)]


class ExaBGP:
    """One ExaBGP, stock or changed, and a channel to it."""

    def __init__(self, directory: Path, program: list[str], port: int = 179) -> None:
        self.engine = Engine(directory)
        self.events: list[SessionEvent | Heard] = []
        self.engine.write_config(config(self.engine, AWAY, port=port))
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
    directory: Path,
    program: list[str],
    tell: Callable[[ExaBGP, Channel], Awaitable[T]],
    port: int = 179,
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

    exabgp = ExaBGP(directory, program, port)
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
        route = f"neighbor {AWAY} announce attributes next-hop 127.0.0.1 nlri 10.9.{number}.0/24"
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
            if isinstance(event, SessionEvent) and event.state == "down":
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


def pauses(times: int) -> list[float]:
    delay, found = Delay(), list[float]()
    for _ in range(times):
        delay.increase()
        found.append(float(vars(delay)["_next"]))
    return found


def test_stock_tries_a_router_that_has_refused_once_after_a_second() -> None:
    assert pauses(2) == [1, 2]


def test_changed_tries_a_router_that_has_refused_once_before_it_dials_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """FRR dials a second after the end of a session (``patches.py``, change 4)."""
    monkeypatch.setattr(Delay, "increase", Delay.increase)  # restored after the test
    exa.soon_again()
    assert pauses(3) == [0.3, 1, 2]


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


def probe(code: str, change: str = "") -> str:
    """What ExaBGP's code does in a process of its own, stock or changed."""
    text = f"from exabgp.logger import log; log.silence(); {change}\n{code}"
    return subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip


BULK = "from bgp.exabgp import bulk; bulk.change()"
#: An UPDATE whose attributes are longer than the message.
UNREAD = """
from exabgp.bgp.message import Message
from exabgp.bgp.message.direction import Direction
try:
    print(Message.unpack(Message.CODE.UPDATE, bytes.fromhex("0000ffff"), Direction.IN, None).nlris)
except Exception as error:
    print(type(error).__name__)
"""
STEPS = """
from exabgp.reactor.asynchronous import ASYNC
runner = ASYNC()
runner.schedule("", "", (None for _ in range(1000)))
runner.run()
print(runner.ready())
"""
COPIES = """
from exabgp.bgp.neighbor import Neighbor
from exabgp.bgp.message.update.nlri.inet import INET
from exabgp.bgp.message.update.attribute import Attributes, NextHop
from exabgp.protocol.family import AFI, SAFI
from exabgp.rib.change import Change
nlri = INET(AFI.ipv4, SAFI.unicast, 1)
nlri.nexthop = NextHop("10.0.0.1")
change = Change(nlri, Attributes())
print(Neighbor().remove_self(change) is change)
"""
GRACEFUL = """
from collections import defaultdict
from exabgp.bgp.message.open.capability.capabilities import Capabilities, Capability
from exabgp.protocol.family import AFI, SAFI
class N(dict):
    def families(self):
        return [(AFI.ipv4, SAFI.unicast), (AFI.ipv4, SAFI.mpls_vpn)]
found = Capabilities()
found._graceful(N(capability={"graceful-restart": 120}, description=""), False)
print(len(found[Capability.CODE.GRACEFUL_RESTART].families()))
"""


@pytest.mark.parametrize(
    ("code", "stock", "changed"),
    [
        (UNREAD, "Notify", "[]"),
        (STEPS, "False", "True"),
        (COPIES, "False", "True"),
        (GRACEFUL, "2", "1"),
    ],
    ids=["reads UPDATEs", "runs 50 steps", "copies each route", "restarts VPN families"],
)
def test_what_bulk_changes(code: str, stock: str, changed: str) -> None:
    assert probe(code) == stock
    assert probe(code, BULK) == changed


ROUTE = f"neighbor {AWAY} announce attributes next-hop 127.0.0.1 med 5 nlri 10.9.0.0/24 10.9.1.0/24"


async def listed(_: ExaBGP, channel: Channel) -> list[str]:
    assert not await channel.tell([ROUTE])
    return await channel.ask(ROUTES)


def test_stock_lists_no_routes_in_the_words_of_their_command(tmp_path: Path) -> None:
    assert with_exabgp(tmp_path, STOCK, listed) == []


def test_changed_lists_routes_in_the_words_of_their_command(tmp_path: Path) -> None:
    found = with_exabgp(tmp_path, CHANGED, listed)
    assert found == [f"{AWAY} | next-hop 127.0.0.1 med 5 | 10.9.0.0/24 10.9.1.0/24"]


async def levels(_: ExaBGP, channel: Channel) -> list[str]:
    try:
        return await channel.ask(LEVEL)
    except CommandRefused:
        return []


def test_only_a_changed_one_says_how_far_it_is_changed(tmp_path: Path) -> None:
    assert with_exabgp(tmp_path / "stock", STOCK, levels) == []
    assert with_exabgp(tmp_path / "changed", CHANGED, levels) == [str(bulk.LEVEL)]


async def opens(_: ExaBGP, channel: Channel) -> list[str] | None:
    try:
        return await channel.ask(OPENS)
    except CommandRefused:
        return None


def test_only_a_changed_one_gives_the_opens_of_routers(tmp_path: Path) -> None:
    """Nobody has sent one here; what is in one: test_received.py."""
    assert with_exabgp(tmp_path / "stock", STOCK, opens) is None
    assert with_exabgp(tmp_path / "changed", CHANGED, opens) == []


RANGE = """
import copy
from collections import deque
from types import SimpleNamespace as Row
from exabgp.bgp.neighbor import Neighbor
from exabgp.configuration.configuration import Configuration
from exabgp.reactor.loop import Reactor
of = Neighbor()
of.range_size = 256
of.make_rib()
member = copy.copy(of)
configuration = Configuration([], text=True)
configuration.neighbors = {"range": of}
reactor = Row(configuration=configuration, _peers={})
Reactor.register_peer(reactor, "member", Row(neighbor=member))
print(member.rib is of.rib, member.eor is of.eor, list(configuration.neighbors))
"""


def test_members_of_a_range_share_nothing_once_they_are_changed() -> None:
    assert probe(RANGE) == "True True ['range']"
    changed = probe(RANGE, "from bgp.exabgp import members; members.change()")
    assert changed == "False False ['range', 'member']"


async def wakes(exabgp: ExaBGP, _: Channel) -> int:
    def count() -> int:
        status = Path(f"/proc/{exabgp.process.pid}/status").read_text()
        return int(status.partition("nonvoluntary")[0].partition("voluntary_ctxt_switches:")[2])

    await asyncio.sleep(0.5)
    before = count()
    await asyncio.sleep(2)
    return count() - before


def test_stock_looks_at_everything_100_times_a_second_and_changed_does_not(tmp_path: Path) -> None:
    stock = with_exabgp(tmp_path / "stock", STOCK, wakes)
    assert with_exabgp(tmp_path / "changed", CHANGED, wakes) < stock / 2


async def _messages(reader: asyncio.StreamReader) -> AsyncIterator[tuple[int, bytes]]:
    """Type and body of each message, until the other side closes."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readexactly(19)
            length, kind = struct.unpack_from("!HB", head, 16)
            yield kind, await reader.readexactly(length - 19)


def farewell(directory: Path, program: list[str]) -> list[bytes]:
    """NOTIFICATIONs that a router with graceful restart gets when a session is torn down."""
    got: list[bytes] = []
    stands, over = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(message(OPEN, opening(65000, AWAY)))
        async for kind, body in _messages(reader):
            if kind == OPEN:
                writer.write(message(KEEPALIVE))
            elif kind == KEEPALIVE:
                stands.set()
            elif kind == NOTIFICATION:
                got.append(body)
        over.set()
        writer.close()

    async def tell(_: ExaBGP, channel: Channel) -> list[bytes]:
        async with await asyncio.start_server(serve, sock=listener), asyncio.timeout(30):
            await stands.wait()
            while not over.is_set():  # it is established some steps after its KEEPALIVE
                await channel.tell([teardown(ip_address(AWAY), BFD_DOWN)])
                await asyncio.sleep(0.2)
        return got

    with socket.create_server((AWAY, 0)) as listener:
        return with_exabgp(directory, program, tell, listener.getsockname()[1])


def test_stock_ends_a_session_without_a_word_under_graceful_restart(tmp_path: Path) -> None:
    assert farewell(tmp_path, STOCK) == []


def test_changed_says_that_bfd_is_down(tmp_path: Path) -> None:
    """Cease, BFD Down (RFC 9384): without it the router would keep our routes."""
    assert [body[:2] for body in farewell(tmp_path, CHANGED)] == [b"\x06\x0a"]
