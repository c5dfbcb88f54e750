"""Rows of ``address list``, made from the columns of the address table when they are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mesh.core.address import unpacked
from mesh.core.noun import Row, Rows
from mesh.core.table import ColumnTable


def address_rows(
    table: ColumnTable, clusters: Mapping[int, str], nodes: Mapping[int, str]
) -> Sequence[Row]:
    """All addresses; names of clusters by id, of nodes by tunnel endpoint."""
    keys, values = table.rows()

    def part(begin: int, end: int) -> list[Row]:
        pairs = zip(keys[begin:end].tolist(), values[begin:end].tolist(), strict=True)
        return [
            {
                "address": str(unpacked(key)),
                "identity": identity,
                "cluster": clusters.get(cluster),
                "node": nodes.get(node),
            }
            for key, (identity, node, _, cluster, _) in pairs
        ]

    return Rows(len(keys), part)
