"""The lab's firewall, filled from the feed alone, while addresses come and go under traffic."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import SOAK, Lab, wait

POD = "east/shop/web-1"  # no policy covers it before
AGENT = "east-1/agent"  # of its node
NAME = "partners"
FIRST, SECOND = ("198.51.100.31", "2001:db8:100::31"), ("198.51.100.32", "2001:db8:100::32")
FAMILIES = (4, 6)
#: Of the soak: pairs of addresses that follow each other.
PAIRS = [(f"198.51.100.{number}", f"2001:db8:100::{number}") for number in range(40, 56)]

#: One connection after the other until its standard input ends; then it prints what became of them.
CLIENT = """
import json, select, socket, sys, time
addresses, port = sys.argv[1:3], int(sys.argv[3])
done, failed = [0, 0], []
while not select.select([sys.stdin], [], [], 0.02)[0]:
    for at, address in enumerate(addresses):
        try:
            with socket.create_connection((address, port), timeout=5) as made:
                made.sendall(b"hello")
                done[at] += made.recv(100) == b"hello"
        except OSError as error:
            failed.append([time.time(), address, error.errno, str(error)])
print(json.dumps({"done": done, "failed": failed}))
"""


def policy(*addresses: str) -> dict[str, Any]:
    return {
        "apiVersion": "meshgate.io/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": NAME},
        "spec": {
            "selectors": [{"podSelector": {"matchLabels": {"app": "web"}}}],
            "destinationCIDRs": ["192.0.2.0/24", "2001:db8:2::/64"],
            "addresses": list(addresses),
            "gateways": {"nodeSelector": {"matchLabels": {"role": "gateway"}}},
            "activation": "Acknowledged",
        },
    }


@dataclass
class Story:
    """A policy that asks firewalls, and the firewall that fetches its group or does not."""

    lab: Lab

    @property
    def manifest(self) -> Path:
        return Path(self.lab.shown["manifests"]["east"]) / f"{NAME}.yaml"

    def apply(self, *addresses: str) -> None:
        fresh = self.manifest.with_suffix(".new")
        fresh.write_text(yaml.safe_dump(policy(*addresses)))
        fresh.replace(self.manifest)

    def fetch(self, *groups: str) -> None:
        """The groups that the firewall fetches from now on."""
        path = Path(self.lab.shown["feed"]["firewallSync"])
        config = json.loads(path.read_text()) | {"groups": list(groups)}
        path.with_suffix(".new").write_text(json.dumps(config))
        path.with_suffix(".new").replace(path)

    def waits(self) -> list[str]:
        """What findings M234 say."""
        found = self.lab.json("status")["findings"]
        return [one["text"] for one in found if one["code"] == "M234"]

    def fed(self) -> set[str]:
        """The addresses in the firewall's sets."""
        found: set[str] = set()
        for name in ("feed4", "feed6"):
            words = ("nft", "-j", "list", "set", "inet", "firewall", name)
            tree = json.loads(self.lab.output("firewall", *words))["nftables"]
            found.update(*(one["set"].get("elem", ()) for one in tree if "set" in one))
        return found

    def acknowledged(self, *addresses: str) -> bool:
        """Whether the firewall has these, and none of the policy's waits."""
        return set(addresses) <= self.fed() and not self.waits()

    def uses(self, since: int, *addresses: str) -> bool:
        """Whether the legacy server has seen all of these since that line of its log."""
        return self.sources(since) >= set(addresses)

    def connects(self, family: int) -> int:
        """The errno of a connection to the legacy server; 0: it was made."""
        code = (
            "import socket,sys\n"
            "try: socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close()\n"
            "except OSError as error: print(error.errno)\n"
            "else: print(0)"
        )
        legacy = self.lab.shown["legacy"]
        address = legacy["addresses"][FAMILIES.index(family)]
        return int(self.lab.python(POD, code, address, legacy["tcp"]))

    def sources(self, since: int) -> set[str]:
        """Whom the legacy server has seen since this line of its log."""
        return {line[2] for line in self.lab.legacy_log()[since:]}


@pytest.fixture
def story(lab: Lab) -> Iterator[Story]:
    made = Story(lab)
    try:
        yield made
    finally:
        made.manifest.unlink(missing_ok=True)
        made.fetch("erp")
        wait(lambda: _has_gone(lab), 90, "the group has gone")
        config = Path(lab.environment["MESHGATE_RUN"]) / "east-1/controller.yaml"
        release = ("egress", "release", NAME, "--yes", "--config", config)
        lab.output("east-1", sys.executable, "-m", "mesh.cli", *release)
        wait(lambda: not _rows(lab), 30, "the group is released")
        lab.settle()


def _rows(lab: Lab) -> list[dict[str, Any]]:
    return [row for row in lab.table("feed") if row["group"] == NAME]


def _has_gone(lab: Lab) -> bool:
    return all(row["state"] == "deleted" for row in _rows(lab))


def log_of(lab: Lab, name: str) -> str:
    """What the process ``host/role`` has logged."""
    return (Path(lab.environment["MESHGATE_RUN"]) / f"{name}.log").read_text(errors="replace")


@contextmanager
def traffic(lab: Lab, found: dict[str, Any]) -> Iterator[None]:
    """Connections all the time; what became of them is in ``found`` afterwards."""
    legacy = lab.shown["legacy"]
    words = (sys.executable, "-c", CLIENT, *legacy["addresses"], legacy["tcp"])
    client = lab.start_talking(POD, *words)
    try:
        yield
    finally:
        text, _ = client.communicate("\n", timeout=30)
        found |= json.loads(text.splitlines()[-1])


