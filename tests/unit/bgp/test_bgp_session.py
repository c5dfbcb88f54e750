"""The session against an ExaBGP that is a script: what is asked, and what is said when."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path
from typing import Any

import pytest

from bgp.desired import Peering
from bgp.exabgp.applied import Memory
from bgp.exabgp.commands import LEVEL, NEIGHBORS, RELOAD, RESET, VERSION
from bgp.exabgp.engine import Engine
from bgp.exabgp.session import Session
from bgp.peer import Advertise
from bgp.route import Route, RouteKey

ROUTER = ip_address("10.99.0.1")
ME = ip_address("10.99.0.11")
PEERING = Peering("r", ROUTER, 65000, ME, 65101, 9, 120, (Advertise("podCIDRs"),))


class Running(Engine):
    """An engine whose ExaBGP is the test's."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir)
        (self.folder / "relay").mkdir(parents=True)

    def pid(self) -> int | None:
        return os.getpid()


class Script:
    """Answers as ExaBGP does."""

    def __init__(self) -> None:
        self.established = False
        self.said: list[str] = []
        self.writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        while line := (await reader.readline()).decode().strip():
            self.said.append(line)
            if line != RESET:
                writer.write(f"{self.answer(line)}done\n".encode())

    def answer(self, line: str) -> str:
        if line == VERSION:
            return "exabgp 5.0\n"
        if line == LEVEL:
            return "2\n"
        if line != NEIGHBORS:
            return ""
        fsm = "ESTABLISHED" if self.established else "OPENCONFIRM"
        families = {"ipv4 unicast": self.established, "ipv6 unicast": self.established}
        return (
            json.dumps([{"fsm": fsm, "peer": {"address": str(ROUTER), "families": families}}])
            + "\n"
        )

    def up(self) -> None:
        self.established = True
        assert self.writer
        neighbor = {"address": {"local": str(ME), "peer": str(ROUTER)}, "state": "up"}
        said = json.dumps({"exabgp": "5.0", "type": "state", "neighbor": neighbor})
        self.writer.write(f"{said.replace('{', '{ ', 1)}\n".encode())


def test_end_of_rib_reaches_a_session_whose_negotiation_nobody_heard(tmp_path: Path) -> None:
    """The speaker came between the events "negotiated" and "up"."""

    async def run() -> None:
        engine, script = Running(tmp_path), Script()
        server = await asyncio.start_unix_server(script.serve, engine.socket)
        session = Session(engine, IPv4Address("10.99.0.11"))
        session.memory.save(peerings={ROUTER: PEERING})
        running = asyncio.create_task(session.run())
        async with asyncio.timeout(5):
            await session.channel()
            script.up()
            while not session.owed:
                await asyncio.sleep(0)
            await session.release()
        ends = [line for line in script.said if line.endswith("unicast")]
        assert ends == [f"neighbor {ROUTER} announce eor ipv{n} unicast" for n in (4, 6)]
        assert not session.owed
        assert session.state(PEERING).families == ("ipv4 unicast", "ipv6 unicast")
        running.cancel()
        await asyncio.wait({running})
        server.close()

    asyncio.run(run())


def test_a_session_that_exabgp_refuses_costs_itself(tmp_path: Path) -> None:
    """The others are configured, and stay so."""
    bad, good = ip_address("10.99.0.66"), ip_address("10.99.0.2")

    async def run() -> None:
        engine, script = Running(tmp_path), Script()

        async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := (await reader.readline()).decode().strip():
                refused = line == RELOAD and str(bad) in engine.config.read_text()
                if line != RESET:
                    answer = "error\n" if refused else f"{script.answer(line)}done\n"
                    writer.write(answer.encode())

        server = await asyncio.start_unix_server(refusing, engine.socket)
        session = Session(engine, IPv4Address("10.99.0.11"))
        session.memory.save(peerings={ROUTER: PEERING})
        running = asyncio.create_task(session.run())
        async with asyncio.timeout(5):
            rows = {peer: replace(PEERING, address=peer) for peer in (bad, good)}
            errors = await session.peers.upsert(rows)
        assert list(errors) == [bad]
        assert "refuses its configuration" in str(errors[bad])
        assert set(await session.peers.read()) == {ROUTER, good}
        running.cancel()
        await asyncio.wait({running})
        server.close()

    asyncio.run(run())


