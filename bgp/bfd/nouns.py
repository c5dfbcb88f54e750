"""BFD sessions as ``meshgate bfd list`` and ``meshgate status`` print them."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.core.noun import Problem, Row, Shown, noun


def _title(sessions: Sequence[Row]) -> str:
    if not sessions:
        return "BFD sessions: none"
    count = sum(session["state"] == "up" for session in sessions)
    return f"BFD sessions: {count} of {len(sessions)} up"


def _problem(_: Row) -> Problem | None:
    """The agent says what is wrong."""
    return None


BFD = noun(
    "bfd",
    "BFD sessions with routers, as the datapath has them",
    "node peer local state diagnostic interval detection since downs refused reason",
    "node peer local",
    Shown(_title, ("node", "peer", "state", "interval", "downs", "reason"), _problem),
)
