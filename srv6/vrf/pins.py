"""Maps of VRFs as targets of the speaker, which writes what routers say (D148)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from bpf import build
from bpf.object import Object
from bpf.pinned import PinnedRows
from srv6.vrf import maps as entries
from srv6.vrf.rows import VRFPath, VRFRoute, ZonedPrefix

#: The object that declares the maps.
_OBJECT = "pod"


def host_rows(bpffs: Path) -> PinnedRows[ZonedPrefix, VRFRoute]:
    """``mg_vrf_bgp_host``; ``bpffs`` is the agent's directory."""
    return PinnedRows(
        bpffs / "mg_vrf_bgp_host", _OBJECT, lambda _: entries.hosts(enum("vrf_route_flag"))
    )


def prefix_rows(bpffs: Path) -> PinnedRows[ZonedPrefix, VRFRoute]:
    """``mg_vrf_bgp``."""
    return PinnedRows(
        bpffs / "mg_vrf_bgp", _OBJECT, lambda _: entries.prefixes(enum("vrf_route_flag"))
    )


def path_rows(bpffs: Path) -> PinnedRows[int, VRFPath]:
    """``mg_vrf_bgp_via``."""
    return PinnedRows(
        bpffs / "mg_vrf_bgp_via", _OBJECT, lambda _: entries.paths(enum("vrf_via_flag"))
    )


@cache
def enum(name: str) -> Mapping[str, int]:
    """Names and numbers of a C enum. Raises OSError without the object."""
    with Object.open(build.HERE / "obj" / f"{_OBJECT}.o") as one:
        return one.btf.enum(name)
