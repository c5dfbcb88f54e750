"""The room's derivations as functions over whole tables, for stories about one step."""

from collections.abc import Iterable, Mapping

from mesh.core.groups import By
from mesh.core.model import Finding, Pod, PodKey, Service, ServiceKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.services import backends
from mesh.services.backends import BackendAddress, ServiceAddress, Translation
from mesh.services.kinds import (
    SERVICES,
    SLICES,
    EndpointSlice,
    EndpointSliceKey,
    ServiceObject,
)
from tests.unit.services.room import Room


def own_services(
    services: Mapping[ServiceKey, ServiceObject],
    pods: Mapping[PodKey, Pod],
    slices: Mapping[EndpointSliceKey, EndpointSlice],
) -> dict[ServiceKey, Service]:
    """Services of the own cluster alone; pods carry the addresses of their entries."""
    room = Room()
    room.agent.derive(room.loop)
    room.objects[SERVICES].upsert(services)
    room.objects[SLICES].upsert(slices)
    room.put_pods(*pods.items())
    room.settle()
    return dict(room.agent.service.rows)


def merged(
    own: Mapping[ServiceKey, Service], imported: Iterable[Service]
) -> dict[ServiceKey, Service]:
    """Own services with what other clusters share under their names."""
    loop, out = Loop(), Table[ServiceKey, Service]("service")
    ours, remote = Table[ServiceKey, Service]("own"), Table[ServiceKey, Service]("remote")
    loop.group(
        out, backends.merged_services, By(ours, backends.name_of), By(remote, backends.name_of)
    )
    ours.replace(own)
    remote.replace({ServiceKey(row.cluster, row.namespace, row.name): row for row in imported})
    loop.derive_all()
    return {key: row for key, row in out.rows.items() if key in own}


def translations(
    services: Mapping[ServiceKey, Service],
) -> tuple[dict[ServiceAddress, tuple[BackendAddress, ...]], list[Finding]]:
    """Every address and port with its backends, and what is claimed twice."""
    loop, out = Loop(), Table[ServiceAddress, Translation]("translation")
    table = Table[ServiceKey, Service]("service")
    loop.group(out, backends.translation, By(table, lambda _, row: backends.asks_of(row)))
    table.replace(services)
    loop.derive_all()
    findings = [f for ask, row in out.rows.items() for f in backends.conflicts(ask, row)]
    return {ask: row.backends for ask, row in out.rows.items()}, findings
