"""The feed as tables: what is to be listed, what is listed, and who has fetched it.

    policies, pools -> wanted addresses of groups -> groups with epochs -> keys of etcd
    requests of firewalls -> fetches -> what addresses wait for         -> keys of etcd

A list is served only when it stands in etcd: then a restart serves the same bytes. What stood
there, and what a file of this host remembers of it, is where a new process goes on; so an epoch is
never given to two lists, not even when the store was replaced.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import msgspec

from gateway.feed import keys
from gateway.feed.answers import FeedAnswer, FeedRequest, Fetched, Shelf, answer
from gateway.feed.credentials import FeedSecret, FeedSecrets
from gateway.feed.dialects import Body, near_limits
from gateway.feed.fetches import (
    ALL,
    Fetch,
    FetchKey,
    listed_rows,
    noted,
    settled,
    unfetched,
)
from gateway.feed.findings import NEAR_LIMIT, REFUSED, UNUSABLE
from gateway.feed.groups import FeedGroup, address_order, advanced, forgotten, groups_of, released
from gateway.feed.inputs import FeedInputs
from gateway.feed.nouns import feed_rows
from gateway.feed.settings import FirewallSettings
from gateway.policy import EgressPolicy
from gateway.pool import EgressPool
from mesh.core.feature import Feature
from mesh.core.files import in_words, replace_file
from mesh.core.groups import By
from mesh.core.model import IP, Finding, Listed
from mesh.core.noun import Listing
from mesh.core.reconcile import Loop
from mesh.core.table import Source, Table
from mesh.core.ticks import tick

#: Seconds between looks at times that are over, and at secrets.
LOOK_S = 0.25
SECRETS_S = 2.0
#: Refused requests that are remembered, and for how many seconds each is a finding.
_REFUSED, REFUSED_S = 64, 300.0
#: The file that remembers groups.
MEMORY = "groups.json"


class Feed(Feature):
    """Groups, fetches and addresses of one cluster.

    The store's keys come in by ``take`` and ``take_listed``; ``keys`` is the table of what is to
    stand there, without the rows of addresses, which ``listed`` has.
    """

    def __init__(
        self,
        cluster: str,
        instance: str,
        firewalls: Sequence[FirewallSettings],
        inputs: FeedInputs,
        memory: Path,
        sign: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._cluster, self._instance = cluster, instance
        self._settings = firewalls
        self._firewalls = {one.name: one.row for one in firewalls}
        self._inputs = inputs
        self._memory, self._sign = memory, sign
        self._remembered = ""
        self.problem = ""  # why the file cannot be written
        self._secrets = FeedSecrets(firewalls)
        self._known: Mapping[str, FeedSecret] = {}
        #: What stands in the store.
        self.stored: Table[str, FeedGroup] = Table("stored feed group")
        self.overrides: Table[IP, tuple[str, ...]] = Table("activation asked")
        self.releases: Table[str, None] = Table("release asked")
        #: What is to stand there.
        self.wanted: Table[str, tuple[IP, ...]] = Table("feed group wanted")
        self.groups: Table[str, FeedGroup] = Table("feed group")
        self.fetches: Table[FetchKey, Fetch] = Table("feed fetch")
        self.listed: Table[IP, Listed] = Table("listed egress address")
        self.keys: Table[str, bytes] = Table("feed key")
        self._seen: dict[FetchKey, tuple[int, float]] = {}
        self._begun = False
        self._tick: Table[str, float] = Table("time of the feed")
        self._refused: deque[tuple[float, str, str]] = deque(maxlen=_REFUSED)

    # --- The store ----------------------------------------------------------------------------

    @property
    def sources(self) -> Sequence[Source]:
        """The tables that the store fills, to be marked synced together."""
        return self.stored, self.fetches, self.overrides, self.releases

    def take(self, puts: Mapping[str, bytes], deletes: Iterable[str]) -> dict[str, str]:
        """Take in keys below the feed's prefix, without it; the reasons of those that are wrong."""
        wrong: dict[str, str] = {}
        for name in deletes:
            with suppress(ValueError):
                self._drop(name)
        for name, value in puts.items():
            try:
                self._put(name, value)
            except ValueError as error:
                wrong[name] = str(error)
        return wrong

    def _put(self, name: str, value: bytes) -> None:
        if name.startswith(keys.GROUP):
            self.stored.upsert({name.removeprefix(keys.GROUP): keys.group_of(value)})
        elif name.startswith(keys.FETCHED):
            self._take_fetch(keys.fetch_key(name), keys.fetch_of(value))
        elif name.startswith(keys.OVERRIDE):
            address = ip_address(name.removeprefix(keys.OVERRIDE))
            self.overrides.upsert({address: keys.override_of(value)})
        elif name.startswith(keys.RELEASE):
            self.releases.upsert({name.removeprefix(keys.RELEASE): None})

    def _drop(self, name: str) -> None:
        if name.startswith(keys.GROUP):
            self.stored.delete([name.removeprefix(keys.GROUP)])
        elif name.startswith(keys.OVERRIDE):
            self.overrides.delete([ip_address(name.removeprefix(keys.OVERRIDE))])
        elif name.startswith(keys.RELEASE):
            self.releases.delete([name.removeprefix(keys.RELEASE)])

    def _take_fetch(self, key: FetchKey, fetch: Fetch) -> None:
        """What the store had before we began; later it says what we say."""
        if not self._begun:
            self.fetches.upsert({key: fetch})

    def take_listed(self, rows: Mapping[IP, Listed]) -> None:
        """What the store says about addresses, before we begin: an acknowledged one stays so."""
        if not self._begun:
            self.listed.upsert(rows)

    # --- Derivations --------------------------------------------------------------------------

    def derive(self, loop: Loop) -> None:
        self._inputs.derive(loop)
        by_group = By(self._inputs.policies, lambda _, policy: groups_of(policy))
        loop.group(self.wanted, _wanted, by_group, By(self._inputs.pools))
        inputs: list[Source] = [self.wanted, self._inputs.draining, *self.sources]
        loop.derive(inputs, self._advance, name="groups of the feed")
        loop.derive(
            [self.groups, self.fetches, self.overrides], self._list, [self._tick],
            name="addresses of the feed",
        )  # fmt: skip
        loop.group(self.keys, _keys, By(self.groups), By(self.fetches))
        loop.derive([self.groups], self._remember, name="memory of the feed")

    def _advance(self) -> None:
        """Groups after what is wanted, fetched or released has changed, all at once."""
        if not self._begun:
            self._begin()
        groups = dict(self.groups.rows)
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        wanted, draining = self.wanted.rows, self._inputs.draining.rows
        for name in sorted({*groups, *wanted}):
            group = advanced(
                groups.get(name), wanted.get(name, ()), draining, exists=name in wanted, now=now
            )
            group = forgotten(group, partial(self._is_fetched, name)) if group else None
            group = released(group) if group and name in self.releases.rows else group
            if group is None:
                groups.pop(name, None)
            else:
                groups[name] = group
        self.groups.replace(groups)
        gone = [key for key in self.fetches.rows if key.group not in groups]
        self.fetches.delete(gone)

    def _begin(self) -> None:
        """Go on from the store and from the file: the later epoch of each group counts."""
        self._begun = True
        groups = dict(self.stored.rows)
        for name, group in self._recalled().items():
            if name not in self.releases.rows and _epoch(groups.get(name)) < group.epoch:
                groups[name] = group
        self.groups.upsert(groups)
        self.listed.mark_synced()
        now = time.monotonic()
        self._seen = {key: (fetch.epoch, now) for key, fetch in self.fetches.rows.items()}

    def _is_fetched(self, group: str, address: IP, epoch: int) -> bool:
        """Whether every firewall of the group has a list without the address."""
        firewalls = self._firewalls.values()
        return not unfetched(address, epoch, group, firewalls, self.fetches.rows)

    def _list(self) -> None:
        """What addresses wait for, and times that are over, all at once."""
        now = time.monotonic()
        over = settled(self.fetches.rows, self._seen, self._firewalls, now)
        self.fetches.upsert(over)
        firewalls = list(self._firewalls.values())
        rows = listed_rows(
            self.groups.rows, firewalls, self.fetches.rows, self.overrides.rows, self.listed.rows
        )
        self.listed.replace(rows)

    @property
    def done(self) -> list[str]:
        """Names of keys by which operators have asked for what is done, once it is written."""
        listed, asked = self.listed.rows, self.overrides.rows
        met = [one for one in asked if one not in listed or listed[one].acknowledged]
        given = [one for one in self.releases.rows if not self._rests(one)]
        return [*(f"{keys.OVERRIDE}{one}" for one in met), *(f"{keys.RELEASE}{g}" for g in given)]

    def _rests(self, name: str) -> bool:
        group = self.groups.rows.get(name)
        return group is not None and (group.deleted or bool(group.left))

    # --- The file -----------------------------------------------------------------------------

    def _recalled(self) -> dict[str, FeedGroup]:
        with suppress(OSError, msgspec.MsgspecError, ValueError):
            rows = msgspec.json.decode(self._memory.read_bytes(), type=dict[str, msgspec.Raw])
            return {name: keys.group_of(bytes(value)) for name, value in rows.items()}
        return {}

    def _remember(self) -> None:
        groups = sorted(self.groups.rows.items())
        rows = {name: msgspec.Raw(keys.group_row(one)) for name, one in groups}
        text = msgspec.json.encode(rows).decode()
        if text == self._remembered:
            return
        try:
            replace_file(self._memory, text, durable=True)
        except OSError as error:
            self.problem = in_words(error)
        else:
            self.problem, self._remembered = "", text

    # --- Requests -----------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether everything is known, so that lists are served."""
        return self._begun

    def answer(self, asked: FeedRequest) -> FeedAnswer:
        """The answer to a request of a firewall."""
        groups = self.stored.rows if self.ready else None
        found = answer(asked, Shelf(
            self._cluster, groups, self.wanted.rows.__contains__,
            self._firewalls, self._known, self._sign,
        ))  # fmt: skip
        if found.status.value in (401, 403):
            why = found.body.decode().strip()
            self._refused.append((time.monotonic(), asked.sender, f"{asked.path}: {why}"))
        return found

    def sent(self, fetched: Fetched) -> None:
        """A firewall has a list."""
        at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        rows = {}
        for family in fetched.families:
            key = FetchKey(fetched.group, fetched.firewall, family)
            row = noted(self.fetches.rows.get(key), fetched.epoch, fetched.presented, at)
            rows[key] = row
            if self._seen.get(key, (0, 0.0))[0] != row.epoch:
                self._seen[key] = row.epoch, time.monotonic()
        self.fetches.upsert(rows)

    def tasks(self) -> Iterable[Callable[[], Coroutine[object, object, None]]]:
        return (self._look_for_ever, self._read_for_ever)

    async def _look_for_ever(self) -> None:
        """A time that is over wakes nobody."""
        while True:
            await tick(LOOK_S)
            if settled(self.fetches.rows, self._seen, self._firewalls, time.monotonic()):
                self._tick.upsert({"": time.monotonic()})

    async def _read_for_ever(self) -> None:
        while True:
            self._known = self._secrets.read()
            await tick(SECRETS_S)

    # --- What others see ----------------------------------------------------------------------

    def listings(self) -> Mapping[str, Listing]:
        return {"feed": self._rows}

    def _rows(self) -> list[dict[str, object]]:
        firewalls = self._firewalls.values()
        return feed_rows(self._cluster, self.groups.rows, firewalls, self.fetches.rows)

    def findings(self) -> Iterable[Finding]:
        place = f"{self._instance}/feed"
        for field, text in self._secrets.problems.items():
            yield Finding(UNUSABLE, place, field, text)
        if self.problem:
            yield Finding(UNUSABLE, place, "stateDir", f"{self._memory.name}: {self.problem}")
        yield from self._unknown_groups(place)
        since = time.monotonic() - REFUSED_S
        for sender in sorted({who for at, who, _ in self._refused if at >= since}):
            texts = [text for at, who, text in self._refused if who == sender and at >= since]
            said = f"{len(texts)} refused in the last {REFUSED_S:.0f} s, the last one {texts[-1]}"
            yield Finding(REFUSED, place, f"firewalls {sender}", said)
        for name, group in self.groups.rows.items():
            body = Body(self._cluster, name, group.epoch, group.generated, group.addresses)
            for text in near_limits(body):
                yield Finding(NEAR_LIMIT, place, f"feeds/{name}", text)

    def _unknown_groups(self, place: str) -> Iterable[Finding]:
        if not self.ready:
            return
        known = {*self.wanted.rows, *self.groups.rows}
        for number, one in enumerate(self._settings):
            for at, group in enumerate(one.groups):
                if group != ALL and group not in known:
                    text = f"{one.name} is registered for {group}, and no group is called so"
                    yield Finding(UNUSABLE, place, f"firewalls[{number}].groups[{at}]", text)


def _wanted(
    group: str, policies: Mapping[str, EgressPolicy], pool: EgressPool | None
) -> dict[str, tuple[IP, ...]]:
    """The addresses of a group as its policies have them; also of a group that has none."""
    if not policies and pool is None:
        return {}
    found = {one for policy in policies.values() for one in policy.addresses}
    return {group: tuple(sorted(found, key=address_order))}


def _keys(key: str | FetchKey, group: FeedGroup | None, fetch: Fetch | None) -> dict[str, bytes]:
    """The key of a group, by its name, or of a fetch."""
    if isinstance(key, FetchKey):
        return {keys.fetch_name(key): keys.fetch_row(fetch)} if fetch else {}
    return {f"{keys.GROUP}{key}": keys.group_row(group)} if group else {}


def _epoch(group: FeedGroup | None) -> int:
    return group.epoch if group else 0
