"""The task that takes in what ExaBGP reports: order, questions, completeness, and the file."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from struct import pack

import pytest

from bgp.desired import Peering
from bgp.exabgp.channel import CommandRefused
from bgp.exabgp.engine import Engine
from bgp.exabgp.session import Session
from bgp.ribs import listener as listening
from bgp.ribs.incoming import CONFIRM_S, RibIn
from bgp.ribs.kept import Kept
from bgp.ribs.listener import Listener
from bgp.ribs.outgoing import RibOut
from bgp.ribs.routes import Ribs
from bgp.route import Family
from bgp.wire.encode import encode
from bgp.wire.opening import decode as opening
from bgp.wire.rows import Attributes, Nlri, Update
from mesh.core.model import IP
from mesh.core.received import ReceivedKey

ROUTER, ME = ip_address("10.99.0.1"), ip_address("10.99.0.11")
SESSION = Peering("r", ROUTER, 65000, ME, 65101, 9, 120, ())
BOTH = (Family.IPV4, Family.IPV6)


def capability(code: int, value: bytes) -> bytes:
    return bytes((2, 2 + len(value), code, len(value))) + value


def open_body(*more: bytes, restart_s: int = 90) -> bytes:
    """An OPEN of a router with both unicast families, refresh and graceful restart."""
    parts = [capability(1, pack("!HBB", afi, 0, 1)) for afi in (1, 2)]
    parts += [capability(2, b""), capability(65, pack("!I", 65000))]
    kept = b"".join(pack("!HBB", afi, 1, 0) for afi in (1, 2))
    parts += [capability(64, pack("!H", restart_s) + kept), *more]
    caps = b"".join(parts)
    return pack("!BHH4sB", 4, 65000, 90, ROUTER.packed, len(caps)) + caps


def update(*prefixes: str, path: tuple[int, ...] = (65000,)) -> bytes:
    found = tuple(Nlri(Family.IPV4, ip_network(one), next_hop=ROUTER) for one in prefixes)
    return encode(Update(found, (), Attributes(as_path=path)))


END4 = encode(Update(end_of_rib=Family.IPV4))
END6 = encode(Update(end_of_rib=Family.IPV6))


class Bed:
    """A listener whose clock and ExaBGP are the test's."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.asked: list[tuple[IP, Family]] = []
        self.refuses = False
        self.outgoing = RibOut()
        self.incoming = RibIn(self.outgoing.table.rows)
        self.kept = Kept(folder / "ribs.journal", self.incoming.table, self.outgoing.table)
        self.it = Listener(
            self.incoming, self.outgoing, self.kept, self.session, self.ask, lambda: self.now
        )

    def session(self, peer: IP) -> Peering | None:
        return SESSION if peer == ROUTER else None

    async def ask(self, peer: IP, family: Family) -> None:
        self.asked.append((peer, family))
        if self.refuses:
            raise CommandRefused(str(family))

    async def settle(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    def prefixes(self) -> set[str]:
        return {str(key.prefix) for key in self.incoming.table.rows}

    def say(self, body: bytes, peer: IP = ROUTER) -> None:
        """The router sends an UPDATE."""
        self.it.heard(peer, received=True, body=body)

    def sent(self, body: bytes) -> None:
        """The router is sent an UPDATE."""
        self.it.heard(ROUTER, received=False, body=body)

    def up(self, *prefixes: str) -> None:
        """The session comes up, and the router says all that it has."""
        self.it.opened(ROUTER, open_body())
        self.it.up(ROUTER, BOTH)
        self.say(update(*prefixes))
        for end in (END4, END6):
            self.say(end)


def run(folder: Path, life: Callable[[Bed], Awaitable[None]], *, read: bool = True) -> Bed:
    """Live; with ``read`` from the time when the file was read."""
    bed = Bed(folder)

    async def main() -> None:
        jobs = [asyncio.create_task(one()) for one in (bed.it.run, bed.it.ask, bed.kept.run)]
        async with asyncio.timeout(10):
            while read and not bed.kept._loaded.is_set():  # noqa: SLF001 - a thread reads it
                await asyncio.sleep(0)
            await life(bed)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        bed.kept.close()

    asyncio.run(main())
    return bed


def test_what_a_router_says_is_taken_in_in_its_order(tmp_path: Path) -> None:
    async def life(bed: Bed) -> None:
        bed.up("10.1.0.0/24", "10.2.0.0/24")
        bed.say(b"\0\4\x18\x0a\x01\x00\0\0")
        bed.sent(update("10.9.0.0/24", path=(65101,)))
        await bed.settle()
        assert bed.prefixes() == {"10.2.0.0/24"}
        assert set(bed.outgoing.table.rows) == {ReceivedKey(ROUTER, ip_network("10.9.0.0/24"))}
        assert bed.asked == []

    run(tmp_path, life)


def test_a_router_of_no_session_says_nothing(tmp_path: Path) -> None:
    async def life(bed: Bed) -> None:
        bed.say(update("10.1.0.0/24"), ip_address("10.99.0.66"))
        await bed.settle()
        assert not bed.prefixes()

    run(tmp_path, life)


def test_a_route_that_comes_after_end_of_rib_was_never_missing(tmp_path: Path) -> None:
    """Some routers say End-of-RIB too early; what has not come 3 s later is gone."""

    async def life(bed: Bed) -> None:
        bed.up("10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24")
        bed.it.down(ROUTER)
        await bed.settle()
        bed.up("10.1.0.0/24")
        bed.now = 2
        await bed.settle()
        assert bed.prefixes() == {"10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"}
        bed.say(update("10.2.0.0/24"))
        await bed.settle()
        bed.now = 5
        bed.say(b"", ip_address("10.99.0.66"))
        await bed.settle()
        assert bed.prefixes() == {"10.1.0.0/24", "10.2.0.0/24"}

    run(tmp_path, life)


@pytest.mark.parametrize("hard", [True, False])
def test_rows_outlive_a_lost_connection_and_no_notification(tmp_path: Path, hard: bool) -> None:  # noqa: FBT001 - pytest's
    async def life(bed: Bed) -> None:
        bed.up("10.1.0.0/24")
        if hard:
            bed.it.notified(ROUTER)
        bed.it.down(ROUTER)
        await bed.settle()
        assert len(bed.prefixes()) == (0 if hard else 1)
        for _ in range(3):  # attempts that fail
            bed.it.down(ROUTER)
        bed.now = 91
        bed.say(b"", ip_address("10.99.0.66"))
        await bed.settle()
        assert not bed.prefixes()

    run(tmp_path, life)


def test_a_way_that_is_broken_ends_the_routes_at_once(tmp_path: Path) -> None:
    async def life(bed: Bed) -> None:
        bed.up("10.1.0.0/24")
        bed.it.down(ROUTER, hard=True)
        await bed.settle()
        assert not bed.prefixes()

    run(tmp_path, life)


def test_the_next_speaker_has_the_rows_and_asks_for_them(tmp_path: Path) -> None:
    async def first(bed: Bed) -> None:
        bed.up("10.1.0.0/24", "10.2.0.0/24")
        bed.sent(update("10.9.0.0/24", path=(65101,)))
        while not (tmp_path / "ribs.journal").exists():
            await asyncio.sleep(0.01)

    async def second(bed: Bed) -> None:
        await bed.settle()
        assert bed.prefixes() == {"10.1.0.0/24", "10.2.0.0/24"}
        sent = {ReceivedKey(ROUTER, ip_network("10.9.0.0/24"))}
        bed.it.configured([ROUTER])
        bed.it.attached({ROUTER: BOTH}, sent)
        await bed.settle()
        assert sorted(bed.asked) == [(ROUTER, family) for family in BOTH]
        assert not bed.incoming.table.synced
        bed.it.refreshing(ROUTER, Family.IPV4, ends=False)
        bed.say(update("10.1.0.0/24"))
        bed.it.refreshing(ROUTER, Family.IPV4, ends=True)
        await bed.settle()
        assert bed.prefixes() == {"10.1.0.0/24"}, "what has not come again is gone"
        assert not bed.incoming.table.synced
        bed.it.refreshing(ROUTER, Family.IPV6, ends=True)
        await bed.settle()
        assert bed.incoming.table.synced
        assert set(bed.outgoing.table.rows) == sent

    run(tmp_path, first)
    run(tmp_path, second)


def test_a_session_that_never_comes_does_not_hold_up_the_rest_for_ever(tmp_path: Path) -> None:
    async def life(bed: Bed) -> None:
        bed.it.configured([ROUTER])
        bed.it.attached({}, [])
        await bed.settle()
        assert not bed.incoming.table.synced
        bed.now = CONFIRM_S
        bed.it.configured([ROUTER])
        await bed.settle()
        assert bed.incoming.table.synced

    run(tmp_path, life)


def test_without_sessions_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    async def life(bed: Bed) -> None:
        bed.it.configured([])
        await bed.settle()
        assert bed.incoming.table.synced

    run(tmp_path, life)


def test_members_of_a_range_have_time_to_say_what_they_have(tmp_path: Path) -> None:
    """The file may be lost, and then the rows of the kernel are those of no table."""

    async def life(bed: Bed) -> None:
        bed.it.configured([ip_network("10.99.0.0/24")])
        bed.it.attached({ROUTER: BOTH}, [])
        await bed.settle()
        assert not bed.incoming.table.synced
        bed.now = CONFIRM_S
        bed.it.configured([ip_network("10.99.0.0/24")])
        await bed.settle()
        assert bed.incoming.table.synced

    run(tmp_path, life)


def test_a_node_that_has_ranges_only_waits_for_their_members(tmp_path: Path) -> None:
    session = Session(Engine(tmp_path), IPv4Address("10.99.0.11"))
    routers = ip_network("10.99.0.0/24")
    session.memory.peerings = {routers: replace(SESSION, address=routers)}
    ribs = Ribs(session, tmp_path, "east-1")

    async def life() -> None:
        job = asyncio.create_task(ribs.listener.run())
        while not ribs.kept._loaded.is_set():  # noqa: SLF001 - a thread reads it
            await asyncio.sleep(0)
        ribs.configured()
        for _ in range(50):
            await asyncio.sleep(0)
        job.cancel()

    asyncio.run(life())
    assert not ribs.incoming.table.synced


def test_the_end_of_a_first_table_is_not_the_end_of_what_was_asked_for(tmp_path: Path) -> None:
    """A speaker was killed while the router sent its table, which the next one hears the end of."""

    async def life(bed: Bed) -> None:
        bed.it.opened(ROUTER, open_body())
        bed.it.up(ROUTER, BOTH)
        bed.say(update("10.1.0.0/24"))
        bed.it.began()
        bed.it.configured([ROUTER])
        bed.it.attached({ROUTER: BOTH}, [])
        await bed.settle()
        assert bed.asked
        bed.say(update("10.2.0.0/24"))
        bed.say(END4)
        bed.say(END6)
        await bed.settle()
        assert bed.prefixes() == {"10.1.0.0/24", "10.2.0.0/24"}
        assert not bed.incoming.table.synced
        bed.now = CONFIRM_S + 1
        bed.it.configured([ROUTER])
        await bed.settle()
        assert bed.prefixes() == {"10.2.0.0/24"}, "the router was asked, and has not said it again"

    run(tmp_path, life)


def test_rows_that_could_not_be_asked_for_stay(tmp_path: Path) -> None:
    async def life(bed: Bed) -> None:
        bed.up("10.1.0.0/24")
        await bed.settle()
        bed.refuses = True
        bed.it.began()
        bed.it.attached({ROUTER: BOTH}, [])
        await bed.settle()
        assert bed.asked
        bed.now = CONFIRM_S + 1
        bed.it.configured([ROUTER])
        await bed.settle()
        assert bed.prefixes() == {"10.1.0.0/24"}

    run(tmp_path, life)


def test_a_speaker_killed_while_it_reads_the_file_loses_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefixes = {f"10.{n}.0.0/24" for n in range(20)}

    async def first(bed: Bed) -> None:
        bed.up(*prefixes)
        while not (tmp_path / "ribs.journal").exists():
            await asyncio.sleep(0.01)

    async def killed(bed: Bed) -> None:
        before = (tmp_path / "ribs.journal").read_bytes()
        while not bed.prefixes():
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert len(bed.prefixes()) < len(prefixes), "it still reads"
        assert (tmp_path / "ribs.journal").read_bytes() == before

    run(tmp_path, first)
    monkeypatch.setattr("bgp.ribs.incoming._STEP", 1)
    monkeypatch.setattr(Listener, "_do", slowly)
    run(tmp_path, killed, read=False)


async def slowly(_: Listener, steps: Iterator[None], until: float) -> float:
    """``Listener._do`` of a speaker that has little time."""
    for _step in steps:
        await asyncio.sleep(0.1)
    return until


def test_rows_of_a_killed_exabgp_are_kept_for_our_own_restart_time(tmp_path: Path) -> None:
    """We are the one that restarts then (RFC 4724 4.1), whatever the router keeps."""

    async def life(bed: Bed) -> None:
        bed.up("10.1.0.0/24")
        bed.sent(update("10.9.0.0/24", path=(65101,)))
        bed.it.ended()
        await bed.settle()
        assert not bed.outgoing.table.rows
        assert [row.stale for row in bed.incoming.table.rows.values()] == [True]
        bed.it.began()
        bed.it.attached({}, [])
        await bed.settle()
        assert [row.stale for row in bed.incoming.table.rows.values()] == [True]
        bed.up("10.1.0.0/24")
        await bed.settle()
        assert [row.stale for row in bed.incoming.table.rows.values()] == [False]

    run(tmp_path, life)


def test_a_refused_attempt_to_come_back_ends_no_rows(tmp_path: Path) -> None:
    """A router may still have the former connection, and refuses ours by 6/5 or 6/7."""

    async def life(bed: Bed) -> None:
        bed.up("10.1.0.0/24")
        bed.it.ended()
        bed.it.began()
        bed.it.attached({}, [])
        bed.it.notified(ROUTER)
        bed.it.down(ROUTER)
        await bed.settle()
        assert [row.stale for row in bed.incoming.table.rows.values()] == [True]

    run(tmp_path, life)


def test_what_was_sent_and_exabgp_no_longer_has_is_not_sent(tmp_path: Path) -> None:
    async def life(bed: Bed) -> None:
        bed.up()
        bed.sent(update("10.8.0.0/24", "10.9.0.0/24", path=(65101,)))
        bed.it.began()
        bed.it.attached({ROUTER: BOTH}, [ReceivedKey(ROUTER, ip_network("10.9.0.0/24"))])
        await bed.settle()
        assert {str(key.prefix) for key in bed.outgoing.table.rows} == {"10.9.0.0/24"}

    run(tmp_path, life)


def test_a_router_that_cannot_refresh_is_not_asked_and_keeps_its_rows(tmp_path: Path) -> None:
    async def life(bed: Bed) -> None:
        asn4 = capability(65, pack("!I", 65000))
        plain = pack("!BHH4sB", 4, 65000, 90, ROUTER.packed, len(asn4)) + asn4
        bed.it.opened(ROUTER, plain)
        bed.it.up(ROUTER, BOTH)
        bed.say(update("10.1.0.0/24"))
        bed.it.began()
        bed.it.attached({ROUTER: BOTH}, [])
        await bed.settle()
        assert bed.asked == []
        bed.now = 2 * CONFIRM_S
        bed.it.configured([ROUTER])
        await bed.settle()
        assert bed.prefixes() == {"10.1.0.0/24"}

    run(tmp_path, life)


def test_a_session_of_which_everything_was_heard_is_not_asked(tmp_path: Path) -> None:
    async def life(bed: Bed) -> None:
        bed.it.began()
        bed.up("10.1.0.0/24")
        bed.it.attached({ROUTER: BOTH}, [])
        await bed.settle()
        assert bed.asked == []
        bed.it.began()
        bed.it.attached({ROUTER: BOTH}, [])
        await bed.settle()
        assert sorted(bed.asked) == [(ROUTER, family) for family in BOTH]

    run(tmp_path, life)


def test_too_much_at_once_is_dropped_and_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "MOST_BYTES", 100)

    async def life(bed: Bed) -> None:
        bed.up("10.1.0.0/24")
        await bed.settle()
        for number in range(20):
            bed.say(update(f"10.{number}.0.0/24"))
        await bed.settle()
        assert bed.it.dropped
        assert set(bed.asked) == {(ROUTER, family) for family in BOTH}
        assert "10.1.0.0/24" in bed.prefixes()

    run(tmp_path, life)


