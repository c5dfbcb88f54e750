"""Services in a cluster: what this cluster contributes, which peers get published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from mesh.core.feature import ControllerFeature
from mesh.core.groups import By, Each
from mesh.core.model import IP, Finding, Network, PodEntry, PodRef, Service, ServiceKey
from mesh.core.noun import Listing
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.tables import Objects
from mesh.services import backends
from mesh.services.nouns import service_list
from mesh.services.own import OwnServices


class ServicesController(ControllerFeature):
    """``pods`` are the entries of the cluster's agents, ``remote`` accepted services of peers.

    ``networks`` are those of the cluster's pods, ``hosts`` the addresses of its nodes: other
    clusters accept backends there. ``beside``: another CNI gives the pods their addresses, so the
    entries say which they are.
    """

    def __init__(
        self,
        objects: Objects,
        pods: Table[PodRef, PodEntry],
        networks: Sequence[Network],
        hosts: Table[IP, None],
        remote: Table[ServiceKey, Service] | None = None,
        *,
        beside: bool = False,
    ) -> None:
        self._own = OwnServices(objects, pods)
        self._networks, self._hosts = tuple(networks), hosts
        self._remote, self._pods, self._beside = remote, pods, beside
        self._pod_addresses: Table[IP, None] = Table("address of own pod")
        #: Own services with the backends of this cluster alone.
        self.service = self._own.service
        #: Those that other clusters may use, with the backends that they accept.
        self.published: Table[ServiceKey, Service] = Table("service for peers")
        self.ours = (self._own.network,)
        self._outside: Table[ServiceKey, tuple[IP, ...]] = Table("backends not published")

    def derive(self, loop: Loop) -> None:
        self._own.derive(loop)
        inside = partial(backends.inside, networks=self._networks)
        outside = partial(backends.outside, networks=self._networks)
        if self._beside:
            by_address = By(self._pods, lambda _, entry: entry.addresses)
            loop.group(self._pod_addresses, backends.held, by_address)
        else:
            self._pod_addresses.mark_synced()
        known = [Each(one, backends.addresses_of) for one in (self._hosts, self._pod_addresses)]
        loop.group(self.published, inside, By(self.service), *known)
        loop.group(self._outside, outside, By(self.service), *known)

    def findings(self) -> Iterable[Finding]:
        for key, addresses in self._outside.rows.items():
            yield backends.not_published(key, addresses)

    def listings(self) -> Mapping[str, Listing]:
        remote = self._remote.rows if self._remote is not None else {}
        return {"service": lambda: service_list(self.service.rows.values(), remote.values())}
