"""Settings of the host as ``meshgate host list`` prints them."""

from __future__ import annotations

from mesh.core.noun import noun

HOST = noun(
    "host",
    "what Meshgate has set on the hosts, and what was before",
    "node setting was now why",
    "node setting",
)
