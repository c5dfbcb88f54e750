"""Service maps of former versions: their keys had no zone."""

from __future__ import annotations

from bpf.migrate import Added, Declared, Scratch
from mesh.services.maps import ADDRESS_MAP, SERVICE_MAP

DECLARED: Declared = (
    Added(SERVICE_MAP, ("key.zone",)),
    Scratch(ADDRESS_MAP),  # the agent's rows; without them what asks for an address itself leaves
    Scratch("mg_gone"),  # filled for the moment in which sockets are ended
)
