"""Rows of egress in two maps, as one target: a class is in both whole, or in none.

``mg_egress`` has rows by destination network, ``mg_egress_label`` by the identity of a learned
network. Both have room for as many rows, so what fits into the one fits into both together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from gateway.rows import AnyKey, EgressLabelKey, EgressRow
from mesh.core.target import Comparing, Target

Rows = Mapping[AnyKey, EgressRow]


class EgressTarget:
    """``networks`` and ``labels`` are the maps."""

    def __init__(self, networks: Target[Any, Any], labels: Target[Any, Any]) -> None:
        self.name = networks.name
        self._networks, self._labels = networks, labels

    async def read(self) -> Rows:
        """The rows of both maps."""
        return {**await self._networks.read(), **await self._labels.read()}

    async def read_known(self, known: Rows) -> Rows:
        """``read``; rows that are equal to those of ``known`` are the same objects."""
        networks, labels = _parted(known)
        return {**await _read(self._networks, networks), **await _read(self._labels, labels)}

    async def upsert(self, rows: Rows) -> Mapping[AnyKey, Exception]:
        """Write rows."""
        networks, labels = _parted(rows)
        errors = dict(await self._networks.upsert(networks)) if networks else {}
        return errors | dict(await self._labels.upsert(labels)) if labels else errors

    async def delete(self, keys: Collection[AnyKey]) -> Mapping[AnyKey, Exception]:
        """Remove rows."""
        labels = [key for key in keys if isinstance(key, EgressLabelKey)]
        networks = [key for key in keys if not isinstance(key, EgressLabelKey)]
        errors = dict(await self._networks.delete(networks)) if networks else {}
        return errors | dict(await self._labels.delete(labels)) if labels else errors


def _parted(rows: Rows) -> tuple[dict[AnyKey, EgressRow], dict[AnyKey, EgressRow]]:
    labels: dict[AnyKey, EgressRow] = {
        key: row for key, row in rows.items() if isinstance(key, EgressLabelKey)
    }
    if not labels:
        return dict(rows), labels
    return {key: row for key, row in rows.items() if key not in labels}, labels


async def _read(target: Target[Any, Any], known: Rows) -> Rows:
    return await (target.read_known(known) if isinstance(target, Comparing) else target.read())
