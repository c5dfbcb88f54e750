"""What is open goes on, whatever process is killed, whatever clock is set and whatever is full.

::

    client-1 (east-1) ── east-2, east-3 ── router ── firewall ── legacy
    50 TCP connections, 8 UDP flows of 1,000 datagrams a second each way, both families

Not one datagram may be lost, no connection ends, and nothing leaves with another source. Soak only.
``libfaketime`` comes from Debian: the processes of ours whose clock is set run with it.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fullness import full_tables
from leaking import leaked
from running import SOAK, Lab, wait
from sending import pods

from mesh.lab import drill
from mesh.lab.places import Lab as Places
from mesh.lab.places import current

POD = "east/shop/client-1"
LOAD = drill.Load(connections=50, lanes=8, rate=1000, lost_s=6.0)
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
#: Who reads the clock: history, rests of released numbers, feed, leadership.
CLOCKED = ("east-1/agent", "east-2/agent", "east-1/controller", "east-1/feed")
#: Pods that take what is left of the ports of their node.
HOGS = ("hog-1", "hog-2", "hog-3")
#: Numbers that no node may have: nodes without an agent hold them.
OWNERS, EACH = 8, 32
#: The router's other end: of the world, before the firewall.
ROUTER = ("10.98.0.1", "fd98::1")
#: A little more than a released block rests.
REST_S = 125


def places(lab: Lab) -> Places:
    """The lab, as drills know it."""
    before = dict(os.environ)
    os.environ.update(lab.environment)
    try:
        return current()
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def killed(lab: Lab, *names: str) -> Iterator[None]:
    """Processes are killed, and started again a while later."""
    lab.kill(*names)
    try:
        time.sleep(2)
    finally:
        lab.revive(*names)
    yield


def nothing_is_lost(lab: Lab, fault: AbstractContextManager[Any]) -> None:
    found = drill.during(places(lab), POD, LOAD, fault)
    for way in (found.outwards, found.back):
        print(f"{way.lost} of {way.lost + way.came} lost", flush=True)  # noqa: T201 - figures
    assert found.clean, found
    assert (found.outwards.lost, found.back.lost) == (0, 0), found
    assert leaked(lab) == {}


@contextmanager
def clocks(lab: Lab, file: Path) -> Iterator[None]:
    """The processes of ``CLOCKED`` begin anew with a clock that ``file`` moves."""
    assert FAKETIME.exists(), "apt-get install libfaketime"
    file.write_text("+0")
    moved = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }
    lab.kill(*CLOCKED)
    Lab({**lab.environment, **moved}).revive(*CLOCKED)
    try:
        wait(lab.healthy, 60, "healthy with the library")
        yield
    finally:
        lab.kill(*CLOCKED)
        lab.revive(*CLOCKED)
        wait(lab.healthy, 120, "healthy afterwards")


@contextmanager
def stepped(file: Path) -> Iterator[None]:
    """An hour ahead, an hour behind, and back."""
    for step in ("+3600", "-3600", "+0"):
        file.write_text(step)
        time.sleep(2)
    yield


#: Opens connections to the server until none goes, prints how many are held, ends with its input.
TAKE_ALL = textwrap.dedent(
    """
    import errno, resource, select, socket, sys
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    held, refused = [], 0
    while refused < 100:
        for address in sys.argv[1:3]:
            made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            made.settimeout(3)
            try:
                made.connect((address, int(sys.argv[3])))
                held.append(made)
            except OSError as error:
                assert error.errno in (errno.EHOSTUNREACH, errno.EACCES), error
                refused += 1
    print(len(held), flush=True)
    sys.stdin.read()
    """
)

#: A datagram of each of many flows.
NEW_FLOWS = textwrap.dedent(
    """
    import socket, sys
    for address in sys.argv[1:3]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for _ in range(500):
            made = socket.socket(family, socket.SOCK_DGRAM)
            try:
                made.sendto(b"new", (address, int(sys.argv[3])))
            except OSError:
                pass
            made.close()
    """
)

#: Claims every block that is free for nodes without an agent.
CLAIM_ALL = textwrap.dedent(
    """
    import asyncio, json, sys
    from clustermesh.etcd.client import Client, EtcdAddress
    endpoint, ca, cert, key, each, *pools = sys.argv[1:]

    async def main():
        client = Client(EtcdAddress((endpoint,), ca, cert, key))
        for pool in pools:
            prefix = f"meshgate/v1/east/block/{pool}/"
            there = (await client.list(prefix + "number/")).kvs
            taken = {int(kv.key.decode().rpartition("/")[2]) for kv in there}
            free = [number for number in range(252) if number not in taken]
            for at, number in enumerate(free):
                owner = f"hog-{1 + at // int(each)}/{at % int(each)}"
                value = json.dumps({"owner": owner, "released": 0}).encode()
                await client.put(f"{prefix}number/{number}", value)
                await client.put(f"{prefix}owner/{owner}", json.dumps({"number": number}).encode())
            print(len(free), "of", pool)
        await client.aclose()

    asyncio.run(main())
    """
)


@contextmanager
def full_addresses(lab: Lab) -> Iterator[None]:
    """No block of the egress addresses is free."""
    row = next(row for row in lab.table("egress") if row["cluster"] == "east")
    folder = Path(lab.shown["manifests"]["east"]) / "hogs.yaml"
    folder.write_text("---\n".join(map(_node, range(1, OWNERS + 1))))
    etcd = lab.shown["etcd"]
    user = etcd["users"]["root"]
    words = (etcd["endpoint"], etcd["ca"], user["cert"], user["key"], EACH, *row["addresses"])
    lab.kill("east-1/controller")
    try:
        print(lab.python("etcd", CLAIM_ALL, *words), flush=True)  # noqa: T201 - figures
        lab.revive("east-1/controller")
        wait(lambda: len(lab.table("block")) >= 252 * 2, 60, "every block is claimed")
        yield
    finally:
        folder.unlink()
        wait(lambda: len(lab.table("block")) < 252, 120, "the blocks are given back")
        time.sleep(REST_S)


def _node(number: int) -> str:
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"hog-{number}"},
        "status": {"addresses": [{"type": "InternalIP", "address": f"10.99.0.{200 + number}"}]},
    }
    return json.dumps(node) + "\n"


@contextmanager
def full_blocks(lab: Lab) -> Iterator[None]:
    """Other pods of the node hold every port that is left, and are refused more."""
    legacy = lab.shown["legacy"]
    words = (sys.executable, "-c", TAKE_ALL, *legacy["addresses"], legacy["tcp"])
    takers = [lab.start_talking(f"east/shop/{name}", *words) for name in HOGS]
    try:
        held = []
        for taker in takers:
            assert taker.stdout
            held.append(int(taker.stdout.readline()))
        print(f"ports held by others: {held}", flush=True)  # noqa: T201 - figures
        assert sum(held) > 200
        yield
    finally:
        for taker in takers:
            taker.communicate("\n", timeout=60)


@contextmanager
def full_maps(lab: Lab) -> Iterator[None]:
    """No connection of the nodes on the way finds room; whoever tries is refused."""
    words = (sys.executable, "-c", NEW_FLOWS, *ROUTER, 9)
    with full_tables(lab, "east-1", "east-2", "east-3"):
        lab.output("east/shop/web-1", *words)
        yield


def refusals(lab: Lab) -> int:
    """Packets of east-1's pods for which there was no room in the connection table."""
    rows = lab.table("drop")
    return sum(
        row["packets"]
        for row in rows
        if (row["node"], row["reason"]) == ("east-1", "CT map insertion failed")
    )


