"""Ports of an egress address: used again, oldest first; full means an error at once, no theft."""

from __future__ import annotations

import json
from typing import Any

from running import Lab

CAPACITY = 4 * 256
BEYOND = 100

#: Connections one after the other; prints how many were echoed.
ONE_BY_ONE = """
import socket, sys
done = 0
for number in range(int(sys.argv[3])):
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as s:
        s.sendall(b"%d" % number)
        done += s.recv(100) == b"%d" % number
print(done)
"""

#: Connections held open; prints what became of each, the longest failure, who still echoes.
HELD = """
import collections, errno, json, resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
held, failed, slowest = [], collections.Counter(), 0.0
for number in range(int(sys.argv[3])):
    begin = time.monotonic()
    try:
        held.append(socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5))
    except OSError as error:
        failed[errno.errorcode.get(error.errno, type(error).__name__)] += 1
        slowest = max(slowest, time.monotonic() - begin)
echoed = 0
for number, s in enumerate(held):
    s.sendall(b"%d" % number)
    echoed += s.recv(100) == b"%d" % number
print(json.dumps({"held": len(held), "failed": failed, "slowest": slowest, "echoed": echoed}))
"""


def test_two_thousand_connections_one_after_the_other_succeed(lab: Lab) -> None:
    legacy = lab.shown["legacy"]
    got = lab.python("west/shop/client-1", ONE_BY_ONE, legacy["addresses"][0], legacy["tcp"], 2000)
    assert int(got) == 2000


def test_exactly_the_capacity_is_held_and_the_rest_fails_at_once(lab: Lab) -> None:
    legacy = lab.shown["legacy"]
    for address in legacy["addresses"]:
        found: dict[str, Any] = json.loads(
            lab.python("west/shop/client-1", HELD, address, legacy["tcp"], CAPACITY + BEYOND)
        )
        assert found["held"] == found["echoed"] == CAPACITY, found
        assert sum(found["failed"].values()) == BEYOND, found
        assert set(found["failed"]) <= {"EHOSTUNREACH", "EACCES", "ECONNREFUSED"}, found
        assert found["slowest"] < 1, found
