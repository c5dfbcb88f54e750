"""Promise 3 across restarts: a covered pod's packets have the egress address, or do not leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from running import Lab, wait

#: New connections, one after the other, for some seconds; prints how many were echoed.
BUSY = """
import socket, sys, time
done, end = 0, time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=0.2) as made:
            made.sendall(b"x")
            done += made.recv(1) == b"x"
    except OSError:
        continue
print(done)
"""


@pytest.fixture
def policy(lab: Lab) -> Iterator[Path]:
    """The manifest of east's policy, put back afterwards."""
    lab.settle()
    path = Path(lab.shown["manifests"]["east"]) / "egress.yaml"
    before = path.read_text()
    yield path
    path.write_text(before)
    wait(lab.healthy, 40, "healthy afterwards")


@contextmanager
def dead(lab: Lab, *names: str) -> Iterator[None]:
    lab.kill(*names)
    try:
        yield
    finally:
        lab.revive(*names)


def sources(lab: Lab, since: int) -> set[str]:
    """Addresses that the legacy server has seen since its log had so many lines."""
    return {line[2] for line in lab.legacy_log()[since:]}


def test_a_policy_that_changes_while_the_agent_is_dead_uncovers_nobody(
    lab: Lab, policy: Path
) -> None:
    """All its rows are of another class afterwards, and so is the pod's."""
    legacy, seen, refused = lab.shown["legacy"], len(lab.legacy_log()), lab.refused()
    with dead(lab, "east-1/agent"):
        policy.write_text(policy.read_text().replace("name: erp", "name: renamed"))
        traffic = [
            lab.start("east/shop/client-1", "python3", "-c", BUSY, address, legacy["tcp"], 4)
            for address in legacy["addresses"]
        ]
    done = [int(one.communicate(timeout=20)[0]) for one in traffic]
    assert min(done) > 100, done
    assert lab.refused() == refused
    assert sources(lab, seen) == {"198.51.100.10", "2001:db8:100::10"}


def test_a_policy_that_came_while_the_agent_was_dead_needs_no_etcd(lab: Lab, policy: Path) -> None:
    legacy = lab.shown["legacy"]

    def translated() -> bool:
        seen = len(lab.legacy_log())
        lab.python("east/shop/web-1", BUSY, legacy["addresses"][0], legacy["tcp"], 0.2)
        return sources(lab, seen) == {"198.51.100.10"}

    with dead(lab, "etcd/etcd"):
        with dead(lab, "east-1/agent"):
            policy.write_text(policy.read_text().replace("app: client", "app: web"))
        wait(translated, 10, "web-1 is covered")
        refused = lab.refused()
        lab.python("east/shop/web-1", BUSY, legacy["addresses"][1], legacy["tcp"], 0.5)
        assert lab.refused() == refused


def test_a_pod_that_goes_leaves_no_connection_behind(lab: Lab) -> None:
    legacy, pod = lab.shown["legacy"], lab.pod("east/shop/client-1")
    lab.python("east/shop/client-1", BUSY, legacy["addresses"][0], legacy["tcp"], 0.2)
    path = Path(lab.shown["manifests"]["east"]) / "pod-client-1.yaml"
    text = path.read_text()

    def entries() -> int:
        pin = f"{lab.shown['hosts']['east-1']['bpffs']}/mg_ct_v4"
        dump = json.loads(lab.output("east-1", "bpftool", "-j", "map", "dump", "pinned", pin))
        raw = [f"0x{int(part):02x}" for part in pod["addresses"][0].split(".")]
        return sum(raw in (entry["key"][0:4], entry["key"][4:8]) for entry in dump)

    assert entries()
    try:
        path.unlink()
        wait(lambda: not entries(), 10, "no connection of client-1 is left")
    finally:
        path.write_text(text)
    wait(lab.healthy, 30, "healthy afterwards")
