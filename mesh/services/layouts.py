"""Service maps of former versions: their keys had no zone."""

from __future__ import annotations

from bpf.migrate import Added, Declared, Scratch
from mesh.services.maps import ADDRESS_MAP, SERVICE_MAP

DECLARED: Declared = (
    Added(SERVICE_MAP, ("key.zone",)),
    Added(ADDRESS_MAP),
    Scratch("mg_gone"),  # filled for the moment in which sockets are ended
)
