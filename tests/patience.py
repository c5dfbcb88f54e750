"""How much longer a wait for a fact may take beside other lanes (``tests/run.py``).

A wait says how long a fact takes with a processor to itself. Lanes that run side by side share two
processors, so a process that starts in 2 s starts in 20. What a test measures, and what an issue
bounds, is not stretched.
"""

from __future__ import annotations

import os

#: Factor for all waits, from whoever runs several lanes.
VARIABLE = "MESHGATE_PATIENCE"


def patient(seconds: float) -> float:
    """Seconds to wait for a fact that takes at most ``seconds`` on a quiet machine."""
    return seconds * float(os.environ.get(VARIABLE, "1"))
