"""The gateways of each policy and of each egress address, by an index of node labels.

Every process computes the gateways from objects alone, so that all agree without a word. An address
that no policy gives any more, or whose policy has no gateway left, stays on the nodes that have
carried it (``claims.CARRIER``): live connections have it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import groupby, islice
from operator import attrgetter

from gateway import claims
from gateway.policy import MOST_GATEWAYS, EgressPolicy
from gateway.rows import carriers_of_address, gateways_of_address
from mesh.core.groups import By, Each
from mesh.core.model import IP, Claim, ClaimKey, Node, NodeKey, Selector
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.identity.addresses import tunnel_endpoint
from mesh.identity.matching import ANY, Pair, label_pairs
from mesh.identity.selectors import matches
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects

#: The label of a node that is to carry egress addresses no more. What goes by it goes on
#: (``gateway/members.py``).
DRAINED = ("meshgate.io/egress", "drain")


class Gateways:
    """``of_policy`` by the policy's name, ``of_address`` by egress address; absent: none.

    Gateways are sorted by name, and at most ``max_gateways`` of the policy. ``policies`` are those
    with addresses, ``carriers`` the claims of nodes that carry an address.
    """

    def __init__(
        self,
        objects: Objects,
        policies: Table[str, EgressPolicy],
        carriers: Table[ClaimKey, Claim],
    ) -> None:
        self.of_policy: Table[str, tuple[Node, ...]] = Table("gateways of policy")
        #: Those that a policy gives an address.
        self.given: Table[IP, tuple[Node, ...]] = Table("gateways given to address")
        self.of_address: Table[IP, tuple[Node, ...]] = Table("gateways of address")
        self._nodes, self._policies, self._carriers = objects[NODES], policies, carriers
        self._by_name: Table[str, Node] = Table("node by name")
        self._by_pair: Table[Pair, tuple[Node, ...]] = Table("nodes of label")

    def derive(self, loop: Loop) -> None:
        """Add the derivations."""
        policies = self._policies
        loop.group(self._by_name, _named, By(self._nodes))
        loop.group(self._by_pair, _by_pair, By(self._nodes, _pairs_of_node))
        loop.group(self.of_policy, _of_policy, By(policies), Each(self._by_pair, _pairs_of_policy))
        loop.group(
            self.given,
            gateways_of_address,
            By(policies, lambda _, policy: policy.addresses),
            Each(self.of_policy, lambda _, named: named),
        )
        loop.group(
            self.of_address,
            carriers_of_address,
            By(self.given),
            By(self._carriers, claims.addresses_of_key),
            Each(self._by_name, _carriers),
            also=[self._carriers],
        )


def _pairs_of_node(_: NodeKey, node: Node) -> Iterable[Pair]:
    return (*node.labels, ANY) if tunnel_endpoint(node) else ()


def _pairs_of_policy(_: str, policy: EgressPolicy | None) -> Iterable[Pair]:
    choices = policy.choices if policy else ()
    return dict.fromkeys(pair for one, _ in choices for pair in label_pairs([("", one)]))


def _carriers(_: IP, __: object, carriers: Mapping[ClaimKey, Claim]) -> list[str]:
    return [claim.owner for claim in carriers.values()]


def _named(_: NodeKey, node: Node | None) -> dict[str, Node]:
    return {node.name: node} if node and tunnel_endpoint(node) else {}


def _by_pair(pair: Pair, nodes: Mapping[NodeKey, Node]) -> dict[Pair, tuple[Node, ...]]:
    return {pair: tuple(sorted(nodes.values(), key=lambda node: node.name))} if nodes else {}


def _of_policy(
    name: str, policy: EgressPolicy | None, nodes: Mapping[Pair, tuple[Node, ...]]
) -> dict[str, tuple[Node, ...]]:
    """The first nodes by name that the policy selects (S5) and that a tunnel can reach.

    Nodes with the label ``DRAINED`` are none of them, unless all have it.
    """
    if policy is None:
        return {}
    selected = partial(_chosen, policy, nodes)
    chosen = selected(drained=False) or selected(drained=True)
    return {name: chosen} if chosen else {}


def _chosen(
    policy: EgressPolicy, nodes: Mapping[Pair, tuple[Node, ...]], *, drained: bool
) -> tuple[Node, ...]:
    """The nodes of all selectors of a policy together, each once."""
    found = {
        node.name: node
        for selector, most in policy.choices
        for node in islice(_selected(selector, nodes, drained=drained), most)
    }
    return tuple(found[name] for name in sorted(found)[:MOST_GATEWAYS])


def _selected(
    gateways: Selector, nodes: Mapping[Pair, tuple[Node, ...]], *, drained: bool
) -> Iterator[Node]:
    """The selected nodes in the order of their names; it looks at no node behind the last taken."""
    name = attrgetter("name")
    for _, same in groupby(heapq.merge(*nodes.values(), key=name), name):
        node = next(same)
        if (DRAINED in node.labels) is drained and matches(gateways, dict(node.labels)):
            yield node
