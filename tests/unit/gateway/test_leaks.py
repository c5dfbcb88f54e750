"""What the leak detector has counted, as a row and as a finding that names the pod."""

from __future__ import annotations

import time
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest

from gateway.leaks import FINDING_S, LeakAgent, Leaked, leak_row, leaked
from gateway.nouns import LEAK
from mesh.core.address import packed
from mesh.core.model import IP, PodKey
from mesh.core.reconcile import Loop

POD, NODE, SERVER = (ip_address(text) for text in ("10.1.0.8", "10.99.0.11", "192.0.2.10"))
ADDR = np.dtype([("w", ">u4", (4,))])
NAMES = ("pod", "source", "destination")
CPU = np.dtype([("packets", "u8"), ("seen", "u8"), *((name, ADDR) for name in NAMES)])


def cpus(*rows: tuple[int, float, IP, IP, IP]) -> Any:
    values = np.zeros(len(rows), CPU)
    for at, (packets, seen_s, *addresses) in enumerate(rows):
        values[at]["packets"], values[at]["seen"] = packets, int(seen_s * 1e9)
        for name, address in zip(NAMES, addresses, strict=True):
            values[at][name] = np.frombuffer(packed(address), ADDR)[0]
    return values


class Counter:
    """The maps of a node, of which one is read."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def lookup(self, name: str, key: object) -> Any:
        assert (name, key) == ("mg_leak", 0)
        return self.values


def agent(values: Any) -> LeakAgent:
    made = LeakAgent("east-1", {POD: PodKey("east", "shop", "client-1")}.get)
    made.apply(Loop(), Counter(values))  # type: ignore[arg-type]
    return made


def test_the_last_packet_of_all_cpus_counts() -> None:
    found = leaked(cpus((3, 10, POD, POD, SERVER), (4, 20, POD, NODE, SERVER)))
    assert found == Leaked(7, POD, NODE, SERVER, 20.0)
    row = leak_row("east-1", found)
    assert row == {
        "node": "east-1",
        "packets": 7,
        "last": {"source": "10.99.0.11", "destination": "192.0.2.10"},
    }
    assert not LEAK.unknown([row])


def test_nothing_is_a_row_too() -> None:
    values = cpus((0, 0, POD, POD, SERVER))
    assert leaked(values) is None
    (row,) = agent(values).listings()["leak"]()
    assert row == {"node": "east-1", "packets": 0, "last": None}
    assert not list(agent(values).findings())


def test_a_leak_is_a_finding_for_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    values = cpus((2, time.monotonic(), POD, NODE, SERVER))
    (found,) = agent(values).findings()
    assert found.code == "M247"
    assert "shop/client-1 (10.1.0.8) to 192.0.2.10 as 10.99.0.11" in found.text
    monkeypatch.setattr("gateway.leaks.time.monotonic", lambda: now + FINDING_S + 1)
    assert not list(agent(values).findings())


def test_status_shows_one_line_and_the_nodes_that_leak() -> None:
    shown = LEAK.shown
    assert shown is not None
    rows = [leak_row("east-1", None), leak_row("east-2", Leaked(2, POD, POD, SERVER, 1.0))]
    assert shown.title(rows) == "Leaked packets: 2"
    kept = [shown.row(row) for row in rows if shown.kept(row)]
    assert kept == [{"node": "east-2", "packets": 2, "last": "10.1.0.8 -> 192.0.2.10"}]
