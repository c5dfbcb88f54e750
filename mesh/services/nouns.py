"""``meshgate service list``: services of all clusters with their backends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from mesh.core.model import Backend, Service
from mesh.core.noun import Row, Rows, noun

SERVICE = noun(
    "service",
    "services and their backends",
    "cluster namespace name addresses ports global backends",
    "cluster namespace name",
)


def service_list(*tables: Iterable[Service]) -> Sequence[Row]:
    """The rows of the noun."""
    return Rows.of(chain.from_iterable(tables), service_row)


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
        "backends": _once(backend_row(backend) for backend in service.backends),
    }


def _once(rows: Iterable[Row]) -> list[Row]:
    """Equal rows once: one backend may serve several ports of the service."""
    return list({tuple(row.values()): row for row in rows}.values())


def backend_row(backend: Backend) -> Row:
    """One backend of a service."""
    return {
        "address": backend.address,
        "port": backend.port,
        "protocol": backend.protocol,
        "cluster": backend.cluster,
    }
