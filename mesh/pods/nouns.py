"""Pods as ``meshgate pod list`` prints them."""

from __future__ import annotations

from mesh.core.feature import Row
from mesh.core.model import Pod, PodKey


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
