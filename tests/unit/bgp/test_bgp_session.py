"""The session against an ExaBGP that is a script: what is asked, and what is said when."""

from __future__ import annotations

import asyncio
import json
from ipaddress import IPv4Address, ip_address
from dataclasses import replace
from pathlib import Path
from typing import cast

from bgp.desired import Peering
from bgp.exabgp.channel import Channel
from bgp.exabgp.engine import Engine
from bgp.exabgp.lines import NEIGHBORS, RESET, VERSION, SessionEvent
from bgp.exabgp.session import Session

ROUTER = ip_address("10.99.0.1")
ME = ip_address("10.99.0.11")
PEERING = Peering("r", ROUTER, 65000, ME, 65101, 9, 120, ("podCIDRs",))


class Running(Engine):
    """An engine whose ExaBGP is the test's."""

    def pid(self) -> int | None:
        return 1


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


# --- Why a session is down ------------------------------------------------------------------------


def heard(session: Session, *events: SessionEvent) -> str:
    """The reason of the session after events; the channel stands."""
    session._channel = cast("Channel", object())
    for one in events:
        session._on_event(one)
    return session.state(PEERING).reason


def told(tmp_path: Path) -> Session:
    session = Session(Running(tmp_path), IPv4Address("10.99.0.11"))
    session.memory.save(peerings={ROUTER: PEERING})
    return session


def change(state: str, text: str = "") -> SessionEvent:
    return SessionEvent("state", ROUTER, state=state, text=text)


SHUTDOWN = SessionEvent("notification", ROUTER, text="until 18:00", code=6, subcode=2)
MAXIMUM = SessionEvent("notification", ROUTER, code=6, subcode=1)
ENDED = change("down", "notification received (6,2)")
REFUSED = change("down", "closing connection: the TCP connection was closed by the remote end")


def test_the_cause_stays_when_the_reconnect_is_refused(tmp_path: Path) -> None:
    """What follows is added: 8 ms later the router closes the next connection."""
    session = told(tmp_path)
    said = heard(session, SHUTDOWN, ENDED)
    assert said.endswith('administrative shutdown) (6/2): "until 18:00"')
    for _ in range(3):
        later = heard(session, change("connected"), REFUSED)
        assert later.startswith(f"{said}; since then: 10.99.0.1 closes the connection at once")


def test_the_cause_stays_while_the_router_is_silent(tmp_path: Path) -> None:
    """A password on one side only: the router has changed its configuration, then says nothing."""
    session = told(tmp_path)
    session._on_event(SessionEvent("notification", ROUTER, code=6, subcode=6))
    heard(session, ENDED)
    session._states[ROUTER] = replace(session._states[ROUTER], entered=0.0)  # long ago
    said = heard(session)
    assert "changed its configuration" in said
    assert "since then: no answer" in said
    assert "MD5 password" in said


def test_another_notification_is_another_cause(tmp_path: Path) -> None:
    session = told(tmp_path)
    heard(session, SHUTDOWN, ENDED, REFUSED)
    assert heard(session, MAXIMUM, ENDED).startswith("the router takes no more prefixes")
    assert "shut this session down" not in heard(session)


def test_our_answer_to_the_router_replaces_no_cause(tmp_path: Path) -> None:
    """ExaBGP waits for an OPEN in vain, and says so itself."""
    session, ours = told(tmp_path), SessionEvent("notification", ROUTER, sent=True, code=5)
    said = heard(session, MAXIMUM, ENDED, ours, change("down", "notification sent (5,0)"))
    assert said.startswith("the router takes no more prefixes")
    assert "since then: we close the session" in said


def test_a_session_that_is_up_has_no_cause(tmp_path: Path) -> None:
    session = told(tmp_path)
    assert heard(session, MAXIMUM, ENDED, change("up")) == ""
    assert heard(session, REFUSED).startswith("10.99.0.1 closes the connection at once")


def test_a_cause_outlives_the_speaker(tmp_path: Path) -> None:
    """A router says once why it ends a session."""
    said = heard(told(tmp_path), SHUTDOWN, ENDED)
    again = Session(Running(tmp_path), IPv4Address("10.99.0.11"))
    again._expect(again.memory.peerings)
    assert heard(again) == said


def test_the_cause_goes_with_its_peer(tmp_path: Path) -> None:
    session = told(tmp_path)
    heard(session, SHUTDOWN, ENDED)
    session._expect([])
    assert Session(Running(tmp_path), IPv4Address("10.99.0.11")).memory.causes == {}
