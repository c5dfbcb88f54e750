"""What routers have sent and were sent: confirmed, stale, echoed, over the maximum, malformed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network

import pytest

from bgp.desired import Peering
from bgp.learned.rows import LearnedKey
from bgp.ribs.incoming import CONFIRM_S, DEFAULT_MAXIMUM, RibIn
from bgp.ribs.outgoing import RibOut
from bgp.route import Family, RouteKey, ServiceSID
from bgp.wire.encode import encode
from bgp.wire.opening import Opening
from bgp.wire.rows import Attributes, Nlri, Update
from bgp.wire.update import decode
from mesh.core.model import IP
from mesh.core.received import Received, ReceivedKey
from mesh.core.table import Table
from srv6.vrf.imports import ImportKey

ROUTER, ME = ip_address("10.99.0.1"), ip_address("10.99.0.11")
SESSION = Peering("r", ROUTER, 65000, ME, 65101, 9, 120, ())
V4 = (ROUTER, Family.IPV4)
BOTH = (Family.IPV4, Family.IPV6)
OPENING = Opening(families=BOTH, refresh=True, restart_s=90, restart_families=BOTH)


def key(prefix: str, rd: str = "", peer: IP = ROUTER) -> ReceivedKey:
    return ReceivedKey(peer, ip_network(prefix), rd)


def announced(*prefixes: str, path: tuple[int, ...] = (65000,), med: int | None = None) -> Update:
    found = tuple(Nlri(Family.IPV4, ip_network(one), next_hop=ROUTER) for one in prefixes)
    return Update(found, (), Attributes(as_path=path, med=med))


def withdrawn(*prefixes: str) -> Update:
    return Update((), tuple(Nlri(Family.IPV4, ip_network(one)) for one in prefixes))


def done(steps: Iterator[None]) -> int:
    return sum(1 for _ in steps)


def rib(*prefixes: str) -> RibIn:
    """Heard on a session that stands, and confirmed."""
    found = RibIn()
    done(found.up(ROUTER, BOTH, OPENING, 0))
    found.hear(ROUTER, SESSION, announced(*prefixes), 0)
    for family in BOTH:
        done(found.end((ROUTER, family)))
    return found


def prefixes(found: RibIn) -> set[str]:
    return {str(one.prefix) for one in found.table.rows}


def test_rows_are_what_the_router_says_now() -> None:
    it = rib("10.1.0.0/24", "10.2.0.0/24")
    it.hear(ROUTER, SESSION, withdrawn("10.2.0.0/24", "10.9.0.0/24"), 1)
    it.hear(ROUTER, SESSION, announced("10.1.0.0/24", med=7), 1)
    assert prefixes(it) == {"10.1.0.0/24"}
    assert it.table.rows[key("10.1.0.0/24")].med == 7
    assert it.count(*V4) == 1


def test_prefixes_of_an_update_share_their_row() -> None:
    it = rib("10.1.0.0/24", "10.2.0.0/24")
    assert len({id(row) for row in it.table.rows.values()}) == 1


def test_a_prefix_that_is_withdrawn_and_announced_in_one_update_is_announced() -> None:
    """RFC 4271 4.3."""
    it = rib("10.1.0.0/24")
    both = replace(announced("10.1.0.0/24"), withdrawn=withdrawn("10.1.0.0/24").withdrawn)
    it.hear(ROUTER, SESSION, both, 1)
    assert prefixes(it) == {"10.1.0.0/24"}


def test_a_vpn_prefix_is_another_for_each_distinguisher_and_has_its_computed_sid() -> None:
    one = Nlri(Family.VPNV4, ip_network("10.1.0.0/24"), "65001:1", 4096, ip_address("fd99::5"))
    other = replace(one, rd="65001:2", label=8192)
    sid = ServiceSID(IPv6Address("fcbb:bb00:5::"), 0xFFFF, (40, 24, 16, 0, 16, 64))
    it = RibIn()
    it.hear(ROUTER, SESSION, Update((one, other), (), Attributes(service=sid)), 0)
    assert {k.rd: str(row.sid) for k, row in it.table.rows.items()} == {
        "65001:1": "fcbb:bb00:5:0:100::",
        "65001:2": "fcbb:bb00:5:0:200::",
    }
    odd = replace(sid, structure=(40, 24, 16, 0, 16, 80))
    it.hear(ROUTER, SESSION, Update((one,), (), Attributes(service=odd)), 0)
    row = it.table.rows[key("10.1.0.0/24", "65001:1")]
    assert (row.sid, row.unusable) == (None, "the transposed bits end at 96 of 80")


def test_our_own_routes_are_none_and_those_that_we_have_sent_are_echoes() -> None:
    sent = {key("10.1.0.0/24")}
    it = RibIn(sent)
    it.hear(ROUTER, SESSION, announced("10.1.0.0/24", "10.3.0.0/24"), 0)
    looped = announced("10.1.0.0/24", "10.3.0.0/24", path=(65000, 65101))
    it.hear(ROUTER, SESSION, looped, 0)
    assert prefixes(it) == set(), "what a looped route replaces has gone, too"
    known = it.of(ROUTER)
    assert (known.looped, known.echoes) == (2, sent)
    assert known.refused == {key("10.3.0.0/24"): "our own AS 65101 is in its path"}
    it.hear(ROUTER, SESSION, withdrawn("10.1.0.0/24"), 0)
    assert known.echoes == set()


def test_a_route_that_a_reflector_gives_back_is_none() -> None:
    """RFC 4456 8."""
    it = RibIn()
    it.router_id = IPv4Address("10.99.0.11")
    said = announced("10.1.0.0/24")
    back = replace(said, attributes=replace(said.attributes, originator=it.router_id))
    it.hear(ROUTER, SESSION, back, 0)
    assert not it.table.rows


def test_beyond_the_maximum_nothing_is_taken_and_the_rest_stays() -> None:
    it = rib("10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24", "10.4.0.0/24")
    little = replace(SESSION, max_prefixes=4)
    it.hear(ROUTER, little, announced("10.5.0.0/24", "10.1.0.0/24", med=1), 1)
    assert len(prefixes(it)) == 4
    assert it.table.rows[key("10.1.0.0/24")].med == 1, "what is there still changes"
    assert it.surplus == {V4: 1}
    refused = it.of(ROUTER).refused
    assert refused == {key("10.5.0.0/24"): "the maximum of 4 prefixes is reached"}
    assert it.wanting == set()
    it.hear(ROUTER, little, withdrawn("10.1.0.0/24", "10.2.0.0/24"), 2)
    assert it.wanting == {V4}, "there is room again"
    it.begin(V4, 3)
    assert (it.surplus, it.wanting) == ({}, set())


def test_a_lower_maximum_takes_rows_away_and_a_higher_one_asks_for_them() -> None:
    it = rib(*(f"10.{n}.0.0/24" for n in range(10)))
    done(it.adapt(ROUTER, replace(SESSION, max_prefixes=4)))
    assert prefixes(it) == {f"10.{n}.0.0/24" for n in range(4)}
    assert it.surplus == {V4: 6}
    done(it.adapt(ROUTER, replace(SESSION, max_prefixes=0)))
    assert it.of(ROUTER).most == DEFAULT_MAXIMUM
    assert it.wanting == {V4}


def test_rows_of_a_session_that_is_down_are_stale_and_go_after_the_restart_time() -> None:
    it = rib("10.1.0.0/24", "10.2.0.0/24")
    done(it.down(ROUTER, 90, BOTH, 100))
    assert [row.stale for row in it.table.rows.values()] == [True, True]
    assert len({id(row) for row in it.table.rows.values()}) == 1
    done(it.expire(189))
    assert len(it.table.rows) == 2
    assert it.next_at == 190
    done(it.expire(190))
    assert not it.table.rows
    assert it.next_at is None


def test_families_that_the_router_does_not_keep_go_at_once() -> None:
    it = rib("10.1.0.0/24")
    done(it.down(ROUTER, 90, (Family.IPV6,), 0))
    assert not it.table.rows


def test_without_graceful_restart_all_go_with_the_session() -> None:
    it = rib("10.1.0.0/24")
    done(it.down(ROUTER, 0, BOTH, 0))
    assert not it.table.rows


def test_what_does_not_come_again_goes_with_end_of_rib() -> None:
    it = rib("10.1.0.0/24", "10.2.0.0/24")
    done(it.down(ROUTER, 90, BOTH, 0))
    done(it.up(ROUTER, BOTH, OPENING, 10))
    it.hear(ROUTER, SESSION, announced("10.1.0.0/24"), 11)
    assert {str(k.prefix): row.stale for k, row in it.table.rows.items()} == {
        "10.1.0.0/24": False,
        "10.2.0.0/24": True,
    }
    assert not it.is_confirmed(ROUTER)
    done(it.end(V4))
    assert prefixes(it) == {"10.1.0.0/24"}
    done(it.end((ROUTER, Family.IPV6)))
    assert it.is_confirmed(ROUTER)
    done(it.expire(1000))
    assert prefixes(it) == {"10.1.0.0/24"}


def test_without_an_end_of_rib_it_goes_after_a_minute() -> None:
    it = rib("10.1.0.0/24", "10.2.0.0/24")
    revision = it.table.revision
    it.begin(V4, 5)
    assert it.table.revision == revision, "rows that wait for a refresh are not written"
    it.hear(ROUTER, SESSION, announced("10.2.0.0/24"), 6)
    done(it.expire(5 + CONFIRM_S))
    assert prefixes(it) == {"10.2.0.0/24"}


def test_a_router_that_has_restarted_and_forwarded_nothing_loses_its_rows_at_once() -> None:
    """RFC 4724 4.2."""
    it = rib("10.1.0.0/24")
    done(it.down(ROUTER, 90, BOTH, 0))
    done(it.up(ROUTER, BOTH, replace(OPENING, restarted=True, kept=(Family.IPV6,)), 1))
    assert not it.table.rows
    it = rib("10.1.0.0/24")
    done(it.down(ROUTER, 90, BOTH, 0))
    done(it.up(ROUTER, BOTH, replace(OPENING, restarted=True, kept=BOTH), 1))
    assert len(it.table.rows) == 1


def test_a_router_that_started_lately_keeps_its_rows_while_we_restart() -> None:
    """It says so in each OPEN; that it restarted at the same time as we did is not likely."""
    it = rib("10.1.0.0/24")
    done(it.down(ROUTER, 90, BOTH, 0, by_us=True))
    done(it.up(ROUTER, BOTH, replace(OPENING, restarted=True), 1))
    assert len(it.table.rows) == 1
    done(it.down(ROUTER, 90, BOTH, 2))
    done(it.up(ROUTER, BOTH, replace(OPENING, restarted=True), 3))
    assert not it.table.rows


def test_a_family_that_is_no_longer_negotiated_goes() -> None:
    it = rib("10.1.0.0/24")
    done(it.down(ROUTER, 90, BOTH, 0))
    done(it.up(ROUTER, (Family.IPV6,), OPENING, 1))
    assert not it.table.rows


def test_a_malformed_update_withdraws_and_is_told_with_its_prefixes() -> None:
    it = rib("10.1.0.0/24")
    said = announced("10.1.0.0/24")
    body = bytearray(encode(replace(said, attributes=replace(said.attributes, med=1))))
    body[6] = 9  # ORIGIN
    wrong = decode(bytes(body), external=True)
    assert wrong.treat_as_withdraw or wrong.reset
    it.hear(ROUTER, SESSION, wrong, 50)
    faults = it.faults(60)[ROUTER]
    assert faults.count == 1
    assert faults.text == (wrong.treat_as_withdraw or wrong.reset)
    assert it.faults(10_000) == {}
    done(it.up(ROUTER, BOTH, OPENING, 61))
    assert it.faults(62) == {}, "of an earlier session"


def test_prefixes_that_cannot_be_found_are_asked_for_again() -> None:
    it = rib("10.1.0.0/24")
    it.hear(ROUTER, SESSION, decode(b"\0\5\0\0"), 1)
    assert it.wanting == {V4}
    assert prefixes(it) == {"10.1.0.0/24"}


def test_refused_prefixes_are_remembered_up_to_a_number() -> None:
    it = RibIn()
    many = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(1500)]
    it.hear(ROUTER, SESSION, announced(*many, path=(65101,)), 0)
    assert len(it.of(ROUTER).refused) == 1000
    assert key(many[-1]) in it.of(ROUTER).refused


def test_whatever_concerns_many_rows_is_done_in_steps() -> None:
    it = rib(*(f"10.{n >> 8}.{n & 255}.0/24" for n in range(2000)))
    assert done(it.down(ROUTER, 90, BOTH, 0)) == 10
    assert done(it.forget(ROUTER)) == 10


def test_rows_of_the_last_speaker_count_until_their_session_is_asked() -> None:
    row = Received(ROUTER, (65000,))
    it = RibIn()
    done(it.load([(key("10.1.0.0/24"), row)]))
    assert it.count(*V4) == 1
    it.begin(V4, 0)
    done(it.end(V4))
    assert not it.table.rows


@pytest.mark.parametrize("why", ["withdrawn", "forgotten"])
def test_what_was_sent_goes_with_its_withdrawal_and_with_the_session(why: str) -> None:
    it = RibOut()
    it.hear(ROUTER, announced("10.1.0.0/24", "10.2.0.0/24"))
    assert it.count(*V4) == 2
    if why == "withdrawn":
        it.hear(ROUTER, withdrawn("10.1.0.0/24"))
    else:
        done(it.forget(ROUTER, {key("10.2.0.0/24")}))
    assert set(it.table.rows) == {key("10.2.0.0/24")}
    assert it.count(*V4) == 1


class _Hashed(IPv4Network):
    """Counts how often it is asked for its hash: 0.3 µs each time."""

    times = 0

    def __hash__(self) -> int:
        type(self).times += 1
        return super().__hash__()


@pytest.mark.parametrize(
    "made",
    [
        lambda prefix: ReceivedKey(ROUTER, prefix, "65000:1"),
        lambda prefix: ImportKey("blue", prefix, ROUTER, "65000:1"),
        lambda prefix: LearnedKey(prefix, ROUTER),
        lambda prefix: RouteKey(ROUTER, prefix),
    ],
)
def test_a_key_knows_its_hash(made: Callable[[IPv4Network], object]) -> None:
    """Tables ask for it ten times a change: 100,000 routes at once stopped everything for 0.6 s."""
    table: Table[object, int] = Table("route")
    _Hashed.times = 0
    one = made(_Hashed("10.1.0.0/24"))
    table.upsert({one: 1})
    table.delete([one])
    assert _Hashed.times == 1
    assert one == made(ip_network("10.1.0.0/24"))
    assert hash(one) == hash(made(ip_network("10.1.0.0/24")))
