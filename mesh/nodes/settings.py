"""Pools of pod CIDRs in the section ``pools`` of the controller's configuration file."""

from __future__ import annotations

import msgspec

from mesh.pools.settings import Pool, PoolLists


class PodCIDRPools(PoolLists, frozen=True):
    """Pools of pod networks."""

    pod_cidrs: tuple[Pool, ...] = msgspec.field(name="podCIDRs", default=())
    """Pod networks: every node whose object has no ``spec.podCIDRs`` gets one piece of each pool;
    empty where the cluster hands them out."""
