"""The history of ports: what a node writes, and who had a port."""

import sys
from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from clustermesh.lent import LentPart
from gateway import history, whois
from gateway.history import LentTo, RunEvent, Writing, day_of, hour_of, read_part
from gateway.lending import Demand
from mesh.core.model import IP

V4, V6 = ip_address("198.51.100.10"), ip_address("2001:db8:100::10")
NOON = 1_800_000_000 - 1_800_000_000 % 86400 + 12 * 3600
ERROR_S = 30.0


def pod(number: int) -> LentTo:
    return LentTo("shop", f"web-{number}", f"10.1.0.{number}")


def written(writing: Writing, now: float) -> dict[str, bytes]:
    """What goes into the store, and is in it."""
    values = dict(writing.changed())
    writing.written(values, now)
    return values


def ask(
    store: dict[str, bytes], port: int, at: float, *, address: IP = V4, error_s: float = ERROR_S
) -> Sequence[str]:
    found = [LentPart("east", "east-1", place, value) for place, value in store.items()]
    mine = [one for one in found if f"/{address}/" in one.place]
    return [row["pod"] for row in whois.rows_of(mine, address, port, at, error_s)]


def begin(block_size: int = 256) -> Writing:
    return Writing(block_size, 1)


@pytest.mark.parametrize("address", [V4, V6], ids=["IPv4", "IPv6"])
def test_a_port_is_the_pods_from_its_lending_to_its_return(address: IP) -> None:
    writing = begin()
    for event in (
        RunEvent(address, 3, NOON, pod(1)),
        RunEvent(address, 3, NOON + 100, pod(1), lent=False),
        RunEvent(address, 3, NOON + 221, pod(2)),
        RunEvent(address, 4, NOON + 5, pod(2)),
    ):
        writing.take(event)
    store = written(writing, NOON + 300)
    asked = {
        at: ask(store, 1024 + 3 * 16 + 7, NOON + at, address=address)
        for at in (-31, -29, 50, 129, 131, 190, 192, 1000)
    }
    assert asked == {
        -31: [], -29: ["web-1"], 50: ["web-1"], 129: ["web-1"], 131: [], 190: [],
        192: ["web-2"], 1000: ["web-2"],
    }  # fmt: skip
    assert ask(store, 1024 + 4 * 16, NOON + 50, address=address) == ["web-2"]
    assert ask(store, 1024 + 5 * 16, NOON + 50, address=address) == []


def test_with_an_error_below_half_of_the_rest_there_is_one_answer() -> None:
    writing = begin()
    for turn in range(20):
        writing.take(RunEvent(V4, 3, NOON + turn * 180, pod(turn)))
        writing.take(RunEvent(V4, 3, NOON + turn * 180 + 60, pod(turn), lent=False))
    store = written(writing, NOON + 3600)
    for at in range(0, 3600, 7):
        assert len(ask(store, 1024 + 48, NOON + at, error_s=59)) <= 1
    assert len(ask(store, 1024 + 48, NOON + 120, error_s=61)) == 2


def test_what_is_lent_since_yesterday_is_in_todays_first_part() -> None:
    writing = begin()
    writing.take(RunEvent(V4, 3, NOON, pod(1)))
    yesterday = written(writing, NOON)
    tomorrow = NOON + 86400
    writing.begin_day(V4, day_of(tomorrow))
    today = written(writing, tomorrow)
    assert all(place.startswith(f"{day_of(tomorrow)}/{V4}/00-") for place in today)
    assert ask(today, 1024 + 48, tomorrow) == ["web-1"]
    writing.take(RunEvent(V4, 3, tomorrow + 60, pod(1), lent=False))
    today |= written(writing, tomorrow + 60)
    assert ask(today, 1024 + 48, tomorrow + 60 + 29) == ["web-1"]
    assert ask(today, 1024 + 48, tomorrow + 60 + 31) == []
    assert ask(yesterday | today, 1024 + 48, NOON + 7200) == ["web-1"]


def test_a_process_that_is_killed_writes_twice_and_nothing_is_lost() -> None:
    first = begin()
    events = [RunEvent(V4, run, NOON + run, pod(run % 3)) for run in range(50)]
    for event in events:
        first.take(event)
    store = written(first, NOON + 60)
    second = Writing(256, 1 << 8)  # the log had not been cut
    for event in (*events, RunEvent(V4, 7, NOON + 100, pod(1), lent=False)):
        second.take(event)
    store |= written(second, NOON + 120)
    for run in range(50):
        assert ask(store, 1024 + run * 16, NOON + 90) == [f"web-{run % 3}"]
    assert ask(store, 1024 + 7 * 16, NOON + 200) == []


def test_a_return_that_was_lost_ends_with_the_next_lending() -> None:
    writing = begin()
    writing.take(RunEvent(V4, 3, NOON, pod(1)))
    writing.take(RunEvent(V4, 3, NOON + 500, pod(2)))
    store = written(writing, NOON + 600)
    assert ask(store, 1024 + 48, NOON + 400) == ["web-1"]
    assert ask(store, 1024 + 48, NOON + 600) == ["web-2"]


