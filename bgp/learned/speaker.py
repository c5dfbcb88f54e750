"""Learned routes in a speaker, which is their only writer (D129).

    received, rules of BGPPeers, what is ours -> learned: which routes are used, and why not
    learned, networks on our links            -> route   -> kernel table (``mesh/route_table.py``)
    pod CIDRs of this node                    -> rule    -> rules that lead pods to the table
    learned, numbers of label texts           -> identity -> ``mg_learned``
    counts, label texts                       -> key     -> etcd, ``learned/<node>/``

Rule 1: nothing is deleted before ``received`` is whole: after a restart the peers are asked again.
Rule 2: without a BGPPeer that imports, the host has no table, no rule and no key of ours.
Rule 3: networks on the links of this host stay there: a row of the table says so for each (throw),
        or a shorter learned prefix would lead to them through a router.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from bgp.desired import Peering
from bgp.learned import findings as codes
from bgp.learned import telling
from bgp.learned.maps import identity_rows
from bgp.learned.nouns import learned_row
from bgp.learned.paths import chosen, labels_of_prefix, way_of
from bgp.learned.rows import Learned, LearnedKey, State
from bgp.learned.rules import Ours, communities_of, judged
from bgp.learned.settings import BGPSettings
from bgp.route import PeerKey
from mesh.core.feature import Feature
from mesh.core.groups import By, Each, Followed, To
from mesh.core.model import IP, Finding, Network, Node, NodeKey
from mesh.core.noun import Row
from mesh.core.received import Received, ReceivedKey
from mesh.core.reconcile import Applied, AppliedRows, Loop, Target
from mesh.core.table import Changes, Source, Table
from mesh.core.ticks import tick
from mesh.identity.labels import learned_text
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects
from mesh.route_table import Hop, Routes, RouteTable, Rules, Way

#: Seconds between looks at next hops, links and the pin of the map.
LOOK_S = 2.0


@dataclass(frozen=True, slots=True)
class Inputs:
    """The tables that learned routes depend on.

    ``numbers`` has identities by label text, ``ours`` the networks of the rooms, with the table's
    name for the words.
    """

    peerings: Table[PeerKey, Peering]
    received: Table[ReceivedKey, Received]
    numbers: Table[str, int]
    ours: Sequence[Table[Network, None]]


class LearnedSpeaker(Feature):
    """``pods`` gives the pod CIDRs of this node; ``led`` are the tables that it reads."""

    def __init__(
        self,
        me: NodeKey,
        settings: BGPSettings,
        bpffs: Path | None,
        objects: Objects,
        inputs: Inputs,
        pods: Callable[[Node], Iterable[Network]],
        led: Sequence[Source] = (),
    ) -> None:
        self._me, self._settings, self._objects, self._in = me, settings, objects, inputs
        self._pods, self._led = pods, tuple(led)
        self.learned: Table[LearnedKey, Learned] = Table("learned route")
        self.hop: Table[IP, Hop | str] = Table("next hop of learned routes")
        self.hop.mark_synced()
        #: Networks on our links, which nothing learned leads to: no next hop.
        self.connected: Table[Network, Way] = Table("network on a link")
        if not settings.table:
            self.connected.mark_synced()
        self.route: Table[Network, Way] = Table("route of the learned table")
        self.rule: Table[Network, None] = Table("rule to the learned table")
        self.text: Table[Network, str] = Table("labels of learned prefix")
        self.identity: Table[Network, int] = Table("identity of learned prefix")
        self.key: Table[str, bytes] = Table("what is told of learned routes")
        self._ours: Table[Network, str] = Table("what is ours")
        self._index = Ours({})
        self._hops: dict[ReceivedKey, IP] = {}  # next hop of each unicast route
        self._uses: Counter[IP] = Counter()  # how many of them each next hop has
        self._used: set[LearnedKey] = set()
        self._counts = (0, 0)  # received and used routes, when they were last looked at
        self.table = RouteTable(settings.table) if settings.table else None
        self._map = identity_rows(bpffs) if bpffs else None
        #: Prefix of the keys in etcd.
        self.told = telling.learned_prefix(me.cluster, me.name)
        self._applied: dict[str, Applied] = {}
        self._odd: tuple[int, list[Finding]] = (-1, [])

    # Derivations

    def derive(self, loop: Loop) -> None:
        peerings, received = self._in.peerings, self._in.received
        nodes = self._objects[NODES]
        loop.derive([nodes, *self._in.ours], self._gather, name="what is ours")
        hops = Followed(received, self._look_up)
        loop.work("next hops of learned routes", hops, [], [received])
        loop.group(
            self.learned,
            self._judge,
            By(received, lambda key, _: [] if key.rd else [key.prefix]),
            Each(self.hop, lambda _, rows: [row.next_hop for row in rows.values()]),
            whole=[peerings, self._ours, self.connected],
            late=[received],
        )
        loop.work("learned routes in use", Followed(self.learned, self._use), [], [self.learned])
        by_prefix = By(self.learned, lambda key, _: [key.prefix])
        late = [self.learned]
        loop.group(
            self.route, self._routed, by_prefix, By(self.connected), whole=[peerings], late=late
        )
        loop.derive([nodes, peerings, *self._led], self._rules, name=self.rule.name)
        loop.group(
            self.text,
            self._labelled,
            By(self.learned, lambda key, row: [key.prefix] if row.used and row.labels else []),
            late=late,
        )
        number = To(self._in.numbers, lambda _, text: text)
        loop.group(self.identity, _identity_of, By(self.text), number, late=[self.text])
        loop.derive([self.text], self._tell, name=self.key.name)

    def _gather(self) -> None:
        """What is ours, with words; few rows, of which the longest prefix of a kind decides."""
        rows: dict[Network, str] = {}
        for table in self._in.ours:
            rows.update(dict.fromkeys(table.rows, table.name))
        for node in self._objects[NODES].rows.values():
            hosts = [ip_network(address) for address in node.addresses]
            rows.update(dict.fromkeys(hosts, f"an address of node {node.name}"))
            rows.update(dict.fromkeys(node.given, f"a pod CIDR of node {node.name}"))
        if self._ours.replace(rows):
            self._index = Ours(rows)

    def _look_up(self, changes: Changes[ReceivedKey, Received]) -> None:
        """Ask the kernel for next hops that are new: few, however many routes there are."""
        unicast = {key: row.next_hop for key, row in changes.upsert.items() if not key.rd}
        for key in (*unicast, *changes.delete):
            if (before := self._hops.pop(key, None)) is not None:
                self._uses[before] -= 1
        self._hops |= unicast
        self._uses.update(unicast.values())
        new = set(unicast.values()).difference(self.hop.rows)
        self.hop.upsert({address: self._hop(address) for address in new})

    def _use(self, changes: Changes[LearnedKey, Learned]) -> None:
        self._used.difference_update(changes.delete, changes.upsert)
        self._used.update(key for key, row in changes.upsert.items() if row.used)

    def _hop(self, address: IP) -> Hop | str:
        if self.table is None:
            return "is not looked up: bgp.table is 0"
        try:
            return self.table.hop(address)
        except OSError as error:
            return f"cannot be looked up: {error.strerror}"

    def _judge(
        self, prefix: Network, rows: Mapping[ReceivedKey, Received], hops: Mapping[IP, Hop | str]
    ) -> dict[LearnedKey, Learned]:
        found = {
            LearnedKey(prefix, key.peer): (row, self._judged(key, row)) for key, row in rows.items()
        }
        return chosen(found, hops)

    def _judged(self, key: ReceivedKey, row: Received) -> Learned:
        peering = peering_of(key.peer, self._in.peerings.rows)
        rules = peering.imports if peering else ()
        state, reason, labels = judged(key.prefix, row, rules, self._index)
        if state is State.USED and row.next_hop.version != key.prefix.version:
            state, reason = State.UNREACHED, f"its next hop {row.next_hop} is of the other family"
        elif state is State.USED and key.prefix in self.connected.rows:
            state, reason = State.SHADOWED, "the network is on a link of this node"
        communities = tuple(sorted(communities_of(row)))
        return Learned(row.next_hop, state, reason, communities, labels)

    def _routed(
        self, prefix: Network, rows: Mapping[LearnedKey, Learned], connected: Way | None
    ) -> dict[Network, Way]:
        if connected is not None:
            return {prefix: connected} if self._imports else {}
        return way_of(prefix, rows)

    @property
    def _imports(self) -> bool:
        """Whether a BGPPeer of this node accepts anything."""
        return any(peering.imports for peering in self._in.peerings.rows.values())

    def _rules(self) -> None:
        node = self._objects[NODES].rows.get(self._me)
        if node is not None:
            self.rule.replace(dict.fromkeys(self._pods(node) if self._imports else ()))

    def _labelled(self, prefix: Network, rows: Mapping[LearnedKey, Learned]) -> dict[Network, str]:
        labels = labels_of_prefix(prefix, rows)
        return {prefix: learned_text(self._me.cluster, labels[prefix])} if labels else {}

    def _tell(self) -> None:
        """What etcd gets; the counts are as old as the last look."""
        received, used = self._counts
        self.key.replace(telling.keys(self.told, self.text.rows.values(), received, used))

    # Targets

    def apply(self, loop: Loop, store: Target[str, bytes]) -> None:
        """Connect the tables with the kernel, the map, and the store below ``learned/<node>/``."""
        if self.table is not None:
            routes = self._apply(loop, self.route, Routes(self.table))
            self._apply(loop, self.rule, Rules(self.table), [routes])
        if self._map is not None:
            self._apply(loop, self.identity, self._map)
        self._apply(loop, self.key, store)

    def _apply(
        self, loop: Loop, table: Table[Any, Any], target: Target[Any, Any], after: Any = ()
    ) -> AppliedRows[Any, Any]:
        applied = self._applied[table.name] = loop.apply(table, target, after)
        return applied

    # Tasks

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self._watch,)

    async def _watch(self) -> None:
        """Links come and go, and so do next hops; a map may be replaced."""
        while True:
            self.look()
            await tick(LOOK_S)

    def look(self) -> None:
        """Look again at what tables do not tell."""
        needed = self.hop.rows or self._imports or not self.connected.synced
        if self.table is not None and needed:
            self._uses = +self._uses  # without those of no route
            there = set(self._uses)
            before = dict(self.hop.rows)
            self.hop.delete([address for address in before if address not in there])
            self.hop.upsert({address: self._hop(address) for address in there})
            with suppress(OSError):  # what is known stays; at the start nothing is removed
                self.connected.replace(dict.fromkeys(self.table.connected(), ()))
            if any(self.hop.rows.get(address) != hop for address, hop in before.items()):
                self._recheck(self.route.name)
        if self._map is not None and self._map.is_replaced and self.identity.rows:
            self._recheck(self.identity.name)
        self._counts = len(self.learned.rows), len(self._used)
        if self.text.synced:
            self._tell()

    def _recheck(self, name: str) -> None:
        if (applied := self._applied.get(name)) is not None:
            applied.recheck()

    # What others see

    def rows(self) -> list[Callable[[], Row]]:
        """Makers of the rows of ``meshgate route list``: those that peers have sent."""
        node = self._me.name
        return [partial(learned_row, node, *item) for item in self.learned.rows.items()]

    def verdict(self, key: ReceivedKey) -> str:
        """Why a received route is not used, in words; empty: it is, or it is a VPN route."""
        row = self.learned.rows.get(LearnedKey(key.prefix, key.peer))
        return row.reason if row and not key.rd else ""

    def findings(self) -> Iterable[Finding]:
        yield from self._of_targets()
        if self._odd[0] != self.learned.revision:
            self._odd = (self.learned.revision, list(self._of_routes()))
        yield from self._odd[1]
        if self._map is None and self.text.rows:
            text = "the configuration has no bpffs: labels of learned networks are not used"
            yield Finding(codes.NO_IDENTITIES, self._place, "bpffs", text, self._about)

    @property
    def _about(self) -> tuple[str, ...]:
        return (f"node/{self._me.name}",)

    @property
    def _place(self) -> str:
        return f"{self._me.name}/learned routes"

    def _of_targets(self) -> Iterable[Finding]:
        kinds = {
            self.route.name: codes.NOT_WRITTEN,
            self.rule.name: codes.NOT_WRITTEN,
            self.identity.name: codes.NO_IDENTITIES,
            self.key.name: codes.NOT_TOLD,
        }
        for name, applied in self._applied.items():
            errors = applied.report.errors
            if errors and applied.table.name in kinds and self._has_rows(name):
                key, words = next(iter(errors.items()))
                more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
                text = words if key == "*" else f"{key}: {words}{more}"
                yield Finding(kinds[name], self._place, name, text, self._about)

    def _has_rows(self, name: str) -> bool:
        tables: list[Table[Any, Any]] = [self.route, self.rule, self.identity, self.key]
        return any(table.rows for table in tables if table.name == name)

    def _of_routes(self) -> Iterable[Finding]:
        """One finding for each peer and kind of what is wrong; the first prefix is named."""
        first: dict[tuple[IP, State], tuple[LearnedKey, Learned]] = {}
        counts: Counter[tuple[IP, State]] = Counter()
        for key, row in self.learned.rows.items():
            if row.state in (State.UNREACHED, State.PROTECTED):
                counts[key.peer, row.state] += 1
                first.setdefault((key.peer, row.state), (key, row))
        for (peer, state), (key, row) in first.items():
            code = codes.UNREACHED if state is State.UNREACHED else codes.PROTECTED
            peering = peering_of(peer, self._in.peerings.rows)
            place = (peering.origin or f"BGPPeer/{peering.name}") if peering else f"peer/{peer}"
            more = f" (and {counts[peer, state] - 1} more)" if counts[peer, state] > 1 else ""
            text = f"{peer} sends {key.prefix}{more} to {self._me.name}: {row.reason}"
            about = (*self._about, f"peer/{peer}")
            yield Finding(code, place, f"spec.import {self._me.name}", text, about)
        texts = set(self.text.rows.values())
        if len(texts) > telling.MOST_SETS:
            text = f"{len(texts)} different sets, and {telling.MOST_SETS} get identities"
            yield Finding(codes.TOO_MANY_LABELS, self._place, "labels", text, self._about)


def peering_of(peer: IP, peerings: Mapping[PeerKey, Peering]) -> Peering | None:
    """The session of a router: its own, or the range that it is in."""
    if (own := peerings.get(peer)) is not None:
        return own
    for row in peerings.values():
        if isinstance(row.address, IPv4Network | IPv6Network) and peer in row.address:
            return row
    return None


def _identity_of(prefix: Network, text: str | None, number: int | None) -> dict[Network, int]:
    return {prefix: number} if text and number else {}
