"""Pod maps of former versions: keys had no zone, and marks had other names."""

from __future__ import annotations

from collections.abc import Iterable

from bpf.migrate import Added, Declared, Renamed, Scratch
from mesh.core.feature import Mark
from mesh.pods.maps import DEVICE_MAP, POD_MAP


def declared(marks: Iterable[Mark]) -> Declared:
    """Of ``mg_pod_addr``; a mark's feature says what it was called."""
    marks = tuple(marks)
    renamed = [mark for mark in marks if mark.former]
    return (
        Added(POD_MAP, ("key.zone",)),
        Added(POD_MAP, ("value.since",)),
        Scratch("mg_known"),  # the agent says it anew, after its pods have their rows
        Scratch(DEVICE_MAP),  # likewise, from the kernel's devices
        *(Added(POD_MAP, (f"value.{one.name}",)) for one in marks if not one.former),
        *(Renamed(f"value.{one.former}", f"value.{one.name}", map=POD_MAP) for one in renamed),
    )
