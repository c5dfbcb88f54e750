"""Services in a cluster: what this cluster contributes, which peers get published."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.core.feature import ControllerFeature
from mesh.core.model import PodEntry, PodRef, Service, ServiceKey
from mesh.core.noun import Listing
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.tables import Objects
from mesh.services.nouns import service_list
from mesh.services.own import OwnServices


class ServicesController(ControllerFeature):
    """``pods`` are the entries of the cluster's agents, ``remote`` accepted services of peers."""

    def __init__(
        self,
        objects: Objects,
        pods: Table[PodRef, PodEntry],
        remote: Table[ServiceKey, Service] | None = None,
    ) -> None:
        self._own = OwnServices(objects, pods)
        self._remote = remote
        #: Own services with the backends of this cluster alone.
        self.service = self._own.service
        self.ours = (self._own.network,)

    def derive(self, loop: Loop) -> None:
        self._own.derive(loop)

    def listings(self) -> Mapping[str, Listing]:
        remote = self._remote.rows if self._remote is not None else {}
        return {"service": lambda: service_list(self.service.rows.values(), remote.values())}
