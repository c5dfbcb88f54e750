"""Maps that versions before masquerade do not have."""

from __future__ import annotations

from bpf.migrate import Added, Declared
from mesh.masquerade.maps import MASQUERADE_MAP, UNMASKED_MAP

DECLARED: Declared = (Added(MASQUERADE_MAP), Added(UNMASKED_MAP))
