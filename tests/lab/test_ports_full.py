"""Ports of an egress address, with nothing but sockets: used again, and full at once."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest
from running import Lab

CAPACITY = 4 * 256
BEYOND = 100
POD = "east/shop/client-1"

#: Blocking connects, as most programs do; prints what became of each and who still echoes.
HELD = """
import json, resource, socket, sys, time
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
held, failed = [], []
for _ in range(count):
    made = socket.socket(family, socket.SOCK_STREAM)
    begin = time.monotonic()
    try:
        made.connect((address, port))
        held.append(made)
    except OSError as error:
        failed.append((error.errno, time.monotonic() - begin))
echoed = 0
for number, made in enumerate(held):
    made.sendall(b"%d" % number)
    echoed += made.recv(100) == b"%d" % number
print(json.dumps({"held": len(held), "failed": failed, "echoed": echoed}))
"""

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


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_the_capacity_is_held_and_the_rest_fails_at_once(lab: Lab, family: int) -> None:
    legacy = lab.shown["legacy"]
    address = legacy["addresses"][family]
    found: dict[str, Any] = json.loads(
        lab.python(POD, HELD, address, legacy["tcp"], CAPACITY + BEYOND)
    )
    assert (found["held"], found["echoed"]) == (CAPACITY, CAPACITY)
    assert {number for number, _ in found["failed"]} == {errno.EHOSTUNREACH}
    assert max(seconds for _, seconds in found["failed"]) < 0.05


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_two_thousand_connections_one_after_the_other(lab: Lab, family: int) -> None:
    legacy = lab.shown["legacy"]
    address = legacy["addresses"][family]
    assert int(lab.python(POD, ONE_BY_ONE, address, legacy["tcp"], 2000)) == 2000
