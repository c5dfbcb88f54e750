"""Learned routes from a real FRR into the kernel of the node: frr_router.py has the topology.

The speaker is a process with manifests and a real etcd. The host's own tables stay as they are.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mesh.identity.labels import learned_text
from tests.interop.speaker.frr_router import NODE, Router, run, until
from tests.interop.speaker.test_speaker import PEER_SPEC, Etcd, Node, own_document

pytestmark = pytest.mark.slow

HQ4, HQ6, OTHER = "192.0.2.0/24", "2001:db8:2::/48", "203.0.113.0/24"
OURS, DEFAULT = "10.1.1.0/24", "0.0.0.0/0"
EVERYTHING = [{"prefix": "0.0.0.0/0", "le": 32}, {"prefix": "::/0", "le": 128}]
LABELS = [{"community": "65000:100", "key": "site", "value": "hq"}]
IMPORT = [
    {"accept": False, "prefixes": [{"prefix": OTHER}]},
    {"prefixes": EVERYTHING, "labels": LABELS},
]
TEXT = learned_text("east", (("site", "hq"),))


@pytest.fixture
def etcd(router: Router, tmp_path: Path) -> Iterator[Etcd]:
    assert router.vty
    server = Etcd(tmp_path)
    server.start()
    server.put("podcidr/10.1.0.0_16_24/number/0", {"owner": "east-1", "released": 0})
    server.put("synced", {"store": "test"})
    yield server
    server.stop()


@pytest.fixture
def node(router: Router, etcd: Etcd, tmp_path: Path) -> Iterator[Node]:
    assert etcd.process
    one = Node(tmp_path)
    imports(one, IMPORT)
    try:
        yield one
    finally:
        router.vty.configure("no route-map HQ", "router bgp 65000", *words("no", *NETWORKS))
        one.stop(router)
        for family in ("-4", "-6"):
            subprocess.run(
                ["ip", family, "-n", NODE, "route", "flush", "table", "4100"],
                capture_output=True,
                check=False,
            )


NETWORKS = (HQ4, HQ6, OTHER, OURS, DEFAULT)


def imports(node: Node, rules: list[Any]) -> None:
    spec = {**PEER_SPEC, "import": rules, "advertise": ["podCIDRs"]}
    node.write("peer", own_document("BGPPeer", "router", spec))


def words(no: str, *networks: str) -> list[str]:
    found = []
    for network in networks:
        family = 6 if ":" in network else 4
        rule = " route-map HQ" if network in (HQ4, HQ6) and not no else ""
        found += [
            f"address-family ipv{family} unicast",
            f"{no} network {network}{rule}".strip(),
            "exit-address-family",
        ]
    return found


def announce(router: Router, *networks: str) -> None:
    router.vty.configure("route-map HQ permit 10", "set community 65000:100")
    router.vty.configure("router bgp 65000", *words("", *networks))


def withdraw(router: Router, *networks: str) -> None:
    router.vty.configure("router bgp 65000", *words("no", *networks))


def table(name: str = "4100") -> dict[str, str]:
    """Routes of a kernel table of the node: prefix -> next hop, or the route's type."""
    found = {}
    for family in ("-4", "-6"):
        command = ["ip", "-j", family, "-n", NODE, "route", "show", "table", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        for row in json.loads(done.stdout or "[]") if not done.returncode else ():
            dst = row["dst"] if row["dst"] != "default" else f"default{family}"
            found[dst] = row.get("gateway") or row.get("type", "link")
    return found


LINKS = {"10.99.0.0/24": "throw", "fd99::/64": "throw"}
ROUTES = {HQ4: "10.99.0.1", HQ6: "fd99::1"}


def up(node: Node, router: Router, *networks: str) -> None:
    announce(router, *networks)
    node.start()
    until(node.ready, "the speaker is ready")


def learned(node: Node) -> dict[str, dict[str, Any]]:
    rows = [row for row in node.rows("route") if row["origin"] == "peer"]
    return {row["prefix"]: row for row in rows}


def told(etcd: Etcd, key: str) -> Any:
    answer = run(*etcd._ctl("get", "--print-value-only", f"meshgate/v1/east/learned/east-1/{key}"))  # noqa: SLF001
    return json.loads(answer) if answer.strip() else None


def rules() -> list[str]:
    answer = run("ip", "-j", "-n", NODE, "rule", "show")
    found = [row for row in json.loads(answer) if str(row.get("table")) == "4100"]
    return [f"{row['src']}/{row.get('srclen', 32)}" for row in found]


@contextmanager
def removed() -> Iterator[list[str]]:
    """Routes that were taken from table 4100 meanwhile, when it is over."""
    lines: list[str] = []
    command = ["ip", "-n", NODE, "monitor", "route"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as monitor:
        try:
            yield lines
        finally:  # the end of ``with`` waits for ever
            monitor.terminate()
        assert monitor.stdout
        lines += [one for one in monitor.stdout if "Deleted" in one and "4100" in one]


def test_what_rules_accept_is_in_a_table_of_its_own(node: Node, etcd: Etcd, router: Router) -> None:
    main = table("main")
    up(node, router, *NETWORKS)
    until(lambda: table() == {**LINKS, **ROUTES}, "the table has what is used, and nothing else")
    assert table("main") == main, "the host's own tables stay as they are"
    assert rules() == ["10.1.0.0/24"]
    until(lambda: len(learned(node)) == len(NETWORKS), "all routes are shown")
    rows = learned(node)
    assert {prefix: row["used"] for prefix, row in rows.items()} == {
        HQ4: True, HQ6: True, OTHER: False, OURS: False, DEFAULT: False,
    }  # fmt: skip
    assert rows[HQ4]["labels"] == ["site=hq"]
    assert rows[HQ4]["communities"] == ["65000:100"]
    assert rows[OTHER]["reason"] == "spec.import[0] refuses it"
    assert "ours" in rows[OURS]["reason"]
    assert "default route" in rows[DEFAULT]["reason"]
    assert "10.99.0.1 sends" in until(lambda: node.finding("B242"), "a finding names the peer")
    until(lambda: told(etcd, "labels") == {"labels": [TEXT]}, "the label set is in etcd")
    until(lambda: told(etcd, "counts") == {"received": 5, "used": 2}, "counts are in etcd")


def test_what_the_router_takes_back_goes(node: Node, etcd: Etcd, router: Router) -> None:
    up(node, router, HQ4, HQ6)
    until(lambda: table() == {**LINKS, **ROUTES}, "both are there")
    withdraw(router, HQ4, HQ6)
    until(lambda: table() == LINKS, "both are gone")
    until(lambda: told(etcd, "labels") is None, "and so is the label set")
    imports(node, [])
    until(lambda: table() == {} and rules() == [], "without rules nothing of ours is there")


def test_routes_outlive_a_killed_speaker(node: Node, router: Router) -> None:
    up(node, router, HQ4, HQ6)
    until(lambda: table() == {**LINKS, **ROUTES}, "both are there")
    with removed() as lines:
        node.kill(signal.SIGKILL)
        assert table() == {**LINKS, **ROUTES}
        withdraw(router, HQ6)
        node.start()
        until(lambda: table() == {**LINKS, HQ4: ROUTES[HQ4]}, "what went meanwhile goes", 90)
    assert not [line for line in lines if HQ4.partition("/")[0] in line]


MANY = 10_000


def count() -> int:
    """Learned routes in the kernel table."""
    answer = run("ip", "-n", NODE, "route", "show", "table", "4100", "proto", "78")
    return answer.count(" via ")


def test_ten_thousand_routes_arrive_in_the_kernel(node: Node, router: Router) -> None:
    """The time is that from the first route to the last, and printed."""
    prefixes = [f"11.{number >> 8}.{number & 255}.0/24" for number in range(MANY)]
    up(node, router, HQ4)
    until(lambda: count() == 1, "the first route is there")
    lines = [f"network {prefix}" for prefix in prefixes]
    router.vty.ask("clear bgp *")
    router.vty.configure("router bgp 65000", "address-family ipv4 unicast", *lines)
    until(lambda: count() > 1, "the session is back, and routes come")
    began = time.monotonic()
    until(lambda: count() == MANY + 1, "all are there", 60)
    print(f"{MANY} learned routes: {time.monotonic() - began:.2f} s")  # noqa: T201 - a figure
    gone = [f"no {line}" for line in lines]
    router.vty.configure("router bgp 65000", "address-family ipv4 unicast", *gone)
    until(lambda: count() == 1, "all are gone", 60)
