"""VRFs on a node's speaker: what routers are told, and what they say (RFC 4364, RFC 9252).

    VRFs, claims, pods of this node    -> offers, each with distinguisher, targets and SID
    received, VRFs, SIDs of the nodes  -> imported: which routes are used, and why not
    imported, numbers                  -> reach -> mg_vrf_bgp_host, mg_vrf_bgp, mg_vrf_bgp_via

The speaker is the only writer of these maps, and the agent of those with what etcd says (D148): a
prefix that both have is reached as etcd says. Nothing is deleted before ``received`` is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from mesh.core.feature import Offer, SpeakerFeature
from mesh.core.groups import By, Each, Followed, To
from mesh.core.model import (
    IDENTITY_WORLD,
    IP,
    Claim,
    ClaimKey,
    Finding,
    Labels,
    Network,
    Node,
    NodeKey,
    PodEntry,
    PodKey,
    PodRef,
)
from mesh.core.noun import Listing, Row
from mesh.core.received import Received, ReceivedKey
from mesh.core.reconcile import AppliedRows, Loop, Refers, Target
from mesh.core.sources import ClaimTables
from mesh.core.table import Changes, Source, Table
from mesh.core.ticks import tick
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects
from mesh.pools.prefixes import subnet, whole
from srv6.behaviours import CODES, families_of
from srv6.locators import NOUN as LOCATOR
from srv6.locators import VRFS_ADVERTISED
from srv6.sids import SID, SIDState
from srv6.vrf import findings as codes
from srv6.vrf import imports, nouns, pins, rows
from srv6.vrf.accepted import AcceptedVRFs
from srv6.vrf.imports import Admitted, Imported, ImportFacts, ImportKey
from srv6.vrf.kind import VRF
from srv6.vrf.known import KnownVRFs
from srv6.vrf.paths import Paths
from srv6.vrf.problems import carried_by
from srv6.vrf.routes import addresses_in, sids_by_vrf

#: Seconds between looks at the pins of the maps.
LOOK_S = 2.0


@dataclass(frozen=True, slots=True)
class VRFInputs:
    """Tables that the routes of VRFs depend on.

    ``pods`` are the entries of this node's pods. ``trusts`` says whether a router's SIDs are
    accepted, from ``peerings``. ``router_id`` gives the BGP identifier, None: not known yet.
    ``carriers`` are the BGPPeers that carry routes of VRFs, with their labels. ``bfd`` has the
    numbers of BFD sessions by router.
    """

    claims_of: Callable[[str], ClaimTables]
    pods: Table[PodRef, PodEntry]
    heard: Table[ReceivedKey, Received]
    peerings: Source
    trusts: Callable[[IP], bool]
    router_id: Callable[[], IPv4Address | None]
    pod_cidrs: Callable[[Node], Iterable[Network]]
    carriers: Table[str, Labels]
    bfd: Table[IP, int]


class VRFSpeaker(SpeakerFeature):
    """``me`` is this node; ``bpffs`` the agent's directory, None: nothing is imported."""

    kind = VRFS_ADVERTISED

    def __init__(
        self, me: NodeKey, bpffs: Path | None, objects: Objects, inputs: VRFInputs
    ) -> None:
        self._me, self._bpffs, self._objects, self._in = me, bpffs, objects, inputs
        self.vrfs = AcceptedVRFs(objects)
        self._locators = inputs.claims_of(LOCATOR).held
        self.locator: Table[NodeKey, IPv6Network] = Table("locator of node")
        self.known = KnownVRFs(me.cluster, inputs.claims_of, self.locator, self._blocks)
        self.imported: Table[ImportKey, Imported] = Table("imported route")
        self.reach: Table[rows.ZonedPrefix, rows.VRFReach] = Table("imported reach")
        self.host: Table[rows.ZonedPrefix, rows.VRFRoute] = Table("imported host of VRF")
        self.prefix: Table[rows.ZonedPrefix, rows.VRFRoute] = Table("imported prefix of VRF")
        self._paths = Paths("imported path of VRF", self.reach)
        self.path = self._paths.table
        self._sids_of: Table[tuple[str, str], tuple[SID, ...]] = Table("SIDs of VRF of node")
        self._by_address: Table[IPv6Address, SID] = Table("SID by address")
        self._admitted_key: Table[ImportKey, None] = Table("imported route within limits")
        self._admitted = Admitted()
        self._applied: dict[Any, AppliedRows[Any, Any]] = {}
        #: Findings about SIDs, and the revisions of the tables that they are of.
        self._odd: tuple[tuple[int, ...], list[Finding]] = ((), [])
        self._facts_of: tuple[tuple[object, ...], ImportFacts] | None = None
        self.inputs: tuple[Source, ...] = (
            self.vrfs.table, self.known.number, self.known.sid, self.known.tenant, inputs.pods,
            inputs.carriers,
        )  # fmt: skip

    def derive(self, loop: Loop) -> None:
        known, heard = self.known, self._in.heard
        loop.group(self.locator, _locator, By(self._locators, self._node_of))
        self.vrfs.derive(loop)
        known.derive(loop)
        by_place = By(known.sid, lambda _, row: [(row.node, row.vrf)])
        loop.group(self._sids_of, sids_by_vrf, by_place)
        loop.group(self._by_address, _by_address, By(known.sid, lambda _, row: [row.sid]))
        loop.group(
            self.imported,
            self._imported,
            By(heard, lambda key, _: [key.prefix] if key.rd else []),
            Each(self._by_address, lambda _, found: [row.sid for row in found.values() if row.sid]),
            whole=[self.vrfs.table, known.number, self.locator, self._in.peerings],
            late=[heard],
        )
        loop.work(
            "imported routes within limits", Followed(self.imported, self._admit), [],
            [self.imported],
        )  # fmt: skip
        loop.derive([self.vrfs.table], self._fit)
        loop.derive([self.imported], self._admitted_key.mark_synced)
        loop.group(
            self.reach,
            self._reach,
            By(self.imported, _place),
            By(self._admitted_key, _place),
            To(self.vrfs.table, lambda pair, *_: pair[0]),
            To(known.number, lambda pair, *_: pair[0]),
            whole=[self._objects[NODES], self._in.bfd],
            late=[self.imported, self._admitted_key],
        )
        late = [self.reach]
        loop.group(self.host, _route, By(self.reach, _hosts), late=late)
        loop.group(self.prefix, _route, By(self.reach, _prefixes), late=late)
        self._paths.derive(loop)

    def apply(self, loop: Loop) -> None:
        """Connect the tables with the maps of the agent."""
        if self._bpffs is None:
            return
        to_paths: Target[Any, Any] = pins.path_rows(self._bpffs)
        hosts: Target[Any, Any] = pins.host_rows(self._bpffs)
        prefixes: Target[Any, Any] = pins.prefix_rows(self._bpffs)
        paths = loop.apply(self.path, to_paths)
        of_hosts = loop.apply(self.host, hosts, refers=[Refers(paths, rows.numbers_of)])
        of_prefixes = loop.apply(self.prefix, prefixes, refers=[Refers(paths, rows.numbers_of)])
        self._applied = {to_paths: paths, hosts: of_hosts, prefixes: of_prefixes}

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self._watch,) if self._applied else ()

    async def _watch(self) -> None:
        """Another version of the agent may pin other maps, which lack our rows."""
        while True:
            await tick(LOOK_S)
            for target, applied in self._applied.items():
                if target.is_replaced and applied.rows.rows:
                    applied.recheck()

    # --- Told to routers ----------------------------------------------------------------------

    def offers(self, node: Node) -> Iterable[Offer]:
        for vrf in self.vrfs.table.rows.values():
            found = self._sids_of.rows.get((self._me.name, vrf.name), ())
            rd = self.distinguisher(vrf)
            if found and rd and vrf.exports:
                yield from self._offers(node, vrf, rd, found)

    def distinguisher(self, vrf: VRF) -> str:
        """The route distinguisher of a VRF on this node; empty: not known yet (RFC 4364 4.2)."""
        number, router_id = self.known.number.rows.get(vrf.name), self._in.router_id()
        return vrf.rd or (f"{router_id}:{number}" if number and router_id else "")

    def names(self) -> dict[str, str]:
        """Names of VRFs by route distinguisher."""
        return {self.distinguisher(vrf): vrf.name for vrf in self.vrfs.table.rows.values()}

    def _offers(self, node: Node, vrf: VRF, rd: str, sids: tuple[SID, ...]) -> Iterable[Offer]:
        targets = tuple(f"{imports.TARGET}{one}" for one in vrf.exports)
        peers = None if vrf.peers is None else carried_by(vrf, self._in.carriers.rows)
        for prefix, whose in self._exported(node, vrf):
            sid = next((s for s in sids if prefix.version in families_of(s.behaviour)), None)
            if sid is not None:
                yield Offer(
                    prefix,
                    vrf.labels,
                    whose,
                    rd,
                    targets,
                    sid.sid,
                    CODES[sid.behaviour],
                    sid.structure,
                    peers,
                )

    def _exported(self, node: Node, vrf: VRF) -> Iterable[tuple[Network, str]]:
        """Prefixes of a VRF on this node, each with the object that it stands for."""
        whole_vrf = f"VRF/{vrf.name}"
        if vrf.advertise == "prefixes":
            yield from ((prefix, whole_vrf) for prefix in vrf.prefixes)
            return
        if vrf.advertise == "podCIDR":
            networks = vrf.addresses or tuple(self._in.pod_cidrs(node))
            yield from ((prefix, whole_vrf) for prefix in networks)
            return
        for ref, entry in self._in.pods.rows.items():
            if entry.vrf == vrf.name and ref.node == self._me.name:
                key = PodKey(self._me.cluster, ref.namespace, ref.name)
                found = addresses_in(vrf, self.known.tenant.rows.get(key), entry.addresses)
                whose = f"Pod/{ref.namespace}/{ref.name}"
                yield from ((ip_network(address), whose) for address in found)

    # --- Said by routers ----------------------------------------------------------------------

    def _imported(
        self,
        prefix: Network,
        found: Mapping[ReceivedKey, Received],
        sids: Mapping[IPv6Address, SID],
    ) -> dict[ImportKey, Imported]:
        return imports.imported(prefix, found, sids, self._facts())

    def _facts(self) -> ImportFacts:
        """The same for each prefix, until one of the few changes.

        A distinguisher that an object names may be other nodes' and routers', too: then an echo is
        known by its SID alone.
        """
        tables = (self.vrfs.table, self.known.number, self.locator)
        seen = (*(one.revision for one in tables), self._in.router_id())
        if self._facts_of is None or self._facts_of[0] != seen:
            vrfs = self.vrfs.table.rows
            own = [self.distinguisher(vrf) for vrf in vrfs.values() if not vrf.rd]
            locators = {network: key.name for key, network in self.locator.rows.items()}
            lengths = frozenset(one.prefixlen for one in locators)
            trusts, echoes = self._in.trusts, frozenset(filter(None, own))
            facts = ImportFacts(self._me.name, vrfs, echoes, locators, trusts, lengths)
            self._facts_of = seen, facts
        return self._facts_of[1]

    def _admit(self, changes: Changes[ImportKey, Imported]) -> None:
        """Take in routes that can be used, up to ``maxPrefixes`` of each router and VRF."""
        vrfs = self.vrfs.table.rows
        came: list[ImportKey] = []
        gone = [*changes.delete]
        for key, row in changes.upsert.items():
            vrf = vrfs.get(key.vrf)
            usable = vrf and row.state is not imports.ImportState.UNUSABLE
            if vrf and usable and self._admitted.put(key, vrf.max_prefixes):
                came.append(key)
            elif not usable:
                gone.append(key)
        for key in gone:
            vrf = vrfs.get(key.vrf)
            came += self._admitted.drop(key, vrf.max_prefixes if vrf else 0)
        self._admitted_key.delete(gone)  # one that got the room of another may have gone as well
        self._admitted_key.upsert({key: None for key in came if key in self._admitted})

    def _fit(self) -> None:
        """A VRF may have got another limit."""
        for vrf in self.vrfs.table.rows.values():
            came, gone = self._admitted.fit(vrf.name, vrf.max_prefixes)
            self._admitted_key.delete(gone)
            self._admitted_key.upsert(dict.fromkeys(came))

    def _reach(
        self,
        pair: tuple[str, Network],
        found: Mapping[ImportKey, Imported],
        admitted: Mapping[ImportKey, None],
        vrf: VRF | None,
        number: int | None,
    ) -> dict[rows.ZonedPrefix, rows.VRFReach]:
        if vrf is None or not number:
            return {}
        inside = found if len(admitted) == len(found) else imports.within(found, admitted)
        bfd = self._in.bfd.rows
        made = imports.reach(inside, vrf, self._source(), IDENTITY_WORLD, bfd)
        return {rows.ZonedPrefix(number, pair[1]): made} if made else {}

    def _source(self) -> IPv6Address | None:
        """The outer source of this node's packets: its first IPv6 address."""
        node = self._objects[NODES].rows.get(self._me)
        found = (one for one in (node.addresses if node else ()) if isinstance(one, IPv6Address))
        return next(found, None)

    # --- Claims -------------------------------------------------------------------------------

    def _node_of(self, _: ClaimKey, claim: Claim) -> list[NodeKey]:
        return [NodeKey(self._me.cluster, claim.owner)]

    def _blocks(self) -> Iterable[IPv6Network]:
        pools = {key.pool for key in self._locators.rows}
        return [network for pool in pools if isinstance(network := whole(pool), IPv6Network)]

    # --- What others see ----------------------------------------------------------------------

    def listings(self) -> Mapping[str, Listing]:
        return {"vrf": self.vrf_rows}

    def vrf_rows(self) -> list[Row]:
        """What a speaker knows of each VRF: how many routes, and the distinguisher."""
        used: dict[str, int] = {}
        unusable: dict[str, int] = {}
        for key, row in self.imported.rows.items():
            counts = unusable if row.state in _UNUSABLE else used
            counts[key.vrf] = counts.get(key.vrf, 0) + 1
        node = self._objects[NODES].rows.get(self._me)
        exported: dict[str, int] = {}
        for offer in self.offers(node) if node else ():
            exported[offer.rd] = exported.get(offer.rd, 0) + 1
        return [
            nouns.vrf_row(self._me.cluster, vrf)
            | {
                "routes": {
                    "imported": used.get(name, 0),
                    "exported": exported.get(self.distinguisher(vrf), 0),
                    "unusable": unusable.get(name, 0),
                }
            }
            for name, vrf in self.vrfs.table.rows.items()
        ]

    def rows(self) -> list[Callable[[], Row]]:
        """Makers of the rows of ``meshgate route list``: routes of routers in VRFs."""
        make, node = nouns.imported_row, self._me.name
        return [partial(make, node, key, row) for key, row in self._within_limits().items()]

    def _within_limits(self) -> Mapping[ImportKey, Imported]:
        """The imported routes; those beyond a limit, and those that take their place, say so."""
        found, beyond = self.imported.rows, self._admitted.beyond()
        if not beyond:
            return found
        places = {(key.vrf, key.prefix) for key in beyond}
        groups: dict[tuple[str, Network], dict[ImportKey, Imported]] = {}
        for key, row in found.items():
            if (place := (key.vrf, key.prefix)) in places:
                groups.setdefault(place, {})[key] = row
        made = dict(found)
        for group in groups.values():
            made |= imports.within(group, self._admitted_key.rows)
        return made

    def findings(self) -> Iterable[Finding]:
        yield from self._limit_findings()
        yield from self._paths.findings(self._me.name)
        seen = (self.imported.revision, self._by_address.revision, self.vrfs.table.revision)
        if self._odd[0] != seen:  # there may be many routes
            self._odd = (seen, list(self._sid_findings()))
        yield from self._odd[1]
        if self._bpffs is None and self.reach.rows:
            text = "the configuration has no bpffs: routes of routers are not used in VRFs"
            about = (f"node/{self._me.name}",)
            yield Finding(codes.NOT_IMPORTED, f"{self._me.name}/vrfs", "bpffs", text, about)

    def _limit_findings(self) -> Iterable[Finding]:
        for (name, peer), count in self._admitted.over().items():
            if vrf := self.vrfs.table.rows.get(name):
                text = f"{peer} announces {count} prefixes more than {vrf.max_prefixes}"
                about = (f"vrf/{name}", f"peer/{peer}", f"node/{self._me.name}")
                yield Finding(codes.TOO_MANY, vrf.origin, "spec.maxPrefixes", text, about)

    def _sid_findings(self) -> Iterable[Finding]:
        """SIDs that are another VRF's, or nobody's; one finding for each router and VRF."""
        told: set[tuple[str, IP, str]] = set()
        locators = self.locator.rows.values()
        for key, row in self.imported.rows.items():
            if row.state not in _UNUSABLE or row.sid is None:
                continue
            if row.state is imports.ImportState.CLOSED:
                code = codes.ANOTHERS_SID
            elif any(row.sid in one for one in locators) and row.sid not in self._by_address.rows:
                code = codes.UNKNOWN_SID
            else:
                continue
            mark = (key.vrf, key.peer, str(code))
            vrf = self.vrfs.table.rows.get(key.vrf)
            if mark not in told and vrf:
                told.add(mark)
                text = f"{key.prefix} of {key.peer}: {row.reason}"
                about = (f"vrf/{key.vrf}", f"peer/{key.peer}")
                yield Finding(code, vrf.origin, f"spec.import {key.peer}", text, about)


