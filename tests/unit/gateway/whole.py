"""The plan of egress by looking at everything: what derivations by group must agree with."""

from __future__ import annotations

from gateway.plan import by_precedence
from gateway.policy import POLICIES
from mesh.core.model import Node, NodeKey, PodKey
from mesh.identity.addresses import tunnel_endpoint
from mesh.identity.labels import namespace_of
from mesh.identity.selectors import matches, matches_pod
from mesh.objects.kubernetes import NAMESPACES, NODES, PODS
from mesh.objects.tables import Objects


def covered(objects: Objects) -> dict[PodKey, tuple[str, ...]]:
    """The policies of each covered pod, the first one first."""
    policies = by_precedence(objects[POLICIES].rows.values())
    nodes, spaces = objects[NODES].rows, objects[NAMESPACES].rows
    found = {}
    for key, pod in objects[PODS].rows.items():
        node = nodes.get(NodeKey(pod.cluster, pod.node))
        labels = dict(node.labels) if node else {}
        space = namespace_of(pod, spaces)
        names = tuple(
            policy.name
            for policy in policies
            if any(matches_pod(one, pod, space, labels) for one in policy.selectors)
        )
        if names:
            found[key] = names
    return found


def gateways(objects: Objects) -> dict[str, tuple[Node, ...]]:
    """The first nodes by name that each policy selects (S5) and that a tunnel can reach."""
    nodes = sorted(objects[NODES].rows.values(), key=lambda node: node.name)
    able = [node for node in nodes if tunnel_endpoint(node)]
    found = {
        name: tuple(n for n in able if matches(policy.gateways, dict(n.labels)))
        for name, policy in objects[POLICIES].rows.items()
    }
    most = {name: policy.max_gateways for name, policy in objects[POLICIES].rows.items()}
    return {name: nodes[: most[name]] for name, nodes in found.items() if nodes}
