"""Maps that versions before BFD do not have.

The states may go with a version that knows none: its node has no sessions. A version that changes
their layout takes their rows from here, so that they go over; their timers cannot, and are armed
again by ``mg_bfd_arm``.
"""

from __future__ import annotations

from bgp.bfd.maps import PATH_MAP, SESSION_MAP, STATE_MAP
from bpf.migrate import Added, Declared, Scratch

DECLARED: Declared = (Added(SESSION_MAP), Scratch(STATE_MAP), Scratch(PATH_MAP))
