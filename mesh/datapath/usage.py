"""How much of the connection tables is in use on this node, and which ports are live."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mesh.datapath.programs import Datapath

CONNECTIONS = ("mg_ct_v4", "mg_ct_v6")
#: Of a field of a mapping: somebody is taking the mapping away, or has. No clock comes so far.
DYING = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class InUse:
    """Entries of a connection table: a map by its name."""

    map: str
    used: int
    size: int


def connections_in_use(datapath: Datapath) -> Iterator[InUse]:
    """Of both families, from the datapath's counters: it costs one look at a map of two entries."""
    _, rows = datapath.map("mg_used").dump()
    now = (rows["held"] + (rows["opened"] - rows["mark"])).view(np.int32)
    for name, used in zip(CONNECTIONS, now[: len(CONNECTIONS)].tolist(), strict=True):
        size = datapath.map(name).max_entries
        yield InUse(name, min(max(used, 0), size), size)


def are_live(
    mappings: npt.NDArray[Any], now_ns: int, one_shot: Mapping[str, int]
) -> npt.NDArray[np.bool_]:
    """Which mappings keep their port whoever wants one (``bpf/include/nat.h``).

    ``now_ns`` is of CLOCK_MONOTONIC; ``one_shot`` is the enum of this name.
    """
    quiet, closed = mappings["quiet"], mappings["closed"]
    shift, late = one_shot["ONE_SHOT_SHIFT"], 1 << one_shot["TOUCH_SHIFT"]
    since = now_ns - (quiet & np.uint64((1 << shift) - 1)).astype(np.int64)
    live: npt.NDArray[np.bool_] = (closed == 0) | (closed == np.uint64(DYING))
    for kind in ("ANSWERED", "UNANSWERED"):
        rest = one_shot[f"{kind}_REST_S"] * 10**9 + late
        is_kind = quiet >> np.uint64(shift) == one_shot[f"ONE_SHOT_{kind}"]
        live &= ~is_kind | (since < rest)
    return live
