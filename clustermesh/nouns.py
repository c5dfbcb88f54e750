"""Clusters as ``meshgate cluster list`` prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mesh.core.noun import Row, Shown, noun

if TYPE_CHECKING:  # the command line starts with the columns and without numpy
    from clustermesh.remote.importer import Importer

#: In place of a contract: the cluster has what anybody gets.
PROVISIONAL = "provisional"


def contracts(rows: Sequence[Row]) -> str:
    """The first line of what ``meshgate status`` says about contracts."""
    provisional = sum(row.get("contract") == PROVISIONAL for row in rows)
    given = sum(bool(row.get("contract")) for row in rows) - provisional
    return f"Contracts: {given}, provisional clusters: {provisional}"


CLUSTER = noun(
    "cluster",
    "clusters as each cluster sees them",
    "cluster id nodes identities addresses services state contract synced seenBy",
    "cluster seenBy",
    shown=Shown(contracts, ("cluster", "seenBy", "contract"), lambda _: None),
    verbs="clustermesh.verbs",
)


def own_row(cluster: str, id_: int, counts: Mapping[str, int], *, synced: bool) -> Row:
    """Our own cluster; ``counts`` has the number of rows by column."""
    row: Row = {"cluster": cluster, "id": id_, **counts, "state": "own"}
    return row | {"contract": None, "synced": synced}


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
        "contract": str(importer.cluster.contract or PROVISIONAL),
        "synced": importer.is_complete,
    }
