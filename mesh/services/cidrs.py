"""ServiceCIDR: out of which networks the cluster's services have their addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec

from mesh.core.groups import By
from mesh.core.model import Network
from mesh.core.reconcile import Loop
from mesh.core.strict import AnyNetwork, convert
from mesh.core.table import Table
from mesh.objects.fields import irrelevant, used
from mesh.objects.schema import Kind, Loose, Parsed, Place
from mesh.objects.tables import ObjectNoun, Objects


@dataclass(frozen=True, slots=True)
class ServiceCIDR:
    """One ServiceCIDR object; a cluster has the networks of all of them."""

    networks: tuple[Network, ...]


SERVICE_CIDRS: ObjectNoun[str, ServiceCIDR] = ObjectNoun("service CIDR")


def networks_of(network: Network, objects: Mapping[str, ServiceCIDR]) -> dict[Network, None]:
    """A network that objects name."""
    return {network: None} if objects else {}


class ServiceNetworks:
    """``table`` has the networks of all ServiceCIDR objects."""

    def __init__(self, objects: Objects) -> None:
        self.table: Table[Network, None] = Table("a network of services")
        self._cidrs = objects[SERVICE_CIDRS]

    def derive(self, loop: Loop) -> None:
        """Add the derivation."""
        loop.group(self.table, networks_of, By(self._cidrs, lambda _, row: row.networks))


class _Spec(Loose, frozen=True):
    cidrs: Annotated[tuple[AnyNetwork, ...], msgspec.Meta(min_length=1)]


class _ServiceCIDR(Loose, frozen=True):
    spec: _Spec


def _service_cidr(place: Place, document: object) -> Parsed:
    networks = convert(document, _ServiceCIDR).spec.cidrs
    return Parsed(SERVICE_CIDRS.name, place.key.name, ServiceCIDR(tuple(dict.fromkeys(networks))))


SERVICE_CIDR_FIELDS = (
    used("metadata.name", "the object's name"),
    used("spec.cidrs", "ours: no other cluster has pods or nodes there"),
    irrelevant("metadata.deletionTimestamp", "addresses may be in use until the object has gone"),
    irrelevant("status.conditions[]", "it says whether new services get addresses there"),
)

KINDS = (
    Kind(
        "networking.k8s.io/v1",
        "ServiceCIDR",
        SERVICE_CIDRS,
        _service_cidr,
        fields=SERVICE_CIDR_FIELDS,
        optional=True,  # stable since 1.33; before, the API server's own flags have the network
    ),
)
