"""Egress on a node: policies, pods and claimed blocks become the maps that ``egress.h`` reads.

    policies, pods of this node -> covered -> classes -> mg_egress, the class of each pod
    policies, nodes             -> gateways           -> mg_egress_addr
    addresses without a policy  -> ended              -> mg_ended
    claims of blocks, nodes     -> mg_block (everyone's), mg_own_block (of this node)

A covered pod sends nothing uncovered: its class is written after the rows of this class, each of
these after the gateways of its address, and those are deleted after it (``mark``). Packets wait
for a block (drop 222).

A class is in ``mg_egress`` whole or not at all. A pod whose class has no room gets a class that
drops packets that would leave the mesh (226). An address without room in ``mg_egress_addr`` counts
as one without a gateway (194).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from functools import cache, partial
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from time import monotonic
from typing import Any

from gateway import blocks, nouns, rows
from gateway import maps as entries
from gateway.coverage import Coverage
from gateway.ended import Ending, ended_rows, endings
from gateway.layouts import DECLARED
from gateway.members import (
    GatewayKey,
    GatewayRow,
    Gateways,
    departures,
    gateway_members,
    gateway_rank,
    members_of,
    with_room,
)
from gateway.networks import destination, destinations_of, egress_network
from gateway.plan import RETIRED_CLASSES, egress_classes
from gateway.policy import POLICIES
from gateway.settings import EgressSettings
from mesh.core.address import bits_before
from mesh.core.feature import AgentFeature, Maps, Mark
from mesh.core.files import private_folder, replace_file
from mesh.core.groups import By, Each, To
from mesh.core.model import IP, Claim, ClaimKey, Network, Node, NodeKey, Pod, PodKey
from mesh.core.noun import Listing
from mesh.core.reconcile import AppliedRows, Loop, Refers, Target
from mesh.core.sources import OwnStore
from mesh.core.table import Source, Table
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

    ``node`` has the nodes of the cluster that stand.
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
    ) -> None:
        self._own, self._endpoint, self._node = own, endpoint, node
        self._settings, self._state_dir = settings, state_dir
        self._objects = objects
        self.coverage = Coverage(objects, pods)
        self.classes: Table[tuple[str, ...], int] = Table("egress class")
        self.egress: Table[rows.EgressKey, rows.EgressRow] = Table("egress")
        self.egress_address: Table[IP, tuple[IPv4Address, ...]] = Table("egress address")
        self.gateway: Table[GatewayKey, GatewayRow] = Table("gateway")
        self.ended: Table[IP, tuple[IPv4Address, ...]] = Table("ended egress address")
        self.owner = entries.block_table()
        self.own_block: Table[IP, tuple[int, ...]] = Table("own block")
        self.pods: Table[IP, int] = Table("pods of egress address")
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
        self._known: frozenset[IP] = frozenset()  # addresses that policies named last
        self._endings: dict[IP, Ending] = {}
        self._owners: Table[ClaimKey, blocks.BlockOwner] = Table("owner of block")
        self._count: Table[int, int] = Table("rows of egress class")
        self._node_key = cache(partial(NodeKey, own.cluster))  # one object for all blocks
        self._special: Mapping[str, int] = {}  # classes that are no set of policies
        self._own_blocks: AppliedRows[IP, tuple[int, ...]] | None = None

    def settings(self) -> Mapping[str, object]:
        key = permutation_key(self._state_dir / PERMUTATION_KEY)
        return {"block_size": self._settings.block_size, "permutation_key": key}

    def derive(self, loop: Loop) -> None:
        policies, gateways = self._objects[POLICIES], self.coverage.gateways
        self.coverage.derive(loop)
        loop.group(self.ours[0], egress_network, By(policies, lambda _, policy: policy.addresses))
        loop.group(self.barred[0], destination, By(policies, destinations_of))
        loop.group(self._now, rows.endpoints_of_address, By(gateways.of_address))
        loop.derive([self._now, self.ours[0]], self._rest_now, [self.no_gateway])
        loop.group(self.announced[0], self._announced, By(self._now))
        loop.derive([self.coverage.covered], self._classes, [self.no_class])
        loop.group(
            self.egress,
            rows.egress_rows,
            By(self.classes),
            Each(policies, lambda names, *_: names),
            Each(gateways.of_policy, lambda names, *_: names),
            Each(self.egress_address, rows.addresses_of),
            Each(self.no_egress_address, rows.addresses_of),
            also=[self.no_egress_address],
        )
        loop.group(self._count, rows.row_count, By(self.egress, rows.classes_of_row))
        loop.derive([self.coverage.covered, policies], self._count_pods)
        inputs: list[Source] = [self.coverage.covered, self.classes, self._count]
        loop.derive(inputs, self._number_pods, [self.no_class])
        self._derive_blocks(loop)

    async def recover(self, maps: Maps) -> None:
        self._special = maps.enum("egress_class")
        sets, ended = await self._sets(maps).read(), await self._ended_sets(maps).read()
        self.take_sets(sets, ended, await self._gateways(maps).read(), monotonic())

    def take_sets(
        self,
        sets: Gateways,
        ended: Gateways,
        members: Mapping[GatewayKey, GatewayRow],
        time_s: float,
    ) -> None:
        """Start from the rows of the maps, so that a row that has gone meanwhile is missed."""
        self.egress_address.upsert(sets)
        self._known = frozenset(sets)
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
            self.coverage.covered.rows.values(),
            self.classes.rows,
            retired=0 if self.no_class.rows else RETIRED_CLASSES,
            reserved={0, *self._special.values()},
        )
        self.classes.replace(classes)

    def _number_pods(self) -> None:
        """The class in the row of each covered pod of this node, all at once."""
        no_room = self._special.get("EGRESS_CLASS_NO_ROOM", 0)
        classes, counts, without = self.classes.rows, self._count.rows, self.no_class.rows
        numbers = {
            key: rows.class_of_pod(classes[names], counts, without, no_room)
            for key, names in self.coverage.covered.rows.items()
        }
        self.mark.numbers.replace(numbers)

    def _count_pods(self) -> None:
        """How many pods of this node leave by each address, all at once."""
        covered, policies = self.coverage.covered.rows, self._objects[POLICIES].rows
        self.pods.replace(rows.pods_of_addresses(covered, policies))

    def _rest_now(self) -> None:
        self.rest_gateways(self._now.rows, monotonic())

    def rest_gateways(self, gateways: Gateways, time_s: float) -> None:
        """Take in the gateways of now, all at once; those that have left are accepted a while."""
        named = frozenset((*gateways, *(network.network_address for network in self.ours[0].rows)))
        self._endings = endings(self._known, named, self.egress_address.rows, self._endings, time_s)
        self._known = named
        self.ended.replace(ended_rows(self._endings, time_s))
        self._left = departures(self.egress_address.rows, gateways, self._left, time_s)
        self.gateway.replace(gateway_members(gateways, self._left, time_s))
        self.egress_address.replace(with_room(gateways, self.no_gateway.rows))

    async def _rest_for_ever(self) -> None:
        """A gateway that has left is accepted no longer than it should be."""
        while True:
            await asyncio.sleep(REST_INTERVAL_S)
            if self.gateway.synced:
                self._rest_now()

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
        actions = maps.enum("egress_action")
        before = bits_before(maps.struct("egress_key"))
        encode = partial(entries.encode_egress, actions=actions, before=before)
        decode = partial(entries.decode_egress, actions=actions, before=before)
        egress = loop.apply(
            self.egress,
            maps.rows("mg_egress", encode, decode),
            token=rows.class_of_row,
            refers=[Refers(egress_address, rows.address_of_row)],
            capacity=maps.capacity("mg_egress"),
            meaning=WITHOUT_CLASS,
            left_out=self.no_class,
        )
        self.mark.refers.append((egress, self._rows_of_class))

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
        self._own_blocks = loop.apply(
            self.own_block,
            maps.rows("mg_own_block", entries.encode_own_block, entries.decode_own_block),
            capacity=maps.capacity("mg_own_block"),
            meaning=WITHOUT_BLOCK,
        )
        loop.apply(
            self.pods,
            maps.rows("mg_egress_pods", entries.encode_pods, entries.decode_pods),
            capacity=maps.capacity("mg_egress_pods"),
            meaning=WITHOUT_SHARES,
        )

    def lacks(self, pod: PodKey) -> str:
        """Ports of this node, without which its first packets would be dropped (NO_BLOCK)."""
        policies = self._objects[POLICIES].rows
        for name in self.coverage.covered.rows.get(pod, ()):
            for address in policies[name].addresses if name in policies else ():
                if self._own_blocks and not self._own_blocks.holds(address):
                    return f"ports of {address}"
        return ""

    def ports(self) -> Mapping[IP, int]:
        """How many ports of each egress address are in blocks of this node."""
        size = self._settings.block_size
        return {address: len(numbers) * size for address, numbers in self.own_block.rows.items()}

    def listings(self) -> Mapping[str, Listing]:
        return {
            "egress": self._policies_of_gateway,
            "block": lambda: blocks.block_rows(
                self._claims.held.rows.values(), self._own.cluster, self._settings.block_size
            ),
        }

    def _policies_of_gateway(self) -> list[dict[str, object]]:
        """Policies whose gateway is this node; the controllers add the pods."""
        policies, gateways = self._objects[POLICIES].rows, self.coverage.gateways.of_policy.rows
        mine = [name for name, node in gateways.items() if node.name == self._own.name]
        return [
            nouns.policy_row(self._own.cluster, policies[name], gateways[name])
            for name in sorted(mine)
            if name in policies
        ]


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
