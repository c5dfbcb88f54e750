"""Egress in a cluster: which nodes want blocks of ports, and which nodes have them.

Blocks come back when no pod of a node needs them (D16).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway import blocks, nouns
from gateway.coverage import Coverage
from gateway.networks import destination, destinations_of, egress_network
from gateway.plan import findings_of
from gateway.policy import POLICIES, EgressPolicy
from gateway.settings import EgressSettings
from mesh.core.feature import Claimable, ControllerFeature, Want
from mesh.core.groups import By, To
from mesh.core.model import Finding, Network, Node, NodeKey, Pod, PodKey
from mesh.core.noun import Listing
from mesh.core.reconcile import Loop
from mesh.core.sources import OwnStore
from mesh.core.table import Table
from mesh.objects.kubernetes import NODES, PODS
from mesh.objects.tables import Objects


@dataclass(frozen=True, slots=True)
class Hosted:
    """A covered pod: its node and its policies."""

    node: str
    policies: tuple[str, ...]


class EgressController(ControllerFeature):
    """``cluster`` is the name of the cluster."""

    def __init__(
        self, cluster: str, settings: EgressSettings, objects: Objects, store: OwnStore
    ) -> None:
        self._cluster, self._settings, self._objects = cluster, settings, objects
        self.coverage = Coverage(objects, objects[PODS])
        self._held = store.claims_of(blocks.NOUN).held
        self.wants = (Table[Want, bool]("block wanted"),)
        self.ours = (Table[Network, None]("egress network"),)
        self.barred = (Table[Network, None]("a destination of an egress policy"),)
        count = blocks.block_count(settings.block_size)
        self.claims = (Claimable(blocks.NOUN, lambda _: range(count), released=True),)
        self._hosted: Table[PodKey, Hosted] = Table("host of covered pod")
        #: Policies and nodes with covered pods, so that a policy that changes looks at no pod.
        self._covering: Table[tuple[str, str], bool] = Table("covering policy of node")
        self._asked: Table[tuple[str, Want], bool] = Table("block asked")

    @property
    def agreed(self) -> Mapping[str, object]:
        return {
            "blockSize": self._settings.block_size,
            "blocksPerNode": self._settings.blocks_per_node,
        }

    def derive(self, loop: Loop) -> None:
        objects = self._objects
        self.coverage.derive(loop)
        loop.group(
            self.ours[0], egress_network, By(objects[POLICIES], lambda _, row: row.addresses)
        )
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
            To(objects[POLICIES], lambda pair, _: pair[0]),
            To(objects[NODES], lambda pair, *_: NodeKey(self._cluster, pair[1])),
        )
        loop.group(self.wants[0], _wanted, By(self._asked, lambda key, _: [key[1]]))

    def _ask(
        self, pair: tuple[str, str], _: object, policy: EgressPolicy | None, node: Node | None
    ) -> dict[tuple[str, Want], bool]:
        """Blocks for a node with covered pods; without a Node object its blocks are released."""
        if node is None:
            return {}
        wants = blocks.wants_of(pair, policy, self._settings.blocks_per_node)
        return {(pair[0], want): True for want in wants}

    def listings(self) -> Mapping[str, Listing]:
        return {
            "egress": lambda: nouns.egress_rows(self.coverage.plan(), self._cluster),
            "block": lambda: blocks.block_rows(
                self._held.rows.values(), self._cluster, self._settings.block_size
            ),
        }

    def findings(self) -> Iterable[Finding]:
        return findings_of(self.coverage.plan())


def _hosted(key: PodKey, policies: tuple[str, ...] | None, pod: Pod | None) -> dict[PodKey, Hosted]:
    return {key: Hosted(pod.node, policies)} if pod and pod.node and policies else {}


def _covering(
    pair: tuple[str, str], hosted: Mapping[PodKey, Hosted]
) -> dict[tuple[str, str], bool]:
    return {pair: True} if hosted else {}


def _wanted(want: Want, policies: Mapping[tuple[str, Want], bool]) -> dict[Want, bool]:
    return {want: True} if policies else {}
