"""Rows of fences. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.core.feature import Want
from mesh.core.model import Claim, ClaimKey, Network, PodKey
from tests.packet.fence.kinds import NOUN, POOL, Fence


@dataclass(frozen=True, slots=True)
class FenceKey:
    fence: int
    network: Network


def number(name: str, claims: Mapping[ClaimKey, Claim]) -> dict[str, int]:
    return {name: min(key.number for key in claims)} if claims else {}


def closed(_: str, fence: Fence | None, claimed: int | None) -> dict[FenceKey, int]:
    networks = fence.networks if fence and claimed else ()
    return {FenceKey(claimed or 0, network): 1 for network in networks}


def of_pod(
    key: PodKey, fences: Mapping[str, Fence] | None, numbers: Mapping[str, int]
) -> dict[PodKey, int]:
    """The first fence by name that has a number."""
    return {key: numbers[min(numbers)]} if fences and numbers else {}


def network(one: Network, fences: Mapping[str, Fence]) -> dict[Network, None]:
    return {one: None} if fences else {}


def wanted(name: str, fence: Fence | None) -> dict[Want, bool]:
    return {Want(NOUN, POOL, name): True} if fence else {}
