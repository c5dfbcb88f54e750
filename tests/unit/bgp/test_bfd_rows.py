"""BFD sessions as rows: which there are, their bytes, and what the speaker makes of the maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from bgp.bfd import slow
from bgp.bfd.liveness import Liveness, Maps, Standing, Watch
from bgp.bfd.packet import Control, Flag, State, simple_password
from bgp.bfd.rows import NUMBERS, BFDWanted, Session, SessionKey, drawn, sessions
from bgp.bfd.wanted import keys, wanted
from bgp.desired import peerings
from bgp.peer import BFD, Advertise, BGPPeer, Override, Password
from mesh.core.model import Node, Requirement, Selector

ROUTER, ROUTER6 = ip_address("10.99.0.1"), ip_address("fd99::1")
V4, V6, OTHER = ip_address("10.99.0.11"), ip_address("fd99::11"), ip_address("10.99.0.12")
NODE = Node("east", "east-1", (V4, V6), labels=(("zone", "a"),))
KEY, KEY6 = SessionKey(ROUTER, V4), SessionKey(ROUTER6, V6)
FAST = BFDWanted(50_000, 3)


def peer(name: str = "router", **fields: object) -> BGPPeer:
    one = BGPPeer(name, Selector(), ROUTER, 65000, 65101, (Advertise("podCIDRs"),), bfd=BFD())
    return replace(one, **fields)  # type: ignore[arg-type]


def made(
    wants: Mapping[SessionKey, BFDWanted], standing: Mapping[SessionKey, Session] | None = None
) -> dict[SessionKey, Session]:
    numbers = iter(range(1000, 2000))
    rows, left = sessions(wants, standing or {}, lambda *_: next(numbers))
    assert not left
    return rows


# Bytes


def test_a_packet_is_what_the_rfc_draws() -> None:
    """RFC 5880 4.1: version 1, Up with P and C, multiplier 3, 24 octets, and five words."""
    packet = Control(
        State.UP, 0x01020304, 0x05060708, Flag.POLL | Flag.INDEPENDENT, 300_000, 50_000, 3, 1
    )
    raw = packet.pack()
    assert raw.hex() == "21e803180102030405060708000493e00000c35000000000"
    assert Control.read(raw) == packet


def test_a_password_is_a_section_of_the_packet() -> None:
    """RFC 5880 4.2: type 1, length, key ID, password; A is set, and Length counts it."""
    raw = Control(State.DOWN, 1, authentication=simple_password("abc")).pack()
    assert raw[1] & Flag.AUTHENTICATION
    assert raw[3] == len(raw) == 30
    assert raw[24:] == b"\x01\x06\x01abc"
    assert Control.read(raw).authentication == b"\x01\x06\x01abc"
    assert simple_password("") == b""
    with pytest.raises(ValueError, match="at most 16 bytes"):
        simple_password("x" * 17)


def test_a_slow_packet_says_down_and_no_more_than_once_a_second() -> None:
    """RFC 5880 6.8.3: Desired Min TX is a second while the session is not up."""
    row = Session(4, 77, 50_000, 49156, 3, multihop=True)
    raw = slow.datagram(row)
    assert raw[:8].hex() == f"{49156:04x}{4784:04x}{8 + 24:04x}0000"
    said = Control.read(raw[8:])
    assert (said.state, said.mine, said.yours) == (State.DOWN, 77, 0)
    assert (said.desired_us, said.required_us, said.flags) == (1_000_000, 50_000, Flag.NONE)


# Which sessions there are


def test_sessions_are_those_of_the_peers_that_select_the_node() -> None:
    found = wanted(
        NODE,
        [
            peer(origin="router.yaml"),
            peer("six", address=ROUTER6, bfd=BFD(50, 5, multihop=True, passive=True, password="x")),  # noqa: S106 - a BFD password
            peer("none", address=ip_address("10.99.0.2"), bfd=None),
            peer(
                "others",
                address=ip_address("10.99.0.3"),
                nodes=Selector((Requirement("zone", "In", ("b",)),)),
            ),
        ],
    )
    assert found.sessions == {
        KEY: BFDWanted(300_000, 3),
        KEY6: BFDWanted(50_000, 5, multihop=True, asks=True, password="x"),  # noqa: S106 - likewise
    }
    assert found.origins == {KEY: "router.yaml", KEY6: "BGPPeer/six"}


def test_a_session_has_the_ends_of_the_bgp_session() -> None:
    """The first of two peers by name, the local address of the node's override."""
    there = [
        peer("b", bfd=BFD(50)),
        peer("a", local_address=V4, overrides=(Override("east-1", local_address=OTHER),)),
    ]
    found = wanted(NODE, there)
    assert found.sessions == {SessionKey(ROUTER, OTHER): BFDWanted(300_000, 3)}
    rows, _ = peerings(NODE, there)
    assert list(keys(rows.values()).values()) == list(found.sessions)


def test_a_password_of_bgp_that_is_missing_changes_no_bfd() -> None:
    assert wanted(NODE, [peer(password=Password(file="/gone"))]).sessions


def test_a_range_has_no_bfd() -> None:
    there = peer(address=ip_network("10.99.0.0/24"), passive=True)
    assert not wanted(NODE, [there]).sessions


# Rows


def test_each_session_has_a_number_a_port_and_a_discriminator_of_its_own() -> None:
    rows = made({KEY: FAST, KEY6: BFDWanted(300_000, 5, multihop=True)})
    assert {row.number for row in rows.values()} == {1, 2}
    assert len({row.discriminator for row in rows.values()}) == 2
    assert len({row.port for row in rows.values()}) == 2
    assert all(row.port >= 49152 for row in rows.values())
    assert (rows[KEY].interval_us, rows[KEY6].multihop) == (50_000, True)