def test_a_torn_file_is_read_up_to_where_it_is_whole(tmp_path: Path) -> None:
    async def first(bed: Bed) -> None:
        bed.up("10.1.0.0/24")
        while not (tmp_path / "ribs.journal").exists():
            await asyncio.sleep(0.01)

    run(tmp_path, first)
    file = tmp_path / "ribs.journal"
    whole = file.read_bytes()
    for end in range(0, len(whole) + 1, 7):
        file.write_bytes(whole[:end])

        async def second(bed: Bed) -> None:
            await bed.settle()
            assert bed.prefixes() in (set(), {"10.1.0.0/24"})

        run(tmp_path, second)
    file.write_bytes(whole + b"\x07torn")
    found = run(tmp_path, lambda bed: bed.settle())
    assert found.prefixes() == {"10.1.0.0/24"}


def test_an_open_says_what_its_router_can_do() -> None:
    said = opening(open_body(capability(70, b""), capability(5, pack("!HHH", 1, 128, 2))))
    assert said is not None
    assert (said.asn, said.hold_s, said.families) == (65000, 90, BOTH)
    assert (said.refresh, said.enhanced_refresh, said.asn4) == (True, True, True)
    assert (said.restart_s, said.restart_families, said.kept) == (90, BOTH, ())
    assert said.next_hops == (Family.VPNV4,)


def test_an_open_that_is_cut_is_none_or_says_less() -> None:
    body = open_body()
    for end in range(len(body)):
        said = opening(body[:end])
        assert said is None or set(said.families) <= set(BOTH)
