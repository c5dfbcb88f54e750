"""Address maps of former versions: their keys had no zone."""

from __future__ import annotations

from bpf.migrate import Added, Declared

DECLARED: Declared = (Added("mg_address", ("key.zone",)),)
