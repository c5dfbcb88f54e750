"""Egress on a node: policies, pods and claimed blocks become the maps that ``egress.h`` reads.

    policies, pods of this node -> covered -> words -> classes -> mg_egress, the class of each pod
    lent runs                   -> full addresses -> words: further pods take the next address
    policies, learned networks  -> classes            -> mg_egress_label
    policies, nodes, carriers   -> gateways           -> mg_egress_addr
    denied, evicted addresses   -> ended              -> mg_ended
    draining addresses, ports   -> live mappings, for the controllers
    claims of blocks, nodes     -> mg_block (everyone's), mg_own_block (of this node)

A covered pod sends nothing uncovered: its class is written after the rows of this class, each of
these after the gateways of its address, and those are deleted after it (``mark``). Packets wait
for a block (drop 222).

A class is in ``mg_egress`` whole or not at all. A pod whose class has no room gets a class that
drops packets that would leave the mesh (226). An address without room in ``mg_egress_addr`` counts
as one without a gateway (194).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from functools import cache, partial
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from time import monotonic
from typing import Any

from gateway import before, blocks, claims, nouns, rows, spread
from gateway import maps as entries
from gateway.coverage import Coverage
from gateway.draining import Reports
from gateway.ended import Ending, ended_rows, endings, silent
from gateway.feed import acknowledged
from gateway.layouts import DECLARED
from gateway.leaving import without_new
from gateway.members import (
    GatewayKey,
    GatewayRow,
    Gateways,
    departures,
    gateway_members,
    gateway_rank,
    members_of,
    still_carrying,
    with_room,
)
from gateway.networks import (
    destination,
    destinations_of,
    egress_network,
    networks_of,
    networks_of_pool,
)
from gateway.plan import RETIRED_CLASSES, by_precedence, egress_classes
from gateway.policy import EgressPolicy, Timers
from gateway.settings import EgressSettings
from gateway.spread import Lent
from gateway.targets import EgressTarget
from gateway.timers import UNUSED_S, timer_numbers
from gateway.timers import findings as timer_findings
from mesh.core.address import bits_before
from mesh.core.feature import AgentFeature, Maps, Mark
from mesh.core.files import private_folder, replace_file
from mesh.core.groups import By, Each, To
from mesh.core.model import (
    IP,
    Claim,
    ClaimKey,
    Finding,
    Labels,
    Network,
    Node,
    NodeKey,
    Pod,
    PodKey,
    PortsInUse,
)
from mesh.core.noun import Listing, Row
from mesh.core.reconcile import AppliedRows, Loop, Refers, Target
from mesh.core.sources import OwnStore
from mesh.core.table import Source, Table
from mesh.core.ticks import tick
from mesh.host.drained import Leaving, Stage
from mesh.objects.tables import Objects

PERMUTATION_KEY = "permutation-key"
#: The consequence when a map is full, with the reason of the drop.
WITHOUT_CLASS = "pods of the classes that do not fit send nothing out of the mesh (EGRESS_NO_ROOM)"
WITHOUT_GATEWAY = (
    "packets to be translated to the addresses that do not fit, and answers to them, "
    "are dropped (NO_EGRESS_GATEWAY, NOT_FROM_GATEWAY)"
)
WITHOUT_OWNER = (
    "as a gateway this node drops the packets of the blocks that do not fit "
    "(BLOCK_NOT_OWNED, BLOCK_NO_OWNER)"
)
WITHOUT_BLOCK = (
    "new connections to be translated to the addresses that do not fit are dropped (NO_BLOCK)"
)
WITHOUT_ENDING = "TCP connections of the addresses that do not fit stand still instead of a reset"
WITHOUT_SHARES = (
    "of the ports of the addresses that do not fit a pod of this node may take all, "
    "and others' new connections are dropped then (NO_NAT_MAPPING)"
)
#: Seconds between looks at gateways that have left.
REST_INTERVAL_S = 5.0


class EgressAgent(AgentFeature):
    """``own`` is this node, ``endpoint`` its tunnel endpoint, ``pods`` the objects of its pods.

    ``node`` has the nodes of the cluster that stand, ``learned`` the labels of learned networks by
    identity.
    """

    layouts = DECLARED

    def __init__(
        self,
        own: NodeKey,
        endpoint: IPv4Address,
        settings: EgressSettings,
        state_dir: Path,
        objects: Objects,
        pods: Table[PodKey, Pod],
        store: OwnStore,
        node: Table[NodeKey, Node],
        learned: Table[int, Labels],
    ) -> None:
        self._own, self._endpoint, self._node = own, endpoint, node
        self._learned = learned
        self._labels_known: Table[str, None] = Table("learned labels known")
        self._listed, self._usable = store.listed, Table[str, EgressPolicy]("usable egress policy")
        self._feeds_known: Table[str, None] = Table("feeds known")
        self._rows_before: Mapping[rows.AnyKey, rows.EgressRow] = {}
        self._labels_before: Mapping[rows.EgressLabelKey, rows.EgressRow] = {}
        self._settings, self._state_dir = settings, state_dir
        self._objects = objects
        self.leaving = Leaving()
        self.coverage = Coverage(objects, pods, lambda noun: store.claims_of(noun).held)
        #: How many ports of each egress address are in use: one row, the last count.
        self.in_use: Table[str, PortsInUse] = Table("ports of pods")
        self.reports = Reports(store.claims_of(claims.DRAINING).held, self.in_use)
        self._evicted = store.evicted
        self._addresses_known: Table[str, None] = Table("claimed egress addresses known")
        self.classes: Table[tuple[str, ...], int] = Table("egress class")
        self.egress: Table[rows.AnyKey, rows.EgressRow] = Table("egress")
        self.egress_address: Table[IP, tuple[IPv4Address, ...]] = Table("egress address")
        self.gateway: Table[GatewayKey, GatewayRow] = Table("gateway")
        self.ended: Table[IP, tuple[IPv4Address, ...]] = Table("ended egress address")
        self.owner = entries.block_table()
        self.own_block: Table[IP, tuple[int, ...]] = Table("own block")
        self.timers: Table[int, Timers] = Table("egress timers")
        self._timer_numbers: Table[Timers, int] = Table("number of egress timers")
        self.pods: Table[IP, int] = Table("pods of egress address")
        #: Pods with their addresses, for which addresses of policies they have ports.
        self.wired: Table[Any, Pod] = Table("no pod")
        self.lent = Lent()
        self.full: Table[IP, bool] = Table("egress address for no further pod")
        #: The policies of each covered pod, with the addresses that it takes first.
        self.words: Table[PodKey, tuple[str, ...]] = Table("words of covered pod")
        #: Where pods with these words were led before, by policies of which nothing is known yet.
        self._led: Table[tuple[str, ...], before.Led] = Table("leads before")
        self.mark = Mark("egress_class", Table("egress class of pod"), former="egress")
        #: Rows for which the maps have no room.
        self.no_class: Table[int, bool] = Table("egress class without room")
        self.no_egress_address: Table[IP, bool] = Table("egress address without room")
        self.no_gateway: Table[GatewayKey, bool] = Table("gateway without room")
        self.marks = (self.mark,)
        self.ours = (Table[Network, None]("egress network"),)
        self.barred = (Table[Network, None]("a destination of an egress policy"),)
        self.announced = (Table[Network, None]("own egress network"),)
        self._claims = store.claims_of(blocks.NOUN)
        self._now: Table[IP, tuple[IPv4Address, ...]] = Table("gateways of address")
        self._left: dict[GatewayKey, float] = {}
        self._endings: dict[IP, Ending] = {}
        self._owners: Table[ClaimKey, blocks.BlockOwner] = Table("owner of block")
        self._count: Table[int, int] = Table("rows of egress class")
        self._node_key = cache(partial(NodeKey, own.cluster))  # one object for all blocks
        self._special: Mapping[str, int] = {}  # classes that are no set of policies
        self._maps: Maps | None = None
        self._own_blocks: AppliedRows[IP, tuple[int, ...]] | None = None
        #: What this node has found out about the gateways of a policy, as columns of its row.
        self.judged: Callable[[Iterable[Node]], Row] = lambda _: {}

    def settings(self) -> Mapping[str, object]:
        key = permutation_key(self._state_dir / PERMUTATION_KEY)
        sizes = {
            "block_size": self._settings.block_size,
            "blocks_per_node": self._settings.blocks_per_node,
        }
        return sizes | {"permutation_key": key}

    def derive(self, loop: Loop) -> None:
        policies, gateways = self.coverage.policies, self.coverage.gateways
        addressed = self.coverage.addressed
        self.coverage.derive(loop)
        loop.group(
            self.ours[0],
            egress_network,
            By(policies, networks_of),
            By(addressed.pools.table, networks_of_pool),
            By(addressed.held, lambda key, _: map(ip_network, claims.addresses_of_key(key, _))),
            also=[addressed.held],
        )
        loop.group(self.barred[0], destination, By(policies, destinations_of))
        loop.group(self._now, rows.endpoints_of_address, By(gateways.of_address))
        self.reports.derive(loop)
        loop.derive([addressed.held, self.reports.draining], self._know_addresses)
        inputs: list[Source] = [self._now, addressed.pools.denied, self.leaving.table]
        loop.derive(
            inputs,
            self._rest_now,
            [self.no_gateway, self._addresses_known, self.reports.draining, self._evicted],
        )
        loop.group(self.announced[0], self._announced, By(self._now))
        asked = Each(self._listed, acknowledged.addresses_of)
        loop.group(self._usable, acknowledged.usable, By(policies), asked, also=[self._listed])
        self._derive_blocks(loop)
        loop.derive([self._learned], self._know_labels)
        loop.derive([self._listed], self._know_feeds)
        self._derive_words(loop)
        loop.derive([self.words], self._classes, [self.no_class])
        known = [self._labels_known, self._addresses_known, self._feeds_known]
        loop.derive([self.classes, policies], self._number_timers)
        loop.group(
            self.egress,
            self._rows,
            By(self.classes),
            By(self._led),
            Each(self._usable, lambda words, *_: map(spread.policy_of, words)),
            Each(gateways.of_policy, lambda words, *_: map(spread.policy_of, words)),
            Each(self.egress_address, rows.addresses_of),
            Each(self.no_egress_address, rows.addresses_of),
            Each(self._timer_numbers, rows.timers_of),
            whole=[self._learned, *known, self.leaving.table],
            also=[self._led, self.no_egress_address, self._learned, *known],
        )
        loop.group(self._count, rows.row_count, By(self.egress, rows.classes_of_row))
        loop.derive([self.coverage.covered, policies], self._count_pods)
        inputs = [self.words, self.classes, self._count]
        loop.derive(inputs, self._number_pods, [self.no_class])

    def _derive_words(self, loop: Loop) -> None:
        """After gateways and blocks; what is lent, and which pods there are, may come later."""
        loop.group(self.full, self._is_full, By(self.lent.runs), To(self.own_block, _address))
        loop.derive(
            [self.coverage.covered, self._usable],
            self._choose_words,
            [
                self.lent.held, self.full, self.wired, self.own_block, self.egress_address,
                self.no_egress_address, self._feeds_known, self._addresses_known,
            ],
        )  # fmt: skip

    def _is_full(
        self, address: IP, lent: int | None, own: tuple[int, ...] | None
    ) -> dict[IP, bool]:
        most, size = self._settings.blocks_per_node, self._settings.block_size
        size = blocks.size_of(own[0], size) if own else size
        full = spread.is_full(lent or 0, len(own or ()), most, size)
        return {address: True} if full else {}

    def _choose_words(self) -> None:
        """Which addresses the pods of this node take, all at once: they are few."""
        policies, former = self._usable.rows, self.words.rows
        named = set[str]().union(*self.coverage.covered.rows.values())
        several = {
            name for name in named if name in policies and spread.has_several(policies[name])
        }
        held = self._held_of_pods() if several else {}
        node = spread.Filling(self._may_lead, self.full.rows, self.lent.runs.rows)
        words = {
            key: spread.words_of(names, former.get(key, ()), policies, held.get(key, ()), node)
            if several.intersection(names)
            else names
            for key, names in self.coverage.covered.rows.items()
        }
        led: dict[tuple[str, ...], before.Led] = {}
        if unsure := self._unsure():
            for key, names in self.coverage.covered.rows.items():
                number = self.mark.before.get(key)
                if number and unsure.intersection(names):
                    words[key] = self._words_before(number, names, words[key], unsure, led)
        self._led.replace(led)
        self.words.replace(words)

    def _unsure(self) -> set[str]:
        """The policies of which the store has yet to say which addresses they may use."""
        feeds, addresses = bool(self._feeds_known.rows), bool(self._addresses_known.rows)
        return {
            name
            for name, policy in self._usable.rows.items()
            if before.is_unsure(policy, feeds=feeds, addresses=addresses)
        }

    def _words_before(
        self,
        number: int,
        names: tuple[str, ...],
        words: tuple[str, ...],
        unsure: Collection[str],
        led: dict[tuple[str, ...], before.Led],
    ) -> tuple[str, ...]:
        """The words of a pod that had this class; ``led`` gets what its policies led to."""
        all_led = before.led_by(number, names, self._usable.rows, self._rows_before)
        leads = {name: some for name, some in all_led.items() if name in unsure}
        found = before.words_before(number, dict(zip(names, words, strict=True)), leads)
        led[found] = leads
        return found

    def _held_of_pods(self) -> dict[PodKey, set[IP]]:
        """The egress addresses of which each pod of this node has ports."""
        lent, found = self.lent.held.rows, dict[PodKey, set[IP]]()
        for pod in self.wired.rows.values():
            held = found.setdefault(PodKey(pod.cluster, pod.namespace, pod.name), set())
            held.update(*(lent.get(address, ()) for address in pod.addresses))
        return found

    def _may_lead(self, address: IP) -> bool:
        """Whether new connections may take it: it has gateways, and ports once any has some."""
        if address not in self.egress_address.rows or address in self.no_egress_address.rows:
            return False
        return not self.own_block.rows or address in self.own_block.rows

    async def recover(self, maps: Maps) -> None:
        self._special = maps.enum("egress_class")
        self._maps = maps
        sets, ended = await self._sets(maps).read(), await self._ended_sets(maps).read()
        self.take_sets(sets, ended, await self._gateways(maps).read(), monotonic())
        self._labels_before = await self._label_rows(maps).read()
        self._rows_before = await self._egress(maps).read()
        self.timers.upsert(await self._timer_rows(maps).read())
        runs: Target[Any, Any] = maps.rows("mg_run", entries.no_run, entries.decode_run)
        lent = (await runs.read()).items()
        self.lent.begin((*key, row.pod) for key, row in lent if not row.returned)

    def take_sets(
        self,
        sets: Gateways,
        ended: Gateways,
        members: Mapping[GatewayKey, GatewayRow],
        time_s: float,
    ) -> None:
        """Start from the rows of the maps, so that a row that has gone meanwhile is missed."""
        self.egress_address.upsert(sets)
        self._endings = {address: Ending(time_s, nodes) for address, nodes in ended.items()}
        self._left = {key: time_s for key, row in members.items() if not row.sends}

    def _derive_blocks(self, loop: Loop) -> None:
        held, resting = self._claims.held, self._claims.resting
        owner_of = partial(blocks.block_owner, block_size=self._settings.block_size)
        nodes = To(self._node, self._node_of_claim)
        loop.group(self._owners, owner_of, By(held), By(resting), nodes)
        loop.follow(self._owners, partial(entries.write_owners, self.owner))
        loop.derive([self._owners], self.owner.mark_synced)
        loop.group(self.own_block, blocks.own_blocks, By(held, self._if_own))

    def _classes(self) -> None:
        """Classes of the pods of this node, all at once: they are few.

        Classes that no pod has any more give way to those that lack room.
        """
        classes = egress_classes(
            self.words.rows.values(),
            self.classes.rows,
            retired=0 if self.no_class.rows else RETIRED_CLASSES,
            reserved={0, *self._special.values()},
        )
        self.classes.replace(classes)

    def _number_timers(self) -> None:
        """Numbers of the timers of this node's policies, all at once: they are few."""
        before = {timers: number for number, timers in self.timers.rows.items()}
        numbers = timer_numbers(self._covering(), before, self._is_unused)
        self.timers.replace({number: timers for timers, number in numbers.items()})
        self._timer_numbers.replace(numbers)

    def _covering(self) -> list[EgressPolicy]:
        """The policies of this node's classes, the oldest first."""
        policies = self.coverage.policies.rows
        names = {spread.policy_of(word) for words in self.classes.rows for word in words}
        return by_precedence(policies[name] for name in names if name in policies)

    def _is_unused(self, number: int) -> bool:
        """Whether the sweep has met no connection with these timers for a while."""
        if self._maps is None:
            return False
        used_s = entries.timers_used_s(self._maps.lookup("mg_timers", number))
        return used_s is None or monotonic() - used_s > UNUSED_S

    def findings(self) -> Iterable[Finding]:
        return timer_findings(self._covering(), self._timer_numbers.rows)

    def _number_pods(self) -> None:
        """The class in the row of each covered pod of this node, all at once."""
        no_room = self._special.get("EGRESS_CLASS_NO_ROOM", 0)
        classes, counts, without = self.classes.rows, self._count.rows, self.no_class.rows
        numbers = {
            key: rows.class_of_pod(classes[names], counts, without, no_room)
            for key, names in self.words.rows.items()
        }
        self.mark.numbers.replace(numbers)

    def _rows(
        self,
        names: tuple[str, ...],
        number: int | None,
        led: before.Led | None,
        policies: Mapping[str, EgressPolicy],
        *more: Any,
    ) -> dict[rows.AnyKey, rows.EgressRow]:
        """Rows of a class, for networks and for learned labels."""
        of_class = names, number, before.as_before(policies, led or {}), *more
        labels: dict[rows.EgressLabelKey, rows.EgressRow]
        if self._labels_known.rows:
            labels = rows.label_rows(self._learned.rows, *of_class)
        else:
            labels = rows.kept_label_rows(self._labels_before, *of_class)
        networks = rows.egress_rows(*of_class)
        found: dict[rows.AnyKey, rows.EgressRow] = dict([*networks.items(), *labels.items()])
        return found if self.leaving.stage is Stage.STAYS else without_new(found)

    def _know_labels(self) -> None:
        """Identities have been read from the store; without it policies about networks go on."""
        self._labels_known.replace({"": None})
        self._labels_before = {}

    def _know_addresses(self) -> None:
        """Claims have been read from the store; without it policies of pools go on as they were."""
        self._addresses_known.replace({"": None})
        self._forget_rows()

    def _know_feeds(self) -> None:
        """The store has been read; without it addresses that were acknowledged stay in use."""
        self._feeds_known.replace({"": None})
        self._forget_rows()

    def _forget_rows(self) -> None:
        if self._feeds_known.rows and self._addresses_known.rows:
            self._rows_before = {}

    def _count_pods(self) -> None:
        """How many pods of this node leave by each address, all at once."""
        covered, policies = self.coverage.covered.rows, self.coverage.policies.rows
        self.pods.replace(rows.pods_of_addresses(covered, policies))

    def _rest_now(self) -> None:
        ends = self.leaving.stage is Stage.ENDS
        self.rest_gateways({} if ends else self._now.rows, monotonic())

    def rest_gateways(self, gateways: Gateways, time_s: float) -> None:
        """Take in the gateways of now, all at once; those that have left are accepted a while.

        Until it is known which addresses drain, those that no policy names stay as they were. A
        node that leaves the mesh ends all of them.
        """
        before, ends = self.egress_address.rows, self.leaving.stage is Stage.ENDS
        if not (self._addresses_known.rows or ends):
            gateways = {**before, **gateways}
        cut = {*self.coverage.addressed.pools.denied.rows, *self.reports.evicted(self._evicted)}
        cut |= before.keys() if ends else set()
        self._endings = endings(cut, gateways, before, self._endings, time_s)
        self.ended.replace(ended_rows(self._endings, time_s))
        gateways = {address: nodes for address, nodes in gateways.items() if address not in cut}
        self._left = departures(self.egress_address.rows, gateways, self._left, time_s)
        self.gateway.replace(gateway_members(gateways, self._left, time_s))
        self.egress_address.replace(with_room(gateways, self.no_gateway.rows))

    async def _rest_for_ever(self) -> None:
        """A gateway that has left is accepted no longer than it should be."""
        while True:
            await tick(REST_INTERVAL_S)
            if self.gateway.synced:
                self._left = still_carrying(self._left, self._seen_s())
                self._rest_now()

    def _seen_s(self) -> dict[GatewayKey, float]:
        """When the last packets of the gateways came that have left."""
        if self._maps is None:
            return {}
        found = {}
        for key in self._left:
            name, _ = entries.encode_gateway(key, GatewayRow(sends=False, accepts=True))
            seen_s = entries.gateway_seen_s(self._maps.lookup("mg_gateway", name))
            if seen_s is not None:
                found[key] = seen_s
        return found

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self._rest_for_ever,)

    def _announced(
        self, address: IP, endpoints: tuple[IPv4Address, ...] | None
    ) -> dict[Network, None]:
        return {ip_network(address): None} if self._endpoint in (endpoints or ()) else {}

    def _node_of_claim(
        self, _: ClaimKey, claim: Claim | None, resting: Claim | None
    ) -> NodeKey | None:
        row = claim or resting
        return self._node_key(blocks.node_of_owner(row.owner)) if row else None

    def _if_own(self, _: ClaimKey, claim: Claim) -> list[IP]:
        address = blocks.address_of_pool(claim.pool)
        own = blocks.node_of_owner(claim.owner) == self._own.name
        return (
            [address]
            if own and address and blocks.is_block(claim, self._settings.block_size)
            else []
        )

    def apply(self, loop: Loop, maps: Maps) -> None:
        self._apply_blocks(loop, maps)
        gateway = loop.apply(
            self.gateway,
            self._gateways(maps),
            capacity=maps.capacity("mg_gateway"),
            rank=partial(gateway_rank, self._endpoint),
            meaning=WITHOUT_GATEWAY,
            left_out=self.no_gateway,
        )
        loop.apply(
            self.ended,
            self._ended_sets(maps),
            capacity=maps.capacity("mg_ended"),
            meaning=WITHOUT_ENDING,
        )
        egress_address = loop.apply(
            self.egress_address,
            self._sets(maps),
            refers=[Refers(gateway, members_of)],
            capacity=maps.capacity("mg_egress_addr"),
            meaning=WITHOUT_GATEWAY,
            left_out=self.no_egress_address,
        )
        timers = loop.apply(self.timers, self._timer_rows(maps))
        egress = loop.apply(
            self.egress,
            self._egress(maps),
            token=rows.class_of_row,
            refers=[
                Refers(egress_address, rows.address_of_row),
                Refers(timers, rows.timers_of_row),
            ],
            capacity=maps.capacity("mg_egress"),
            meaning=WITHOUT_CLASS,
            left_out=self.no_class,
        )
        self.mark.refers.append((egress, self._rows_of_class))
        self.reports.leads = lambda: self._leads(egress)
        self.reports.silent = lambda: silent(self.ended.rows)

    def _leads(self, applied: AppliedRows[Any, Any]) -> Collection[IP] | None:
        """The addresses that new connections may take; None while that is not in the map yet."""
        if not applied.current:
            return None
        return {row.address for row in self.egress.rows.values() if row.address is not None}

    def _egress(self, maps: Maps) -> Target[Any, Any]:
        actions = maps.enum("egress_action")
        before = bits_before(maps.struct("egress_key"))
        return EgressTarget(
            maps.rows(
                "mg_egress",
                partial(entries.encode_egress, actions=actions, before=before),
                partial(entries.decode_egress, actions=actions, before=before),
            ),
            self._label_rows(maps),
        )

    def _label_rows(self, maps: Maps) -> Target[Any, Any]:
        actions = maps.enum("egress_action")
        encode = partial(entries.encode_label, actions=actions)
        decode = partial(entries.decode_label, actions=actions)
        return maps.rows("mg_egress_label", encode, decode)

    def _timer_rows(self, maps: Maps) -> Target[Any, Any]:
        return maps.rows("mg_timers", entries.encode_timers, entries.decode_timers)

    def _sets(self, maps: Maps, name: str = "mg_egress_addr") -> Target[Any, Any]:
        most = maps.enum("gateway_limit")["GATEWAYS"]
        encode = partial(entries.encode_egress_address, most=most)
        return maps.rows(name, encode, entries.decode_egress_address)

    def _gateways(self, maps: Maps) -> Target[Any, Any]:
        return maps.rows("mg_gateway", entries.encode_gateway, entries.decode_gateway)

    def _ended_sets(self, maps: Maps) -> Target[Any, Any]:
        return self._sets(maps, "mg_ended")

    def _rows_of_class(self, number: int) -> Iterable[int]:
        """The class by which a pod's row refers to ``mg_egress``; special ones have no rows."""
        return () if number == 0 or number in self._special.values() else (number,)

    def _apply_blocks(self, loop: Loop, maps: Maps) -> None:
        loop.apply_columns(
            self.owner,
            maps.columns("mg_block", self.owner),
            capacity=maps.capacity("mg_block"),
            rank=partial(entries.owner_ranks, self._endpoint),
            meaning=WITHOUT_OWNER,
        )
        sizes = loop.apply(
            self.coverage.addressed.sizes,
            maps.rows("mg_block_size", entries.encode_count, entries.decode_count),
            capacity=maps.capacity("mg_block_size"),
            meaning=WITHOUT_OWNER,
        )
        self._own_blocks = loop.apply(
            self.own_block,
            maps.rows("mg_own_block", entries.encode_own_block, entries.decode_own_block),
            refers=[Refers(sizes, blocks.own_size)],
            capacity=maps.capacity("mg_own_block"),
            meaning=WITHOUT_BLOCK,
        )
        loop.apply(
            self.pods,
            maps.rows("mg_egress_pods", entries.encode_count, entries.decode_count),
            capacity=maps.capacity("mg_egress_pods"),
            meaning=WITHOUT_SHARES,
        )

    def lacks(self, pod: PodKey) -> str:
        """What its first packets would be dropped without: an address, ports of this node."""
        policies = self.coverage.policies.rows
        covering = [name for name in self.coverage.covered.rows.get(pod, ()) if name in policies]
        for policy in (policies[name] for name in covering):
            if policy.pool and not policy.addresses:
                return f"an address of the pool {policy.pool}"
            for address in blocks.always_wanted(policy):
                if self._own_blocks and not self._own_blocks.holds(address):
                    return f"ports of {address}"
        return ""

    def ports(self) -> Mapping[IP, int]:
        """How many ports of each egress address are in blocks of this node."""
        size = self._settings.block_size
        return {
            address: sum(blocks.size_of(number, size) for number in numbers)
            for address, numbers in self.own_block.rows.items()
        }

    def listings(self) -> Mapping[str, Listing]:
        return {
            "egress": self._policies_of_gateway,
            "block": lambda: blocks.block_rows(
                self._claims.held.rows.values(), self._own.cluster, self._settings.block_size
            ),
        }

    def _policies_of_gateway(self) -> list[dict[str, object]]:
        """Policies of which this node is a gateway, and those that cover its pods.

        The controllers add the pods.
        """
        policies, gateways = self.coverage.policies.rows, self.coverage.gateways.of_policy.rows
        own = self._own.name
        mine = {name for name, nodes in gateways.items() if any(one.name == own for one in nodes)}
        mine.update(*self.coverage.covered.rows.values())
        rows = [(policies[name], gateways.get(name, ())) for name in sorted(mine & policies.keys())]
        cluster = self._own.cluster
        return [
            nouns.policy_row(cluster, *row, self._listed.rows) | self.judged(row[1]) for row in rows
        ]


def _address(address: IP, *_: object) -> IP:
    return address


def permutation_key(path: Path) -> int:
    """A random number that outlives the process: another one would be another generation.

    An unreadable one is replaced.
    """
    with suppress(FileNotFoundError, ValueError):
        return int(path.read_text())
    key = secrets.randbits(64)
    private_folder(path.parent)
    replace_file(path, f"{key}\n", durable=True)
    return key
