"""Clusters as ``meshgate cluster list`` prints them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from clustermesh import publish
from clustermesh.remote import wire
from clustermesh.remote.importer import Importer
from mesh.core.feature import Row


def own_row(cluster: str, id_: int, counts: Mapping[str, int], *, synced: bool) -> Row:
    """Our own cluster; ``counts`` has the number of rows by column."""
    return {"cluster": cluster, "id": id_, **counts, "state": "own", "synced": synced}


def cluster_row(name: str, importer: Importer) -> Row:
    """Another cluster, as ours sees it."""
    return {
        "cluster": wire.plain(name),
        "id": importer.peer.id or None,
        "nodes": len(importer.nodes),
        "identities": len(importer.identities),
        "addresses": len(importer.addresses.keys),
        "services": len(importer.services),
        "state": "accepted" if importer.peer.id else "refused",
        "synced": _complete(importer.canaries),
    }


def _complete(canaries: Iterable[str]) -> bool:
    return set(publish.PREFIXES) <= set(canaries)
