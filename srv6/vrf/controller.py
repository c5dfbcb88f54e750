"""VRFs in a cluster: numbers, SIDs on the nodes of their pods, and tenant addresses, as claims.

    VRF objects                        -> number wanted
    pods, VRFs                         -> members -> (VRF, node) -> SIDs wanted, in its locator
    pods, VRFs with addresses          -> tenant addresses wanted

What nobody needs any more is given back. Numbers and SIDs rest for 600 s then, because a router may
go on sending to a SID that it has heard of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv6Network

from mesh.core.feature import Claimable, ControllerFeature, Want
from mesh.core.groups import By, To
from mesh.core.model import Claim, ClaimKey, Finding, Labels, NodeKey, Pod, PodKey
from mesh.core.noun import Listing
from mesh.core.reconcile import Loop
from mesh.core.sources import OwnStore
from mesh.core.table import Table
from mesh.objects.kubernetes import PODS
from mesh.objects.tables import Objects
from mesh.pools.settings import Pool
from srv6 import sids
from srv6.behaviours import FORMS
from srv6.vrf import claims, nouns
from srv6.vrf.accepted import AcceptedVRFs
from srv6.vrf.kind import DEFAULT, VRF
from srv6.vrf.known import KnownVRFs
from srv6.vrf.members import Members, VRFMember
from srv6.vrf.problems import address_problems, peer_problems, sid_problems


class VRFController(ControllerFeature):
    """``locator`` has the locators of the nodes, ``pools`` are the pools of locators.

    ``carriers`` are the BGPPeers that carry routes of VRFs, with their labels.
    """

    def __init__(
        self,
        cluster: str,
        pools: Sequence[Pool],
        objects: Objects,
        store: OwnStore,
        locator: Table[NodeKey, IPv6Network],
        carriers: Table[str, Labels],
    ) -> None:
        self._cluster, self._objects = cluster, objects
        networks = [pool.cidr for pool in pools]
        self._pools = tuple([one for one in networks if isinstance(one, IPv6Network)])
        self._locator, self._carriers = locator, carriers
        self.vrfs = AcceptedVRFs(objects)
        self.members = Members(objects, objects[PODS])
        self.known = KnownVRFs(cluster, store.claims_of, locator, self._blocks)
        self._covering: Table[tuple[str, str], int] = Table("pods of VRF on node")
        numbers: Table[Want, bool] = Table("VRF number wanted")
        wanted_sids: Table[Want, bool] = Table("SID wanted")
        tenants: Table[Want, bool] = Table("tenant address wanted")
        self.wants = (numbers, wanted_sids, tenants)
        self.claims = (
            Claimable(
                claims.NUMBER, lambda _: claims.NUMBERS, released=True, rest_s=claims.NUMBER_REST_S
            ),
            Claimable(
                sids.NOUN,
                lambda _: sids.ALLOCATED,
                released=True,
                rest_s=sids.REST_S,
                named=lambda want: sids.read_owner(want.owner)[2],
            ),
            Claimable(
                claims.TENANT,
                claims.tenant_candidates,
                released=True,
                named=claims.named_number,
            ),
        )

    def derive(self, loop: Loop) -> None:
        numbers, wanted_sids, tenants = self.wants
        pods = self._objects[PODS]
        self.vrfs.derive(loop)
        self.members.derive(loop)
        self.known.derive(loop)
        loop.group(numbers, _number_wanted, By(self.vrfs.table))
        loop.group(
            tenants,
            self._tenant_wanted,
            By(self.members.table),
            To(pods, lambda key, _: key),
            To(self.vrfs.table, lambda _, member, __: member.vrf if member else None),
        )
        hosts: Table[PodKey, tuple[str, str]] = Table("VRF and node of pod")
        loop.group(hosts, _host, By(self.members.table), To(pods, lambda key, _: key))
        loop.group(self._covering, _count, By(hosts, lambda _, place: [place]))
        loop.group(
            wanted_sids,
            self._sids_wanted,
            By(self._covering),
            To(self.vrfs.table, lambda pair, _: pair[0]),
            To(self._locator, lambda pair, *_: NodeKey(self._cluster, pair[1])),
        )

    def _blocks(self) -> Sequence[IPv6Network]:
        return self._pools

    def _tenant_wanted(
        self, key: PodKey, member: VRFMember | None, pod: Pod | None, vrf: VRF | None
    ) -> dict[Want, bool]:
        if member is None or pod is None or vrf is None:
            return {}
        return dict.fromkeys(claims.tenant_wants(key, vrf, pod.tenant_addresses), True)

    def _sids_wanted(
        self,
        _: tuple[str, str],
        pods: int | None,
        vrf: VRF | None,
        locator: IPv6Network | None,
    ) -> dict[Want, bool]:
        """A SID on a node with pods of the VRF, two where each family has one."""
        if not pods or vrf is None or locator is None or not self._is_pool_of(vrf, locator):
            return {}
        try:
            pool = sids.pool_of(locator)
        except ValueError:
            return {}
        named = sids.function_of(vrf.sid, locator) if vrf.sid else None
        owners = [sids.owner_of(vrf.name, form, named) for form in FORMS[vrf.behaviour]]
        return {Want(sids.NOUN, pool, owner): True for owner in owners}

    def _is_pool_of(self, vrf: VRF, locator: IPv6Network) -> bool:
        """Whether the locator is out of the pool that the VRF names."""
        if vrf.locator_pool == DEFAULT:
            return True
        return any(str(one) == vrf.locator_pool and locator.subnet_of(one) for one in self._pools)

    # What others see

    def listings(self) -> Mapping[str, Listing]:
        return {
            "sid": lambda: nouns.sid_rows(self.known.sid.rows.values()),
            "vrf": lambda: nouns.vrf_rows(
                self._cluster,
                self.vrfs.table.rows,
                self.known.number.rows,
                self.known.sid.rows.values(),
                self.members.table.rows,
            ),
        }

    def findings(self) -> Iterable[Finding]:
        yield from self.vrfs.findings()
        yield from self.members.findings()
        locators = list(self._locator.rows.values())
        yield from sid_problems(
            self.vrfs.table.rows.values(), self._pools, locators, self._held(sids.NOUN),
            synced=self._locator.synced,
        )  # fmt: skip
        if self._carriers.synced:
            yield from peer_problems(self.vrfs.table.rows.values(), self._carriers.rows)
        yield from address_problems(self.wants[2].rows, self._held(claims.TENANT))

    def _held(self, noun: str) -> Mapping[ClaimKey, Claim]:
        return self.known.held(noun)


def _number_wanted(name: str, vrf: VRF | None) -> dict[Want, bool]:
    return {claims.number_want(name): True} if vrf else {}


def _host(key: PodKey, member: VRFMember | None, pod: Pod | None) -> dict[PodKey, tuple[str, str]]:
    return {key: (member.vrf, pod.node)} if member and pod and pod.node else {}


def _count(
    place: tuple[str, str], pods: Mapping[PodKey, tuple[str, str]]
) -> dict[tuple[str, str], int]:
    return {place: len(pods)} if pods else {}
