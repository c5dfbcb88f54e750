"""What a container runtime waits for: when a pod is connected, and what it lacks until then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from mesh.core.model import IP, Connection, LinkKey, Node, NodeKey, Pod, PodKey, Sandbox
from mesh.core.reconcile import AppliedRows
from mesh.core.table import Table
from mesh.pods.links import Device, PodLink
from mesh.pods.rows import LocalPod


class Tables(Protocol):
    """The tables of the room, in the order in which a pod comes through them."""

    local_pod: Table[LinkKey, Pod]
    link: Table[LinkKey, PodLink]
    devices: Table[LinkKey, Device]
    claimed: Table[PodKey, int]
    pod: Table[IP, LocalPod]

    @property
    def full(self) -> bool:
        """Whether no further pod can have an address."""


class Connections:
    """``mine`` are the objects of the pods of ``own``. ``beside``: another CNI connects them."""

    def __init__(
        self,
        own: NodeKey,
        node: Table[NodeKey, Node],
        mine: Table[PodKey, Pod],
        tables: Tables,
        *,
        beside: bool = False,
    ) -> None:
        self._beside = beside
        self._own, self._node, self._mine, self._tables = own, node, mine, tables
        self._applied: list[AppliedRows[Any, Any]] = []

    def watch(self, applied: AppliedRows[Any, Any]) -> None:
        """Look also at what the kernel has: links first, then rows of pods."""
        self._applied.append(applied)

    def listen(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` whenever the others may say something else."""
        its = self._tables
        for table in (self._mine, its.local_pod, its.devices, its.claimed, its.pod):
            table.listen(wake)
        for applied in self._applied:
            applied.waiting.append(wake)

    def lacks(self, key: Sandbox) -> str:
        """What an attachment lacks until its packets pass; empty: nothing.

        Called while the tables fit together.
        """
        return next(self._lacks(key), "")

    def _lacks(self, key: Sandbox) -> Iterator[str]:
        its, (wired, rows) = self._tables, self._applied
        found = self._found(key)
        pod = its.local_pod.rows.get(found)
        if key.pod not in self._mine.rows:
            yield f"the Pod object {key.namespace}/{key.name} is not known on this node"
        if pod is None:
            yield self._no_address or "an address"
            return
        if found not in its.devices.rows:
            yield f"its device: {wired.why(found) or 'it is being made'}"
        if key.pod not in its.claimed.rows:
            yield "an identity: the controller of the cluster has not claimed one for its labels"
        if late := [address for address in pod.addresses if not rows.holds(address)]:
            whys = [why for one in late if (why := rows.why(one))]
            yield f"its row in {rows.name}: {'; '.join(whys) or 'rows that it refers to'}"

    def _found(self, key: Sandbox) -> LinkKey:
        """By what the pod is connected: beside another CNI by its own key."""
        return key if key in self._tables.local_pod.rows else key.pod

    def connection(self, key: Sandbox) -> Connection | None:
        """How an attachment is connected, if it is."""
        found = self._found(key)
        device, link = self._tables.devices.rows.get(found), self._tables.link.rows.get(found)
        if device is None:
            return None
        name, mtu = (link.device, link.mtu) if link else ("", 0)  # another CNI's
        return Connection(name, device.host_mac, device.mac, mtu, device.addresses)

    def stands(self, key: Sandbox) -> bool:
        """Whether the kernel has a device of the attachment."""
        return key in self._tables.devices.rows

    @property
    def unready(self) -> str:
        """Why no pod can be connected; empty: one can."""
        if not self._tables.pod.synced:
            return "what this node has to know is not read yet"
        return self._no_address

    @property
    def _no_address(self) -> str:
        if self._beside:
            return ""  # the other CNI gives them
        me = self._node.rows.get(self._own)
        if me is None or not me.pod_cidrs:
            return "the node has no pod CIDR"
        return "no address is free in the pod CIDRs of the node" if self._tables.full else ""
