"""Pools in the section ``pools`` of the controller's configuration file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from mesh.core.model import Network
from mesh.core.section import Section
from mesh.core.strict import AnyNetwork, Wrong
from mesh.pools.prefixes import pool_name


class Pool(Section, frozen=True):
    """A network that is cut into one piece per node."""

    cidr: AnyNetwork
    """The whole network; must not overlap another pool of the mesh."""
    node_prefix: int
    """Prefix length of a node's piece; not shorter than the pool's own."""

    @property
    def name(self) -> str:
        """The pool's name in keys."""
        return pool_name(self.cidr, self.node_prefix)


class PoolLists(Section, frozen=True):
    """What every node gets a piece of: each field is a list of pools."""

    @property
    def all(self) -> Iterator[tuple[str, Pool]]:
        """Every pool with its place in the section."""
        for field in msgspec.structs.fields(self):
            for number, pool in enumerate(getattr(self, field.name)):
                yield f"{field.encode_name}[{number}]", pool

    def problems(self, path: str) -> Iterator[Wrong]:
        places: list[tuple[str, Network]] = []
        for name, pool in self.all:
            place = f"{path}.{name}"
            yield from _pool_problems(place, pool)
            yield from _overlaps(place, pool.cidr, places)
            places.append((place, pool.cidr))


def _pool_problems(place: str, pool: Pool) -> Iterator[Wrong]:
    cidr = pool.cidr
    if not cidr.prefixlen <= pool.node_prefix <= cidr.max_prefixlen:
        least, most = cidr.prefixlen, cidr.max_prefixlen
        text = f"expected {least}..{most} in {cidr}, got {pool.node_prefix}"
        yield Wrong(f"{place}.nodePrefix", text)


def _overlaps(place: str, cidr: Network, others: Iterable[tuple[str, Network]]) -> Iterator[Wrong]:
    for other_place, other in others:
        if cidr.version == other.version and cidr.overlaps(other):
            yield Wrong(f"{place}.cidr", f"{cidr} overlaps {other} of {other_place}")
