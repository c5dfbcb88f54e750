"""Which address of a node stands for its pods. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mesh.core.model import IP, Network, Node
from mesh.masquerade.settings import MasqueradeSettings


@dataclass(frozen=True, slots=True)
class Masquerade:
    """``address`` and ``ports`` stand for pods of its family; ``opens``: also for new connections.

    Without ``opens`` the connections that are translated go on, and others leave as they are.
    """

    address: IP
    ports: range
    opens: bool = True


def masquerades(
    settings: MasqueradeSettings | None, node: Node, announcing: Collection[str]
) -> dict[int, Masquerade]:
    """The row of each family of which the node has an address: the first InternalIP of it.

    ``announcing`` are the BGPPeers by which the world has routes to the pods of the node.
    """
    if settings is None or settings.mode == "off":
        return {}
    opens = settings.mode == "on" or not announcing
    found: dict[int, Masquerade] = {}
    for address in node.addresses:
        found.setdefault(address.version, Masquerade(address, settings.range, opens))
    return found


def families_without(rows: Collection[int], pod_cidrs: Collection[Network]) -> list[int]:
    """Families of the pods of a node of which no address stands for them."""
    return sorted({cidr.version for cidr in pod_cidrs}.difference(rows))
