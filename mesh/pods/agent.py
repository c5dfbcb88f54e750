"""Pods on a node: addresses, links, keys in the store, rows of ``mg_pod_addr``.

    objects, attachments                  -> wanted: what is to be connected
    wanted, CIDRs of this node            -> local pod -> links (the kernel)
    local pod, devices of the kernel      -> keys ``pod/<node>/…`` in the store
    local pod, devices, identities, marks -> mg_pod_addr, then mg_known: who is not there is gone

A covered pod sends nothing uncovered: its row is written after the rows that its own marks lead
to, and those are deleted after it. Rows of other marks hold no pod up.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from mesh.core.feature import AgentFeature, Maps, Mark
from mesh.core.groups import By, To
from mesh.core.model import (
    IP,
    Attachment,
    Finding,
    FurtherAddresses,
    LinkKey,
    Namespace,
    Network,
    Node,
    NodeKey,
    Pod,
    PodEntry,
    PodKey,
    PodRef,
    Sandbox,
    pod_of,
)
from mesh.core.noun import Listing
from mesh.core.reconcile import AppliedRows, Loop, Refers, Target
from mesh.core.table import Changes, Source, Table
from mesh.identity.labels import LONGEST_TEXT, identity_labels, namespace_of
from mesh.objects.kubernetes import NAMESPACES
from mesh.objects.tables import Objects
from mesh.pods.assigned import Assigned, assign
from mesh.pods.beside import (
    FoundPod,
    FoundPods,
    Inside,
    Insides,
    Missing,
    found_pods,
    ordered,
    reported,
)
from mesh.pods.connections import Connections
from mesh.pods.findings import NO_ADDRESS
from mesh.pods.layouts import declared
from mesh.pods.links import Device, PodLink, PodLinks, device_name, netns_path
from mesh.pods.local import no_attachments, rank
from mesh.pods.maps import DEVICE_MAP, KNOWN_PODS, device_target, known_target, pod_target
from mesh.pods.nouns import LINK, link_row, pod_row
from mesh.pods.rows import (
    LocalPod,
    PodIdentity,
    PodRows,
    forget,
    macs_of,
    marked_since,
    pod_rows,
    second,
    tokens_of_mark,
)

V = TypeVar("V")

WITHOUT_MAC = "ARP and neighbour discovery of the other pods are dropped (ENDPOINT_NOT_READY)"
WITHOUT_ROW = "pods of this node without a row send and get nothing (ENDPOINT_NOT_READY)"


class Entries(Protocol):
    """Keys and values of this node's pods in the store."""

    def key(self, ref: PodRef) -> str:
        """Key of a pod."""

    def value(self, entry: PodEntry) -> bytes:
        """Value of a pod."""

    @property
    def synced(self) -> tuple[str, bytes]:
        """The key and value that say that all pods of this node are in the store."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """``pattern`` is the path of a pod's network namespace; ``mtu`` is what a pod may send.

    Without a pattern a pod is connected when a container runtime asks for it. ``beside``: another
    CNI connects pods, and they are found (``beside.py``). ``further`` are addresses that pods get
    beside their own, ``vrf`` is the VRF of those in one. ``awaits_namespaces``: an API server has
    an object of every namespace, so a pod whose Namespace has yet to arrive is not known.
    """

    pattern: str
    mtu: int
    beside: bool = False
    further: Table[PodKey, FurtherAddresses] | None = None
    vrf: Table[PodKey, str] | None = None
    awaits_namespaces: bool = False


class PodsAgent(AgentFeature):
    """``own`` is this node; ``mine`` are the objects of its pods."""

    def __init__(
        self,
        own: NodeKey,
        wiring: Wiring,
        objects: Objects,
        mine: Table[PodKey, Pod],
        node: Table[NodeKey, Node],
        number: Table[str, int],
        marks: Sequence[Mark],
        entries: Entries,
        attached: Table[Sandbox, Attachment] | None = None,
    ) -> None:
        self.own = own
        #: Addresses of the pods that this node holds, also of those that the kernel had at the
        #: start.
        self.held: dict[LinkKey, tuple[IP, ...]] = {}
        self.namespaces: Table[str, int] = Table("netns")
        self.devices: Table[LinkKey, Device] = Table("device")
        self.local_pod: Table[LinkKey, Pod] = Table("local pod")
        self.link: Table[LinkKey, PodLink] = Table("pod link")
        #: Beside another CNI: what stands in each network namespace, and which pods are there.
        self.inside: Table[str, Inside] = Table("eth0 of namespace")
        self.found: Table[LinkKey, FoundPod] = Table("found pod")
        self._missing, self._failed = Missing(), set[LinkKey]()
        self.entry: Table[str, bytes] = Table("pod entry of ours")
        self.pod: Table[IP, LocalPod] = Table("pod")
        #: MAC addresses of pods by the ifindex of the host end.
        self.mac: Table[int, str] = Table("MAC of pod")
        #: Tables of which a missing row says something, by name of ``enum known``.
        self.complete_pods: Table[str, bool] = Table("complete pods")
        self._wiring, self._mine = wiring, mine
        self._attached = attached if attached is not None else no_attachments()
        self._further = _known(wiring.further, "no further addresses")
        self._vrf = _known(wiring.vrf, "no VRF")
        self._wanted: Table[LinkKey, Pod] = Table("pod to be connected")
        #: What a container runtime waits for.
        self.connections = Connections(own, node, mine, self, beside=wiring.beside)
        self._seen: tuple[int, tuple[Network, ...]] | None = None  # pods and CIDRs
        self._assigned = Assigned((), (), self.held)
        self._objects_placed: dict[LinkKey, Pod] = {}  # of which ``local_pod`` was made
        self._objects, self._node, self._number = objects, node, number
        self._marked = tuple(marks)
        self.layouts = declared(marks)
        self._entries = entries
        self._watch: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._labels: Table[PodKey, str] = Table("labels of pod")
        self.claimed: Table[PodKey, int] = Table("claimed identity of pod")
        self._identity: Table[LinkKey, PodIdentity] = Table("identity of pod")

    # --- Derivations --------------------------------------------------------------------------

    def derive(self, loop: Loop) -> None:
        by_pod = By(self._attached, lambda key, _: [key.pod])
        if self._wiring.beside:
            self._derive_found(loop)
        else:
            self._derive_links(loop)
        to_namespace = To(self._objects[NAMESPACES], lambda key, _: key.namespace)
        loop.group(self._labels, self._labels_of, By(self._mine), to_namespace)
        loop.group(
            self.entry,
            self._entry,
            By(self.local_pod, lambda key, _: [pod_of(key)]),
            By(self._labels),
            By(self.devices, lambda key, _: [pod_of(key)]),
            by_pod,
            To(self._vrf, lambda key, *_: key),
            also=[self.devices],
            late=[self.devices],
        )
        loop.derive([self.devices, self.entry], self._say_synced)
        loop.group(
            self.claimed, _claimed, By(self._labels), To(self._number, lambda _, labels: labels)
        )
        loop.group(
            self._identity,
            self._identity_of,
            By(self.local_pod),
            To(self.claimed, lambda key, _: pod_of(key)),
            By(self.devices),
            To(self._objects[NAMESPACES], lambda key, *_: pod_of(key).namespace),
            also=[self.devices],
        )
        self._cover(loop)
        loop.group(
            self.pod,
            self._pod_rows,
            By(self.local_pod),
            By(self.devices),
            By(self._identity),
            *(To(mark.numbers, lambda key, *_: pod_of(key)) for mark in self._marked),
            also=[self.devices],
            late=[self.devices],
        )
        loop.derive([self.pod], self._know_pods)
        by_ifindex = By(self.devices, lambda _, device: [device.ifindex])
        loop.group(self.mac, macs_of, by_ifindex)

    def _pod_rows(
        self,
        key: LinkKey,
        pod: Pod | None,
        device: Device | None,
        identity: PodIdentity | None,
        *numbers: int | None,
    ) -> dict[IP, LocalPod]:
        """With the time from which a running pod is marked. The rows of before are inputs, too."""
        rows = pod_rows(key, pod, device, identity, *numbers, names=self._mark_names)
        found = self.found.rows.get(key)
        adopted = found is not None and found.adopted
        return marked_since(rows, self.pod.rows, second(), adopted=adopted)

    def _derive_found(self, loop: Loop) -> None:
        loop.derive([self._mine, self._attached], self._take_reported)
        loop.group(
            self.found,
            found_pods,
            By(self.local_pod, lambda _, pod: [ordered(pod.addresses)]),
            By(self.inside, lambda _, row: [row.addresses]),
        )
        loop.derive([self.found], self._settle_devices, [self.devices])

    def _take_reported(self) -> None:
        """The other CNI has given the addresses; the objects say which, or a chained ADD."""
        mine = self._mine.rows
        self.held = reported(mine, self._attached.rows)
        rows = {key: self._placed(key, mine[pod_of(key)], held) for key, held in self.held.items()}
        self._objects_placed = {key: mine[pod_of(key)] for key in rows}
        self.local_pod.replace(rows)

    def _settle_devices(self) -> None:
        """Rows of pods that are not found go when all that are found have a device."""
        if self.found.rows.keys() <= self.devices.rows.keys() | self._failed:
            self.devices.mark_synced()

    def _derive_links(self, loop: Loop) -> None:
        by_pod = By(self._attached, lambda key, _: [key.pod])
        loop.group(self._wanted, self._connect, By(self._mine), by_pod)
        loop.derive([self._wanted, self._node], self._assign)
        loop.group(
            self.link,
            self._link,
            By(self.local_pod),
            To(self._attached, lambda key, _: key if isinstance(key, Sandbox) else None),
            To(self.namespaces, self._netns_of),
            To(self._further, lambda key, *_: pod_of(key)),
            also=[self._further],
        )

    def _connect(
        self, key: PodKey, pod: Pod | None, attached: Mapping[Sandbox, Attachment]
    ) -> dict[LinkKey, Pod]:
        """A pod is connected as often as runtimes have asked; if none has, where it is found."""
        if pod is None:
            return {}
        if attached:
            return {
                one: replace(pod, addresses=row.addresses) if row.addresses else pod
                for one, row in attached.items()
            }
        return {key: pod} if self._wiring.pattern else {}

    def _know_pods(self) -> None:
        self.complete_pods.replace({KNOWN_PODS: True})

    def _assign(self) -> None:
        """Addresses of the pods of this node: which are free depends on the other pods."""
        me, wanted = self._node.rows.get(self.own), self._wanted
        last, self._seen = self._seen, (wanted.revision, me.pod_cidrs if me else ())
        if self._seen == last:
            return  # a change of another node
        few = last and last[1] == self._seen[1] and not self._assigned.unplaced
        changes = wanted.changes(last[0]) if last and few else None
        if changes is None:
            self._assign_all(self._seen[1])
        else:
            self._assign_changed(changes)

    def _assign_all(self, cidrs: tuple[Network, ...]) -> None:
        wanted, given = _without_addresses(self._wanted.rows)
        self.held = assign(wanted, cidrs, self.held)
        self._assigned = Assigned(wanted, cidrs, self.held)
        rows = {k: self._placed(k, wanted[k], a) for k, a in self.held.items()}
        self._objects_placed = {key: wanted[key] for key in rows}
        self.local_pod.replace(rows | given)

    def _assign_changed(self, changes: Changes[LinkKey, Pod]) -> None:
        came, given = _without_addresses(changes.upsert)
        now = self._assigned.change(came, changes.delete)
        changed = [key for key in {**dict.fromkeys(now), **came} if key in self.held]
        pods = {key: self._wanted.rows[key] for key in changed}
        self._objects_placed |= pods
        for key in changes.delete:
            self._objects_placed.pop(key, None)
        self.local_pod.upsert(
            {key: replace(pod, addresses=self.held[key]) for key, pod in pods.items()} | given
        )
        self.local_pod.delete(changes.delete)

    def _placed(self, key: LinkKey, pod: Pod, addresses: tuple[IP, ...]) -> Pod:
        """The pod with its addresses; the row that there is when nothing differs."""
        have = self.local_pod.rows.get(key)
        if have and self._objects_placed.get(key) is pod and have.addresses == addresses:
            return have
        return replace(pod, addresses=addresses)

    def _netns_of(self, key: LinkKey, *_: object) -> str | None:
        return None if isinstance(key, Sandbox) else netns_path(self._wiring.pattern, key)

    def _link(
        self,
        key: LinkKey,
        pod: Pod | None,
        attached: Attachment | None,
        inode: int | None,
        further: FurtherAddresses | None,
    ) -> dict[LinkKey, PodLink]:
        """The link of a pod that has addresses and whose network namespace exists."""
        if pod is None or not pod.addresses or (attached and attached.addresses):
            return {}  # without an address, or another CNI's
        device, mtu = device_name(key), self._wiring.mtu
        if attached:
            place = attached.netns, attached.inode, device, pod.addresses, mtu, attached.interface
            return {key: PodLink(*place, further=further)}
        path = self._netns_of(key)
        if not (path and inode):
            return {}
        return {key: PodLink(path, inode, device, pod.addresses, mtu, further=further)}

    def _entry(
        self,
        key: PodKey,
        pods: Mapping[LinkKey, Pod],
        labels: str | None,
        devices: Mapping[LinkKey, Device],
        attached: Mapping[Sandbox, Attachment],
        vrf: str | None,
    ) -> dict[str, bytes]:
        """The store's key of a pod that the kernel has, with the addresses that it has there."""
        there = {one: devices[one] for one in devices if one in pods}
        if labels is None or not there:
            return {}
        device = there[_counted(there, attached)]
        ref = PodRef(self.own.name, key.namespace, key.name)
        entry = PodEntry(device.addresses, labels, vrf=vrf or "")
        return {self._entries.key(ref): self._entries.value(entry)}

    def _say_synced(self) -> None:
        key, value = self._entries.synced
        self.entry.upsert({key: value})

    def _identity_of(
        self,
        key: LinkKey,
        pod: Pod | None,
        number: int | None,
        device: Device | None,
        namespace: Namespace | None,
    ) -> dict[LinkKey, PodIdentity]:
        """A pod whose labels changed keeps its identity until the new one is claimed (D23).

        One whose namespace is not known has none.

        So the row of before is an input, too. Nothing but this group writes it.
        """
        if pod is None or device is None or self._awaits(namespace):
            return {}
        if number:
            return {key: PodIdentity(device.ifindex, number)}
        last = self._identity.rows.get(key) or self._recovered_identity(pod)
        return {key: last} if last and last.ifindex == device.ifindex else {}

    def _recovered_identity(self, pod: Pod) -> PodIdentity | None:
        """That of the map, which the last agent has written: of found pods no device says it."""
        rows = (self.pod.rows.get(address) for address in pod.addresses)
        row = next(filter(None, rows), None) if self._wiring.beside else None
        return PodIdentity(row.ifindex, row.identity) if row else None

    # --- Marks of pods that the last agent wired ----------------------------------------------

    @property
    def _mark_names(self) -> tuple[str, ...]:
        return tuple(mark.name for mark in self._marked)

    def _labels_of(
        self, key: PodKey, pod: Pod | None, namespace: Namespace | None
    ) -> dict[PodKey, str]:
        """The label text of a pod; none while the labels of its namespace have yet to arrive.

        Policies and VRFs may select the pod by them: it would send uncovered. A Namespace goes
        after its pods, so one that was deleted by force may lose its network.
        """
        return {} if pod is None or self._awaits(namespace) else _labels(key, pod, namespace)

    def _awaits(self, namespace: Namespace | None) -> bool:
        return namespace is None and self._wiring.awaits_namespaces

    def _cover(self, loop: Loop) -> None:
        numbers: list[Source] = [mark.numbers for mark in self._marked]
        loop.derive([self._mine, *numbers], self._mark_held)

    def _mark_held(self) -> None:
        """Marks of the pods in the map, which need no store.

        A policy that came while the agent was dead covers them also when the store is away. Once
        the rows of pods are made, their marks are in them.
        """
        if self.pod.synced:
            return
        pods = {key: pod_of(key) for key in self.held if pod_of(key) in self._mine.rows}
        owners = {a: pod for key, pod in pods.items() for a in self.held[key]}
        rows = {}
        for address, row in self.pod.rows.items():
            if key := owners.get(address):
                marks = tuple([(m.name, m.numbers.rows.get(key, 0)) for m in self._marked])
                if marks != row.marks:
                    rows[address] = replace(row, marks=marks)
        self.pod.upsert(rows)

    # --- The kernel ---------------------------------------------------------------------------

    async def recover(self, maps: Maps) -> None:
        self.take_held(await pod_target(maps, self._mark_names).read())

    def take_held(self, rows: Mapping[IP, LocalPod]) -> None:
        """Start from the rows that the map has; ``held`` says whose they are."""
        self.pod.upsert(rows)
        there = {
            key: row
            for key, addresses in self.held.items()
            for address in addresses
            if (row := rows.get(address))
        }
        identities = {key: PodIdentity(row.ifindex, row.identity) for key, row in there.items()}
        self._identity.upsert(identities)
        for mark in self._marked:
            mark.before |= {
                pod_of(key): dict(row.marks).get(mark.name, 0) for key, row in there.items()
            }

    def apply_links(
        self, loop: Loop, links: PodLinks | FoundPods, entries: Target[str, bytes]
    ) -> AppliedRows[str, bytes]:
        """Connect links with the kernel and keys with the store.

        A key follows its link, because it is made of the pod's device. So a pod that cannot be
        wired costs its own key only.
        """
        if isinstance(links, FoundPods):
            self.connections.watch(loop.apply(self.found, links))
            self._failed = links.failed
            self._watch = Insides(self.namespaces, self.inside, attached=self._attached).run
        else:
            wired = loop.apply(self.link, links)
            self.connections.watch(wired)
            self._watch = partial(links.watch, wired.recheck)
        return loop.apply(self.entry, entries)

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self._watch,) if self._watch else ()

    def apply(self, loop: Loop, maps: Maps) -> None:
        clear = partial(forget, maps.program("mg_forget"), maps.struct("forget"))
        target = PodRows(pod_target(maps, self._mark_names), clear)
        rows = self.apply_rows(loop, target, maps.capacity("mg_pod_addr"))
        loop.apply(self.complete_pods, known_target(maps), after=[rows])
        loop.apply(
            self.mac, device_target(maps), capacity=maps.capacity(DEVICE_MAP), meaning=WITHOUT_MAC
        )

    def apply_rows(
        self, loop: Loop, target: Target[IP, LocalPod], capacity: int
    ) -> AppliedRows[IP, LocalPod]:
        """Connect the rows of pods with their map."""
        refers = [
            Refers(applied, partial(tokens_of_mark, mark.name, tokens))
            for mark in self._marked
            for applied, tokens in mark.refers
        ]
        rows = loop.apply(self.pod, target, refers=refers, capacity=capacity, meaning=WITHOUT_ROW)
        self.connections.watch(rows)
        return rows

    # --- What others see ----------------------------------------------------------------------

    def listings(self) -> Mapping[str, Listing]:
        return {
            "pod": lambda: [
                pod_row(key, pod, self.claimed.rows.get(key))
                for key, pod in sorted(self._shown().items())
            ],
            LINK.name: lambda: [
                link_row(pod_of(key), place.netns)
                for table in (self.link, self.found)
                for key, place in table.rows.items()
            ],
        }

    def _shown(self) -> dict[PodKey, Pod]:
        """Pods with the addresses by which the mesh knows them."""
        rows: dict[PodKey, dict[LinkKey, Pod]] = {}
        for key, pod in self.local_pod.rows.items():
            rows.setdefault(pod_of(key), {})[key] = pod
        return {key: found[_counted(found, self._attached.rows)] for key, found in rows.items()}

    def by_device(self) -> Mapping[int, str]:
        """Names of wired pods by the ifindex of the host end."""
        rows = self.devices.rows
        return {device.ifindex: f"{key.namespace}/{key.name}" for key, device in rows.items()}

    @property
    def full(self) -> bool:
        """Whether no further pod can have an address."""
        return self._assigned.full

    def findings(self) -> Iterable[Finding]:
        if not self.local_pod.synced:
            return
        if self._wiring.beside:
            yield from self._missing.findings(
                self.local_pod.rows, self.devices.rows, self.inside.rows
            )
            return
        for key in self._wanted.rows:
            if key not in self.local_pod.rows:
                place = f"Pod/{key.namespace}/{key.name}"
                text = "no address is free in the pod CIDRs of the node: the pod is not connected"
                yield Finding(NO_ADDRESS, place, "status.podIPs", text)

    def contradicted(self, puts: Mapping[str, bytes], deletes: Iterable[str], place: str) -> bool:
        """Whether the store has something else about pods of this node than we have written.

        ``place`` is the prefix of this node's keys.
        """
        written = self.entry.rows
        changed = any(
            written.get(key) != value for key, value in puts.items() if key.startswith(place)
        )
        return changed or any(key in written for key in deletes)


