"""Channel and relay, against an ExaBGP that is played: no root, no BGP."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

import bgp.exabgp.relay
from bgp.exabgp.channel import WINDOW, Channel, CommandRefused
from bgp.exabgp.lines import Heard, OddLine, OnOdd, SessionEvent

ROUTES = [
    f"neighbor 10.99.0.1 announce attributes next-hop 10.99.0.11 nlri 10.{n // 256}.{n % 256}.0/24"
    for n in range(3 * WINDOW)
]
EVENT = (
    '{ "exabgp": "5.0.0", "type": "state", "neighbor": '
    '{ "address": { "peer": "10.99.0.1" }, "state": "up" } }'
)


class Player:
    """Plays ExaBGP behind a unix socket: one answer per line, some of them refused."""

    def __init__(self, path: Path, refuse: str = "") -> None:
        self.path = path
        self.refuse = refuse
        self.waiting = 0
        self.most = 0
        self.heard: list[str] = []
        self.events: list[SessionEvent | Heard] = []
        self.before: list[str] = []  # what an earlier client had asked for

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write("".join(f"{line}\n" for line in self.before).encode())
        while chunk := await reader.read(1 << 16):
            lines = chunk.decode().splitlines()
            self.most = max(self.most, len(lines))
            for line in lines:
                self.heard.append(line)
                writer.write(self.answer(line).encode())
        writer.close()

    def answer(self, line: str) -> str:
        if line == "reset":
            return ""
        if line == "version":
            return "exabgp 5.0.15\ndone\n"
        if line == "show neighbor json":
            return f"{EVENT}\n[]\n{EVENT}\ndone\n"
        return "error\n" if self.refuse and self.refuse in line else "done\n"


def talk(
    player: Player,
    tell: Callable[[Channel], Awaitable[None]],
    on_odd: OnOdd = lambda _: None,
) -> None:
    async def run() -> None:
        server = await asyncio.start_unix_server(player.serve, player.path)
        async with server:
            channel = await Channel.open(player.path, player.events.append, on_odd)
            listening = asyncio.create_task(channel.listen())
            try:
                await tell(channel)
            finally:
                channel.close()
                await listening

    asyncio.run(run())


def test_at_most_a_window_of_commands_is_ahead(tmp_path: Path) -> None:
    player = Player(tmp_path / "s")

    async def tell(channel: Channel) -> None:
        assert not await channel.tell(ROUTES)

    talk(player, tell)
    assert player.heard == ROUTES
    assert player.most <= WINDOW


def test_the_refused_command_is_found_among_many(tmp_path: Path) -> None:
    player = Player(tmp_path / "s", refuse="10.0.60.0/24")

    async def tell(channel: Channel) -> None:
        assert list(await channel.tell(ROUTES)) == [ROUTES[60]]

    talk(player, tell)


def test_a_refused_question_raises(tmp_path: Path) -> None:
    async def tell(channel: Channel) -> None:
        with pytest.raises(CommandRefused):
            await channel.ask("reload")

    talk(Player(tmp_path / "s", refuse="reload"), tell)


def test_events_between_answers_go_to_the_listener(tmp_path: Path) -> None:
    player = Player(tmp_path / "s")

    async def tell(channel: Channel) -> None:
        assert await channel.ask("show neighbor json") == ["[]"]

    talk(player, tell)
    assert [event.state for event in player.events] == ["up", "up"]


def test_answers_to_an_earlier_speaker_are_not_taken_for_ours(tmp_path: Path) -> None:
    player = Player(tmp_path / "s")
    player.before = ["done", '{"peer": {}, "route": {}}', "error", "done"]

    async def tell(channel: Channel) -> None:
        await channel.attach()
        assert await channel.ask("show neighbor json") == ["[]"]

    talk(player, tell)


def test_an_answer_that_nobody_asked_for_ends_the_channel(tmp_path: Path) -> None:
    player = Player(tmp_path / "s")
    player.before = ["done"]

    async def tell(channel: Channel) -> None:
        async def ask_twice() -> None:
            await channel.ask("reload")  # acknowledged by the answer that nobody asked for
            await channel.ask("reload")

        with pytest.raises(ConnectionError):
            await ask_twice()

    talk(player, tell)


def test_the_end_of_the_relay_ends_every_question(tmp_path: Path) -> None:
    async def tell(channel: Channel) -> None:
        channel.close()
        with pytest.raises(ConnectionError):
            await channel.ask("reload")
        with pytest.raises(ConnectionError):
            await channel.ask("reload")

    talk(Player(tmp_path / "s"), tell)


class Relayed:
    """A real relay between two pipes, as ExaBGP holds them."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "relay.ctl"
        self.pid_file = directory / "relay.pid"
        words = [sys.executable, "-I", "-S", "-u", bgp.exabgp.relay.__file__]
        self.process = subprocess.Popen(
            [*words, str(self.path), str(self.pid_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        while not self.pid_file.exists():
            assert self.process.poll() is None

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(str(self.path))
        return client

    def exabgp_reads(self) -> bytes:
        assert self.process.stdout
        return self.process.stdout.readline()

    def exabgp_writes(self, text: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(text)


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relayed]:
    relayed = Relayed(tmp_path)
    with relayed.process:
        yield relayed
        relayed.process.kill()


def test_the_relay_forwards_whole_lines_both_ways(relay: Relayed) -> None:
    with relay.connect() as one, relay.connect() as two:
        one.sendall(b"show ")
        two.sendall(b"version\n")
        assert relay.exabgp_reads() == b"version\n"
        one.sendall(b"neighbor json\n")
        assert relay.exabgp_reads() == b"show neighbor json\n"
        relay.exabgp_writes(b"done\n")
        assert one.recv(100) == two.recv(100) == b"done\n"


def test_only_the_owner_may_talk_to_the_relay(relay: Relayed) -> None:
    assert relay.path.stat().st_mode & 0o777 == 0o600
    assert int(relay.pid_file.read_text()) == relay.process.pid


def test_what_would_end_exabgps_helper_is_not_forwarded(relay: Relayed) -> None:
    with relay.connect() as client:
        client.sendall("announce é\n".encode())
        client.sendall(b"version\n")
        assert relay.exabgp_reads() == b"version\n"


def test_a_client_that_does_not_read_is_dropped_and_nobody_waits(relay: Relayed) -> None:
    part = b"x" * 65535 + b"\n"
    with relay.connect() as idle, relay.connect() as other:
        other.sendall(b"version\n")
        assert relay.exabgp_reads() == b"version\n"
        heard = 0
        for _ in range(200):
            relay.exabgp_writes(part)
            got = 0
            while got < len(part):
                got += len(other.recv(1 << 16))
            heard += got
        assert heard == 200 * len(part)
        while idle.recv(1 << 20):
            pass


def test_the_relay_ends_with_exabgp(relay: Relayed) -> None:
    assert relay.process.stdin
    relay.process.stdin.close()
    assert relay.process.wait(10) == 0


def test_an_odd_event_ends_no_conversation(tmp_path: Path) -> None:
    """Before, an event that was no object ended the speaker."""
    player, odd = Player(tmp_path / "s"), list[OddLine]()
    player.before = ['{ "exabgp": "5.0.0", "type": "state", "neighbor": "10.99.0.1" }']

    async def tell(channel: Channel) -> None:
        assert await channel.ask("show neighbor json") == ["[]"]

    talk(player, tell, odd.append)
    assert len(odd) == 1
    assert [event.state for event in player.events] == ["up", "up"]


def test_a_socket_of_another_user_is_not_the_relay(tmp_path: Path) -> None:
    player = Player(tmp_path / "s")

    async def run() -> None:
        server = await asyncio.start_unix_server(player.serve, player.path)
        async with server:
            with pytest.raises(PermissionError, match=f"user {os.geteuid()} listens"):
                await Channel.open(player.path, player.events.append, user=os.geteuid() + 1)

    asyncio.run(run())
    assert player.heard == []
