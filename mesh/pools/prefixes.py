"""Claim number -> prefix, for every pool that is cut into equal subnets (locators, pod CIDRs).

A pool's text names its base and the length of its subnets: ``10.1.0.0_16_24`` is 10.1.0.0/16 in
/24s, ``fcbb:bb01::_32_48`` is fcbb:bb01::/32 in /48s. The text is part of the claim's etcd key, so
every process computes the same prefix from the claim alone. Pure; agent, controller and speaker
call it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, ip_network
from typing import Any

from mesh.core.model import Claim, Network
from mesh.core.reconcile import Loop
from mesh.core.table import Table


def pool_name(cidr: Network, node_prefix: int) -> str:
    """The pool's text; raises ValueError when the subnets would be larger than the pool."""
    if not cidr.prefixlen <= node_prefix <= cidr.max_prefixlen:
        raise ValueError(
            f"pool {cidr} cannot be cut into /{node_prefix}: "
            f"a length from {cidr.prefixlen} to {cidr.max_prefixlen} is needed"
        )
    return f"{cidr.network_address}_{cidr.prefixlen}_{node_prefix}"


def pool_size(pool: str) -> int:
    """How many subnets the pool has."""
    cidr, node_prefix = _parsed(pool)
    return 1 << (node_prefix - cidr.prefixlen)


def subnet(pool: str, number: int) -> Network:
    """Subnet ``number`` of the pool, counted from 0; raises ValueError outside of it."""
    cidr, node_prefix = _parsed(pool)
    if not 0 <= number < 1 << (node_prefix - cidr.prefixlen):
        raise ValueError(f"pool {pool} has no subnet {number}")
    base = int(cidr.network_address) + (number << (cidr.max_prefixlen - node_prefix))
    return type(cidr)((base, node_prefix))


def _parsed(pool: str) -> tuple[Network, int]:
    try:
        base, length, node_prefix = pool.split("_")
        cidr = ip_network(f"{base}/{int(length)}")
        name = pool_name(cidr, int(node_prefix))
    except ValueError as error:
        raise ValueError(f"{pool!r} is no pool (base_prefix_subnetPrefix): {error}") from error
    if isinstance(cidr, IPv4Network) or name == pool:
        return cidr, int(node_prefix)
    raise ValueError(f"{pool!r} is no pool: its base is written {cidr.network_address}")


def whole(pool: str) -> Network:
    """All of a pool."""
    base, length, _ = pool.split("_")
    return ip_network(f"{base}/{length}")


def readable(pools: Iterable[str]) -> list[str]:
    """Names that are a pool's: the key they come from may have been damaged."""
    names = []
    for name in pools:
        with suppress(ValueError):
            subnet(name, 0)
            names.append(name)
    return names


def claimed(claims: Iterable[Claim], pools: Sequence[str]) -> list[tuple[Network, Claim]]:
    """Prefixes of the claims, in the order of the pools; numbers outside of a pool are left out."""
    order = {pool: (at, pool_size(pool)) for at, pool in enumerate(readable(pools))}
    inside = [c for c in claims if c.pool in order and c.number < order[c.pool][1]]
    inside.sort(key=lambda claim: (order[claim.pool], claim.number))
    return [(subnet(claim.pool, claim.number), claim) for claim in inside]


class AgreedPools:
    """The names of pools in a field of the cluster's agreed configuration.

    ``table`` is synced once the field is there: without it nothing follows from claims.
    """

    def __init__(self, config: Table[str, Any], field: str) -> None:
        self.table: Table[str, tuple[str, ...]] = Table(f"pools {field}")
        self._config, self._field = config, field

    def derive(self, loop: Loop) -> None:
        """Add the derivation."""
        loop.derive([self._config], self._take)

    def derive_wholes(self, loop: Loop, out: Table[Network, None]) -> None:
        """Add the derivation of the pools as networks: no other cluster may claim them."""

        def replace() -> None:
            out.replace({whole(name): None for name in readable(self.names)})

        loop.derive([self.table], replace)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the pools, in order."""
        return self.table.rows.get(self._field, ())

    def _take(self) -> None:
        value = self._config.rows.get(self._field)
        if isinstance(value, list):
            names = tuple(name for name in value if isinstance(name, str))
            self.table.replace({self._field: names})
