"""Pools of pod CIDRs in the section ``pools`` of the controller's configuration file."""

from __future__ import annotations

from typing import Annotated

import msgspec

from mesh.pools.settings import Pool, PoolLists


class PodCIDRPools(PoolLists, frozen=True):
    """Pools of pod networks."""

    pod_cidrs: Annotated[tuple[Pool, ...], msgspec.Meta(min_length=1)] = msgspec.field(
        name="podCIDRs"
    )
    """Pod networks: every node gets one piece of each pool."""
