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

#: Connections opened and held at once; prints what became of them and who still echoes.
HELD = """
import collections, errno, json, resource, select, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
waiting, poll = {}, select.poll()
for number in range(int(sys.argv[3])):
    s = socket.socket(family)
    s.settimeout(0)
    s.connect_ex((sys.argv[1], int(sys.argv[2])))
    waiting[s.fileno()] = s
    poll.register(s, select.POLLOUT)
held, failed, end = [], collections.Counter(), time.monotonic() + 3
while waiting and time.monotonic() < end:
    for number, _ in poll.poll(100):
        s = waiting.pop(number)
        poll.unregister(s)
        error = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            failed[errno.errorcode[error]] += 1
        else:
            held.append(s)
failed["silent"] += len(waiting)
echoed = 0
for number, s in enumerate(held):
    s.settimeout(5)
    s.sendall(b"%d" % number)
    echoed += s.recv(100) == b"%d" % number
print(json.dumps({"held": len(held), "failed": failed, "echoed": echoed}))
"""


def test_two_thousand_connections_one_after_the_other_succeed(lab: Lab) -> None:
    legacy = lab.shown["legacy"]
    got = lab.python("west/shop/client-1", ONE_BY_ONE, legacy["addresses"][0], legacy["tcp"], 2000)
    assert int(got) == 2000


def test_exactly_the_capacity_is_held_and_the_rest_fails_by_icmp(lab: Lab) -> None:
    """At once, or at the SYN's second try: an ICMP error that finds its socket locked waits."""
    legacy = lab.shown["legacy"]
    for address in legacy["addresses"]:
        found: dict[str, Any] = json.loads(
            lab.python("west/shop/client-1", HELD, address, legacy["tcp"], CAPACITY + BEYOND)
        )
        assert found["held"] == found["echoed"] == CAPACITY, found
        assert found["failed"] == {"EHOSTUNREACH": BEYOND, "silent": 0}, found
