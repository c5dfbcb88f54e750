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