def test_what_a_session_is_called_stays_whatever_changes() -> None:
    """The router would take another discriminator for another session."""
    before = made({KEY: FAST})
    after = made({KEY: BFDWanted(300_000, 5, password="x"), KEY6: FAST}, before)  # noqa: S106 - a BFD password
    assert replace(after[KEY], interval_us=50_000, multiplier=3, authentication=b"") == before[KEY]
    assert after[KEY6].number != before[KEY].number


def test_a_session_that_nobody_wants_is_ending_and_comes_back_as_it_was() -> None:
    before = made({KEY: FAST, KEY6: FAST})
    after = made({KEY6: FAST}, before)
    assert after == {KEY: replace(before[KEY], ending=True), KEY6: before[KEY6]}
    assert made({KEY: FAST, KEY6: FAST}, after) == before


def test_numbers_have_an_end() -> None:
    there = {SessionKey(ip_address(f"10.1.{n // 256}.{n % 256}"), V4): FAST for n in NUMBERS}
    rows = made(there)
    assert {row.number for row in rows.values()} == set(NUMBERS)
    _, left = sessions({**there, KEY: FAST}, rows, lambda *_: 7)
    assert left == [KEY]


def test_a_discriminator_is_never_0_nor_twice() -> None:
    before = made({KEY: FAST})
    numbers = iter([0, before[KEY].discriminator, 42])
    rows, _ = sessions({KEY: FAST, KEY6: FAST}, before, lambda *_: next(numbers))
    assert rows[KEY6].discriminator == 42


def test_a_session_that_comes_back_has_the_discriminator_of_before() -> None:
    """FRR names it for ever; no other session, and nobody who does not know the host, has it."""
    one = drawn(b"host", KEY, 0)
    assert one == drawn(b"host", KEY, 0)
    others = {drawn(b"host", KEY6, 0), drawn(b"host", KEY, 1), drawn(b"other", KEY, 0)}
    assert len({one, *others}) == 4


# What the speaker makes of it


def of_number(number: int, interval_us: int = 300_000) -> Session:
    return Session(number, 1, interval_us, 49152, 3)


class FakeMaps(Maps):
    """The maps as they are said to be."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"))
        self.said: dict[int, int] = {}
        self.of = {KEY: of_number(3), KEY6: of_number(4)}
        self.away = False

    def sessions(self) -> dict[SessionKey, Session]:
        return self.of

    def paths(self, numbers: Iterable[int]) -> dict[int, int]:
        if self.away:
            raise FileNotFoundError(2, "No such file or directory")
        return {number: self.said.get(number, 0) for number in numbers}

    def since(self, number: int) -> float:
        return 100.0 + number + self.said[number]


@pytest.fixture
def maps() -> FakeMaps:
    return FakeMaps()


@pytest.fixture
def watch(maps: FakeMaps) -> Watch:
    made = Watch(Path("/nowhere"), lambda: {ROUTER: KEY, ROUTER6: KEY6})
    made.maps = maps
    return made


BOTH = {ROUTER: KEY, ROUTER6: KEY6}


def test_a_fall_is_told_once_and_again_after_it_was_mended(watch: Watch, maps: FakeMaps) -> None:
    for path, standing in ((1, Standing.UP), (2, Standing.DOWN), (2, Standing.DOWN)):
        maps.said = {3: path, 4: 1}
        watch.look(BOTH)
        assert watch.liveness.rows[ROUTER].path == standing
    assert watch.liveness.rows[ROUTER6] == Liveness(4, Standing.UP, 105.0)
    assert watch.fallen.get_nowait() == ROUTER
    assert watch.fallen.empty()
    assert (watch.shown(ROUTER), watch.shown(ROUTER6), watch.shown(OTHER)) == ("down", "up", "-")
    for path in (1, 2):
        maps.said = {3: path, 4: 1}
        watch.look(BOTH)
    assert watch.fallen.get_nowait() == ROUTER


def test_one_that_never_was_up_has_not_fallen(watch: Watch, maps: FakeMaps) -> None:
    maps.said = {3: 0, 4: 0}
    watch.look(BOTH)
    assert watch.shown(ROUTER) == "-"
    assert watch.fallen.empty()


def test_maps_that_are_away_change_nothing_and_are_told(watch: Watch, maps: FakeMaps) -> None:
    maps.said = {3: 1, 4: 1}
    watch.look(BOTH)
    maps.away = True
    watch.look(BOTH)
    assert watch.shown(ROUTER) == "up"
    assert "no such file" in watch.problem
    maps.away = False
    watch.look(BOTH)
    assert watch.problem == ""


def test_a_session_without_a_row_of_the_agent_is_not_judged(watch: Watch, maps: FakeMaps) -> None:
    """Its number may be another's by now."""
    maps.said, maps.of = {3: 2, 4: 2}, {KEY6: of_number(4)}
    watch.look({ROUTER: KEY})
    assert not watch.liveness.rows
    assert watch.fallen.empty()


@pytest.mark.parametrize(
    ("interval_us", "pause_s"), [(300_000, 0.2), (150_000, 0.1), (50_000, 0.05), (10**6, 0.2)]
)
def test_the_fastest_session_says_how_often_the_maps_are_looked_at(
    watch: Watch, maps: FakeMaps, interval_us: int, pause_s: float
) -> None:
    maps.said, maps.of = {3: 1, 4: 1}, {KEY: of_number(3, interval_us), KEY6: of_number(4, 10**6)}
    watch.look(BOTH)
    assert watch.pause_s() == pytest.approx(pause_s)


def test_without_a_directory_a_speaker_says_so() -> None:
    watch = Watch(None, dict)
    watch.look(BOTH)
    assert "bpffs" in watch.problem