def test_a_store_that_lost_everything_gets_what_is_lent_now() -> None:
    """What has been returned before is lost with the store."""
    writing = begin()
    writing.take(RunEvent(V4, 3, NOON - 86400, pod(1)))
    writing.take(RunEvent(V4, 4, NOON, pod(2)))
    written(writing, NOON + 10)
    writing.begin_anew()
    writing.begin_day(V4, day_of(NOON + 60))
    store = written(writing, NOON + 60)
    assert ask(store, 1024 + 48, NOON + 60) == ["web-1"]
    assert ask(store, 1024 + 64, NOON + 60) == ["web-2"]


def test_a_clock_that_is_set_back_ends_nobody_elses_lending() -> None:
    writing = begin()
    writing.take(RunEvent(V4, 3, NOON + 500, pod(1)))
    writing.take(RunEvent(V4, 3, NOON + 600, pod(1), lent=False))
    writing.take(RunEvent(V4, 3, NOON + 550, pod(2)))  # by then it was set back by 200 s
    store = written(writing, NOON + 700)
    assert ask(store, 1024 + 48, NOON + 520, error_s=10) == ["web-1"]
    assert ask(store, 1024 + 48, NOON + 900, error_s=10) == ["web-2"]


def test_a_short_lending_that_is_noted_twice_does_not_go_on() -> None:
    """Once as it was, and once by the process after it, a second off."""
    writing = begin()
    for at, lent in ((0.9, True), (1.2, False), (1.4, True)):
        writing.take(RunEvent(V4, 3, NOON + at, pod(1), lent=lent))
    store = written(writing, NOON + 60)
    assert ask(store, 1024 + 48, NOON + 1) == ["web-1"]
    assert ask(store, 1024 + 48, NOON + 120) == []


def test_a_lending_costs_a_few_bytes_and_a_connection_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """40 pods that get and return runs all day."""
    writing, size = begin(), {}
    lendings = 0
    for second in range(0, 86400, 30):
        at = NOON - 12 * 3600 + second
        for number in range(4):
            run = (second // 30 * 4 + number) % 4000
            writing.take(RunEvent(V4, run, at, pod(run % 40)))
            writing.take(RunEvent(V4, run, at + 20, pod(run % 40), lent=False))
            lendings += 1
        for place, value in written(writing, at).items():
            size[place] = len(place) + len(value)
    each = sum(size.values()) / lendings
    with capsys.disabled():
        of_day = sum(size.values())
        sys.stdout.write(f"\n{each:.1f} bytes a lending with its return, {of_day} bytes a day\n")
    assert each < 24
    assert max(size.values()) < 2 * history.PART_BYTES


def test_what_is_too_much_for_a_day_is_kept_coarsely_and_bounded() -> None:
    writing, size, values = begin(), {}, {}
    for number in range(200_000):
        at = NOON + number / 60
        run = number % 4000
        writing.take(RunEvent(V4, run, at, pod(number % 200)))
        if number % 100 == 0:
            for place, value in written(writing, at).items():
                size[place], values[place] = len(place) + len(value), value
    day = day_of(NOON)
    assert writing.is_coarse(NOON + 3000)
    assert sum(v for place, v in size.items() if place.startswith(day)) < 1_048_576
    late = {place: value for place, value in values.items() if "/12-" in place}
    assert set(ask(late, 1024 + 16 * 3999, NOON + 3300)) > {"web-199"}
    found = [LentPart("east", "east-1", place, value) for place, value in late.items()]
    rows = whois.rows_of(found, V4, 1024 + 16 * 3999, NOON + 3300, ERROR_S)
    assert {row["exact"] for row in rows} == {False}  # a return may be missing


def test_parts_are_read_as_they_were_written() -> None:
    writing = begin()
    nameless = LentTo("", "", "fd01::7")
    events = [
        RunEvent(V6, 4031, NOON, nameless),
        RunEvent(V6, 4031, NOON + 9, nameless, lent=False),
    ]
    for event in events:
        writing.take(event)
    ((place, value),) = writing.changed().items()
    day, _, name = place.split("/")
    assert (day, name.partition("-")[0]) == (day_of(NOON), hour_of(NOON))
    assert list(read_part(V6, day, "12", value).events) == events
    with pytest.raises(ValueError, match=f"part of {day} 12"):
        read_part(V6, day, "12", value[:-3])


def test_a_node_uses_fewer_blocks_only_after_a_while() -> None:
    demand = Demand()
    demand.look({V4: 1}, 0)
    assert demand.used == {V4: 1}
    demand.look({V4: 2}, 0)
    assert demand.used == {V4: 4}
    demand.look({V4: 1}, 10)
    demand.look({V4: 2}, 60)
    demand.look({V4: 1}, 129)
    assert demand.used == {V4: 4}
    demand.look({V4: 1}, 131)
    assert demand.used == {V4: 2}
    demand.look({V4: 4}, 132)
    assert demand.used == {V4: 8}
    demand.look({}, 140)
    demand.look({}, 261)
    assert demand.used == {}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2027-01-15T08:00:00", 1_800_000_000), ("2027-01-15T09:00:00+01:00", 1_800_000_000)],
)
def test_a_time_without_a_zone_is_utc(text: str, seconds: float) -> None:
    assert whois.time_of(text, 0) == seconds