def test_an_answer_that_cannot_be_read_starts_the_session_over(tmp_path: Path) -> None:
    async def run() -> None:
        engine, script = Running(tmp_path), Script()
        whole, damaged = script.answer, ["[]x\n", '[{"fsm": "IDLE"}]\n']
        script.answer = lambda line: damaged.pop() if line == NEIGHBORS and damaged else whole(line)  # type: ignore[method-assign]
        server = await asyncio.start_unix_server(script.serve, engine.socket)
        session = Session(engine, IPv4Address("10.99.0.11"))
        session.memory.save(peerings={ROUTER: PEERING})
        running = asyncio.create_task(session.run())
        async with asyncio.timeout(5):
            await session.channel()
        assert (damaged, session.problem) == ([], "")
        running.cancel()
        server.close()

    asyncio.run(run())


def test_what_is_announced_or_accepted_changes_nothing_in_exabgp(tmp_path: Path) -> None:
    async def run() -> None:
        engine, script = Running(tmp_path), Script()
        server = await asyncio.start_unix_server(script.serve, engine.socket)
        session = Session(engine, IPv4Address("10.99.0.11"))
        session.memory.save(peerings={ROUTER: PEERING})
        running = asyncio.create_task(session.run())
        async with asyncio.timeout(5):
            await session.peers.upsert({ROUTER: replace(PEERING, hold_s=30)})
            assert script.said.count(RELOAD) == 1
            adapted: list[bool] = []
            session.adapted = lambda: adapted.append(True)
            row = replace(PEERING, hold_s=30, advertise=(Advertise("egressIPs"),), max_prefixes=5)
            await session.peers.upsert({ROUTER: row})
        assert script.said.count(RELOAD) == 1
        assert session.memory.peerings == {ROUTER: row}
        assert adapted, "another maximum of prefixes is told to whoever takes them in"
        running.cancel()
        await asyncio.wait({running})
        server.close()

    asyncio.run(run())


