"""BFD against FRR's bfdd and BIRD, while no process of ours runs.

The datapath is what a dead agent has left behind (``load.py``); the test writes rows and looks.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from bgp.bfd import slow
from bgp.bfd.maps import encode_session
from bgp.bfd.packet import State, simple_password
from bgp.bfd.rows import Session, SessionKey
from bpf.netns import enter
from tests.interop.bfd.rig import (
    DOWN,
    FOUND_S,
    NODE,
    OURS,
    ROUTER,
    SOAK,
    THEIRS,
    UP,
    Bfdd,
    Bird,
    Datapath,
    bfdd_config,
    bird_config,
    cut,
    within,
)
from tests.interop.speaker.frr_router import until

Frr = Callable[[str], Bfdd]
_numbers = iter(range(1, 255))
#: Seconds for a session to come up: slow packets are a second apart, and three are needed.
COMES_UP_S = 15.0
CUTS = 20 if SOAK else 2
QUIET_S = 60.0 if SOAK else 3.0


def session(interval_ms: int = 300, **fields: Any) -> Session:
    number = next(_numbers)
    row = Session(number, 0xB0000000 + number, interval_ms * 1000, 49152 + number, 3)
    return replace(row, **fields)


def is_up(datapath: Datapath, row: Session, router: Bfdd, family: int) -> bool:
    return datapath.path(row.number) == UP and router.state(OURS[family]) == "up"


@pytest.mark.parametrize("family", [4, 6])
def test_frr_comes_up_and_stays(datapath: Datapath, bfdd: Frr, family: int) -> None:
    """Both families, 3 x 300 ms: both sides agree on the times, and nothing moves afterwards."""
    row = session()
    datapath.configure(family, row)
    router = bfdd(bfdd_config(family, 300))
    until(lambda: is_up(datapath, row, router, family), "both sides are up", COMES_UP_S)
    time.sleep(1.5)
    said, seen = router.peer(OURS[family]), datapath.seen(row.number)
    assert said["remote-receive-interval"] == 300
    assert said["remote-transmit-interval"] == 300
    assert (seen.detection_us, seen.downs, seen.refused) == (900_000, 0, 0)
    time.sleep(QUIET_S)
    assert is_up(datapath, row, router, family)
    assert datapath.seen(row.number).downs == 0


def test_frr_over_several_hops(datapath: Datapath, bfdd: Frr) -> None:
    row = session(multihop=True)
    datapath.configure(4, row)
    router = bfdd(bfdd_config(4, 300, multihop=True))
    until(lambda: is_up(datapath, row, router, 4), "both sides are up", COMES_UP_S)


def test_one_that_was_down_comes_up_without_us(datapath: Datapath, bfdd: Frr) -> None:
    row = session(50)
    datapath.configure(4, row)
    router = bfdd(bfdd_config(4, 50))
    until(lambda: is_up(datapath, row, router, 4), "both sides are up", COMES_UP_S)
    router.kill()
    took = within(lambda: datapath.path(row.number) == DOWN, 2)
    sys.stdout.write(f"\nbfdd killed: down after {took * 1000:.0f} ms\n")
    assert took < FOUND_S
    router.start()
    until(lambda: is_up(datapath, row, router, 4), "it comes up again", COMES_UP_S)


def test_a_cut_is_found_on_both_sides(datapath: Datapath, bfdd: Frr) -> None:
    """3 x 50 ms: both sides are down within 250 ms, and come up when it is mended."""
    row = session(50)
    datapath.configure(4, row)
    router = bfdd(bfdd_config(4, 50))
    ours, theirs = [], []
    for number in range(CUTS):
        until(lambda: is_up(datapath, row, router, 4), "both sides are up", COMES_UP_S)
        time.sleep(0.3)  # the times of Up are agreed on
        cut("sr0", off=True)
        began = time.monotonic()
        ours.append(within(lambda: datapath.path(row.number) == DOWN, 2))
        until(lambda: router.state(OURS[4]) == "down", "bfdd is down", 3)
        theirs.append(time.monotonic() - began)
        cut("sr0", off=False)
        assert datapath.seen(row.number).downs == number + 1
    until(lambda: is_up(datapath, row, router, 4), "both sides are up again", COMES_UP_S)
    for name, times in (("ours", ours), ("bfdd", theirs)):
        text = " ".join(f"{one * 1000:.0f}" for one in sorted(times))
        sys.stdout.write(f"\n{CUTS} cuts at 3 x 50 ms, {name}: {text} ms\n")
    assert max(ours) < FOUND_S
    assert max(theirs) < FOUND_S


def test_programs_are_replaced_under_a_session(datapath: Datapath, bfdd: Frr) -> None:
    """No packet is lost, and silence is judged: by the former programs until a packet comes."""
    row = session(50)
    datapath.configure(4, row)
    router = bfdd(bfdd_config(4, 50))
    until(lambda: is_up(datapath, row, router, 4), "both sides are up", COMES_UP_S)
    for salt in range(1, 4):
        datapath.load(str(salt))
        time.sleep(0.3)
        assert is_up(datapath, row, router, 4)
    assert datapath.seen(row.number).downs == 0
    cut("sr0", off=True)
    try:
        datapath.load("9")
        took = within(lambda: datapath.path(row.number) == DOWN, 2)
    finally:
        cut("sr0", off=False)
    assert took < 2


def test_a_passive_router_gets_slow_packets(datapath: Datapath, bfdd: Frr) -> None:
    """It says nothing by itself; one packet of the agent's and the datapath does the rest."""
    row = session(asks=True)
    key = datapath.configure(4, row)
    router = bfdd(bfdd_config(4, 300, "passive-mode"))
    time.sleep(2)
    assert router.state(OURS[4]) == "down"
    sent = 0
    end = time.monotonic() + COMES_UP_S
    while not is_up(datapath, row, router, 4) and time.monotonic() < end:
        with enter(Path(f"/run/netns/{NODE}")):
            sent += slow.send(key, row)
        time.sleep(1)
    assert is_up(datapath, row, router, 4)
    sys.stdout.write(f"\nup after {sent} slow packets\n")
    time.sleep(2)
    assert datapath.seen(row.number).downs == 0


