"""What a drill counts: lost datagrams, the gap of each direction, survivors."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.lab import drill, drilling, talks
from mesh.lab.drill import Outcome, Way

TALKS = Path(talks.__file__)
MS = 1_000_000


def received(*numbers: int) -> dict[str, float]:
    """The report of a lane with a datagram in 4 ms, of which these came."""
    lane = talks.Received()
    for number in numbers:
        lane.take(number, (1000 + 4 * number) * MS)
    return lane.report()


def test_a_gap_is_what_lies_between_two_that_came_where_one_did_not() -> None:
    assert received(0, 1, 2, 3) == {"came": 4, "lost": 0, "gaps": 0, "gap_ms": 0}
    assert received(0, 1, 5, 6, 8) == {"came": 5, "lost": 4, "gaps": 2, "gap_ms": 16}


def test_one_that_was_overtaken_is_not_lost() -> None:
    assert received(0, 2, 1, 3)["lost"] == 0


def outcome(survived: int, refused: int = 0, gaps: tuple[float, ...] = ()) -> Outcome:
    way = Way(100, len(gaps), gaps)
    return Outcome("east-2", "cut", "east/shop/client-1", 50, survived, way, way, refused)


def test_a_drill_is_clean_when_all_survive_and_nothing_has_another_source() -> None:
    assert outcome(50).clean
    assert not outcome(49).clean
    assert not outcome(50, refused=1).clean


def test_the_report_says_both_directions() -> None:
    text = "\n".join(drill.lines(outcome(49, gaps=(30.0, 40.0, 80.0))))
    assert "49 of 50 survived" in text
    assert text.count("3 of 103 datagrams lost, gap 40 ms in the middle, 80 ms at most") == 2
    assert "0 of 100 datagrams lost\n" in "\n".join(drill.lines(outcome(50)))


def test_every_way_of_a_loss_is_an_option() -> None:
    assert set(drilling.HOW) == set(drill.LOSSES)


@pytest.fixture
def server() -> Iterator[tuple[int, subprocess.Popen[str]]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with started("serve", port) as child:
        yield port, child
        child.kill()


def started(side: str, port: int, *more: str) -> subprocess.Popen[str]:
    words = [sys.executable, str(TALKS), side, str(port), *more, "--rate", "50"]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    return child


def test_connections_of_all_sorts_and_lanes_of_both_families_talk(
    server: tuple[int, subprocess.Popen[str]],
) -> None:
    port, there = server
    numbers = ("--connections", "6", "--lanes", "2")
    with started("talk", port, "127.0.0.1", "::1", *numbers) as here:
        with pytest.raises(subprocess.TimeoutExpired):
            here.wait(1)
        here.send_signal(signal.SIGTERM)
        said = json.loads(here.communicate(timeout=30)[0].splitlines()[-1])
        there.send_signal(signal.SIGTERM)
        lanes = json.loads(there.communicate(timeout=30)[0].splitlines()[-1])
    assert (said["connections"], said["survived"], said["errors"]) == (6, 6, [])
    assert set(said["lanes"]) == set(lanes)
    assert all(lane["came"] > 20 and not lane["lost"] for lane in lanes.values())
    assert all(lane["came"] > 20 and not lane["lost"] for lane in said["lanes"].values())
