"""Pools of SRv6 locators in the section ``pools`` of the controller's configuration file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mesh.core.strict import Wrong
from mesh.pools.settings import Pool


def pool_problems(path: str, pools: Sequence[Pool]) -> Iterator[Wrong]:
    """What is wrong with pools of locators, beyond what is with any pools."""
    for number, pool in enumerate(pools):
        if pool.cidr.version == 4:
            yield Wrong(f"{path}[{number}].cidr", f"expected an IPv6 CIDR, got {pool.cidr}")
