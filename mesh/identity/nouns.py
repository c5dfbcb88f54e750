"""Identities and addresses as ``meshgate identity list`` and ``address list`` print them."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.core.address import unpacked
from mesh.core.feature import Row
from mesh.core.model import Identity
from mesh.core.table import ColumnTable
from mesh.identity.labels import parse_label_text


def identity_row(identity: Identity) -> Row:
    """One row of ``identity list``."""
    labels = [f"k8s:{key}={value}" for key, value in parse_label_text(identity.labels)]
    return {"cluster": identity.cluster, "id": identity.id, "labels": labels}


def address_rows(
    table: ColumnTable, clusters: Mapping[int, str], nodes: Mapping[int, str]
) -> list[Row]:
    """Rows of ``address list``; names of clusters by id, of nodes by tunnel endpoint."""
    keys, values = table.rows()
    return [
        {
            "address": str(unpacked(key)),
            "identity": identity,
            "cluster": clusters.get(cluster),
            "node": nodes.get(node),
        }
        for key, (identity, node, _, cluster, _) in sorted(
            zip(keys.tolist(), values.tolist(), strict=True)
        )
    ]
