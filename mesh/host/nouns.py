"""Settings of the host as ``meshgate host list`` prints them."""

from __future__ import annotations

from mesh.core.noun import noun

HOST = noun(
    "host",
    "settings of the hosts that Meshgate has made, with the former values",
    "node setting was now why",
    "node setting",
)