def test_addresses_come_and_go_and_the_firewall_refuses_nothing(story: Story, lab: Lab) -> None:
    lab.settle()
    story.fetch("erp")  # the firewall does not know the group yet
    story.apply(*FIRST)
    wait(lambda: all(story.connects(f) for f in FAMILIES), 20, "the pod is covered")
    wait(lambda: len(story.waits()) == len(FIRST), 10, "both addresses wait")
    assert all("waits for firewall to fetch group partners" in text for text in story.waits())
    before = lab.refused()
    # Prohibited, and by us: EHOSTUNREACH and EACCES (RFC 1122 3.2.2.1, RFC 4443 3.1).
    assert [story.connects(family) for family in FAMILIES] == [113, 13]

    story.fetch("erp", NAME)
    wait(lambda: not any(story.connects(f) for f in FAMILIES), 20, "both are acknowledged")
    assert set(FIRST) <= story.fed()

    found: dict[str, Any] = {}
    since = len(lab.legacy_log())
    with traffic(lab, found):
        time.sleep(1)
        story.apply(*SECOND, *FIRST)  # a pod keeps the address of which it holds ports
        wait(lambda: story.acknowledged(*SECOND), 20, "the new addresses are acknowledged")
        assert set(SECOND) <= story.fed()
        time.sleep(1)
        story.apply(*SECOND)
        wait(lambda: story.sources(since) >= set(SECOND), 20, "the new addresses are used")
        wait(lambda: not story.fed() & set(FIRST), 90, "the firewall has forgotten the old ones")
        last = len(lab.legacy_log())
        time.sleep(1)
    assert found["failed"] == []
    assert min(found["done"]) > 50
    assert story.sources(since) == {*FIRST, *SECOND}
    assert story.sources(last) == set(SECOND)
    assert lab.refused() - before == 0


def test_the_feed_and_the_firewall_may_be_killed(story: Story, lab: Lab) -> None:
    story.fetch("erp", NAME)
    story.apply(*FIRST)
    wait(lambda: not any(story.connects(f) for f in FAMILIES), 30, "both are acknowledged")
    before, found = lab.refused(), dict[str, Any]()
    with traffic(lab, found):
        time.sleep(0.5)
        lab.kill("east-1/feed")
        time.sleep(1)
        story.apply(*SECOND, *FIRST)
        time.sleep(2)
        since = len(lab.legacy_log())
        time.sleep(0.5)
        assert story.sources(since) == set(FIRST)
        lab.revive("east-1/feed")
        wait(lambda: story.acknowledged(*SECOND), 30, "the new addresses are acknowledged")
        story.apply(*SECOND)
        wait(lambda: story.sources(since) >= set(SECOND), 30, "the new addresses are used")
    assert found["failed"] == []
    assert lab.refused() - before == 0


def test_an_agent_that_begins_without_the_store_uses_the_address_that_it_had(
    story: Story, lab: Lab
) -> None:
    """Firewalls have it, and the policy has named another one since, while no agent was there."""
    story.fetch("erp", NAME)
    story.apply(*FIRST)
    wait(lambda: not any(story.connects(f) for f in FAMILIES), 30, "both are acknowledged")
    before, found = lab.refused(), dict[str, Any]()
    with traffic(lab, found):
        time.sleep(0.5)
        lab.kill(AGENT)
        story.apply(*SECOND)
        wait(lambda: story.acknowledged(*SECOND), 60, "the new addresses are acknowledged")
        lab.kill("etcd/etcd")
        begins = log_of(lab, AGENT).count("event=started")
        since = len(lab.legacy_log())
        lab.revive(AGENT)
        wait(lambda: log_of(lab, AGENT).count("event=started") > begins, 60, "the agent runs")
        time.sleep(2)
        assert story.sources(since) == set(FIRST)
        lab.revive("etcd/etcd")
        wait(lambda: story.sources(since) >= set(SECOND), 60, "the new addresses are used")
    assert found["failed"] == []
    assert story.sources(since) == {*FIRST, *SECOND}
    assert lab.refused() - before == 0


if SOAK:

    def test_addresses_follow_each_other_all_the_time(story: Story, lab: Lab) -> None:
        """Also while feed, controller and the pod's agent are away for a while."""
        lab.settle()
        story.fetch("erp", NAME)
        story.apply(*PAIRS[0])
        wait(lambda: not any(story.connects(f) for f in FAMILIES), 30, "both are acknowledged")
        assert set(PAIRS[0]) <= story.fed()
        before, since, found = lab.refused(), len(lab.legacy_log()), dict[str, Any]()
        victims = ("east-1/feed", "east-1/controller", AGENT, "")
        log, drops = list[str](), lab.table("drop")
        with traffic(lab, found):
            for number, (old, new) in enumerate(pairwise(PAIRS)):
                victim = victims[number % len(victims)]
                story.apply(*new, *old)
                log.append(
                    f"{time.time():.1f} {new[0]} before {old[0]}, killed: {victim or 'nothing'}"
                )
                if victim:
                    lab.kill(victim)
                if victim and victim != AGENT:
                    time.sleep(1)
                    lab.revive(victim)
                wait(partial(story.acknowledged, *new), 60, f"{new} are acknowledged")
                story.apply(*new)
                if victim == AGENT:  # the old addresses are gone when it begins anew
                    lab.revive(victim)
                log.append(f"{time.time():.1f} {new[0]} alone")
                wait(partial(story.uses, since, *new), 60, f"{new} are used")
        log += [str(row) for row in lab.table("drop") if row not in drops]
        assert found["failed"] == [], "\n".join([*map(str, found["failed"]), *log])
        assert story.sources(since) == {one for pair in PAIRS for one in pair}
        assert lab.refused() - before == 0
        made = sum(found["done"])
        print(f"{len(PAIRS)} pairs of addresses, {made} connections, 0 refused")  # noqa: T201
