"""Random histories: what is acknowledged every firewall has, and what is free none has any more."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from gateway.feed.answers import FeedRequest, Fetched, Shelf, answer
from gateway.feed.credentials import FeedSecret
from gateway.feed.fetches import Fetch, FetchKey, Firewall, listed_rows, noted, settled, unfetched
from gateway.feed.groups import FeedGroup, advanced, forgotten
from mesh.core.model import IP, Listed

ADDRESSES = [ip_address(f"198.51.100.{n}") for n in range(4)] + [
    ip_address(f"2001:db8::{n}") for n in range(1, 3)
]
GROUPS = ("erp", "crm")
STEPS = 400


@dataclass
class Wall:
    """A firewall as it is: it loads a list ``load_s`` after it has fetched it."""

    row: Firewall
    load_s: float
    tags: dict[str, str] = field(default_factory=dict)
    coming: list[tuple[float, str, set[IP]]] = field(default_factory=list)
    loaded: dict[str, set[IP]] = field(default_factory=dict)

    def pass_time(self, now: float) -> None:
        while self.coming and now >= self.coming[0][0]:
            _, group, addresses = self.coming.pop(0)
            self.loaded[group] = addresses

    def has(self, group: str, address: IP) -> bool:
        return not self.row.reads(group) or address in self.loaded.get(group, ())

    def is_rid_of(self, address: IP) -> bool:
        """What is on its way counts: the last list of each group is the one that it will have."""
        newest = self.loaded | {group: addresses for _, group, addresses in self.coming}
        return all(address not in some for some in newest.values())


class World:
    """A feed and its firewalls; ``choose`` says what happens."""

    def __init__(self, choose: random.Random) -> None:
        self.choose, self.now = choose, 0.0
        self.wanted: dict[str, set[IP]] = {}
        self.draining: set[IP] = set()
        self.groups: dict[str, FeedGroup] = {}
        self.fetches: dict[FetchKey, Fetch] = {}
        self.seen: dict[FetchKey, tuple[int, float]] = {}
        self.listed: dict[IP, Listed] = {}
        self.bodies: dict[tuple[str, str], bytes] = {}
        self.walls = [
            Wall(Firewall("pan", ("erp", "crm"), 3.0), 2.9),
            Wall(Firewall("forti", ("*",), 2.0), 0.5),
            Wall(Firewall("asa", ("erp",), 0.5), 0.4),
        ]

    def step(self) -> None:
        self.now += self.choose.random()
        for wall in self.walls:
            wall.pass_time(self.now)
        act = self.choose.choices(
            (self.want, self.drain, self.fetch, self.restart), (3, 1, 12, 0.3)
        )[0]
        act()
        self.settle()

    def want(self) -> None:
        group = self.choose.choice(GROUPS)
        if self.choose.random() < 0.2:
            self.wanted.pop(group, None)
            return
        self.wanted[group] = set(self.choose.sample(ADDRESSES, self.choose.randrange(4)))

    def drain(self) -> None:
        self.draining = {one for one in self.draining if self.choose.random() < 0.5}
        if self.choose.random() < 0.5:
            self.draining.add(self.choose.choice(ADDRESSES))

    def restart(self) -> None:
        """The new process knows what the store has, and no times."""
        self.seen = {key: (row.epoch, self.now) for key, row in self.fetches.items()}

    def fetch(self) -> None:
        wall, group = self.choose.choice(self.walls), self.choose.choice(GROUPS)
        busy = any(group == coming for _, coming, _ in wall.coming)
        tag = "" if busy or self.choose.random() < 0.3 else wall.tags.get(group, "")
        name = wall.row.name
        rows = {one.row.name: one.row for one in self.walls}
        secrets = {name: FeedSecret(token=b"t")}
        shelf = Shelf("east", self.groups, self.wanted.__contains__, rows, secrets)
        got = answer(
            FeedRequest("GET", f"/feeds/{group}.txt", "Bearer t", if_none_match=tag), shelf
        )
        if got.status == 200:
            assert got.body.strip()
            same = self.bodies.setdefault((group, got.headers["ETag"]), got.body)
            assert same == got.body, "an epoch is one list"
            addresses = {ip_address(line) for line in got.body.decode().split()}
            wall.coming.append((self.now + wall.load_s, group, addresses))
            wall.tags[group] = got.headers["ETag"]
        if got.fetched:
            self.note(got.fetched)

    def note(self, fetched: Fetched) -> None:
        for family in fetched.families:
            key = FetchKey(fetched.group, fetched.firewall, family)
            row = noted(self.fetches.get(key), fetched.epoch, fetched.presented, "")
            self.fetches[key] = row
            if self.seen.get(key, (0, 0.0))[0] != row.epoch:
                self.seen[key] = row.epoch, self.now

    def settle(self) -> None:
        """What the process derives."""
        walls = {wall.row.name: wall.row for wall in self.walls}
        self.fetches |= settled(self.fetches, self.seen, walls, self.now)
        for name in {*self.groups, *self.wanted}:
            group = advanced(
                self.groups.get(name), self.wanted.get(name, ()), self.draining,
                exists=name in self.wanted, now="",
            )  # fmt: skip
            if group:
                self.groups[name] = forgotten(
                    group,
                    lambda address, epoch, name=name: (
                        not unfetched(  # type: ignore[misc]
                            address, epoch, name, walls.values(), self.fetches
                        )
                    ),
                )
        rows = listed_rows(self.groups, list(walls.values()), self.fetches, {}, self.listed)
        self.listed = rows


@pytest.mark.parametrize("seed", range(40))
def test_firewalls_have_what_is_acknowledged_and_not_what_is_free(seed: int) -> None:
    world = World(random.Random(seed))
    acknowledged, ever = set[IP](), set[IP]()
    for _ in range(STEPS):
        world.step()
        now = {one for one, row in world.listed.items() if row.acknowledged}
        for address in now - acknowledged:
            groups = world.listed[address].groups
            assert all(wall.has(group, address) for group in groups for wall in world.walls)
        for address in set(ADDRESSES) - world.listed.keys():
            assert all(wall.is_rid_of(address) for wall in world.walls)
        assert all(group.listed for group in world.groups.values())
        acknowledged = now
        ever |= now
    assert ever
