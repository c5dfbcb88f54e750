"""SIDs of this cluster's VRFs: functions of a node's locator, as claims (RFC 8986 3.1). Pure.

The pool of a claim is the node's locator with the length of function and locator
(``fcbb:bb01:1::_48_64``), its number is the function. So the claim alone gives the SID. The owner
is ``VRF/behaviour``, and ``VRF/behaviour@function`` where the VRF's object names the SID.

Function 0 is the node itself (End, uN). Functions from 0xE000 are allocated, as routers do with
NEXT-C-SIDs (RFC 9800 leaves it to the operator); those below are for SIDs that objects name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address, IPv6Network

from mesh.core.model import Claim, ClaimKey
from mesh.pools.prefixes import pool_name, subnet

#: Noun of the claims.
NOUN = "sid"
#: Bits of a function.
FUNCTION_BITS = 16
#: Functions that are allocated.
ALLOCATED = range(0xE000, 1 << FUNCTION_BITS)
#: Seconds before another VRF may have a released SID: a router may hold a stale route for as long
#: as graceful restart lasts, and would send one tenant's packets into another's network.
REST_S = 600
#: Bits of a SID with the argument in which our own nodes carry an identity.
ARGUMENT_BITS = 24


class SIDState(StrEnum):
    """What a SID is for."""

    ACTIVE = "active"
    #: Released; it goes on decapsulating for packets on their way.
    RESTING = "resting"


@dataclass(frozen=True, slots=True, order=True)
class SID:
    """A SID of a node; ``vrf`` is empty for the node's own."""

    sid: IPv6Address
    node: str
    behaviour: str
    vrf: str
    state: SIDState = SIDState.ACTIVE
    block: int = 0
    locator: int = 0

    @property
    def structure(self) -> tuple[int, int, int, int, int, int]:
        """The SID Structure that routers are told: no argument, nothing transposed (RFC 9252 4)."""
        return (self.block, self.locator - self.block, FUNCTION_BITS, 0, 0, 0)


def pool_of(locator: IPv6Network) -> str:
    """The pool of the functions of a locator. Raises ValueError when it has no room for any."""
    length = locator.prefixlen + FUNCTION_BITS
    if length + ARGUMENT_BITS > locator.max_prefixlen:
        most = locator.max_prefixlen - FUNCTION_BITS - ARGUMENT_BITS
        raise ValueError(f"locator {locator} is longer than /{most}: no function fits behind it")
    return pool_name(locator, length)


def locator_of(pool: str) -> IPv6Network | None:
    """The locator of a pool; None when the text is no such pool."""
    try:
        base, length, _ = pool.split("_")
        locator = IPv6Network(f"{base}/{int(length)}")
        return locator if pool == pool_of(locator) else None
    except ValueError:
        return None


def owner_of(vrf: str, behaviour: str, function: int | None = None) -> str:
    """The owner of a claim; ``function`` is one that the VRF's object names."""
    return f"{vrf}/{behaviour}" + (f"@{function}" if function is not None else "")


def read_owner(owner: str) -> tuple[str, str, int | None]:
    """VRF, behaviour and named function of an owner; empty names when it is none."""
    vrf, _, rest = owner.partition("/")
    behaviour, _, function = rest.partition("@")
    return vrf, behaviour, int(function) if function.isdecimal() else None


def function_of(sid: IPv6Address, locator: IPv6Network) -> int | None:
    """The function of a SID in a locator; None: it is outside, or has bits behind the function."""
    if sid not in locator:
        return None
    behind = locator.max_prefixlen - locator.prefixlen - FUNCTION_BITS
    rest = int(sid) - int(locator.network_address)
    function, argument = rest >> behind, rest & ((1 << behind) - 1)
    return function if function and not argument else None


def sid_of(
    claim: Claim, nodes: Mapping[IPv6Network, str], blocks: Iterable[IPv6Network], state: SIDState
) -> SID | None:
    """The SID that a claim is; None for one of a locator that no node has."""
    locator = locator_of(claim.pool)
    vrf, behaviour, _ = read_owner(claim.owner)
    if locator is None or locator not in nodes or not behaviour:
        return None
    try:
        sid = subnet(claim.pool, claim.number).network_address
    except ValueError:
        return None
    if not isinstance(sid, IPv6Address):
        return None
    block = block_of(locator, blocks)
    return SID(sid, nodes[locator], behaviour, vrf, state, block, locator.prefixlen)


def block_of(locator: IPv6Network, blocks: Iterable[IPv6Network]) -> int:
    """Length of the block that a locator lies in; its pool is the block (RFC 8986 3.1)."""
    lengths = [block.prefixlen for block in blocks if locator.subnet_of(block)]
    return max(lengths, default=locator.prefixlen)


def node_sid(node: str, locator: IPv6Network, blocks: Iterable[IPv6Network], *, csid: bool) -> SID:
    """The node's own SID, function 0; ``csid``: NEXT-C-SIDs are in use."""
    name = "uN" if csid else "End"
    block, address = block_of(locator, blocks), locator.network_address
    return SID(address, node, name, "", SIDState.ACTIVE, block, locator.prefixlen)


def sids_of(
    held: Mapping[ClaimKey, Claim],
    resting: Mapping[ClaimKey, Claim],
    nodes: Mapping[IPv6Network, str],
    blocks: Iterable[IPv6Network],
) -> dict[ClaimKey, SID]:
    """All SIDs of VRFs, those that rest included."""
    pools = tuple(blocks)
    rows = {key: sid_of(claim, nodes, pools, SIDState.ACTIVE) for key, claim in held.items()}
    for key, claim in resting.items():
        rows.setdefault(key, sid_of(claim, nodes, pools, SIDState.RESTING))
    return {key: row for key, row in rows.items() if row is not None}