if SOAK:

    @pytest.mark.parametrize(
        "names",
        [
            ("east-1/agent",),
            ("east-2/agent", "east-3/agent"),
            ("east-1/controller",),
            ("east-1/feed",),
            ("etcd/etcd",),
        ],
        ids=str,
    )
    def test_a_killed_process_loses_no_datagram(lab: Lab, names: tuple[str, ...]) -> None:
        lab.settle()
        nothing_is_lost(lab, killed(lab, *names))

    def test_a_clock_that_is_set_loses_no_datagram(lab: Lab, tmp_path: Path) -> None:
        file = tmp_path / "clock"
        with clocks(lab, file):
            nothing_is_lost(lab, stepped(file))

    def test_a_full_address_with_full_blocks_loses_no_datagram(lab: Lab) -> None:
        lab.settle()
        with full_addresses(lab), pods(lab, HOGS, "client") as files:
            wait(lambda: all(_runs(lab, name) for name in files), 60, "the pods run")
            nothing_is_lost(lab, full_blocks(lab))

    def test_full_maps_lose_no_datagram(lab: Lab) -> None:
        before = refusals(lab)
        nothing_is_lost(lab, full_maps(lab))
        assert refusals(lab) > before, "others found no room"


def _runs(lab: Lab, name: str) -> bool:
    try:
        return bool(lab.pod(f"east/shop/{name}")["addresses"])
    except AssertionError:
        return False
