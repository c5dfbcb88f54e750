"""The maps of BFD from outside the datapath: a speaker reads them, an agent arms their timers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest

from bgp.bfd import liveness
from bgp.bfd.liveness import Standing, Watch
from bgp.bfd.maps import SESSION_MAP, decode_session, encode_session
from bgp.bfd.packet import State
from bgp.bfd.rows import Session, SessionKey
from bpf.build import HERE, build
from bpf.maps import RowTarget
from bpf.object import Object
from bpf.testrun import call

ROUTER = ip_address("10.99.0.1")
KEY = SessionKey(ROUTER, ip_address("10.99.0.11"))
KEY6 = SessionKey(ip_address("fd99::1"), ip_address("fd99::11"))
ROW = Session(3, 0x01020304, 50_000, 49155, 3)
OTHER = Session(255, 0xFFFFFFFF, 60_000_000, 49407, 255, True, True, True, b"\1\x05\1ab")  # noqa: FBT003 - all flags
UNKNOWN, UP, DOWN = 0, 1, 2


@pytest.fixture
def loaded(pins: Path) -> Iterator[Object]:
    build()
    with sweep(pins) as opened:
        yield opened


@contextmanager
def sweep(pins: Path) -> Iterator[Object]:
    """The object with the program that arms; its other maps are small."""
    with Object.open(HERE / "obj" / "sweep.o") as opened:
        for name in ("mg_ct_v4", "mg_ct_v6", "mg_nat_v4", "mg_nat_v6"):
            opened.set_max_entries(name, 1024)
        opened.pin(pins)
        opened.load()
        yield opened


def test_rows_are_read_back_as_they_were_written(loaded: Object) -> None:
    for key, row in ((KEY, ROW), (KEY6, OTHER)):
        loaded.maps[SESSION_MAP].update_one(*encode_session(key, row))
    target = RowTarget(loaded.maps[SESSION_MAP], encode_session, decode_session)
    keys, values = target.map.dump()
    found = dict(decode_session(key, value) for key, value in zip(keys, values, strict=True))
    assert found == {KEY: ROW, KEY6: OTHER}


def test_a_speaker_reads_what_the_datapath_says(
    loaded: Object, pins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By pins, read-only; and new ones when an agent has put others in their place."""
    monkeypatch.setattr(liveness, "PINS_S", 0.0)
    watch, wanted = Watch(pins, dict), {ROUTER: KEY}
    watch.look(wanted)
    assert watch.shown(ROUTER) == "-"
    loaded.maps[SESSION_MAP].update_one(*encode_session(KEY, ROW))
    for path, standing in ((UP, Standing.UP), (DOWN, Standing.DOWN), (UNKNOWN, Standing.UNKNOWN)):
        loaded.maps["mg_bfd_state"].update_one(ROW.number, path)
        watch.look(wanted)
        assert watch.shown(ROUTER) == standing
    assert watch.fallen.get_nowait() == ROUTER
    for pin in pins.iterdir():
        pin.unlink()
    watch.look(wanted)
    assert "no such file" in watch.problem
    with sweep(pins) as again:
        again.maps[SESSION_MAP].update_one(*encode_session(KEY, ROW))
        again.maps["mg_bfd_state"].update_one(ROW.number, UP)
        watch.look(wanted)
    assert (watch.problem, watch.shown(ROUTER)) == ("", "up")


def test_a_session_without_a_timer_is_judged_once_it_is_armed(loaded: Object) -> None:
    """As after a change of layouts: what was copied has a state, and nothing that runs."""
    states, paths = loaded.maps["mg_bfd_session"], loaded.maps["mg_bfd_state"]
    now = time.monotonic_ns()
    row = {"mine": ROW.discriminator, "state": State.UP, "detection": 50_000_000}
    states.update_one(ROW.number, row | {"seen": now})
    states.update_one(OTHER.number, row | {"seen": now, "detection": 3_600_000_000_000})
    for number in (ROW.number, OTHER.number):
        paths.update_one(number, UP)
    time.sleep(0.1)
    assert int(paths.lookup(ROW.number) or 0) == UP
    call(loaded.programs["mg_bfd_arm"], np.zeros((), np.uint64))
    end = time.monotonic() + 2
    while int(paths.lookup(ROW.number) or 0) == UP and time.monotonic() < end:
        time.sleep(0.005)
    assert int(paths.lookup(ROW.number) or 0) == DOWN
    assert int(paths.lookup(OTHER.number) or 0) == UP
