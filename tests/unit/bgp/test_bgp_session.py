"""The session against an ExaBGP that is a script: what is asked, and what is said when."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from bgp.desired import Peering
from bgp.exabgp.engine import Engine
from bgp.exabgp.lines import NEIGHBORS, RELOAD, RESET, VERSION
from bgp.exabgp.session import Session

ROUTER = ip_address("10.99.0.1")
ME = ip_address("10.99.0.11")
PEERING = Peering("r", ROUTER, 65000, ME, 65101, 9, 120, ("podCIDRs",))


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
