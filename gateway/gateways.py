"""The gateway of each policy and of each egress address, by an index of node labels.

Every process computes the gateway from objects alone, so that all agree without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.policy import POLICIES, EgressPolicy
from gateway.rows import gateway_of_address
from mesh.core.groups import By, Each
from mesh.core.model import IP, Node, NodeKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.identity.addresses import tunnel_endpoint
from mesh.identity.matching import ANY, Pair, label_pairs
from mesh.identity.selectors import matches
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects


class Gateways:
    """``of_policy`` by the policy's name, ``of_address`` by egress address; absent: none."""

    def __init__(self, objects: Objects) -> None:
        self.of_policy: Table[str, Node] = Table("gateway of policy")
        self.of_address: Table[IP, Node] = Table("gateway of address")
        self._objects = objects
        self._by_pair: Table[Pair, tuple[Node, ...]] = Table("nodes of label")

    def derive(self, loop: Loop) -> None:
        """Add the derivations."""
        policies = self._objects[POLICIES]
        loop.group(self._by_pair, _by_pair, By(self._objects[NODES], _pairs_of_node))
        loop.group(self.of_policy, _of_policy, By(policies), Each(self._by_pair, _pairs_of_policy))
        loop.group(
            self.of_address,
            gateway_of_address,
            By(policies, lambda _, policy: policy.addresses),
            Each(self.of_policy, lambda _, named: named),
        )


def _pairs_of_node(_: NodeKey, node: Node) -> Iterable[Pair]:
    return (*node.labels, ANY) if tunnel_endpoint(node) else ()


def _pairs_of_policy(_: str, policy: EgressPolicy | None) -> Iterable[Pair]:
    return label_pairs([("", policy.gateways)]) if policy else ()


def _by_pair(pair: Pair, nodes: Mapping[NodeKey, Node]) -> dict[Pair, tuple[Node, ...]]:
    return {pair: tuple(sorted(nodes.values(), key=lambda node: node.name))} if nodes else {}


def _of_policy(
    name: str, policy: EgressPolicy | None, nodes: Mapping[Pair, tuple[Node, ...]]
) -> dict[str, Node]:
    """The first node by name that the policy selects (S5) and that a tunnel can reach."""
    if policy is None:
        return {}
    first = [
        next((node for node in some if matches(policy.gateways, dict(node.labels))), None)
        for some in nodes.values()
    ]
    able = [node for node in first if node]
    return {name: min(able, key=lambda node: node.name)} if able else {}