_UNUSABLE = (imports.ImportState.UNUSABLE, imports.ImportState.CLOSED)


def _locator(key: NodeKey, claims: Mapping[ClaimKey, Claim]) -> dict[NodeKey, IPv6Network]:
    """The locator of a node; of several pools the first by name counts."""
    for place in sorted(claims, key=lambda one: (one.pool, one.number)):
        try:
            network = subnet(place.pool, place.number)
        except ValueError:
            continue  # the room of locators says so
        if isinstance(network, IPv6Network):
            return {key: network}
    return {}


def _by_address(sid: IPv6Address, found: Mapping[ClaimKey, SID]) -> dict[IPv6Address, SID]:
    active = [row for row in found.values() if row.state is SIDState.ACTIVE]
    return {sid: active[0]} if active else {}


def _place(key: ImportKey, _: object) -> list[tuple[str, Network]]:
    return [(key.vrf, key.prefix)]


def _route(
    key: rows.ZonedPrefix, found: Mapping[rows.ZonedPrefix, rows.VRFReach]
) -> dict[rows.ZonedPrefix, rows.VRFRoute]:
    return rows.route_of(key, found.get(key))


def _hosts(key: rows.ZonedPrefix, _: rows.VRFReach) -> list[rows.ZonedPrefix]:
    return [key] if key.is_host else []


def _prefixes(key: rows.ZonedPrefix, _: rows.VRFReach) -> list[rows.ZonedPrefix]:
    return [] if key.is_host else [key]
