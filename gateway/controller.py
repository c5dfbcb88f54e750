"""Egress in a cluster: which policies have which addresses, and which nodes want blocks of ports.

    policies, pools, claims        -> addresses wanted, those that drain too -> their carriers
    covered pods, policies, nodes  -> blocks wanted
    claims, what agents say        -> which address has drained

A node with a covered pod has one block more than it uses, and says how many it uses. Blocks come
back when no pod of a node needs them and no connection uses them (D16, D186), and of a draining
address with it. Another node has one only after the last one has said that it let it go (D215).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway import blocks, claims, nouns
from gateway.addresses import Addresses
from gateway.coverage import Coverage
from gateway.networks import (
    destination,
    destinations_of,
    egress_network,
    networks_of,
    networks_of_pool,
)
from gateway.owners import Owners
from gateway.plan import findings_of
from gateway.policy import POLICIES, EgressPolicy
from gateway.settings import EgressSettings
from mesh.core.feature import Claimable, ControllerFeature, Want
from mesh.core.groups import By, Each, To
from mesh.core.model import IP, Claim, ClaimKey, Finding, Network, Node, NodeKey, Pod, PodKey
from mesh.core.noun import Listing, Row
from mesh.core.reconcile import Loop
from mesh.core.sources import OwnStore
from mesh.core.table import Source, Table
from mesh.objects.kubernetes import NODES, PODS
from mesh.objects.tables import Objects


@dataclass(frozen=True, slots=True)
class Hosted:
    """A covered pod: its node and its policies."""

    node: str
    policies: tuple[str, ...]


class EgressController(ControllerFeature):
    """``cluster`` is its name, ``clusters`` are those of the mesh, once they were ``heard``."""

    def __init__(
        self,
        cluster: str,
        settings: EgressSettings,
        objects: Objects,
        store: OwnStore,
        clusters: Table[str, int] | None = None,
        heard: Source | None = None,
    ) -> None:
        self._cluster, self._settings, self._objects = cluster, settings, objects
        self.coverage = Coverage(objects, objects[PODS], lambda noun: store.claims_of(noun).held)
        self._held, self._demand = store.claims_of(blocks.NOUN).held, store.demand
        self._listed, self._programmed = store.listed, store.programmed
        #: Blocks that a node uses, by node and address.
        self._used: Table[tuple[str, IP], int] = Table("blocks in use")
        most = settings.blocks_per_node
        clusters = clusters or Table[str, int]("clusters that are not known")
        self.addresses = Addresses(
            cluster, objects, self.coverage, store, self._used, most, clusters, heard or clusters
        )
        self.owners = Owners(
            self.coverage.addressed.pools.table,
            self.coverage.gateways.of_address,
            store.beats,
            store.claims_of(claims.OWNER),
        )
        self.wants = (
            Table[Want, bool]("block wanted"), *self.addresses.wants, self.owners.wants
        )  # fmt: skip
        self.ours = (Table[Network, None]("egress network"),)
        self.barred = (Table[Network, None]("a destination of an egress policy"),)
        self.claims = (
            Claimable(blocks.NOUN, self._numbers, released=True, let_go=self._let_go),
            *self.addresses.claims,
            self.owners.claim,
        )
        self._hosted: Table[PodKey, Hosted] = Table("host of covered pod")
        #: Policies and nodes with covered pods, so that a policy that changes looks at no pod.
        self._covering: Table[tuple[str, str], bool] = Table("covering policy of node")
        self._asked: Table[tuple[str, Want], bool] = Table("block asked")
        self._kept: Table[Want, bool] = Table("block in use")

    @property
    def agreed(self) -> Mapping[str, object]:
        return {
            "blockSize": self._settings.block_size,
            "blocksPerNode": self._settings.blocks_per_node,
        }

    def derive(self, loop: Loop) -> None:
        objects, policies = self._objects, self.coverage.policies
        self.coverage.derive(loop)
        loop.group(
            self._used,
            self._uses,
            By(self._demand),
            To(objects[NODES], lambda node, _: NodeKey(self._cluster, node)),
        )
        self.addresses.derive(loop)
        self.owners.derive(loop)
        pools = self.coverage.addressed.pools.table
        networks = By(policies, networks_of), By(pools, networks_of_pool)
        loop.group(self.ours[0], egress_network, *networks)
        loop.group(self.barred[0], destination, By(objects[POLICIES], destinations_of))
        loop.group(self._hosted, _hosted, By(self.coverage.covered), By(objects[PODS]))
        loop.group(
            self._covering,
            _covering,
            By(self._hosted, lambda _, row: [(name, row.node) for name in row.policies]),
        )
        loop.group(
            self._asked,
            self._ask,
            By(self._covering, needed=True),
            To(policies, lambda pair, _: pair[0]),
            To(objects[NODES], lambda pair, *_: NodeKey(self._cluster, pair[1])),
            Each(self._used, _addresses_of),
            Each(self.coverage.addressed.sizes, lambda _, __, policy, *___: _of_policy(policy)),
        )
        loop.group(
            self._kept,
            _kept,
            By(self._held, _place_of_claim, needed=True),
            To(self._demand, lambda place, _: place[0]),
            To(objects[NODES], lambda place, *_: NodeKey(self._cluster, place[0])),
            To(self.addresses.carried, lambda place, *_: place[1]),
        )
        loop.group(
            self.wants[0],
            _wanted,
            By(self._asked, lambda key, _: [key[1]]),
            By(self._kept),
            By(self.addresses.kept_blocks),
        )

    def _numbers(self, want: Want) -> range:
        """The blocks of an address."""
        size = blocks.size_of_pool(want.pool, self._settings.block_size)
        return range(blocks.block_count(size) if size else 0)

    def _let_go(self, key: ClaimKey, claim: Claim) -> bool:
        """Whether a block's last node lends no more out of it, or is gone.

        A node that says nothing keeps what it had: its datapath may lend without its agent.
        """
        node, nodes = blocks.node_of_owner(claim.owner), self._objects[NODES]
        if nodes.synced and NodeKey(self._cluster, node) not in nodes.rows:
            return True
        return blocks.has_let_go(self._programmed.rows.get(node, {}), key, claim)

    def _uses(
        self, name: str, demand: Mapping[IP, int] | None, node: Node | None
    ) -> dict[tuple[str, IP], int]:
        """What a node says of its blocks; without a Node object they are released."""
        if node is None:
            return {}
        return blocks.used_places(name, demand, self._settings.blocks_per_node)

    def _ask(
        self,
        pair: tuple[str, str],
        _: object,
        policy: EgressPolicy | None,
        node: Node | None,
        used: Mapping[tuple[str, IP], int],
        sizes: Mapping[IP, int],
    ) -> dict[tuple[str, Want], bool]:
        """Blocks for a node with covered pods; without a Node object its blocks are released."""
        if node is None:
            return {}
        wants = blocks.wants_of(pair, policy, used, self._settings.blocks_per_node, sizes)
        return {(pair[0], want): True for want in wants}

    def listings(self) -> Mapping[str, Listing]:
        return {
            "egress": lambda: nouns.with_owners(self._policies(), self.owners.owners()),
            nouns.DETAILS.name: lambda: nouns.with_owners(
                nouns.details(self.coverage.plan(), self._cluster, self._listed.rows),
                self.owners.owners(),
            ),
            "block": lambda: blocks.block_rows(
                self._held.rows.values(), self._cluster, self._settings.block_size
            ),
        }

    def _policies(self) -> list[Row]:
        gateways = self.coverage.gateways.of_address.rows
        draining = self.addresses.draining_of_policy()
        return [
            *nouns.egress_rows(self.coverage.plan(), self._cluster, self._listed.rows),
            *nouns.draining_rows(self._cluster, draining, gateways),
        ]

    def findings(self) -> Iterable[Finding]:
        return [
            *findings_of(self.coverage.plan()),
            *self.addresses.findings(),
            *self.owners.findings(),
        ]

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return self.owners.tasks()


def _hosted(key: PodKey, policies: tuple[str, ...] | None, pod: Pod | None) -> dict[PodKey, Hosted]:
    return {key: Hosted(pod.node, policies)} if pod and pod.node and policies else {}


def _covering(
    pair: tuple[str, str], hosted: Mapping[PodKey, Hosted]
) -> dict[tuple[str, str], bool]:
    return {pair: True} if hosted else {}


def _addresses_of(
    pair: tuple[str, str], _: object, policy: EgressPolicy | None, *__: object
) -> list[tuple[str, IP]]:
    return [(pair[1], address) for address in _of_policy(policy)]


def _of_policy(policy: EgressPolicy | None) -> tuple[IP, ...]:
    return policy.addresses if policy else ()


def _place_of_claim(_: ClaimKey, claim: Claim) -> list[tuple[str, IP]]:
    address = blocks.address_of_pool(claim.pool)
    return [(blocks.node_of_owner(claim.owner), address)] if address else []


def _kept(
    place: tuple[str, IP],
    held: Mapping[ClaimKey, Claim],
    demand: Mapping[IP, int] | None,
    node: Node | None,
    carried: bool | None,  # noqa: FBT001 - a row of a table
) -> dict[Want, bool]:
    """A node of a version that does not say what it uses keeps what it has.

    An address that has drained has no connection left, whatever runs of it still rest.
    """
    if node is None or not carried:
        return {}
    used = blocks.OWN_BLOCKS if demand is None else demand.get(place[1], 0)
    return blocks.kept(used, held)


def _wanted(
    want: Want, policies: Mapping[tuple[str, Want], bool], used: object, draining: object
) -> dict[Want, bool]:
    return {want: True} if policies or used or draining else {}
