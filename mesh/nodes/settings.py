"""The section ``pools`` of the controller's configuration file: prefixes of nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from mesh.core.model import Network
from mesh.core.section import Section
from mesh.core.strict import AnyNetwork, Wrong
from mesh.nodes.pools import pool_name


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


class Pools(Section, frozen=True):
    """What the controller gives to nodes."""

    pod_cidrs: Annotated[tuple[Pool, ...], msgspec.Meta(min_length=1)] = msgspec.field(
        name="podCIDRs"
    )
    """Pod networks: every node gets one piece of each pool."""
    locators: tuple[Pool, ...] = ()
    """SRv6 locators (IPv6); empty: nodes have none."""

    def problems(self, path: str) -> Iterator[Wrong]:
        seen: list[tuple[str, Network]] = []
        for field, group in (("podCIDRs", self.pod_cidrs), ("locators", self.locators)):
            for number, pool in enumerate(group):
                place = f"{path}.{field}[{number}]"
                yield from _pool_problems(place, field, pool, seen)
                seen.append((place, pool.cidr))


def _pool_problems(
    place: str, field: str, pool: Pool, seen: list[tuple[str, Network]]
) -> Iterator[Wrong]:
    cidr = pool.cidr
    if not cidr.prefixlen <= pool.node_prefix <= cidr.max_prefixlen:
        least, most = cidr.prefixlen, cidr.max_prefixlen
        text = f"expected {least}..{most} in {cidr}, got {pool.node_prefix}"
        yield Wrong(f"{place}.nodePrefix", text)
    if field == "locators" and cidr.version == 4:
        yield Wrong(f"{place}.cidr", f"expected an IPv6 CIDR, got {cidr}")
    for other_place, other in seen:
        if cidr.version == other.version and cidr.overlaps(other):
            yield Wrong(f"{place}.cidr", f"{cidr} overlaps {other} of {other_place}")
