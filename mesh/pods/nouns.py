"""Pods as ``meshgate pod list`` prints them."""

from __future__ import annotations

from mesh.core.model import Pod, PodKey
from mesh.core.noun import Row, noun

POD = noun(
    "pod",
    "pods of this machine's clusters",
    "cluster namespace name node addresses identity",
    "cluster namespace name",
)


#: What `meshgate vrf ping` asks for; the folder of a namespace is nothing to list.
LINK = noun(
    "pod-link",
    "network namespaces of this node's pods",
    "cluster namespace name netns",
    "cluster namespace name",
)


def link_row(key: PodKey, netns: str) -> Row:
    """Where a pod is on this host."""
    return {
        "cluster": key.cluster,
        "namespace": key.namespace,
        "name": key.name,
        "netns": netns,
    }


def pod_row(key: PodKey, pod: Pod, identity: int | None) -> Row:
    """One row of ``pod list``."""
    return {
        "cluster": key.cluster,
        "namespace": key.namespace,
        "name": key.name,
        "node": pod.node,
        "addresses": [str(address) for address in pod.addresses],
        "identity": identity,
    }
