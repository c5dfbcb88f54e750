"""Clusters as ``meshgate cluster list`` prints them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mesh.core.noun import Row, noun

if TYPE_CHECKING:  # the command line starts with the columns and without numpy
    from clustermesh.remote.importer import Importer

CLUSTER = noun(
    "cluster",
    "clusters as each cluster sees them",
    "cluster id nodes identities addresses services state synced seenBy",
    "cluster seenBy",
    verbs="clustermesh.verbs",
)


def own_row(cluster: str, id_: int, counts: Mapping[str, int], *, synced: bool) -> Row:
    """Our own cluster; ``counts`` has the number of rows by column."""
    return {"cluster": cluster, "id": id_, **counts, "state": "own", "synced": synced}


def cluster_row(name: str, importer: Importer) -> Row:
    """Another cluster, as ours sees it."""
    return {
        "cluster": name,
        "id": importer.cluster.id or None,
        "nodes": len(importer.nodes),
        "identities": len(importer.identities),
        "addresses": len(importer.addresses.keys),
        "services": len(importer.services),
        "state": "accepted" if importer.cluster.id else "refused",
        "synced": importer.is_complete,
    }