def test_an_end_that_is_said_is_no_failure(datapath: Datapath, bfdd: Frr) -> None:
    """AdminDown, both ways."""
    row = session()
    key = datapath.configure(4, row)
    router = bfdd(bfdd_config(4, 300))
    until(lambda: is_up(datapath, row, router, 4), "both sides are up", COMES_UP_S)
    peer = f"peer {OURS[4]} local-address {THEIRS[4]} interface r0"
    router.vty.configure("bfd", peer, "shutdown")
    until(lambda: datapath.seen(row.number).state == State.DOWN, "bfdd has said AdminDown", 5)
    assert datapath.path(row.number) not in (UP, DOWN)
    router.vty.configure("bfd", peer, "no shutdown")
    until(lambda: is_up(datapath, row, router, 4), "both sides are up again", COMES_UP_S)
    datapath.rows.update_one(*encode_session(key, replace(row, ending=True)))
    until(lambda: router.state(OURS[4]) == "down", "bfdd has heard of the end", 5)
    said = router.peer(OURS[4])
    assert said["remote-diagnostic"] == "administratively down", said
    assert said["diagnostic"] == "neighbor signaled session down", said


@pytest.mark.parametrize("family", [4, 6])
def test_bird_comes_up(datapath: Datapath, bird: Callable[[str], Bird], family: int) -> None:
    row = session(50)
    datapath.configure(family, row)
    router = bird(bird_config(family, 50))
    until(
        lambda: datapath.path(row.number) == UP and router.state(OURS[family]) == "Up",
        "both sides are up",
        COMES_UP_S,
    )
    time.sleep(1)
    assert datapath.seen(row.number).downs == 0
    cut("sr0", off=True)
    took = within(lambda: datapath.path(row.number) == DOWN, 2)
    until(lambda: router.state(OURS[family]) != "Up", "BIRD is down", 3)
    cut("sr0", off=False)
    sys.stdout.write(f"\nBIRD, cut at 3 x 50 ms: down after {took * 1000:.0f} ms\n")
    assert took < FOUND_S


def test_bird_with_a_simple_password(datapath: Datapath, bird: Callable[[str], Bird]) -> None:
    """With another password, or none, its packets are refused by name, and it stays down."""
    row = session(authentication=simple_password("secret"))
    key = datapath.configure(4, row)
    router = bird(bird_config(4, 300, "authentication simple;", 'password "secret" { id 1; };'))
    until(
        lambda: datapath.path(row.number) == UP and router.state(OURS[4]) == "Up",
        "both sides are up",
        COMES_UP_S,
    )
    other = replace(row, authentication=simple_password("other"))
    datapath.rows.update_one(*encode_session(key, other))
    until(lambda: datapath.seen(row.number).refused, "its packets are refused", COMES_UP_S)
    assert datapath.seen(row.number).refusal == 10
    until(lambda: router.state(OURS[4]) != "Up", "BIRD is down", COMES_UP_S)


def test_a_stranger_with_the_routers_address_changes_nothing(datapath: Datapath, bfdd: Frr) -> None:
    """Forged packets out of another network: their TTL is not 255 any more (RFC 5881 5)."""
    row = session()
    key = datapath.configure(4, row)
    router = bfdd(bfdd_config(4, 300))
    until(lambda: is_up(datapath, row, router, 4), "both sides are up", COMES_UP_S)
    code = (
        "import socket;from bgp.bfd.packet import Control,State;"
        "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);"
        "s.setsockopt(socket.IPPROTO_IP,socket.IP_TTL,254);s.bind(('10.99.0.1',50001));"
        "[s.sendto(Control(State.DOWN,5).pack(),('10.99.0.11',3784)) for _ in range(50)]"
    )
    subprocess.run(
        ["nsenter", f"--net=/run/netns/{ROUTER}", sys.executable, "-c", code],
        check=True,
        env=os.environ,
    )
    until(lambda: datapath.seen(row.number).refused == 50, "all are refused", 5)
    assert is_up(datapath, row, router, 4)
    assert datapath.seen(row.number).downs == 0
    assert key == SessionKey(ip_address(THEIRS[4]), ip_address(OURS[4]))
