"""EgressPool: networks out of which egress policies get their addresses.

A pool says how its addresses reach the gateways: over BGP, by layer 2, or not by us. Of two pools
that overlap the older one has the addresses. An address in ``deny`` is given to nobody, and ends
the connections that have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.findings import POOLS_OVERLAP
from gateway.policy import check_usable
from mesh.core.model import IP, Finding, Network
from mesh.core.reconcile import Loop
from mesh.core.strict import AnyAddress, AnyNetwork, Wrong, convert
from mesh.core.table import Table
from mesh.objects.definition import Column, Definition, Rule
from mesh.objects.findings import UNSUPPORTED
from mesh.objects.schema import Kind, Parsed, Place, Strict, StrictObject, created_at
from mesh.objects.tables import ObjectNoun, Objects

#: How the addresses of a pool come to the gateways.
Announce = Literal["L2", "BGP", "None"]
#: Addresses of a network that are given away: the first ones.
_MOST = 1 << 16


@dataclass(frozen=True, slots=True)
class PoolGrant:
    """What another cluster may have of a pool: for pods of these namespaces, none: of all.

    ``expires`` is empty or a time with its zone; ``cut``: connections are reset then, else they go
    on to their end.
    """

    cluster: str
    namespaces: tuple[str, ...] = ()
    expires: str = ""
    cut: bool = False


@dataclass(frozen=True, slots=True)
class EgressPool:
    """One EgressPool, parsed; ``origin`` is its manifest path."""

    name: str
    cidrs: tuple[Network, ...]
    deny: tuple[IP, ...] = ()
    announce: Announce = "BGP"
    block_size: int = 0
    """Ports in a block of its addresses; 0: as the configuration says."""
    grants: tuple[PoolGrant, ...] = ()
    origin: str = ""
    created: str = ""


POOLS: ObjectNoun[str, EgressPool] = ObjectNoun("egresspool")


class _Grant(Strict, frozen=True, kw_only=True):
    cluster: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    namespaces: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    expires: Annotated[str, msgspec.Meta(max_length=40)] = ""
    cut: bool = False


class _PoolSpec(Strict, frozen=True, kw_only=True):
    rules: ClassVar = (
        Rule(
            "!has(self.blockSize) || self.blockSize in [64, 128, 256, 512, 1024]",
            "expected one of 64, 128, 256, 512, 1024",
            ".blockSize",
        ),
        Rule(
            "self.cidrs.all(a, !isCIDR(a) || !(cidr(a).ip().isUnspecified() || "
            "cidr(a).ip().isLoopback() || cidr(cidr(a).ip().family() == 4 ? '224.0.0.0/4' : "
            "'ff00::/8').containsIP(cidr(a).ip())))",
            "expected networks of addresses that can be a source",
            ".cidrs",
        ),
        Rule(
            "self.cidrs.all(a, !isCIDR(a) || size(self.cidrs.filter(b, isCIDR(b) && "
            "(cidr(a).containsCIDR(b) || cidr(b).containsCIDR(a)))) == 1)",
            "have networks that overlap",
            ".cidrs",
        ),
    )
    cidrs: Annotated[tuple[AnyNetwork, ...], msgspec.Meta(min_length=1, max_length=64)]
    deny: Annotated[tuple[AnyAddress, ...], msgspec.Meta(max_length=1024)] = ()
    announce: Announce = "BGP"
    block_size: int | UnsetType = UNSET
    grants: Annotated[tuple[_Grant, ...], msgspec.Meta(max_length=64)] = ()


class _Pool(StrictObject, frozen=True, kw_only=True):
    spec: _PoolSpec


def _pool(place: Place, document: object) -> Parsed:
    pool = convert(document, _Pool)
    spec = pool.spec
    for number, cidr in enumerate(spec.cidrs):
        _check_network(f"spec.cidrs[{number}]", cidr, spec.cidrs[:number])
    size = spec.block_size or 0
    if spec.block_size is not UNSET and size not in (64, 128, 256, 512, 1024):
        raise Wrong("spec.blockSize", "expected one of 64, 128, 256, 512, 1024")
    row = EgressPool(
        place.key.name,
        cidrs=spec.cidrs,
        deny=tuple(dict.fromkeys(spec.deny)),
        announce=spec.announce,
        block_size=size,
        grants=tuple(_granted(number, one) for number, one in enumerate(spec.grants)),
        origin=str(place),
        created=created_at(pool.metadata),
    )
    return Parsed(POOLS.name, row.name, row, tuple(_not_yet(place, spec)))


def _granted(number: int, grant: _Grant) -> PoolGrant:
    path = f"spec.grants[{number}].expires"
    try:
        zone = datetime.fromisoformat(grant.expires).tzinfo if grant.expires else UTC
    except ValueError as error:
        raise Wrong(path, f"expected a time of RFC 3339: {error}") from None
    if zone is None:
        raise Wrong(path, "expected a time with its zone, as 2026-01-31T18:00:00Z")
    return PoolGrant(grant.cluster, grant.namespaces, grant.expires, grant.cut)


def _check_network(path: str, cidr: Network, before: Iterable[Network]) -> None:
    check_usable(path, cidr.network_address)
    for other in before:
        if _meet(cidr, other):
            raise Wrong(path, f"{cidr} overlaps {other} of the same pool")


def _not_yet(place: Place, spec: _PoolSpec) -> Iterator[Finding]:
    """What the pool wants and nobody does yet; whoever makes it removes its line."""
    for path, wanted, instead in (
        ("spec.grants", spec.grants, "no other cluster gets an address"),
    ):
        if wanted:
            yield place.finding(UNSUPPORTED, path, f"not supported yet: {instead}")


def by_precedence(pools: Iterable[EgressPool]) -> list[EgressPool]:
    """Oldest first, then by name; one without a creation time counts as new."""
    return sorted(pools, key=lambda one: (not one.created, one.created, one.name))


def addresses_of(pool: EgressPool, family: int) -> Iterator[IP]:
    """The addresses of a family that the pool gives away, in their order."""
    networks = (one for one in pool.cidrs if one.version == family)
    every = chain.from_iterable(_given(one, ends=pool.announce != "L2") for one in networks)
    denied = set(pool.deny)
    return (address for address in every if address not in denied)


def _given(network: Network, *, ends: bool) -> Iterator[IP]:
    """The addresses of a network; without ``ends`` neither its first one nor IPv4's broadcast."""
    size = min(network.num_addresses, _MOST)
    whole = size == network.num_addresses and network.version == 4
    skip = not ends and size > 2  # RFC 3021: both of two are hosts'
    return (network[at] for at in range(int(skip), size - int(skip and whole)))


