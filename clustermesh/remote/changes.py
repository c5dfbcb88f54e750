"""Accepted rows on their way out of the import firewall: rows by key, addresses as columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mesh.core.address import ADDRESS
from mesh.core.model import Identity, Node, NodeKey, Service, ServiceKey
from mesh.core.table import Changes, ColumnChanges
from mesh.identity.addresses import KIND_POD, VALUE

K = TypeVar("K")
V = TypeVar("V")

#: The fields of ``VALUE``: ``node`` is the tunnel endpoint, ``cluster`` the peer's id.
AddressRow = tuple[int, int, int, int, int]


def address_row(identity: int, endpoint: int, cluster_id: int) -> AddressRow:
    """The value of an address."""
    return identity, endpoint, KIND_POD, cluster_id, 0


@dataclass(frozen=True, slots=True)
class ImportChanges:
    """Accepted rows that came, changed or went."""

    nodes: Changes[NodeKey, Node]
    services: Changes[ServiceKey, Service]
    identities: Changes[int, Identity]
    addresses: ColumnChanges  # of dtypes ADDRESS and VALUE


@dataclass(slots=True)
class Draft:
    """Changes being collected; None means gone."""

    nodes: dict[NodeKey, Node | None] = field(default_factory=dict)
    services: dict[ServiceKey, Service | None] = field(default_factory=dict)
    identities: dict[int, Identity | None] = field(default_factory=dict)
    addresses: dict[bytes, AddressRow | None] = field(default_factory=dict)

    def changes(self) -> ImportChanges:
        """The changes as they are handed out."""
        rows = {key: row for key, row in self.addresses.items() if row is not None}
        gone = [key for key, row in self.addresses.items() if row is None]
        keys, values = columns(rows)
        return ImportChanges(
            _changes(self.nodes),
            _changes(self.services),
            _changes(self.identities),
            ColumnChanges(keys, values, np.frombuffer(b"".join(gone), ADDRESS)),
        )


def columns(rows: Mapping[bytes, AddressRow]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Keys and values of address rows."""
    return np.frombuffer(b"".join(rows), ADDRESS), np.array(list(rows.values()), VALUE)


def _changes(draft: Mapping[K, V | None]) -> Changes[K, V]:
    return Changes(
        {key: row for key, row in draft.items() if row is not None},
        frozenset(key for key, row in draft.items() if row is None),
    )
