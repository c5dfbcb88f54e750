"""BFD in the datapath: a router's control packets become ours, RFC 5880 6.8.6 packet by packet.

Node a (10.99.0.11, fd99::11) has a session with the router (10.99.0.1, fd99::1).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from bgp.bfd.maps import decode_seen, encode_session
from bgp.bfd.packet import Control, Flag, State, simple_password
from bgp.bfd.rows import Session, SessionKey
from bpf.testrun import run
from tests.packet.nodes import OK, PLANS, REDIRECT, ROUTER, SHOT, Got, Node
from tests.packet.packets import UDP, Packet, broken_checksums

Nodes = dict[str, Node]

OURS = {4: PLANS["a"].endpoint, 6: "fd99::11"}
NUMBER, MINE, THEIRS = 7, 0x0A0B0C0D, 0x01020304
INTERVAL_US = 200_000
ROW = Session(NUMBER, MINE, INTERVAL_US, 49159, 3)
UNKNOWN, UP, DOWN = 0, 1, 2


class Link:
    """The session of one family, and what its router says."""

    def __init__(self, node: Node, family: int, row: Session = ROW) -> None:
        self.node, self.family = node, family
        self.key = SessionKey(ip_address(ROUTER[family]), ip_address(OURS[family]))
        self.configure(row)
        self.mine = row.discriminator

    def configure(self, row: Session) -> None:
        self.row = row
        self.node.maps["mg_bfd"].update_one(*encode_session(self.key, row))

    def hear(self, control: Control, payload: bytes | None = None, **ip: Any) -> Got:
        port = ip.pop("port", 4784 if self.row.multihop else 3784)
        body = control.pack() if payload is None else payload
        packet = Packet(
            ROUTER[self.family], OURS[self.family], UDP(50000, port), body, **({"ttl": 255} | ip)
        )
        return self.node.from_uplink(packet)

    def say(self, state: State, flags: Flag = Flag.NONE, **fields: Any) -> Got:
        """As a router in this state does: it names our session unless it is down itself."""
        yours = 0 if state <= State.DOWN else self.mine
        interval = self.row.interval_us
        default = {"desired_us": interval, "required_us": interval, "yours": yours}
        return self.hear(Control(state, THEIRS, flags=flags, **(default | fields)))

    def answer(self, got: Got) -> Control:
        """The packet that goes back, which is right in all that is not BFD."""
        assert (got.verdict, got.dropped) == (REDIRECT, {})
        packet = got.packet
        port = 4784 if self.row.multihop else 3784
        assert (packet.source, packet.destination) == (OURS[self.family], ROUTER[self.family])
        assert packet.l4 == UDP(self.row.port, port)
        assert packet.ttl == 255
        assert broken_checksums(got.wire) == []
        return Control.read(packet.payload)

    def said(self, state: State, flags: Flag = Flag.NONE, **fields: Any) -> Control:
        return self.answer(self.say(state, flags, **fields))

    @property
    def seen(self) -> Any:
        value = self.node.maps["mg_bfd_session"].lookup(self.row.number)
        return decode_seen(self.row.number, value)[1]

    @property
    def path(self) -> int:
        return int(self.node.maps["mg_bfd_state"].lookup(self.row.number) or 0)

    def up(self) -> None:
        """As after a router that has done its part."""
        self.say(State.DOWN)
        self.say(State.INIT)
        assert self.seen.state == State.UP

    def rest(self) -> None:
        """Until an answer is due again."""
        time.sleep(0.6 * self.row.interval_us / 1e6)


@pytest.fixture
def link(nodes: Nodes, family: int) -> Link:
    """A session of which nothing was heard."""
    return fresh(nodes["a"], family)


_discriminators = iter(range(MINE, MINE + 10_000))


def fresh(node: Node, family: int, **fields: Any) -> Link:
    node.clear("mg_bfd")
    return Link(node, family, replace(ROW, discriminator=next(_discriminators), **fields))


def test_a_packet_of_a_stranger_is_the_hosts(nodes: Nodes, family: int) -> None:
    node = nodes["a"]
    node.clear("mg_bfd")
    packet = Packet(
        ROUTER[family], OURS[family], UDP(50000, 3784), Control(State.DOWN, 1).pack(), ttl=255
    )
    got = node.from_uplink(packet)
    assert (got.verdict, got.dropped, got.packet) == (OK, {}, packet)


def test_the_first_packet_is_answered_by_init(link: Link) -> None:
    got = link.said(State.DOWN, desired_us=1_000_000)
    assert got == Control(
        State.INIT, link.mine, THEIRS, Flag.INDEPENDENT,
        desired_us=1_000_000, required_us=INTERVAL_US, multiplier=3,
    )  # fmt: skip
    assert link.path == UNKNOWN


def test_a_session_comes_up_and_polls_until_the_router_confirms(link: Link) -> None:
    link.said(State.DOWN)
    got = link.said(State.INIT)
    assert (got.state, got.flags) == (State.UP, Flag.INDEPENDENT | Flag.POLL)
    assert link.path == UP
    # an answer to our Poll is no question: answering it would never end
    final = link.say(State.UP, Flag.FINAL)
    assert (final.verdict, final.dropped) == (OK, {})
    link.rest()
    assert link.said(State.UP).flags == Flag.INDEPENDENT


def test_a_poll_is_answered_at_once_and_every_time(link: Link) -> None:
    link.up()
    for _ in range(3):
        got = link.said(State.UP, Flag.POLL)
        assert (got.state, got.flags) == (State.UP, Flag.INDEPENDENT | Flag.FINAL)


def test_our_desired_interval_is_the_routers_own(link: Link) -> None:
    link.up()
    for desired in (200_000, 275_000, 300_000, 1_000_000):
        got = link.said(State.UP, Flag.POLL, desired_us=desired)
        assert (got.desired_us, got.required_us) == (desired, INTERVAL_US)
    # one that sends faster than it likes to be sent to: a multiple of its interval
    got = link.said(State.UP, Flag.POLL, desired_us=200_000, required_us=420_000)
    assert got.desired_us == 600_000
    # one that would be too fast for us sends at our interval
    got = link.said(State.UP, Flag.POLL, desired_us=1_000, required_us=1_000)
    assert got.desired_us == INTERVAL_US


def test_packets_that_come_too_early_are_taken_and_not_answered(link: Link) -> None:
    link.up()
    link.said(State.UP, Flag.POLL)
    for _ in range(3):
        got = link.say(State.UP)
        assert (got.verdict, got.dropped) == (OK, {})
    link.rest()
    assert link.said(State.UP).state == State.UP


@pytest.mark.parametrize(
    ("state", "heard", "after"),
    [
        (State.DOWN, State.ADMIN_DOWN, State.DOWN),
        (State.DOWN, State.DOWN, State.INIT),
        (State.DOWN, State.INIT, State.UP),
        (State.DOWN, State.UP, State.DOWN),
        (State.INIT, State.ADMIN_DOWN, State.DOWN),
        (State.INIT, State.DOWN, State.INIT),
        (State.INIT, State.INIT, State.UP),
        (State.INIT, State.UP, State.UP),
        (State.UP, State.ADMIN_DOWN, State.DOWN),
        (State.UP, State.DOWN, State.DOWN),
        (State.UP, State.INIT, State.UP),
        (State.UP, State.UP, State.UP),
    ],
)
def test_the_state_machine(nodes: Nodes, state: State, heard: State, after: State) -> None:
    """RFC 5880 6.8.6, whole."""
    link = fresh(nodes["a"], 4)
    if state >= State.INIT:
        link.say(State.DOWN)
    if state == State.UP:
        link.say(State.INIT)
    link.say(heard, Flag.POLL)
    assert link.seen.state == after


@pytest.mark.parametrize(("heard", "path"), [(State.DOWN, DOWN), (State.ADMIN_DOWN, UNKNOWN)])
def test_what_next_hops_see_when_the_router_ends_it(link: Link, heard: State, path: int) -> None:
    """A router that fails has failed; one that switches BFD off has not (RFC 5882 3.2)."""
    link.up()
    assert link.path == UP
    got = link.said(heard)
    assert (got.state, got.diagnostic) == (State.DOWN, 3)
    assert (link.path, link.seen.downs) == (path, 1)


def test_silence_brings_it_down_without_any_process(nodes: Nodes, family: int) -> None:
    link = fresh(nodes["a"], family, interval_us=50_000)
    link.up()
    link.say(State.UP, Flag.FINAL, desired_us=50_000, multiplier=2)
    began = time.monotonic()
    assert link.seen.detection_us == 100_000
    while link.path == UP and time.monotonic() < began + 2:
        time.sleep(0.001)
    took = time.monotonic() - began
    assert link.path == DOWN
    assert took >= 0.095
    assert (link.seen.state, link.seen.diagnostic, link.seen.downs) == (State.DOWN, 1, 1)
    sys.stdout.write(f"\nsilence of 100 ms is down after {took * 1000:.0f} ms\n")


def test_a_session_that_is_heard_stays_up(nodes: Nodes) -> None:
    link = fresh(nodes["a"], 4, interval_us=100_000)
    link.up()
    for _ in range(10):
        time.sleep(0.05)
        link.say(State.UP)
    assert (link.seen.state, link.path, link.seen.downs) == (State.UP, UP, 0)


REFUSED: list[tuple[str, Callable[[Link], Got], int]] = [
    ("a TTL of 254", lambda s: s.hear(Control(State.DOWN, THEIRS), ttl=254), 2),
    ("version 0", lambda s: s.hear(Control(State.DOWN, THEIRS, version=0)), 3),
    ("version 2", lambda s: s.hear(Control(State.DOWN, THEIRS, version=2)), 3),
    ("a length of 23", lambda s: s.hear(Control(State.DOWN, THEIRS, length=23)), 4),
    ("a length beyond UDP", lambda s: s.hear(Control(State.DOWN, THEIRS, length=25)), 4),
    (
        "authentication of 25 bytes",
        lambda s: s.hear(
            Control(State.DOWN, THEIRS, length=25, flags=Flag.AUTHENTICATION),
            Control(State.DOWN, THEIRS, length=25, flags=Flag.AUTHENTICATION).pack() + b"\1",
        ),
        4,
    ),
    (
        "a short packet",
        lambda s: s.hear(Control(State.DOWN, 1), b"\x20\x40\x03\x18" + bytes(16)),
        4,
    ),
    ("multiplier 0", lambda s: s.hear(Control(State.DOWN, THEIRS, multiplier=0)), 5),
    ("multipoint", lambda s: s.hear(Control(State.DOWN, THEIRS, flags=Flag.MULTIPOINT)), 6),
    ("no discriminator", lambda s: s.hear(Control(State.DOWN, 0)), 7),
    ("another session's", lambda s: s.hear(Control(State.UP, THEIRS, s.mine ^ 1)), 8),
    ("no session's in Init", lambda s: s.hear(Control(State.INIT, THEIRS)), 9),
    ("no session's in Up", lambda s: s.hear(Control(State.UP, THEIRS)), 9),
    (
        "authentication that nobody asked for",
        lambda s: s.hear(Control(State.DOWN, THEIRS, authentication=simple_password("x"))),
        10,
    ),
    ("the port of several hops", lambda s: s.hear(Control(State.DOWN, THEIRS), port=4784), 1),
]


@pytest.mark.parametrize(("what", "once", "refusal"), REFUSED, ids=[one[0] for one in REFUSED])
def test_what_is_refused_changes_nothing(
    link: Link, what: str, once: Callable[[Link], Got], refusal: int
) -> None:
    """The checks of RFC 5880 6.8.6 and RFC 5881 5: a drop with a name, and a reason for people."""
    link.up()
    before = link.seen
    got = once(link)
    assert (got.verdict, got.dropped) == (SHOT, {"BFD_REFUSED": 1}), what
    assert link.seen == replace(before, refused=before.refused + 1, refusal=refusal)


def test_bytes_behind_the_packet_are_nobodys(link: Link) -> None:
    """RFC 5880 6.8.6: only a Length beyond the payload is wrong."""
    got = link.hear(Control(State.DOWN, THEIRS), Control(State.DOWN, THEIRS).pack() + b"more")
    assert link.answer(got).state == State.INIT


def test_several_hops_have_their_own_port_and_any_ttl(nodes: Nodes, family: int) -> None:
    link = fresh(nodes["a"], family, multihop=True)
    got = link.hear(Control(State.DOWN, THEIRS), ttl=61)
    assert link.answer(got).state == State.INIT
    got = link.hear(Control(State.DOWN, THEIRS), port=3784)
    assert (got.verdict, got.dropped) == (SHOT, {"BFD_REFUSED": 1})


@pytest.mark.parametrize("password", ["x", "secret", "sixteen-letters!"])
def test_a_simple_password(nodes: Nodes, family: int, password: str) -> None:
    """RFC 5880 4.2 and 6.7.2: type, length, key and password are all ours, in our answer too."""
    section = simple_password(password)
    link = fresh(nodes["a"], family, authentication=section)
    got = link.answer(link.hear(Control(State.DOWN, THEIRS, authentication=section)))
    assert (got.state, got.authentication) == (State.INIT, section)
    assert got.flags == Flag.INDEPENDENT | Flag.AUTHENTICATION
    wrong = [b"", simple_password(password[:-1] + "?"), section[:2] + b"\2" + section[3:]]
    wrong += [b"\2" + section[1:], section + b"\0"]
    for one in wrong:
        got = link.hear(Control(State.DOWN, THEIRS, authentication=one))
        assert got.dropped == {"BFD_REFUSED": 1}
        assert link.seen.refusal == 10


def test_a_row_that_is_written_again_changes_no_session(link: Link) -> None:
    """An agent that starts writes what it wants; the session stands, and its timer runs."""
    link.up()
    link.say(State.UP, Flag.FINAL)
    link.configure(replace(link.row, multiplier=5))
    link.rest()
    got = link.said(State.UP)
    assert (got.state, got.flags, got.multiplier) == (State.UP, Flag.INDEPENDENT, 5)
    # another interval is said by a Poll, and the longer one counts until the router knows
    link.rest()
    link.configure(replace(link.row, interval_us=50_000))
    got = link.said(State.UP, multiplier=1)
    assert (got.flags, got.required_us) == (Flag.INDEPENDENT | Flag.POLL, 50_000)
    assert link.seen.detection_us == INTERVAL_US
    link.say(State.UP, Flag.FINAL, multiplier=2)
    assert link.seen.detection_us == 100_000
    end = time.monotonic() + 2
    while link.seen.state == State.UP and time.monotonic() < end:
        time.sleep(0.01)
    assert (link.seen.state, link.seen.downs) == (State.DOWN, 1)


def test_another_session_with_the_number_begins_anew(link: Link) -> None:
    link.up()
    link.configure(replace(link.row, discriminator=next(_discriminators)))
    got = link.hear(Control(State.DOWN, THEIRS))
    assert link.answer(got).state == State.INIT
    assert (link.seen.mine, link.seen.downs, link.path) == (link.row.discriminator, 0, UNKNOWN)


def test_a_session_that_ends_tells_the_router(link: Link) -> None:
    """AdminDown: the router takes nothing down with it."""
    link.up()
    link.configure(replace(link.row, ending=True))
    got = link.said(State.UP, Flag.POLL)
    assert (got.state, got.diagnostic) == (State.ADMIN_DOWN, 7)
    assert link.path == UNKNOWN
    # it has understood
    assert link.say(State.DOWN).verdict == OK
    # wanted again
    link.configure(link.row)
    link.configure(replace(link.row, ending=False))
    assert link.said(State.DOWN).state == State.INIT


def test_demand_mode_of_a_router_is_respected(link: Link) -> None:
    """RFC 5880 6.8.7: nor does one that wants no periodic packets get any."""
    link.up()
    link.rest()
    assert link.say(State.UP, Flag.DEMAND).verdict == OK
    assert link.said(State.UP, Flag.DEMAND | Flag.POLL).flags & Flag.FINAL
    link.rest()
    assert link.say(State.UP, required_us=0).verdict == OK


def test_demand_mode_counts_only_while_both_are_up(link: Link) -> None:
    """RFC 5880 6.6: a router that asks for it too early is answered, or it would not come up."""
    assert link.said(State.DOWN, Flag.DEMAND).state == State.INIT
    time.sleep(0.8)
    assert link.said(State.DOWN, Flag.DEMAND).state == State.INIT


def test_later_fragments_and_other_ports_are_no_bfd(link: Link) -> None:
    node, family = link.node, link.family
    packet = Packet(ROUTER[family], OURS[family], UDP(50000, 3785), b"x" * 24, ttl=255)
    assert node.from_uplink(packet).verdict == OK
    assert link.seen.mine != link.mine or link.seen.state == State.DOWN


def test_the_cost(nodes: Nodes) -> None:
    """Printed: what one packet costs, and what a packet of others pays for the look."""
    link = fresh(nodes["a"], 4)
    link.up()
    control = Control(State.UP, THEIRS, link.mine, Flag.POLL, INTERVAL_US, INTERVAL_US)
    wire = Packet(ROUTER[4], OURS[4], UDP(50000, 3784), control.pack(), ttl=255).wire()
    results = []
    for _ in range(200):
        link.node.spoil_slots()
        ctx = {"ifindex": link.node.devices["dpwup"]}
        results.append(run(link.node.programs["mg_from_uplink"], wire, ctx=ctx).ns)
    sys.stdout.write(f"\na BFD packet: {sorted(results)[100]} ns\n")
