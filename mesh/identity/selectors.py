"""Which labels a selector selects; the semantics of Kubernetes' LabelSelector.

A pod is looked at through its identity's labels: its own, and about its surroundings
``io.kubernetes.pod.namespace``, ``io.cilium.k8s.namespace.labels.<key>`` and the like, so that a
pod selector may name a namespace.
"""

from __future__ import annotations

from collections.abc import Mapping

from mesh.core.model import Namespace, Pod, PodSelector, Requirement, Selector
from mesh.identity.labels import pod_labels


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Whether every requirement holds; none selects everything."""
    return all(_holds(requirement, labels) for requirement in selector.requirements)


def _holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    present = requirement.key in labels
    if requirement.operator == "In":
        return present and labels[requirement.key] in requirement.values
    if requirement.operator == "NotIn":  # an absent key is not in the values
        return not present or labels[requirement.key] not in requirement.values
    return present == (requirement.operator == "Exists")


def matches_pod(
    selector: PodSelector, pod: Pod, namespace: Namespace, node: Mapping[str, str]
) -> bool:
    """Whether all the parts that are there select the pod; ``node`` are its node's labels."""
    if selector.namespaces and not matches(selector.namespaces, dict(namespace.labels)):
        return False
    if selector.nodes and not matches(selector.nodes, node):
        return False
    return selector.pods is None or matches(selector.pods, pod_labels(pod, namespace))
