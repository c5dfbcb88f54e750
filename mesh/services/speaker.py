"""Addresses of services, announced to routers by the nodes on which packets for them are served."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from mesh.core.feature import Offer, SpeakerFeature
from mesh.core.groups import By
from mesh.core.model import IP, Finding, Network, Node, PodEntry, PodRef, ServiceKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.kubernetes import HOST_PODS, PODS
from mesh.objects.tables import Objects
from mesh.services import announced, backends
from mesh.services.announced import AnnouncedService
from mesh.services.backends import PodKind
from mesh.services.findings import NOT_TRANSLATED
from mesh.services.kinds import ADVERTISED, ENDPOINTS, SERVICES, SLICES
from mesh.services.proxy import Proxy


class ServicesSpeaker(SpeakerFeature):
    """``pods`` are entries of this node's pods, ``networks`` those that its pods are out of.

    ``proxy`` says whether something translates packets from outside, which we do not. ``asked``
    says whether a session of the node advertises services.
    """

    kind = ADVERTISED

    def __init__(
        self,
        objects: Objects,
        pods: Table[PodRef, PodEntry],
        networks: Callable[[Node], Iterable[Network]],
        proxy: Proxy,
        asked: Callable[[], bool],
    ) -> None:
        self.announced: Table[ServiceKey, AnnouncedService] = Table("service for routers")
        self.inputs = (self.announced, pods, proxy.table)
        self._objects, self._pods, self._networks = objects, pods, networks
        self._proxy, self._asked = proxy, asked
        #: What was offered last, and of which rows: other tables change more often.
        self._made: tuple[object, list[Offer]] = (None, [])
        self._standing: Table[PodKind, frozenset[str]] = Table("nodes of a kind of pods")
        self._chosen: Table[ServiceKey, frozenset[str]] = Table("nodes of backends")

    def derive(self, loop: Loop) -> None:
        objects = self._objects
        loop.group(
            self._standing,
            announced.standing,
            By(objects[PODS], announced.kind_of_pod),
            By(objects[HOST_PODS], announced.kind_of_pod),
        )
        loop.group(
            self._chosen,
            announced.chosen,
            By(objects[SERVICES], backends.anchor, needed=True),
            By(self._standing, backends.pairs_of),
        )
        loop.group(
            self.announced,
            announced.announced,
            By(objects[SERVICES]),
            By(self._chosen),
            By(objects[SLICES], backends.service_of),
            By(objects[ENDPOINTS]),
        )

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self._proxy.run,)

    def offers(self, node: Node) -> Iterable[Offer]:
        if not self._proxy.owns:
            return []
        networks = tuple(self._networks(node))
        of = (self.announced.revision, self._pods.revision, node, networks)
        if self._made[0] != of:
            self._made = (of, self._offers(node, networks))
        return self._made[1]

    def _offers(self, node: Node, networks: Sequence[Network]) -> list[Offer]:
        own = {address for entry in self._pods.rows.values() for address in entry.addresses}
        own.update(node.addresses)

        def here(address: IP) -> bool:
            return address in own or any(address in network for network in networks)

        return list(announced.offers(self.announced.rows, node.name, here))

    def findings(self) -> Iterable[Finding]:
        if self._proxy.looked and not self._proxy.owns and self._asked():
            text = "no kube-proxy is found here: addresses of services are not announced"
            yield Finding(NOT_TRANSLATED, "speaker", "services", text)
