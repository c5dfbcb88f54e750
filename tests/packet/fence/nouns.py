"""Fences as ``meshgate fence list`` prints them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mesh.core.noun import Row, noun

if TYPE_CHECKING:
    from tests.packet.fence.kinds import Fence

FENCE = noun("fence", "networks that pods reach no more", "cluster name number networks", "name")


def rows(cluster: str, fences: Iterable[Fence], numbers: Mapping[str, int]) -> list[Row]:
    return [
        {
            "cluster": cluster,
            "name": fence.name,
            "number": numbers.get(fence.name),
            "networks": [str(network) for network in fence.networks],
        }
        for fence in fences
    ]
