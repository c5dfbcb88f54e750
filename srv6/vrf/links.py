"""Interfaces and addresses of the pods that are in a VRF, from the rows of this node's pods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from mesh.core.feature import AgentFeature, Maps
from mesh.core.groups import By, To
from mesh.core.model import IP, LinkKey, PodKey, pod_of
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from srv6.vrf import maps as entries
from srv6.vrf.agent import VRFAgent
from srv6.vrf.kind import VRF
from srv6.vrf.known import Tenants
from srv6.vrf.members import VRFMember
from srv6.vrf.routes import addresses_in
from srv6.vrf.rows import CLOSED, VRFLink, VRFPod, ZonedAddress

WITHOUT_LINK = "pods of VRFs that do not fit send and get nothing (ENDPOINT_NOT_READY)"


class Wired(Protocol):
    """What the kernel gave a wired pod."""

    @property
    def ifindex(self) -> int: ...
    @property
    def addresses(self) -> tuple[IP, ...]: ...


class PodRow(Protocol):
    """Value of ``mg_pod_addr``."""

    @property
    def ifindex(self) -> int: ...
    @property
    def identity(self) -> int: ...
    @property
    def mac(self) -> str: ...
    @property
    def host_mac(self) -> str: ...
    @property
    def marks(self) -> tuple[tuple[str, int], ...]: ...


class VRFLinksAgent(AgentFeature):
    """``devices`` and ``pods`` are the devices and the rows of this node's pods."""

    def __init__(
        self, vrfs: VRFAgent, devices: Table[LinkKey, Any], pods: Table[IP, Any], names: list[str]
    ) -> None:
        self.link: Table[int, VRFLink] = Table("interface in VRF")
        self.pod: Table[ZonedAddress, VRFPod] = Table("pod in VRF")
        self._vrfs, self._devices, self._pods = vrfs, devices, pods
        self._names = tuple(names)

    def derive(self, loop: Loop) -> None:
        vrfs, members = self._vrfs.vrfs.table, self._vrfs.members.table
        tenant = self._vrfs.known.tenant
        member = To(members, lambda key, *_: pod_of(key))
        used = To(vrfs, lambda _, __, ___, member: member.vrf if member else None)
        row = To(self._pods, _first_address)
        loop.group(
            self.pod,
            _pods,
            By(self._devices),
            row,
            member,
            used,
            To(tenant, lambda key, *_: pod_of(key)),
            also=[tenant],
        )
        loop.group(
            self.link,
            _links,
            By(self._devices, lambda _, device: [device.ifindex]),
            To(self._vrfs.mark.numbers, _pod_behind),
            To(members, _pod_behind),
            To(vrfs, lambda _, __, ___, member: member.vrf if member else None),
            To(tenant, _pod_behind),
            also=[tenant],
        )

    def apply(self, loop: Loop, maps: Maps) -> None:
        pods = loop.apply(
            self.pod,
            maps.rows("mg_vrf_pod", *entries.pods(self._names)),
            capacity=maps.capacity("mg_vrf_pod"),
            meaning=WITHOUT_LINK,
        )
        loop.apply(
            self.link,
            maps.rows("mg_vrf_link", *entries.links(maps.enum("vrf_link_flag"))),
            after=[pods],
            capacity=maps.capacity("mg_vrf_link"),
            meaning=WITHOUT_LINK,
        )


def _first_address(_: LinkKey, device: Wired | None) -> IP | None:
    return device.addresses[0] if device and device.addresses else None


def _pod_behind(_: int, devices: Mapping[LinkKey, Wired], *__: object) -> PodKey | None:
    return pod_of(next(iter(devices))) if devices else None


def _pods(
    _: LinkKey,
    device: Wired | None,
    row: PodRow | None,
    member: VRFMember | None,
    vrf: VRF | None,
    tenants: Tenants | None,
) -> dict[ZonedAddress, VRFPod]:
    """Rows of the addresses that a wired pod has in its VRF."""
    if device is None or row is None or member is None or vrf is None:
        return {}
    zone = dict(row.marks).get("vrf", 0)
    if zone in (0, CLOSED) or row.ifindex != device.ifindex:
        return {}
    made = VRFPod(row.ifindex, row.identity, row.mac, row.host_mac, row.marks)
    addresses = addresses_in(vrf, tenants, device.addresses)
    return {ZonedAddress(zone, address): made for address in addresses}


def _links(
    ifindex: int,
    devices: Mapping[LinkKey, Wired],
    number: int | None,
    member: VRFMember | None,
    vrf: VRF | None,
    tenants: Tenants | None,
) -> dict[int, VRFLink]:
    if not devices or not number or member is None:
        return {}
    tenant = vrf is not None and (vrf.addresses or (tenants or {}).get(vrf.name))
    return {ifindex: VRFLink(number, bool(tenant))}
