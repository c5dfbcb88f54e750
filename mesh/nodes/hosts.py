"""Hosts and pods of other nodes: how they reach each other.

    node, configuration                     -> behind (pod CIDRs of which no fabric is said to know)
    behind, native routes of the kernel     -> overlay (pod CIDRs that only the overlay leads to)
    overlay, own addresses                  -> routes of this host into the overlay
    overlay, of our cluster                 -> flags of ``mg_node``: its hosts likewise, and those
                                               of a cluster whose contract says so
    private routes of the kernel            -> routed (pods of other clusters by contract only)

A host sends by a route to ``mg_vxlan``, where the program ``mg_to_vxlan`` takes its packets; a pod
by the flags, until it has seen which way the host's packets come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from typing import Any

from mesh.core.feature import AgentFeature
from mesh.core.groups import By, Each, To
from mesh.core.model import Finding, Network, Node, NodeKey
from mesh.core.reconcile import Errors, Loop
from mesh.core.sources import Remote
from mesh.core.table import Table
from mesh.kernel import Kernel, get_sysctl
from mesh.nodes import rows
from mesh.nodes.findings import STRICT_FILTER
from mesh.nodes.native import NativeRoutes
from mesh.nodes.routed import HostRoutes, prefixes_of, routed
from mesh.nodes.rows import Behind, Native, OverlayRoute


@dataclass(frozen=True, slots=True)
class Devices:
    """Names of the uplink and of the overlay's device; ``mtu`` is what an inner packet may have."""

    uplink: str
    overlay: str
    mtu: int


class HostsAgent(AgentFeature):
    """Routes of this host into the overlay, and the flags of the other nodes.

    ``native``: the fabric knows the pod CIDRs of our cluster. ``flags``, the table by tunnel
    endpoint, is filled; until the kernel has answered, it holds what the last agent wrote.
    """

    def __init__(
        self,
        own: NodeKey,
        devices: Devices,
        kernel: Kernel,
        node: Table[NodeKey, Node],
        remote: Remote,
        flags: Table[IPv4Address, int],
        *,
        native: bool,
        sysctl: Callable[[str], str] = get_sysctl,
    ) -> None:
        self.behind: Table[Network, Behind] = Table("pod CIDR of other nodes")
        self.native: Table[Network, Native] = Table("native pod CIDR")
        self.overlay: Table[Network, Behind] = Table("pod CIDR by the overlay")
        self.routes: Table[Network, OverlayRoute] = Table("overlay route")
        self._by_overlay: Table[IPv4Address, int] = Table("host by the overlay")
        self._this: Table[NodeKey, Node] = Table("this host")
        self.routed = (Table[Network, None]("a route of this host"),)
        self.private: Table[int, frozenset[Network]] = Table("private routes of family")
        self._own, self._kernel, self._sysctl = own, kernel, sysctl
        self._uplink, self._device, self._mtu = devices.uplink, devices.overlay, devices.mtu
        self._node, self._remote, self._flags, self._all_native = node, remote, flags, native
        #: Looks at the kernel's routes again; to be called when they may have gone.
        self.recheck: Callable[[], None] = lambda: None

    def derive(self, loop: Loop) -> None:
        loop.group(self.routed[0], routed, By(self.private, prefixes_of))
        loop.group(
            self.behind,
            partial(rows.behind, own=self._own, native=self._all_native),
            By(self._node),
            To(self._remote.ids, lambda key, _: key.cluster),
            Each(self._remote.hosts, lambda key, *_: [key.cluster]),
            late=[self._remote.complete],
        )
        loop.group(
            self.overlay,
            rows.by_overlay,
            By(self.behind),
            By(self.native),
            late=[self.behind, self.native],
        )
        loop.group(self._this, rows.one_node, By(self._node, self._if_own))
        loop.group(
            self.routes,
            partial(rows.overlay_route, mtu=self._mtu),
            By(self.overlay),
            To(self._this, lambda *_: self._own),
            late=[self.overlay],
        )
        loop.group(
            self._by_overlay,
            rows.host_flags,
            By(self.overlay, _endpoint_of_host),
            late=[self.overlay],
        )
        loop.derive([], self._settle_flags, also=[self._by_overlay])

    def apply_routes(self, loop: Loop) -> None:
        applied = loop.apply(self.routes, OverlayRoutes(self._kernel, self._device))
        self.recheck = applied.recheck

    def tasks(self) -> Iterable[Callable[[], Any]]:
        native = NativeRoutes(self._kernel, self.behind, self.native)
        return native.run, HostRoutes(self._kernel, self.private).run

    def findings(self) -> Iterable[Finding]:
        """Answers of other clusters' pods that the kernel drops."""
        foreign = (
            p for p, row in self.overlay.rows.items() if not row.by_overlay and p.version == 4
        )
        prefix = next(foreign, None)
        if prefix and self._filters_strictly():
            place, field = f"{self._own.name}/{self._uplink}", "rp_filter"
            text = f"answers from pods of {prefix} come in by {self._uplink} and are dropped: the "
            text += f"route to them leads to {self._device}"
            yield Finding(STRICT_FILTER, place, field, text, (f"node/{self._own.name}",))

    def _filters_strictly(self) -> bool:
        """The greater of the two values counts (networking/ip-sysctl): 1 is strict, 2 is loose."""
        names = (f"net/ipv4/conf/{name}/rp_filter" for name in ("all", self._uplink))
        return max(map(self._sysctl, names)) == "1"

    def _settle_flags(self) -> None:
        """Those of nodes that are reached natively go when the kernel was asked about all."""
        if self._by_overlay.synced:
            self._flags.replace(self._by_overlay.rows)
        else:
            self._flags.upsert(self._by_overlay.rows)

    def _if_own(self, key: NodeKey, _: Node) -> list[NodeKey]:
        return [key] if key == self._own else []


def _endpoint_of_host(_: Network, behind: Behind) -> list[IPv4Address]:
    return [behind.node] if behind.by_overlay else []


class OverlayRoutes:
    """Target: routes into the overlay, behind every other route to the same prefix."""

    name = "overlay routes"

    def __init__(self, kernel: Kernel, device: str) -> None:
        self._kernel, self._device, self._ifindex = kernel, device, 0

    async def read(self) -> dict[Network, OverlayRoute]:
        self._ifindex = (await self._kernel.link(self._device)).ifindex
        await self._kernel.add_overlay_gateways(self._ifindex)
        found = await self._kernel.overlay_routes(self._ifindex)
        return {prefix: OverlayRoute(source, mtu) for prefix, (source, mtu) in found.items()}

    async def upsert(self, rows: Mapping[Network, OverlayRoute]) -> Errors[Network]:
        errors: dict[Network, Exception] = {}
        for prefix, row in rows.items():
            try:
                await self._kernel.add_overlay_route(self._ifindex, prefix, row.source, row.mtu)
            except OSError as error:
                errors[prefix] = error
        return errors

    async def delete(self, keys: Iterable[Network]) -> Errors[Network]:
        errors: dict[Network, Exception] = {}
        for prefix in keys:
            try:
                await self._kernel.delete_overlay_route(self._ifindex, prefix)
            except OSError as error:
                errors[prefix] = error
        return errors
