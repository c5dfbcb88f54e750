"""SRv6 in the configuration files: pools of locators, and the SR domain of a node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mesh.core.section import Section
from mesh.core.strict import AnyNetwork, Wrong
from mesh.pools.settings import Pool


class SRv6Settings(Section, frozen=True):
    """SRv6 on a node."""

    domain: tuple[AnyNetwork, ...] = ()
    """IPv6 prefixes from which packets for this node's SIDs may come, beside nodes,
    locator pools, and IPv6 addresses of BGPPeers with acceptSIDs: loopbacks of routers."""

    def problems(self, path: str) -> Iterator[Wrong]:
        for number, prefix in enumerate(self.domain):
            if prefix.version == 4:
                yield Wrong(f"{path}.domain[{number}]", f"expected an IPv6 CIDR, got {prefix}")


def pool_problems(path: str, pools: Sequence[Pool]) -> Iterator[Wrong]:
    """What is wrong with pools of locators, beyond what is with any pools."""
    for number, pool in enumerate(pools):
        if pool.cidr.version == 4:
            yield Wrong(f"{path}[{number}].cidr", f"expected an IPv6 CIDR, got {pool.cidr}")
