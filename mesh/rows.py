"""Rows of the model as ``meshgate NOUN list`` prints them, the same from every process."""

from __future__ import annotations

from gateway.blocks import Block
from mesh.core.model import Backend, Identity, Node, Service
from mesh.core.noun import Row
from mesh.identity.labels import parse_label_text

__all__ = ["Row", "backend_row", "block_row", "identity_row", "node_row", "service_row"]


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
