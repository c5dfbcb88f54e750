"""Flows and drops as ``meshgate flow list`` and ``drop list`` print them."""

from __future__ import annotations

from mesh.core.noun import noun

FLOW = noun(
    "flow",
    "new connections and drops",
    "time node source destination protocol verdict reason translated",
    "time node source destination protocol",
)
DROP = noun(
    "drop",
    "dropped packets by reason",
    "node reason number packets since",
    "node number",
)
