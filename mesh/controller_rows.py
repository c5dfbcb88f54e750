"""The controller's tables as the rows that ``meshgate NOUN list`` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from clustermesh import publish
from clustermesh.remote import wire
from clustermesh.remote.importer import Importer
from gateway import rows as egress
from mesh.controller_tables import ControllerTables
from mesh.rows import block_row, identity_row, node_row, service_row

Row = dict[str, Any]


def nouns(tables: ControllerTables) -> dict[str, Callable[[], Sequence[Row]]]:
    """Rows by noun, made when somebody asks."""
    peers = tables.peers
    return {
        "node": lambda: _rows(node_row, tables.node, peers.nodes),
        "identity": lambda: _rows(identity_row, tables.identity, peers.identities),
        "service": lambda: _rows(service_row, tables.service, peers.services),
        "egress": lambda: egress.listed(tables.plan, tables.cluster),
        "block": lambda: _rows(block_row, tables.block),
        "cluster": lambda: cluster_rows(tables),
    }


def _rows(shown: Callable[[Any], Row], *tables: Any) -> list[Row]:
    return [shown(row) for table in tables for _, row in sorted(table.rows.items(), key=_order)]


def _order(item: tuple[Any, Any]) -> str:
    return str(item[0])


def cluster_rows(tables: ControllerTables) -> list[Row]:
    """Our cluster and its peers, as our cluster sees them."""
    own = {
        "cluster": tables.cluster,
        "id": tables.cluster_id,
        "nodes": len(tables.node.rows),
        "identities": len(tables.identity.rows),
        "addresses": len(tables.published[wire.ADDRESSES].rows),
        "services": len(tables.published[wire.SERVICES].rows),
        "state": "own",
        "synced": tables.canaries.synced,
    }
    peers = sorted(tables.peers.imports.importers.items())
    return [own, *(_peer_row(name, importer) for name, importer in peers)]


def _peer_row(name: str, importer: Importer) -> Row:
    return {
        "cluster": wire.plain(name),
        "id": importer.cluster.id or None,
        "nodes": len(importer.nodes),
        "identities": len(importer.identities),
        "addresses": len(importer.addresses.keys),
        "services": len(importer.services),
        "state": "accepted" if importer.cluster.id else "refused",
        "synced": _complete(importer.canaries),
    }


def _complete(canaries: Iterable[str]) -> bool:
    return set(publish.PREFIXES) <= set(canaries)
