"""How many connections of a node are translated and have not ended, by its maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bpf.migrate import Entries, dump
from mesh.datapath.connections import FAMILIES, IPPROTO_TCP
from mesh.datapath.programs import Datapath


def translated(datapath: Datapath) -> int:
    """TCP that neither end has closed, and datagrams of which an entry is left."""
    bits = datapath.enum("connection_flag")
    return sum(
        int(_live(dump(datapath.map(connections)), bits).sum()) for connections, _ in FAMILIES
    )


def _live(entries: Entries, bits: Any) -> npt.NDArray[np.bool_]:
    flags = entries.values["flags"]
    both = bits["CONNECTION_FIN"] | bits["CONNECTION_REPLY_FIN"]
    ended = (flags & both == both) | (flags & bits["CONNECTION_RST"] != 0)
    words = entries.values["translated"]["w"]
    is_translated = (words != 0).any(axis=-1) & (flags & bits["CONNECTION_MASQUERADED"] == 0)
    live: npt.NDArray[np.bool_] = is_translated & ~(
        ended & (entries.keys["protocol"] == IPPROTO_TCP)
    )
    return live
