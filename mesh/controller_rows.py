"""The controller's tables as the rows that ``meshgate NOUN list`` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from clustermesh import publish, wire
from clustermesh.imports import Importer
from gateway import desired as egress
from mesh.controller_tables import ControllerTables
from mesh.core.model import Backend, Block, Identity, Node, Service
from mesh.identity import parse_label_text

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


def node_row(node: Node) -> Row:
    """One row of ``node list``."""
    return {
        "cluster": node.cluster,
        "name": node.name,
        "addresses": node.addresses,
        "podCIDRs": node.pod_cidrs,
        "locator": node.locator,
    }


def identity_row(identity: Identity) -> Row:
    """One row of ``identity list``."""
    labels = [f"k8s:{key}={value}" for key, value in parse_label_text(identity.labels)]
    return {"cluster": identity.cluster, "id": identity.id, "labels": labels}


def service_row(service: Service) -> Row:
    """One row of ``service list``."""
    return {
        "cluster": service.cluster,
        "namespace": service.namespace,
        "name": service.name,
        "addresses": service.addresses,
        "ports": [
            {"name": port.name, "protocol": port.protocol, "port": port.port}
            for port in service.ports
        ],
        "global": service.is_global,
        "backends": [backend_row(backend) for backend in service.backends],
    }


def backend_row(backend: Backend) -> Row:
    """One backend of a service."""
    return {
        "address": backend.address,
        "port": backend.port,
        "protocol": backend.protocol,
        "cluster": backend.cluster,
    }


def block_row(block: Block) -> Row:
    """One row of ``block list``."""
    return {
        "address": block.address,
        "number": block.number,
        "first": block.first,
        "last": block.last,
        "cluster": block.cluster,
        "node": block.node,
        "epoch": block.epoch,
    }


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
    peers = sorted(tables.peers.imports.peers.items())
    return [own, *(_peer_row(name, importer) for name, importer in peers)]


def _peer_row(name: str, importer: Importer) -> Row:
    return {
        "cluster": name,
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
