"""200,000 SYNs in three seconds, from strangers or from a pod: others' connections notice nothing.

In full length only (``make soak``); ``tests/packet/test_half_open.py`` has the rules.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running import ECHO_PORT, SOAK, Lab

SYNS, SECONDS = 200_000, 3.0
#: A bystander opens so many connections a second, from before the SYNs until they are forgotten.
RATE, BYSTANDER_S = 100, 20.0
#: Less than the second after which Linux sends a SYN again: none was lost.
AT_ONCE_S = 0.9
SENDER = Path(__file__).with_name("syns.py")
#: Networks without hosts: forged sources, and destinations that never answer.
NOBODY = ("203.0.113.0/24", "2001:db8:ffff::/120")
TARGET = "east/shop/web-1"
#: A port that listens, and is not the bystanders': the backlog of a listener is its host's affair.
ATTACKED = 8080
#: Who opens connections meanwhile, and to which pod: in the attacked node, out of it, into it.
BYSTANDERS = {
    "within the node": ("east/shop/client-1", TARGET),
    "out of the node": ("east/shop/client-1", "east/shop/web-2"),
    "into the node": ("west/shop/client-1", TARGET),
}

#: Opens connections, each says a word and is kept; all of them say another one at the end.
BYSTANDER = """
import json, resource, socket, sys, time
address, port, rate, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
held, failed, longest, begun = [], [], 0.0, time.monotonic()
def echoes(made, word):
    made.sendall(word)
    return made.recv(100) == word
for number in range(int(rate * seconds)):
    time.sleep(max(0.0, begun + number / rate - time.monotonic()))
    start = time.monotonic()
    try:
        made = socket.create_connection((address, port), timeout=5)
        if echoes(made, b"%d" % number):
            held.append(made)
    except OSError as error:
        failed.append([round(start - begun, 2), str(error)])
    longest = max(longest, time.monotonic() - start)
lost = []
for number, made in enumerate(held):
    try:
        assert echoes(made, b"again")
    except (OSError, AssertionError) as error:
        lost.append([number, str(error)])
print(json.dumps({"opened": len(held), "failed": failed, "lost": lost, "longest": longest}))
"""

if SOAK:

    @pytest.mark.parametrize("at", [0, 1], ids=["IPv4", "IPv6"])
    @pytest.mark.parametrize("sender", ["router", "east/shop/web-1"], ids=["strangers", "a pod"])
    def test_others_connect_at_once_and_lose_nothing(lab: Lab, sender: str, at: int) -> None:
        rows = {f"{r['cluster']}/{r['namespace']}/{r['name']}": r for r in lab.table("pod")}
        address = {name: row["addresses"][at] for name, row in rows.items()}
        ends = (NOBODY[at], address[TARGET])
        with lab.echo_in(TARGET, "east/shop/web-2"):
            waiting = {
                name: lab.start(
                    place, sys.executable, "-c", BYSTANDER,
                    address[to], ECHO_PORT, RATE, BYSTANDER_S,
                )
                for name, (place, to) in BYSTANDERS.items()
            }  # fmt: skip
            flood = ends if sender == "router" else ends[::-1]
            sent = lab.output(sender, sys.executable, SENDER, *flood, ATTACKED, SYNS, SECONDS)
            usage = [
                row for row in lab.json("status")["usage"]
                if row["node"] == "east-1" and "connections" in row["what"]
            ]  # fmt: skip
            found = {name: outcome(one) for name, one in waiting.items()}
        print(f"{sender} IPv{(4, 6)[at]}: {sent.strip()} SYNs; {usage}; {found}")  # noqa: T201
        assert int(sent) == SYNS
        for name, one in found.items():
            assert one["failed"] == [], name
            assert one["lost"] == [], name
            assert one["opened"] == RATE * BYSTANDER_S, name
            assert one["longest"] < AT_ONCE_S, name

    def outcome(running: subprocess.Popen[str]) -> dict[str, Any]:
        """What a bystander prints."""
        text, _ = running.communicate(timeout=120)
        assert running.returncode == 0, text
        found: dict[str, Any] = json.loads(text.splitlines()[-1])
        return found
