"""The key ``config``: settings on which all controllers of a cluster agree. Pure.

The first leader writes the fields of its features; a controller with other values never leads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from clustermesh.findings import ID_USED, OTHER_CONFIG
from clustermesh.remote import wire
from mesh.core.model import Finding


def encode(config: Mapping[str, object]) -> bytes:
    """Value of the key."""
    return msgspec.json.encode(config)


def config_findings(key: str, stored: bytes, ours: Mapping[str, object]) -> list[Finding]:
    """How the stored configuration differs from ours; each finding names both values."""
    try:
        theirs = msgspec.json.decode(stored, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return [Finding(OTHER_CONFIG, key, "", f"not readable: {error}")]
    mine = msgspec.json.decode(encode(ours), type=dict[str, Any])
    return [
        Finding(OTHER_CONFIG, key, name, f"the cluster has {_text(there)}, this one {_text(here)}")
        for name, here in mine.items()
        if (there := theirs.get(name)) != here
    ]


def id_findings(name: str, id_: int, configs: Mapping[str, bytes]) -> list[Finding]:
    """Clusters of another name that publish our id. ``configs`` are cluster config keys."""
    findings = []
    for key, value in configs.items():
        other = wire.cluster_of(key)
        try:
            used = wire.decode(wire.ClusterConfig, value).id
        except wire.WireError:
            continue
        if used == id_ and other != name:
            text = f"cluster id {id_} of {name} is used by cluster {wire.plain(other)}"
            about = (f"cluster/{wire.plain(other)}",)
            findings.append(Finding(ID_USED, wire.plain(key), "id", text, about))
    return findings


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