def _known(table: Table[PodKey, V] | None, name: str) -> Table[PodKey, V]:
    """The table, or an empty one of a node without the feature that would fill it."""
    if table is not None:
        return table
    empty: Table[PodKey, V] = Table(name)
    empty.mark_synced()
    return empty


def _without_addresses(
    pods: Mapping[LinkKey, Pod],
) -> tuple[dict[LinkKey, Pod], dict[LinkKey, Pod]]:
    """Pods that are to have addresses, and those that another CNI has given some."""
    wanted = {key: pod for key, pod in pods.items() if not pod.addresses}
    return wanted, {key: pod for key, pod in pods.items() if pod.addresses}


def _counted(keys: Iterable[LinkKey], attached: Mapping[Sandbox, Attachment]) -> LinkKey:
    """Of the connections of one pod, the one whose addresses the mesh knows."""

    def order(key: LinkKey) -> tuple[bool, int]:
        row = attached.get(key) if isinstance(key, Sandbox) else None
        return rank(row) if row else (False, 0)

    return max(keys, key=order)


def _labels(key: PodKey, pod: Pod, namespace: Namespace | None) -> dict[PodKey, str]:
    text = identity_labels(pod, namespace or namespace_of(pod, {}))
    return {key: text} if len(text.encode()) <= LONGEST_TEXT else {}  # M159 of the controller


def _claimed(key: PodKey, labels: str | None, number: int | None) -> dict[PodKey, int]:
    return {key: number} if labels is not None and number else {}