def has(pool: EgressPool, address: IP) -> bool:
    """Whether the pool gives this address away, as far as it is free."""
    return any(address in one for one in pool.cidrs) and address not in pool.deny


def _meet(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


class Pools:
    """``table`` has the pools with the networks that no older pool has; each process has one."""

    def __init__(self, objects: Objects) -> None:
        self.table: Table[str, EgressPool] = Table("egress pool in force")
        #: Addresses that nobody may use.
        self.denied: Table[IP, None] = Table("denied egress address")
        self._objects = objects[POOLS]
        self._findings: list[Finding] = []

    def derive(self, loop: Loop) -> None:
        """Add the derivation: pools are few."""
        loop.derive([self._objects], self._judge)

    def findings(self) -> Iterable[Finding]:
        """Which networks are not used, and why."""
        return self._findings

    def _judge(self) -> None:
        rows, self._findings = accepted(self._objects.rows.values())
        self.table.replace(rows)
        self.denied.replace({one: None for pool in rows.values() for one in pool.deny})


def accepted(pools: Iterable[EgressPool]) -> tuple[dict[str, EgressPool], list[Finding]]:
    """Pools with the networks that no older pool overlaps, and a finding for each of the others."""
    rows: dict[str, EgressPool] = {}
    findings: list[Finding] = []
    for pool in by_precedence(pools):
        clashes = {one: other for one in pool.cidrs if (other := _owner(one, rows))}
        findings += [_overlap(pool, network, other) for network, other in clashes.items()]
        cidrs = tuple(one for one in pool.cidrs if one not in clashes)
        rows[pool.name] = replace(pool, cidrs=cidrs)
    return rows, findings


def _owner(network: Network, pools: Mapping[str, EgressPool]) -> EgressPool | None:
    """The pool that has a part of the network."""
    return next(
        (pool for pool in pools.values() if any(_meet(network, one) for one in pool.cidrs)), None
    )


def _overlap(pool: EgressPool, network: Network, other: EgressPool) -> Finding:
    at = pool.cidrs.index(network)
    text = f"{network} overlaps the older pool {other.name} ({other.origin}): it is not used"
    about = (f"egresspool/{pool.name}", f"egresspool/{other.name}")
    return Finding(POOLS_OVERLAP, pool.origin, f"spec.cidrs[{at}]", text, about)


DEFINITION = Definition(
    _Pool,
    "egresspools",
    ("egpool",),
    (Column("CIDRs", ".spec.cidrs"), Column("Announce", ".spec.announce")),
)

KINDS = (
    Kind(  # optional: a cluster whose kinds are of an earlier version goes on without pools
        "meshgate.io/v1alpha1", "EgressPool", POOLS, _pool, definition=DEFINITION, optional=True
    ),
)
