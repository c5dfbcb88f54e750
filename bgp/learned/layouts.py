"""Maps that versions before learned routes do not have."""

from __future__ import annotations

from bgp.learned.maps import LEARNED_MAP
from bpf.migrate import Declared, Scratch

#: The speaker's rows: it writes them again into a new map. A version without it knows no labels.
DECLARED: Declared = (Scratch(LEARNED_MAP),)
