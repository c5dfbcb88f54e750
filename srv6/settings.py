"""The section ``pools`` of the controller's configuration file, with SRv6 locators."""

from __future__ import annotations

from collections.abc import Iterator

from mesh.core.strict import Wrong
from mesh.nodes.settings import PodCIDRPools, Pool


class Pools(PodCIDRPools, frozen=True):
    """What the controller gives to nodes."""

    locators: tuple[Pool, ...] = ()
    """SRv6 locators (IPv6); empty: nodes have none."""

    def problems(self, path: str) -> Iterator[Wrong]:
        for number, pool in enumerate(self.locators):
            if pool.cidr.version == 4:
                place = f"{path}.locators[{number}].cidr"
                yield Wrong(place, f"expected an IPv6 CIDR, got {pool.cidr}")
        yield from super().problems(path)
