"""Numbers of VRFs and addresses of their pods, as claims. Pure.

``vrf``: pool ``all``, owner the VRF's name. The number is that of the zone and of the route
distinguisher. ``tenant``: pool ``VRF@network``, number the place in the network, owner the pod as
``namespace/name``, followed by ``@address`` where the pod names it. SIDs: ``srv6/sids.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_network

from mesh.core.feature import Want
from mesh.core.model import IP, Claim, ClaimKey, Network, PodKey
from mesh.pools.prefixes import pool_name, pool_size, subnet
from srv6.vrf.kind import VRF

NUMBER, ALL = "vrf", "all"
TENANT = "tenant"
#: Numbers of VRFs: they are zones, of which 0 is the network of the nodes.
NUMBERS = range(1, 1 << 15)
#: Seconds before another VRF may have a released number: as long as its SIDs rest.
NUMBER_REST_S = 600
#: Addresses of an IPv6 network that are given to pods.
_MOST = 1 << 20
#: Greatest number that a claim may have.
_GREATEST = (1 << 62) - 1


def number_want(name: str) -> Want:
    """The number of a VRF."""
    return Want(NUMBER, ALL, name)


def tenant_pool(vrf: str, network: Network) -> str:
    """The pool of a VRF's network of tenant addresses."""
    return f"{vrf}@{pool_name(network, network.max_prefixlen)}"


@lru_cache(1 << 12)
def read_pool(pool: str) -> tuple[str, str]:
    """VRF and pool of prefixes of a tenant pool; empty when the text is none."""
    vrf, _, prefixes = pool.partition("@")
    try:
        subnet(prefixes, 0)
    except ValueError:
        return "", ""
    return vrf, prefixes


def tenant_address(claim: Claim) -> tuple[str, IP] | None:
    """VRF and address of a claim; None when the claim is no address."""
    vrf, prefixes = read_pool(claim.pool)
    if not vrf:
        return None
    try:
        return vrf, subnet(prefixes, claim.number).network_address
    except ValueError:
        return None


def tenant_owner(key: PodKey, named: IP | None = None) -> str:
    """The owner of a tenant address; ``named`` is what the pod itself names."""
    return f"{key.namespace}/{key.name}" + (f"@{named}" if named is not None else "")


def owner_pod(owner: str) -> tuple[str, str]:
    """Namespace and name of the pod that owns a tenant address."""
    namespace, _, name = owner.partition("@")[0].partition("/")
    return namespace, name


def tenant_wants(key: PodKey, vrf: VRF, named: Iterable[IP]) -> list[Want]:
    """The tenant addresses of a pod: those that it names, and one of each further network.

    A named address outside of the VRF's networks is a pool of its own. Of each family a pod has
    one address: a network whose family the pod names gives it none.
    """
    wants, families = [], set()
    for address in named:
        families.add(address.version)
        inside = next((n for n in vrf.addresses if _has(n, address)), None)
        network = inside or ip_network(address)
        wants.append(Want(TENANT, tenant_pool(vrf.name, network), tenant_owner(key, address)))
    for network in vrf.addresses:
        if network.version not in families:
            families.add(network.version)
            wants.append(Want(TENANT, tenant_pool(vrf.name, network), tenant_owner(key)))
    return wants


def _has(network: Network, address: IP) -> bool:
    """Whether the address is in the network, and its place there fits into a claim."""
    if network.version != address.version or address not in network:
        return False
    return int(address) - int(network.network_address) <= _GREATEST


def tenant_candidates(want: Want) -> Sequence[int]:
    """Places in the network that are given away: not its first address, nor IPv4's broadcast."""
    _, prefixes = read_pool(want.pool)
    if not prefixes:
        return range(0)
    size = min(pool_size(prefixes), _MOST)
    ends = subnet(prefixes, 0).version == 4 and size > 2
    return range(1, size - 1) if ends else range(min(1, size - 1), size)


def named_number(want: Want) -> int | None:
    """The place of the address that a pod names; None when it names none."""
    _, prefixes = read_pool(want.pool)
    _, _, named = want.owner.partition("@")
    if not (named and prefixes):
        return None
    first = subnet(prefixes, 0).network_address
    return int(ip_network(named).network_address) - int(first)


def tenants(claims: Mapping[ClaimKey, Claim]) -> dict[str, tuple[IP, ...]]:
    """Tenant addresses by VRF, of the claims of one pod; IPv4 first."""
    found: dict[str, set[IP]] = {}
    for claim in claims.values():
        if made := tenant_address(claim):
            found.setdefault(made[0], set()).add(made[1])
    return {
        vrf: tuple(sorted(addresses, key=lambda one: (one.version, int(one))))
        for vrf, addresses in found.items()
    }
