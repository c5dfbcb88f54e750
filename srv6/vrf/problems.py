"""What is wrong with the SIDs and addresses that VRFs and pods want. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv6Network

from mesh.core.feature import Want
from mesh.core.model import Claim, ClaimKey, Finding, Labels, Selector
from mesh.identity.selectors import matches
from srv6 import sids
from srv6.vrf import claims
from srv6.vrf.findings import ADDRESS_TAKEN, NO_PEER, NO_POOL, OUTSIDE, SID_TAKEN
from srv6.vrf.kind import DEFAULT, VRF


def sid_problems(
    vrfs: Iterable[VRF],
    pools: Sequence[IPv6Network],
    locators: Collection[IPv6Network],
    held: Mapping[ClaimKey, Claim],
    *,
    synced: bool,
) -> list[Finding]:
    """VRFs without a pool, and named SIDs that are outside of a locator or another VRF's."""
    findings: list[Finding] = []
    for vrf in vrfs:
        about = (f"vrf/{vrf.name}",)
        names = [DEFAULT, *map(str, pools)] if pools else []
        if vrf.locator_pool not in names:
            known = ", ".join(map(str, pools)) or "none"
            text = f"no locator pool {vrf.locator_pool}; pools of the cluster: {known}"
            findings.append(Finding(NO_POOL, vrf.origin, "spec.locatorPool", text, about))
        if vrf.sid and synced:
            findings += _named(vrf, locators, held)
    return findings


def _named(
    vrf: VRF, locators: Iterable[IPv6Network], held: Mapping[ClaimKey, Claim]
) -> list[Finding]:
    about = (f"vrf/{vrf.name}",)
    sid = vrf.sid
    inside = next((one for one in locators if sid is not None and sid in one), None)
    function = sids.function_of(sid, inside) if sid and inside else None
    if inside is None or function is None:
        where = f"has no function in {inside}" if inside else "is in no node's locator"
        text = f"{sid} {where}"
        return [Finding(OUTSIDE, vrf.origin, "spec.sid", text, about)]
    try:
        key = ClaimKey(sids.NOUN, sids.pool_of(inside), function)
    except ValueError as error:
        return [Finding(OUTSIDE, vrf.origin, "spec.sid", f"{sid}: {error}", about)]
    other = sids.read_owner(held[key].owner)[0] if key in held else ""
    if not other or other == vrf.name:
        return []
    text = f"{sid} belongs to VRF {other}"
    return [Finding(SID_TAKEN, vrf.origin, "spec.sid", text, (*about, f"vrf/{other}"))]


def peer_problems(vrfs: Iterable[VRF], carriers: Mapping[str, Labels]) -> list[Finding]:
    """VRFs of which no router hears, though their objects say which one should."""
    text = "it selects no BGPPeer with a VPN family that advertises vrfs"
    return [
        Finding(NO_PEER, vrf.origin, "spec.peers", text, (f"vrf/{vrf.name}",))
        for vrf in vrfs
        if vrf.peers is not None and not carried_by(vrf, carriers)
    ]


def carried_by(vrf: VRF, carriers: Mapping[str, Labels]) -> frozenset[str]:
    """The BGPPeers that a VRF names, of those that can carry it."""
    chosen = vrf.peers or Selector()
    return frozenset(name for name, labels in carriers.items() if matches(chosen, dict(labels)))


def address_problems(wants: Iterable[Want], held: Mapping[ClaimKey, Claim]) -> list[Finding]:
    """Pods that name another pod's address. A network without room is said with the claims."""
    owners = {(claim.pool, claim.owner) for claim in held.values()}
    findings = []
    for want in wants:
        if (want.pool, want.owner) in owners:
            continue
        namespace, name = claims.owner_pod(want.owner)
        vrf, _ = claims.read_pool(want.pool)
        about = (f"vrf/{vrf}",)
        number = claims.named_number(want)
        if number is None:
            continue  # a full pool is POOL_FULL of the leader
        key = ClaimKey(claims.TENANT, want.pool, number)
        if key in held:
            address = want.owner.partition("@")[2]
            other = "/".join(claims.owner_pod(held[key].owner))
            text = f"{address} in VRF {vrf} belongs to pod {other}"
            field = "metadata.annotations"
            findings.append(Finding(ADDRESS_TAKEN, f"Pod/{namespace}/{name}", field, text, about))
    return findings
