"""Service maps of former versions: their keys had no zone."""

from __future__ import annotations

from bpf.migrate import Added, Declared
from mesh.services.maps import SERVICE_MAP

DECLARED: Declared = (Added(SERVICE_MAP, ("key.zone",)),)
