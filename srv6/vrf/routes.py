"""Routes of VRFs between our own nodes: addresses of pods, and the SIDs of their nodes. Pure.

They need no keys of their own: a claim of the controller says which pod has an address in a VRF,
the entry of its agent says on which node the pod is, and the SID is a claim for that node. An
entry counts when a controller has confirmed that the pod is there, as its identity says (D65): a
node that lies about pods of others gets nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address, ip_network

from mesh.core.model import IP, ClaimKey, PodEntry, PodRef
from srv6.behaviours import families_of
from srv6.sids import SID, SIDState
from srv6.vrf.kind import VRF
from srv6.vrf.known import Tenants
from srv6.vrf.rows import VRFPath, VRFReach, ZonedPrefix, path_to


def sids_by_vrf(
    pair: tuple[str, str], rows: Mapping[ClaimKey, SID]
) -> dict[tuple[str, str], tuple[SID, ...]]:
    """The SIDs that a node has for a VRF and that are announced."""
    active = tuple(sorted(row for row in rows.values() if row.state is SIDState.ACTIVE))
    return {pair: active} if active else {}


def addresses_in(vrf: VRF, tenants: Tenants | None, own: Iterable[IP]) -> tuple[IP, ...]:
    """The addresses of a pod in its VRF: tenant addresses, or those that it has in the cluster.

    A pod of a VRF with addresses that has none yet has none in the VRF.
    """
    found = (tenants or {}).get(vrf.name, ())
    return found if found or vrf.addresses else tuple(own)


def reach_of_pod(
    ref: PodRef,
    entries: Mapping[PodRef, PodEntry],
    tenants: Tenants | None,
    vrf: VRF | None,
    number: int | None,
    sids: tuple[SID, ...] | None,
    source: IPv6Address | None,
) -> dict[ZonedPrefix, VRFReach]:
    """The routes to a pod of another node, one for each of its addresses in its VRF."""
    entry = entries.get(ref)
    if entry is None or vrf is None or not number or not entry.identity:
        return {}
    return {
        ZonedPrefix(number, ip_network(address)): VRFReach(
            _paths(vrf, address.version, sids or (), source), entry.identity
        )
        for address in addresses_in(vrf, tenants, entry.addresses)
    }


def _paths(
    vrf: VRF, version: int, sids: Iterable[SID], source: IPv6Address | None
) -> tuple[VRFPath, ...]:
    """The path to the SID that takes packets of a family; none while there is no such SID."""
    if source is None:
        return ()
    fitting = (sid for sid in sids if version in families_of(sid.behaviour))
    return tuple(path_to(sid, vrf.segments, source) for sid in fitting)[:1]
