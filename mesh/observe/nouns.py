"""Flows, drops and resets as ``meshgate flow list`` and so on print them."""

from __future__ import annotations

from mesh.core.noun import noun

FLOW = noun(
    "flow",
    "new connections and drops",
    "time node source destination protocol verdict reason translated service",
    "time node source destination protocol",
)
DROP = noun(
    "drop",
    "dropped packets by reason",
    "node reason number packets since",
    "node number",
)
RESET = noun(
    "reset",
    "TCP resets sent because a change of egress policy had ended a connection",
    "node receiver source packets",
    "node receiver source",
)
