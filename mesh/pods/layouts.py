"""Pod maps of former versions: keys had no zone, and marks had other names."""

from __future__ import annotations

from collections.abc import Iterable

from bpf.migrate import Added, Declared, Renamed
from mesh.core.feature import Mark
from mesh.pods.maps import POD_MAP


def declared(marks: Iterable[Mark]) -> Declared:
    """Of ``mg_pod_addr``; a mark's feature says what it was called."""
    renamed = [mark for mark in marks if mark.former]
    return (
        Added(POD_MAP, ("key.zone",)),
        *(Renamed(f"value.{one.former}", f"value.{one.name}", map=POD_MAP) for one in renamed),
    )
