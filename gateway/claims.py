"""Egress addresses as claims, by the one allocator of the cluster. Pure.

``egress``: the address itself, fixed or out of a pool. The number is its place in all of IPv4, or
in its /96, so that no address is claimed twice, whatever the pools say. The owner is
``policy@address``, of a fixed address the first policy that has named it, and
``policy#512@address`` where the pool has said how large its blocks are. ``carrier``: pool is
the address, owners are the nodes that carry it, so that they are known when no policy says it any
more. ``owner``: pool is the address, owner the node that speaks for it on layer 2; while one takes
over from another both have a claim, and the greater epoch counts. ``draining``: pool is the
address, and the epoch says which drain it is; whoever reports live mappings names it. All of them
are given back when nobody needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_address, ip_network
from itertools import islice
from types import MappingProxyType

from gateway import pool as pools_of
from gateway.plan import by_precedence
from gateway.policy import EgressPolicy
from gateway.pool import EgressPool
from mesh.core.feature import Want
from mesh.core.model import IP, Claim, ClaimKey, Draining
from mesh.pools.prefixes import pool_name, subnet

NOUN, CARRIER, DRAINING, OWNER = "egress", "carrier", "draining", "owner"
#: Numbers of carriers: as many as an address may have gateways, and those before them that rest.
CARRIERS = range(64)
_SIZE = "#"  # in no name of an object
#: Nothing drains.
NO_DRAINS: Mapping[ClaimKey, Claim] = MappingProxyType({})
#: Addresses of a family that a policy gets out of its pool.
MOST_ADDRESSES = 16
#: Bits of the network whose places are numbers.
_BITS = {4: 0, 6: 96}


def egress_want(address: IP, policy: str, size: int = 0) -> Want:
    """The claim of an address for a policy; ``size`` of its blocks of ports, 0: as configured."""
    of_size = f"{_SIZE}{size}" if size else ""
    return Want(NOUN, _place(address)[0], f"{policy}{of_size}@{address}")


def carrier_want(address: IP, node: str) -> Want:
    """The claim of a node that carries the address."""
    return Want(CARRIER, str(address), node)


def owner_want(address: IP, node: str) -> Want:
    """The claim of the node that speaks for an address on layer 2; the greatest epoch counts."""
    return Want(OWNER, str(address), node)


def draining_want(address: IP) -> Want:
    """The claim that says that the address drains."""
    return Want(DRAINING, str(address), DRAINING)


def drain_key(address: IP) -> ClaimKey:
    """The key of the claim that says that the address drains."""
    return ClaimKey(DRAINING, str(address), 0)


def policy_of(owner: str) -> str:
    """The policy in the owner of an address."""
    return owner.rpartition("@")[0].partition(_SIZE)[0]


def size_of(owner: str) -> int:
    """Ports of a block of the address, as they stand in its owner; 0: as configured.

    They stay as long as the address is claimed: blocks of two sizes would overlap.
    """
    size = owner.rpartition("@")[0].partition(_SIZE)[2]
    return int(size) if size.isascii() and size.isdecimal() else 0


def sizes_of(address: IP, held: Mapping[ClaimKey, Claim]) -> dict[IP, int]:
    """The size of the blocks of a claimed address that has one of its own."""
    size = max((size_of(claim.owner) for claim in held.values()), default=0)
    return {address: size} if size else {}


def named_number(want: Want) -> int | None:
    """The number of the address that a want names."""
    try:
        return _place(ip_address(want.owner.rpartition("@")[2]))[1]
    except ValueError:
        return None


@lru_cache(1 << 14)
def address_of(key: ClaimKey) -> IP | None:
    """The address of a claim; None when the claim is none."""
    try:
        if key.noun == NOUN:
            return subnet(key.pool, key.number).network_address
        return ip_address(key.pool.partition("_")[0])  # of a block with its size
    except ValueError:
        return None


def _place(address: IP) -> tuple[str, int]:
    """Pool and number of an address."""
    bits = _BITS[address.version]
    network = ip_network((int(address), bits), strict=False)
    return pool_name(network, network.max_prefixlen), int(address) - int(network.network_address)


def addresses_of_key(key: ClaimKey, _: object) -> list[IP]:
    """The group of a claim: its address."""
    address = address_of(key)
    return [] if address is None else [address]


# Policies with their addresses


def with_addresses(
    name: str,
    policy: EgressPolicy | None,
    claims: Mapping[ClaimKey, Claim],
    pool: EgressPool | None,
    denied: Mapping[IP, None],
    drains: Mapping[ClaimKey, Claim] = NO_DRAINS,
) -> dict[str, EgressPolicy]:
    """A policy with the addresses that it has now; nobody has a denied one."""
    if policy is None:
        return {}
    if policy.pool:
        addresses = tuple(_of_pool(pool, claims, drains)) if pool else ()
    else:
        addresses = tuple(one for one in policy.addresses if one not in denied)
    return {name: policy if addresses == policy.addresses else replace(policy, addresses=addresses)}


def _of_pool(
    pool: EgressPool, claims: Iterable[ClaimKey], drains: Mapping[ClaimKey, Claim]
) -> Iterator[IP]:
    """The claimed addresses that the pool still gives, the first one of a family first.

    One that drains is none of them, as long as there is another.
    """
    held = {one for key in claims if (one := address_of(key)) and pools_of.has(pool, one)}
    for family in (4, 6):
        mine = sorted((one for one in held if one.version == family), key=int)
        yield from [one for one in mine if drain_key(one) not in drains] or mine[:1]


# What is to be claimed


@dataclass(frozen=True, slots=True)
class Fill:
    """How full an address is on the node that uses it most.

    ``crowded``: further pods take another one. ``roomy``: there is room for those of another one.
    """

    used: bool
    crowded: bool
    roomy: bool


EMPTY = Fill(used=False, crowded=False, roomy=True)
NO_FILLS: Mapping[IP, Fill] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class WantedAddresses:
    """Addresses that policies want, with the policy in their owner, and who gets none.

    ``full`` are policies with the families of which their pool has no free address, ``crowded``
    those that have one and need a further one.
    """

    addresses: Mapping[IP, str]
    full: tuple[tuple[str, int], ...] = ()
    crowded: tuple[tuple[str, int], ...] = ()


def wanted_addresses(
    policies: Iterable[EgressPolicy],
    pools: Mapping[str, EgressPool],
    held: Mapping[IP, str],
    resting: Mapping[IP, str],
    fills: Mapping[IP, Fill] = NO_FILLS,
) -> WantedAddresses:
    """What the policies want, the oldest first; a policy keeps the address that it has.

    ``held`` and ``resting`` are claimed addresses with the policy in their owner. A resting address
    is given to another policy only when there is no other. Further addresses come last: each
    policy has one before another has two.
    """
    ordered = by_precedence(policies)
    wanted: dict[IP, str] = {}
    for policy in ordered:
        for address in () if policy.pool else policy.addresses:
            before = held.get(address, resting.get(address, policy.name))
            wanted.setdefault(address, before)
    free = {
        (pool.name, family): _free(pool, family, {*held, *wanted}, resting)
        for pool in pools.values()
        for family in (4, 6)
    }
    asked = list(_asked(ordered, pools))
    kept = _kept_addresses(asked, held, fills)
    full, crowded = [], []
    for policy, pool, family in asked:
        first = kept[policy.name, family] or list(islice(free[pool.name, family], 1))
        wanted |= dict.fromkeys(first, policy.name)
        if not first:
            full.append((policy.name, family))
    for policy, pool, family in asked:
        if _is_crowded(kept[policy.name, family], fills):
            further = list(islice(free[pool.name, family], 1))
            wanted |= dict.fromkeys(further, policy.name)
            if not further:
                crowded.append((policy.name, family))
    return WantedAddresses(wanted, tuple(full), tuple(crowded))


def _kept_addresses(
    asked: Iterable[tuple[EgressPolicy, EgressPool, int]],
    held: Mapping[IP, str],
    fills: Mapping[IP, Fill],
) -> dict[tuple[str, int], list[IP]]:
    """The addresses of a family that each policy has and needs."""
    mine: dict[str, list[IP]] = {}
    for address in sorted(held, key=int):
        mine.setdefault(held[address], []).append(address)
    return {
        (policy.name, family): _kept(
            [one for one in mine.get(policy.name, ()) if _is(pool, one, family)], fills
        )
        for policy, pool, family in asked
    }


def _is_crowded(addresses: list[IP], fills: Mapping[IP, Fill]) -> bool:
    """Whether the policy needs one more than those that it has."""
    full = all(fills.get(one, EMPTY).crowded for one in addresses)
    return full and 0 < len(addresses) < MOST_ADDRESSES


def _asked(
    policies: Iterable[EgressPolicy], pools: Mapping[str, EgressPool]
) -> Iterator[tuple[EgressPolicy, EgressPool, int]]:
    """Policies of a pool, by family of which they want addresses."""
    for policy in policies:
        if pool := pools.get(policy.pool):
            for family in families(policy, pool):
                yield policy, pool, family


def _kept(has: list[IP], fills: Mapping[IP, Fill]) -> list[IP]:
    """The first address, and further ones that are in use, or whose predecessors have no room."""
    rows = [fills.get(one, EMPTY) for one in has]
    return [
        one
        for at, one in enumerate(has)
        if not at or rows[at].used or not any(row.roomy for row in rows[:at])
    ]


def _is(pool: EgressPool, address: IP, family: int) -> bool:
    return address.version == family and pools_of.has(pool, address)


def families(policy: EgressPolicy, pool: EgressPool) -> list[int]:
    """Families of which the policy wants an address, and the pool has some."""
    to = {one.version for one in policy.destinations}
    if policy.labelled is not None or policy.names:
        to |= {4, 6}
    return [one for one in (4, 6) if one in to and one in {c.version for c in pool.cidrs}]


def _free(
    pool: EgressPool, family: int, taken: Iterable[IP], resting: Mapping[IP, str]
) -> Iterator[IP]:
    """Addresses that nobody has, each once; those that rest come last."""
    used = set(taken)
    for address in pools_of.addresses_of(pool, family):
        if address not in used and address not in resting:
            yield address
    for address in pools_of.addresses_of(pool, family):
        if address not in used and address in resting:
            yield address


# Draining


def is_free(epoch: int | None, said: Iterable[Draining | None]) -> bool:
    """Whether every node has reported no live mapping in this drain; None: a node says nothing."""
    return epoch is not None and all(
        one is not None and one.epoch == epoch and not one.ports for one in said
    )
