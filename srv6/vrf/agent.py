"""VRFs on a node: objects and claims become the maps that ``vrf.h`` and ``sid.h`` read.

    VRFs, pods of this node            -> members -> the number in each pod's row
    members, claims of addresses       -> further addresses of the pods (``mesh/pods/links.py``)
    pods of other nodes, SIDs          -> reach -> mg_vrf_host, mg_vrf_via
    SIDs and locators of this node     -> mg_sid, mg_sid_locator
    nodes, pools, peers, configuration -> mg_srv6_domain

A pod of a VRF sends nothing to its destinations by another way: its row is written after the
destinations of its VRF (``mark``). A VRF without a number has zone CLOSED, where no route is.
Numbers and addresses are kept in a file, so that an agent without its store goes on with them.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from time import monotonic
from typing import Any

from mesh.core.feature import AgentFeature, Maps, Mark
from mesh.core.groups import By, To
from mesh.core.model import (
    ClaimKey,
    Finding,
    FurtherAddresses,
    Network,
    Node,
    NodeKey,
    Pod,
    PodEntry,
    PodKey,
    PodRef,
)
from mesh.core.noun import Listing
from mesh.core.reconcile import Loop, Refers
from mesh.core.sources import OwnStore
from mesh.core.table import Table
from mesh.core.ticks import tick
from mesh.objects.tables import Objects
from srv6 import sids
from srv6.agent import LocatorsAgent
from srv6.behaviours import is_next_csid
from srv6.sids import SID
from srv6.vrf import maps as entries
from srv6.vrf import nouns, rows
from srv6.vrf.accepted import AcceptedVRFs
from srv6.vrf.compared import Differences, Told, ends
from srv6.vrf.domain import Domain
from srv6.vrf.findings import NO_SOURCE, NOT_KEPT, TWO_SIDS
from srv6.vrf.kept import FILE, KeptVRFs
from srv6.vrf.kind import VRF, VRFS
from srv6.vrf.known import KnownVRFs, Tenants
from srv6.vrf.members import Members, VRFMember
from srv6.vrf.paths import Paths
from srv6.vrf.routes import reach_of_pod, sids_by_vrf
from srv6.vrf.rows import CLOSED, ZonedPrefix

#: Who lacks what when a map is full, with the reason of the drop.
WITHOUT_HOST = "packets of VRFs to the pods that do not fit are dropped (NO_VRF_ROUTE)"
WITHOUT_SID = "packets to the SIDs that do not fit are dropped"
WITHOUT_DESTINATION = "pods of the VRFs that do not fit are not connected"
WITHOUT_SOURCE = "packets to SIDs from the sources that do not fit are dropped"


#: Seconds between looks at what BGP says of the pods of other nodes.
COMPARE_S = 10.0


class VRFAgent(AgentFeature):
    """``own`` is this node, ``pods`` its pods' objects, ``counted`` the pods of the cluster."""

    def __init__(
        self,
        own: NodeKey,
        state_dir: Path,
        objects: Objects,
        pods: Table[PodKey, Pod],
        store: OwnStore,
        counted: Table[PodRef, PodEntry],
        node: Table[NodeKey, Node],
        locators: LocatorsAgent,
        domain: Domain,
    ) -> None:
        self._own, self._objects, self._counted, self._node = own, objects, counted, node
        self._locators = locators
        self._kept = KeptVRFs(state_dir / FILE, own.cluster)
        self.vrfs = AcceptedVRFs(objects)
        self.members = Members(objects, pods)
        self.known = KnownVRFs(
            own.cluster, store.claims_of, locators.locator, lambda: locators.blocks
        )
        #: The VRF of each pod of this node that is in one, and its addresses there.
        self.vrf_of_pod: Table[PodKey, str] = Table("VRF of pod")
        self.further: Table[PodKey, FurtherAddresses] = Table("further addresses of pod")
        self.mark = Mark("vrf", Table("VRF number of pod"))
        self.marks = (self.mark,)
        self.destination: Table[ZonedPrefix, None] = Table("destination of VRF")
        self._known_zones: set[int] = set()  # those of ``destination``: each pod's row asks
        self.reach: Table[ZonedPrefix, rows.VRFReach] = Table("reach in VRF")
        self.host: Table[ZonedPrefix, rows.VRFRoute] = Table("route of VRF")
        self._paths = Paths("path of VRF", self.reach)
        self.path = self._paths.table
        self.sid: Table[IPv6Address, rows.LocalSID] = Table("SID of this node")
        self.lengths: Table[IPv6Network, tuple[int, int, int, int]] = Table("lengths of locator")
        self.domain = domain
        self.differences = Differences(monotonic)
        #: Maps of the speaker, which the agent only reads.
        self._told: Told | None = None
        self._source: Table[str, IPv6Address] = Table("outer source")
        self._sids_of: Table[tuple[str, str], tuple[SID, ...]] = Table("SIDs of VRF on node")
        self._own_sid: Table[ClaimKey, SID] = Table("claimed SID of this node")

    def derive(self, loop: Loop) -> None:
        known, vrfs = self.known, self.vrfs.table
        self.vrfs.derive(loop)
        self.members.derive(loop)
        known.derive(loop)
        self.domain.derive(loop)
        of_member = To(vrfs, lambda _, member, *__: member.vrf if member else None)
        number = To(known.number, lambda _, member, *__: member.vrf if member else None)
        by_member: By[PodKey, PodKey, VRFMember] = By(self.members.table)
        loop.group(self.vrf_of_pod, _vrf_of_pod, by_member, of_member)
        loop.group(self.mark.numbers, _number, by_member, of_member, number, also=[known.number])
        loop.group(
            self.further,
            _further,
            by_member,
            of_member,
            To(known.tenant, lambda key, *_: key),
            also=[known.tenant],
        )
        loop.derive([self.members.table, vrfs], self._destinations, [known.number])
        loop.derive([known.number, known.tenant, self.members.table], self._keep)
        self._derive_reach(loop)
        self._derive_sids(loop)

    def _derive_reach(self, loop: Loop) -> None:
        known = self.known
        loop.group(self._source, self._source_of, By(self._node, self._if_own))
        by_place = By(known.sid, lambda _, row: [(row.node, row.vrf)])
        loop.group(self._sids_of, sids_by_vrf, by_place)
        loop.group(
            self.reach,
            self._reach,
            By(self._counted, self._if_elsewhere),
            To(known.tenant, self._pod_of),
            To(self.vrfs.table, _vrf_of_entry),
            To(known.number, _vrf_of_entry),
            To(self._sids_of, lambda ref, pods, *_: (ref.node, _vrf_of_entry(ref, pods) or "")),
            whole=[self._source],
        )
        loop.group(self.host, rows.route_of, By(self.reach))
        self._paths.derive(loop)

    def _derive_sids(self, loop: Loop) -> None:
        loop.group(self._own_sid, _same, By(self.known.sid, self._if_of_this_node))
        locator = self._locators.locator
        loop.derive([self._own_sid, self.known.number, locator], self._make_sids)

    async def recover(self, maps: Maps) -> None:  # noqa: ARG002 - from a file
        numbers, tenants = self._kept.load()
        self.known.number.upsert(numbers)
        self.known.tenant.upsert(tenants)

    # --- Members ------------------------------------------------------------------------------

    def _destinations(self) -> None:
        """Destinations of the VRFs of this node's pods, all at once: they are few."""
        found: dict[ZonedPrefix, None] = {}
        used, numbers = self.vrfs.table.rows, self.known.number.rows
        for name in {member.vrf for member in self.members.table.rows.values()}:
            zone = numbers.get(name, CLOSED) if name in used else CLOSED
            vrf = self._objects[VRFS].rows.get(name)
            for prefix in vrf.destinations if vrf else ():
                found[ZonedPrefix(zone, prefix)] = None
        self._known_zones = {key.zone for key in found}
        self.destination.replace(found)

    def _keep(self) -> None:
        members = self.members.table.rows
        names = {member.vrf for member in members.values()}
        numbers = {name: n for name, n in self.known.number.rows.items() if name in names}
        tenants = self.known.tenant.rows
        self._kept.save(numbers, {key: tenants[key] for key in members if key in tenants})

    def destinations_of(self, vrf: str) -> tuple[Network, ...]:
        """What the pods of a VRF send into it."""
        row = self._objects[VRFS].rows.get(vrf)
        return row.destinations if row else ()

    # --- Other nodes --------------------------------------------------------------------------

    def _if_own(self, key: NodeKey, _: Node) -> list[str]:
        return [key.name] if key == self._own else []

    def _source_of(self, name: str, nodes: Mapping[NodeKey, Node]) -> dict[str, IPv6Address]:
        """The outer source of this node's packets: its first IPv6 address."""
        found = (a for node in nodes.values() for a in node.addresses if a.version == 6)
        first = next(found, None)
        return {name: first} if isinstance(first, IPv6Address) else {}

    def _if_elsewhere(self, ref: PodRef, entry: PodEntry) -> list[PodRef]:
        return [ref] if entry.vrf and ref.node != self._own.name else []

    def _pod_of(self, ref: PodRef, _: object) -> PodKey:
        return PodKey(self._own.cluster, ref.namespace, ref.name)

    def _reach(
        self,
        ref: PodRef,
        pods: Mapping[PodRef, PodEntry],
        tenants: Tenants | None,
        vrf: VRF | None,
        number: int | None,
        sids: tuple[SID, ...] | None,
    ) -> dict[ZonedPrefix, rows.VRFReach]:
        source = self._source.rows.get(self._own.name)
        return reach_of_pod(ref, pods, tenants, vrf, number, sids, source)

    # --- SIDs of this node --------------------------------------------------------------------

    def _if_of_this_node(self, key: ClaimKey, row: SID) -> list[ClaimKey]:
        return [key] if row.node == self._own.name else []

    def _make_sids(self) -> None:
        """SIDs and locators of this node, all at once: they are few."""
        numbers, blocks = self.known.number.rows, self._locators.blocks
        claimed = self._own_sid.rows.values()
        found = {
            row.sid: rows.local_sid(row, numbers[row.vrf]) for row in claimed if row.vrf in numbers
        }
        locator = self._locators.locator.rows.get(self._own)
        csid = any(is_next_csid(row.behaviour) for row in claimed)
        if locator is not None:
            own = sids.node_sid(self._own.name, locator, blocks, csid=csid)
            found[own.sid] = rows.local_sid(own, 0)
            block = own.block
            parts = (block, locator.prefixlen - block, sids.FUNCTION_BITS, sids.ARGUMENT_BITS)
            self.lengths.replace({locator: parts})
        else:
            self.lengths.replace({})
        self.sid.replace(found)

    # --- The datapath -------------------------------------------------------------------------

    def apply(self, loop: Loop, maps: Maps) -> None:
        destinations = loop.apply(
            self.destination,
            maps.rows("mg_vrf_dest", entries.encode_destination, entries.decode_destination),
            token=lambda key: key.zone,
            capacity=maps.capacity("mg_vrf_dest"),
            meaning=WITHOUT_DESTINATION,
        )
        self.mark.refers.append((destinations, self._zones))
        self._apply_routes(loop, maps)
        self._apply_sids(loop, maps)
        loop.apply(
            self.domain.table,
            maps.rows("mg_srv6_domain", *entries.sources(maps.enum("srv6_source_flag"))),
            capacity=maps.capacity("mg_srv6_domain"),
            meaning=WITHOUT_SOURCE,
        )

    def _zones(self, number: int) -> Iterable[int]:
        """The zone whose destinations a pod's number leads to; a VRF may have none."""
        return (number,) if number in self._known_zones else ()

    def _apply_routes(self, loop: Loop, maps: Maps) -> None:
        paths = loop.apply(
            self.path,
            maps.rows("mg_vrf_via", *entries.paths(maps.enum("vrf_via_flag"))),
            capacity=maps.capacity("mg_vrf_via"),
            meaning=WITHOUT_HOST,
        )
        loop.apply(
            self.host,
            maps.rows("mg_vrf_host", *entries.hosts(maps.enum("vrf_route_flag"))),
            refers=[Refers(paths, rows.numbers_of)],
            capacity=maps.capacity("mg_vrf_host"),
            meaning=WITHOUT_HOST,
        )

    def _apply_sids(self, loop: Loop, maps: Maps) -> None:
        codec = entries.sids(maps.enum("sid_behaviour"), maps.enum("sid_flavour"))
        loop.apply(
            self.sid,
            maps.rows("mg_sid", *codec),
            capacity=maps.capacity("mg_sid"),
            meaning=WITHOUT_SID,
        )
        loop.apply(
            self.lengths,
            maps.rows("mg_sid_locator", entries.encode_locator, entries.decode_locator),
            capacity=maps.capacity("mg_sid_locator"),
            meaning=WITHOUT_SID,
        )
        self._told = Told(maps)

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self._compare_for_ever,)

    async def _compare_for_ever(self) -> None:
        while True:
            await tick(COMPARE_S)
            if self._told:
                with suppress(OSError):  # a map is being replaced
                    await self._compare(self._told)

    async def _compare(self, told: Told) -> None:
        """Compare our own routes with those that the speaker has of the same prefixes."""
        bgp = await told.ends(list(self.host.rows))
        self.differences.take(ends(self.host.rows, self.path.rows, self.host.rows), bgp)

    def lacks(self, pod: PodKey) -> str:
        member = self.members.table.rows.get(pod)
        vrf = self.vrfs.table.rows.get(member.vrf) if member else None
        if vrf is None or not vrf.addresses or pod in self.further.rows:
            return ""
        return f"an address of VRF {vrf.name}"

    def listings(self) -> Mapping[str, Listing]:
        return {
            nouns.TENANT.name: lambda: nouns.tenant_rows(self.vrf_of_pod.rows, self.further.rows)
        }

    def findings(self) -> Iterable[Finding]:
        about = (f"node/{self._own.name}",)
        names = {number: name for name, number in self.known.number.rows.items()}
        for key, (ours, theirs) in self.differences.lasting().items():
            name = names.get(key.zone, str(key.zone))
            text = f"{key.prefix}: {ours} in the store, {theirs} by BGP on node {self._own.name}"
            yield Finding(TWO_SIDS, f"VRF/{name}", str(key.prefix), text, (f"vrf/{name}", *about))
        yield from self._paths.findings(self._own.name)
        if self.members.table.rows and self._source.synced and not self._source.rows:
            text = "it has no IPv6 address, and pods of VRFs"
            yield Finding(NO_SOURCE, f"Node/{self._own.name}", "status.addresses", text, about)
        if self._kept.problem:
            yield Finding(NOT_KEPT, f"{self._own.name}/{FILE}", "", self._kept.problem, about)


def _vrf_of_entry(ref: PodRef, pods: Mapping[PodRef, PodEntry], *_: object) -> str | None:
    return pods[ref].vrf if ref in pods else None


def _same(key: ClaimKey, found: Mapping[ClaimKey, SID]) -> dict[ClaimKey, SID]:
    return dict(found) if key in found else {}


def _vrf_of_pod(key: PodKey, member: VRFMember | None, vrf: VRF | None) -> dict[PodKey, str]:
    return {key: member.vrf} if member and vrf else {}


def _number(
    key: PodKey, member: VRFMember | None, vrf: VRF | None, number: int | None
) -> dict[PodKey, int]:
    """The number in a pod's row; one of a VRF that is not used, or has none yet, is CLOSED."""
    if member is None:
        return {}
    return {key: number if vrf and number else CLOSED}


def _further(
    key: PodKey, member: VRFMember | None, vrf: VRF | None, tenants: Tenants | None
) -> dict[PodKey, FurtherAddresses]:
    """What a pod gets beside its own addresses."""
    found = (tenants or {}).get(vrf.name, ()) if member and vrf else ()
    return {key: FurtherAddresses(found, vrf.destinations)} if found and vrf else {}
