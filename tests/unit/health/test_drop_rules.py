"""From histories of counters to findings: tables, no clock."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bpf.btf import Btf
from bpf.build import HERE
from bpf.object import Object
from mesh.health.history import Dropped, History
from mesh.health.rules import RULES, UNRULED, Alarm, findings, judged

PORTS = "DROP_NO_NAT_MAPPING"
#: Counters of a reason at the seconds 0, 5, 10, …; per 5 s this many more.
Rates = Sequence[int]


def story(name: str, place: str, rates: Rates) -> list[bool]:
    """Whether there is a finding after each 5 s."""
    history, alarms, total = History(), frozenset[Alarm](), 0
    history.note(0, {})
    seen = []
    for number, rate in enumerate(rates, 1):
        total += rate
        history.note(5 * number, {1: Dropped(**{place: total})})
        alarms = judged(alarms, {name: history.lately().get(1, Dropped())})
        seen.append((name, place) in alarms)
    return seen


def test_a_finding_begins_with_the_rate() -> None:
    assert story(PORTS, "pod", [0, 5, 4, 1, 0]) == [False, False, False, True, True]


def test_it_ends_by_itself_when_a_minute_had_less_than_half() -> None:
    """100 packets, then none: they leave the minute 60 s later."""
    seen = story(PORTS, "pod", [100, *[0] * 13])
    assert seen == [True] * 12 + [False] * 2


def test_it_stays_above_half_of_its_rate() -> None:
    """Five or six a minute begin no finding and end none."""
    trickle = [1, 0] * 12
    assert not any(story(PORTS, "pod", trickle))
    assert all(story(PORTS, "pod", [10, *trickle])[:-1])


def test_a_trickle_below_half_ends_it() -> None:
    assert story(PORTS, "pod", [10, *[0, 0, 0, 1] * 8])[-1] is False


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("DROP_BLOCK_NO_OWNER", "outside"),
        ("DROP_UNKNOWN_SENDER", "overlay"),
        ("DROP_INVALID_PACKET", "outside"),
        ("DROP_CT_TRUNCATED", "outside"),
        ("DROP_INVALID_IPV6_EXTENSION", "outside"),
        ("DROP_NO_NAT_MAPPING", "outside"),
        ("DROP_NO_NAT_MAPPING", "overlay"),
        ("DROP_FRAGMENT_NOT_FOUND", "outside"),
        ("DROP_UNKNOWN_L3_TARGET", "outside"),
    ],
)
def test_what_a_stranger_can_cause_alone_is_never_a_finding(name: str, place: str) -> None:
    assert not any(story(name, place, [1_000_000] * 20))


def test_one_origin_is_no_excuse_for_another() -> None:
    """A pod's malformed packets are found beside a stranger's."""
    assert any(story("DROP_INVALID_PACKET", "pod", [60]))


def test_a_counter_that_begins_anew_is_no_flood() -> None:
    """The map was made anew: what it has is what it has counted since."""
    history = History()
    history.note(0, {1: Dropped(pod=1000)})
    history.note(5, {1: Dropped(pod=3)})
    assert history.lately() == {1: Dropped(pod=3)}


def test_what_was_counted_before_the_agent_came_is_not_of_this_minute() -> None:
    history = History()
    history.note(0, {1: Dropped(outside=5000)})
    history.note(5, {1: Dropped(outside=5001)})
    assert history.lately() == {1: Dropped(outside=1)}


def test_a_finding_says_who_lacks_what_and_what_to_do() -> None:
    alarms = frozenset({(PORTS, "pod")})
    (one,) = findings("east-1", alarms, {PORTS: Dropped(pod=120)}, {PORTS: "No NAT mapping"})
    assert (one.object, one.about) == ("east-1/agent", ("node/east-1",))
    assert one.text.startswith("120 packets of pods of this node were dropped in the last minute")
    assert "DNS first" in one.text
    assert "mg_nat_v4" in one.text


def test_every_reason_has_a_rule() -> None:
    """A reason that a program may give and nobody explains would be a riddle."""
    with Object.open(HERE / "obj" / "pod.o") as opened:
        btf: Btf = opened.btf
        names = btf.enum("drop_reason").keys()
    assert names == RULES.keys()
    assert UNRULED.begins("outside") is None
