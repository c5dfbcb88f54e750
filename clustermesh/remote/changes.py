"""Accepted rows on their way out of the import firewall: rows by key, addresses as columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from clustermesh.remote.shared import IDENTITY, NODE, SERVICE, Shared
from mesh.core.address import ADDRESS
from mesh.core.model import IDENTITY_REMOTE_NODE, Identity, Node, NodeKey, Service, ServiceKey
from mesh.core.table import Changes, ColumnChanges
from mesh.identity.addresses import KIND_POD, KIND_ROUTER, VALUE

K = TypeVar("K")
V = TypeVar("V")

#: The fields of ``VALUE``: ``node`` is the tunnel endpoint, ``cluster`` the cluster's id.
AddressRow = tuple[int, int, int, int, int]


def address_row(identity: int, endpoint: int, cluster_id: int) -> AddressRow:
    """The value of an address, a pod's or a router's."""
    kind = KIND_ROUTER if identity == IDENTITY_REMOTE_NODE else KIND_POD
    return identity, endpoint, kind, cluster_id, 0


@dataclass(frozen=True, slots=True)
class ImportChanges:
    """Accepted rows that came, changed or went: by noun, addresses as columns."""

    rows: Mapping[Shared[Any, Any, Any], Changes[Any, Any]]
    addresses: ColumnChanges  # of dtypes ADDRESS and VALUE

    def of(self, noun: Shared[Any, Any, Any]) -> Changes[Any, Any]:
        """The changes of one noun."""
        return self.rows.get(noun) or Changes({}, frozenset())

    @property
    def nodes(self) -> Changes[NodeKey, Node]:
        """Changed nodes."""
        return self.of(NODE)

    @property
    def services(self) -> Changes[ServiceKey, Service]:
        """Changed services."""
        return self.of(SERVICE)

    @property
    def identities(self) -> Changes[int, Identity]:
        """Changed identities."""
        return self.of(IDENTITY)


class Draft:
    """Changes being collected; None means gone."""

    def __init__(self) -> None:
        self.addresses: dict[bytes, AddressRow | None] = {}
        self._rows: dict[Shared[Any, Any, Any], dict[Any, Any]] = {}

    def put(self, noun: Shared[Any, Any, Any], key: object, row: object | None) -> None:
        """Note the new row of a key."""
        self._rows.setdefault(noun, {})[key] = row

    def changes(self) -> ImportChanges:
        """The changes as they are handed out."""
        rows = {noun: _changes(rows) for noun, rows in self._rows.items()}
        return ImportChanges(rows, _address_changes(self.addresses))

    def take(self) -> Draft:
        """The collected changes; the draft is empty again."""
        taken = Draft()
        taken.addresses, self.addresses = self.addresses, {}
        taken._rows, self._rows = self._rows, {}
        return taken

    def parts(self, addresses: int) -> Iterator[ImportChanges]:
        """``changes`` with so many addresses in each part; the other rows are in the first."""
        items = iter(self.addresses.items())
        rows = {noun: _changes(rows) for noun, rows in self._rows.items()}
        yield ImportChanges(rows, _address_changes(dict(islice(items, addresses))))
        while some := dict(islice(items, addresses)):
            yield ImportChanges({}, _address_changes(some))


def _address_changes(addresses: Mapping[bytes, AddressRow | None]) -> ColumnChanges:
    rows = {key: row for key, row in addresses.items() if row is not None}
    gone = [key for key, row in addresses.items() if row is None]
    return ColumnChanges(*columns(rows), np.frombuffer(b"".join(gone), ADDRESS))


def columns(rows: Mapping[bytes, AddressRow]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Keys and values of address rows."""
    return np.frombuffer(b"".join(rows), ADDRESS), np.array(list(rows.values()), VALUE)


def _changes(draft: Mapping[K, V | None]) -> Changes[K, V]:
    return Changes(
        {key: row for key, row in draft.items() if row is not None},
        frozenset(key for key, row in draft.items() if row is None),
    )