def test_many_routes_are_written_down_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100,000 in one piece stopped everything for 0.3 s."""
    networks = [IPv4Network((0x0A000000 + 256 * n, 24)) for n in range(25)]
    rows = {RouteKey(ROUTER, one): Route(one, ME) for one in networks}
    sizes: list[int] = []
    remember = Memory.remember

    def counted(self: Memory, said: Any, forget: Any = ()) -> None:
        sizes.append(len(said) + len(list(forget)))
        remember(self, said, forget)

    async def run() -> None:
        engine, script = Running(tmp_path), Script()
        server = await asyncio.start_unix_server(script.serve, engine.socket)
        session = Session(engine, IPv4Address("10.99.0.11"))
        session.memory.save(peerings={ROUTER: PEERING})
        running = asyncio.create_task(session.run())
        async with asyncio.timeout(5):
            await session.channel()
            monkeypatch.setattr("bgp.exabgp.targets.REMEMBERED", 10)
            monkeypatch.setattr(Memory, "remember", counted)
            await session.routes.upsert(rows)
            assert session.memory.routes == rows
            await session.routes.delete(list(rows))
            assert not session.memory.routes
        running.cancel()
        await asyncio.wait({running})
        server.close()

    asyncio.run(run())
    assert sizes == [10, 10, 5, 10, 10, 5]


class Starting(Running):
    """An engine whose ExaBGP ends at once when its configuration names ``bad``."""

    def __init__(self, run_dir: Path, bad: str) -> None:
        super().__init__(run_dir)
        self.bad, self.starts, self.alive = bad, 0, False

    def pid(self) -> int | None:
        return os.getpid() if self.alive else None

    async def start(self) -> None:
        self.starts += 1
        self.alive = self.bad not in self.config.read_text()


def test_the_first_configuration_that_exabgp_refuses_is_said_and_costs_itself(
    tmp_path: Path,
) -> None:
    """It ends at once: whoever waited for it heard nothing, and no other session came up."""
    bad, good = ip_address("10.99.0.66"), ip_address("10.99.0.2")

    async def run() -> None:
        engine, script = Starting(tmp_path, str(bad)), Script()
        server: asyncio.AbstractServer | None = None
        session = Session(engine, IPv4Address("10.99.0.11"))
        running = asyncio.create_task(session.run())

        async def listening() -> None:
            nonlocal server
            while not engine.alive:
                await asyncio.sleep(0)
            server = await asyncio.start_unix_server(script.serve, engine.socket)

        listens = asyncio.create_task(listening())
        async with asyncio.timeout(10):
            rows = {peer: replace(PEERING, address=peer) for peer in (bad, good)}
            errors = await session.peers.upsert(rows)
        assert list(errors) == [bad]
        assert "ExaBGP ends at once" in str(errors[bad])
        assert set(await session.peers.read()) == {good}
        assert session.problem == ""
        running.cancel()
        await asyncio.wait({running, listens})
        assert server
        server.close()

    asyncio.run(run())


def test_a_configuration_of_before_that_is_refused_now_can_be_corrected(tmp_path: Path) -> None:
    """ExaBGP has been replaced, say; the corrected object arrives."""

    async def run() -> None:
        engine, script = Starting(tmp_path, "hold-time 7"), Script()
        server = await asyncio.start_unix_server(script.serve, engine.socket)
        engine.alive = True
        session = Session(engine, IPv4Address("10.99.0.11"))
        session.memory.save(peerings={ROUTER: replace(PEERING, hold_s=7)})
        server.close()
        engine.socket.unlink(missing_ok=True)
        engine.alive = False
        running = asyncio.create_task(session.run())
        async with asyncio.timeout(10):
            while not session.problem:
                await asyncio.sleep(0.01)
            assert "ends at once" in session.state(PEERING).reason

            async def listening() -> asyncio.AbstractServer:
                while not engine.alive:
                    await asyncio.sleep(0)
                return await asyncio.start_unix_server(script.serve, engine.socket)

            listens = asyncio.create_task(listening())
            assert await session.peers.upsert({ROUTER: replace(PEERING, hold_s=30)}) == {}
        running.cancel()
        (await listens).close()

    asyncio.run(run())


def test_a_session_ends_only_when_its_router_has_heard_of_all_withdrawals(tmp_path: Path) -> None:
    """Under graceful restart it would keep the route that ExaBGP refuses to withdraw."""
    other, prefix = ip_address("10.99.0.2"), IPv4Network("10.1.0.0/24")

    async def run() -> None:
        engine, script = Running(tmp_path), Script()
        refusing = True

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := (await reader.readline()).decode().strip():
                script.said.append(line)
                refused = refusing and line.startswith(f"neighbor {ROUTER} withdraw")
                if line != RESET:
                    answer = "error\n" if refused else f"{script.answer(line)}done\n"
                    writer.write(answer.encode())

        server = await asyncio.start_unix_server(serve, engine.socket)
        session = Session(engine, IPv4Address("10.99.0.11"))
        peerings = {ROUTER: PEERING, other: replace(PEERING, address=other)}
        session.memory.save(peerings=peerings)
        running = asyncio.create_task(session.run())
        async with asyncio.timeout(10):
            await session.channel()
            routes = {RouteKey(peer, prefix): Route(prefix, ME) for peer in peerings}
            assert await session.routes.upsert(routes) == {}
            errors = await session.peers.delete(list(peerings))
            assert list(errors) == [ROUTER]
            assert set(session.memory.peerings) == {ROUTER}
            refusing = False
            assert await session.peers.delete([ROUTER]) == {}
            assert session.memory.peerings == {}
        running.cancel()
        await asyncio.wait({running})
        server.close()

    asyncio.run(run())
