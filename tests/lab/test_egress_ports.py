"""Ports of an egress address, with nothing but sockets: used again, full is an error, no theft.

A pod has 64 runs of 16 ports at most; its node gets the blocks for them while it needs them.
"""

from __future__ import annotations

import errno
import json
import sys
import time
from ipaddress import ip_address
from typing import Any

import pytest
from running import Lab

CAPACITY = 64 * 16
BEYOND = 100
POD = "east/shop/client-1"
#: The addresses of the policy of ``POD``.
EGRESS = ("198.51.100.10", "2001:db8:100::10")
#: Seconds within which a started agent has taken the log into the store.
TAKEN_S = 5
#: Seconds until Linux sends a SYN again (RFC 6298 2.1).
SYN_RETRY_S = 1

#: Connections one after the other; prints how many were echoed.
ONE_BY_ONE = """
import socket, sys
done = 0
for number in range(int(sys.argv[3])):
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as made:
        made.sendall(b"%d" % number)
        done += made.recv(100) == b"%d" % number
print(done)
"""

_BEGIN = """
import json, resource, select, socket, sys, time
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
held, failed = [], []
"""
_END = """
echoed = 0
for number, made in enumerate(held):
    made.settimeout(5)
    made.sendall(b"%d" % number)
    echoed += made.recv(100) == b"%d" % number
print(json.dumps({"held": len(held), "failed": failed, "echoed": echoed}))
"""

#: Blocking connects, as most programs do; prints what became of each and who still echoes.
BLOCKING = f"""{_BEGIN}
for _ in range(count):
    made = socket.socket(family)
    begin = time.monotonic()
    try:
        made.connect((address, port))
        held.append(made)
    except OSError as error:
        failed.append((error.errno, time.monotonic() - begin))
{_END}"""

#: Connects that are all under way at once; those that nobody answers fail with 0.
AT_ONCE = f"""{_BEGIN}
waiting, poll = {{}}, select.poll()
for number in range(count):
    made = socket.socket(family)
    made.settimeout(0)
    made.connect_ex((address, port))
    waiting[made.fileno()] = made
    poll.register(made, select.POLLOUT)
begin = time.monotonic()
while waiting and time.monotonic() < begin + 3:
    for number, _ in poll.poll(100):
        made = waiting.pop(number)
        poll.unregister(made)
        error = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            failed.append((error, time.monotonic() - begin))
        else:
            held.append(made)
failed += [(0, 0)] * len(waiting)
{_END}"""


@pytest.fixture(params=[0, 1], ids=["IPv4", "IPv6"])
def peer(lab: Lab, request: pytest.FixtureRequest) -> tuple[str, int]:
    """Address and port of the legacy server's TCP echo."""
    legacy = lab.shown["legacy"]
    return legacy["addresses"][request.param], legacy["tcp"]


def blocks(lab: Lab, peer: tuple[str, int]) -> int:
    """How many blocks the pod's node has of the address of this family."""
    version = ip_address(peer[0]).version
    rows = [row for row in lab.table("block") if row["node"] == "east-1"]
    return sum(ip_address(row["address"]).version == version for row in rows)


@pytest.fixture
def grown(lab: Lab, peer: tuple[str, int]) -> None:
    """The node has blocks for all runs of the pod: those that it does not have yet it asks for."""
    for _ in range(10):
        if blocks(lab, peer) * 256 >= CAPACITY:
            return
        lab.python(POD, BLOCKING, *peer, CAPACITY)
        time.sleep(1)
    raise AssertionError(f"{blocks(lab, peer)} blocks")


def test_two_thousand_connections_one_after_the_other(lab: Lab, peer: tuple[str, int]) -> None:
    assert int(lab.python(POD, ONE_BY_ONE, *peer, 2000)) == 2000


def held(lab: Lab, peer: tuple[str, int], code: str) -> list[float]:
    """Hold what goes; seconds after which each of the others failed."""
    found: dict[str, Any] = json.loads(lab.python(POD, code, *peer, CAPACITY + BEYOND))
    assert (found["held"], found["echoed"]) == (CAPACITY, CAPACITY)
    refused = errno.EACCES if ":" in peer[0] else errno.EHOSTUNREACH  # ICMPv6 1/1, ICMP 3/13
    assert [number for number, _ in found["failed"]] == [refused] * BEYOND
    return [seconds for _, seconds in found["failed"]]


@pytest.mark.usefixtures("grown")
def test_the_capacity_is_held_and_the_rest_fails_at_once(lab: Lab, peer: tuple[str, int]) -> None:
    assert max(held(lab, peer, BLOCKING)) < SYN_RETRY_S


@pytest.mark.usefixtures("grown")
def test_under_way_at_once_the_rest_fails_too(lab: Lab, peer: tuple[str, int]) -> None:
    """At once, or at the SYN's second try: an ICMP error that finds its socket locked waits."""
    held(lab, peer, AT_ONCE)


#: A connection; prints which address and port the server sees.
SEEN = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as made:
    made.sendall(b"x")
    made.recv(1)
"""


def test_whois_names_the_pod_of_every_port_that_the_server_saw(
    lab: Lab, peer: tuple[str, int]
) -> None:
    """Also while the agent is dead: the log waits in the kernel. The time is the server's."""
    lab.kill("east-1/agent")
    before = len(lab.legacy_log())
    for _ in range(20):
        lab.python(POD, SEEN, *peer)
    new = [line for line in lab.legacy_log()[before:] if line[2] in EGRESS]
    assert len(new) == 20
    lab.revive("east-1/agent")
    time.sleep(2 * TAKEN_S)
    for when, protocol, address, port in new:
        words = ("-m", "mesh.cli", "egress", "whois", address, port, protocol, when, "-o", "json")
        rows = json.loads(lab.output("west-2", sys.executable, *words))
        found = {(row["cluster"], row["namespace"], row["pod"], row["node"]) for row in rows}
        assert found == {("east", "shop", "client-1", "east-1")}
