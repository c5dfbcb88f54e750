"""Identities and addresses as ``meshgate identity list`` and ``address list`` print them."""

from __future__ import annotations

from mesh.core.model import Identity
from mesh.core.noun import Row, noun
from mesh.identity.labels import parse_label_text

IDENTITY = noun(
    "identity",
    "label sets and their numbers",
    "cluster id labels",
    "id",
)
ADDRESS = noun(
    "address",
    "who an address is, behind which node",
    "address identity cluster node",
    "address",
)


def identity_row(identity: Identity) -> Row:
    """One row of ``identity list``."""
    labels = [f"k8s:{key}={value}" for key, value in parse_label_text(identity.labels)]
    return {"cluster": identity.cluster, "id": identity.id, "labels": labels}
