"""Issue 12, acceptance 3: pods that start covered, and running pods that become covered.

Each sends all the time to both addresses of the legacy server, behind a firewall that lets
everything in. What counts is a capture at the server.
"""

from __future__ import annotations

import statistics
import time

import pytest
from leaking import leaked, open_firewall
from running import SOAK, Lab, wait
from sending import Capture, Seen, Senders, pods, write

#: Pods of each test, and how many of them at once.
PODS, WAVE = (200, 20) if SOAK else (16, 16)
#: What a change may take, from the write of the manifest on. Beside other lanes of tests an agent
#: waits for the processor; `make soak` has the bound of the issue.
CHANGE_S = 0.5 if SOAK else 3.0
WAVES = [range(first, first + WAVE) for first in range(0, PODS, WAVE)]


def ends(seen: list[Seen], *, translated: bool) -> set[tuple[str, int]]:
    """The pods and families of which such a datagram has come."""
    return {(one.name, one.family) for one in seen if one.translated == translated}


@pytest.mark.parametrize("wave", WAVES, ids=str)
def test_a_pod_that_starts_covered_shows_no_other_source(lab: Lab, wave: range) -> None:
    names = [f"start-{number}" for number in wave]
    everybody = {(name, family) for name in names for family in (4, 6)}
    with (
        open_firewall(lab),
        Capture(lab, lab.shown["legacy"]["udp"]) as capture,
        Senders(lab, names) as senders,
        pods(lab, names, "client"),
    ):
        wait(lambda: ends(capture.of(names), translated=True) == everybody, 90, "all are heard")
        time.sleep(0.5)
    assert ends(capture.of(names), translated=False) == set()
    assert senders.early, "they have sent before they had a network"
    assert leaked(lab) == {}


@pytest.mark.parametrize("wave", WAVES, ids=str)
def test_a_running_pod_that_becomes_covered_stops_showing_its_own(lab: Lab, wave: range) -> None:
    names = [f"label-{number}" for number in wave]
    everybody = {(name, family) for name in names for family in (4, 6)}
    with (
        open_firewall(lab),
        Capture(lab, lab.shown["legacy"]["udp"]) as capture,
        Senders(lab, names) as senders,
        pods(lab, names, "plain") as files,
    ):
        wait(lambda: ends(capture.of(names), translated=False) == everybody, 90, "all are heard")
        senders.connect(names)
        time.sleep(0.3)
        changed = {}
        for name, path in files.items():
            changed[name] = write(path, name, "client")
            time.sleep(0.05)
        wait(lambda: ends(capture.of(names), translated=True) == everybody, 90, "all are covered")
        streams = {f"{name} {number}" for name in names for number in (0, 1)}
        wait(lambda: senders.reset == streams, 10, "all connections are reset")
        own = [address for name in names for address in lab.pod(f"east/shop/{name}")["addresses"]]
        wait(lambda: not talking(lab, own), 10, "at the server, too")
        time.sleep(0.5)
    seen, took = capture.of(names), {}
    for name, family in sorted(everybody):
        mine = [one for one in seen if (one.name, one.family) == (name, family)]
        first = min(one.at for one in mine if one.translated)
        plain = [one.at for one in mine if not one.translated]
        assert [at for at in plain if at > first] == [], (name, family)
        took[name, family] = max(0.0, max(plain) - changed[name])
    say(f"own source after the change: median {1000 * statistics.median(took.values()):.0f} ms, "
        f"longest {1000 * max(took.values()):.0f} ms of {len(took)}")  # fmt: skip
    assert {who: late for who, late in took.items() if late > CHANGE_S} == {}
    assert leaked(lab) == {}


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - figures


def talking(lab: Lab, addresses: list[str]) -> list[str]:
    """Which of these have a connection at the server."""
    sockets = lab.output("legacy", "ss", "-Htn", "state", "established")
    return [one for one in addresses if f" {one}:" in sockets or f"[{one}]:" in sockets]
