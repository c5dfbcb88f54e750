"""What people are told of a BFD session: a row, a reason, findings. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from bgp.bfd.findings import NEVER_UP, NOT_DIRECT, PACKETS_REFUSED, SESSION_DOWN, TOO_MANY
from bgp.bfd.maps import BFDSeen
from bgp.bfd.packet import State
from bgp.bfd.rows import Session, SessionKey
from bgp.bfd.words import DIAGNOSTICS, REFUSALS, STATES
from mesh.core.findings import Code
from mesh.core.model import Finding
from mesh.core.noun import Row

#: A session that has not come up in this time is a finding.
PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class BFDFacts:
    """All that a node knows of one session.

    ``seen`` is None when the datapath has heard nothing for it. ``refuses``: packets of the router
    were refused lately. ``waits_s`` is how long it has been wanted by this agent.
    """

    node: str
    key: SessionKey
    row: Session
    origin: str
    seen: BFDSeen | None = None
    refuses: bool = False
    direct: bool = True
    waits_s: float = 0.0

    @property
    def is_up(self) -> bool:
        """Whether the session stands."""
        return self.seen is not None and self.seen.state == State.UP


def row(facts: BFDFacts) -> Row:
    """A line of ``meshgate bfd list``."""
    seen, session = facts.seen, facts.row
    since = time.time() - (time.monotonic_ns() - seen.since_ns) / 1e9 if seen else None
    return {
        "node": facts.node,
        "peer": facts.key.peer,
        "local": facts.key.local,
        "state": STATES[seen.state if seen else State.DOWN],
        "diagnostic": _diagnostic(seen) if seen else "",
        "interval": f"{session.interval_us / 1000:g} ms x {session.multiplier}",
        "detection": f"{seen.detection_us / 1000:g} ms" if seen and seen.detection_us else "",
        "since": since,
        "downs": seen.downs if seen else 0,
        "refused": seen.refused if seen else 0,
        "reason": reason(facts),
    }


def reason(facts: BFDFacts) -> str:
    """Why a session is not up, in words; empty: it is."""
    seen, router = facts.seen, facts.key.peer
    if facts.row.ending:
        return "no BGPPeer of this node wants it any more"
    if facts.is_up:
        return ""
    if seen and facts.refuses:
        return f"packets of {router} are refused: {REFUSALS.get(seen.refusal, 'malformed')}"
    if seen is None or not seen.detection_us:
        return f"nothing heard from {router}"
    if seen.their_state == State.ADMIN_DOWN:
        return f"{router} has switched BFD off"
    return _diagnostic(seen)


def _diagnostic(seen: BFDSeen) -> str:
    return DIAGNOSTICS.get(seen.diagnostic, f"diagnostic {seen.diagnostic}")


def findings(facts: BFDFacts) -> Iterator[Finding]:
    """What is wrong with a session that is wanted."""
    seen, router = facts.seen, facts.key.peer
    if not facts.direct:
        text = f"{router} is behind another router, and BFD is for one hop"
        yield _finding(NOT_DIRECT, facts, "spec.bfd.multihop", text)
    if facts.is_up:
        return
    text = f"BFD session of {facts.node} with {router}: {reason(facts)}"
    if facts.refuses:
        yield _finding(PACKETS_REFUSED, facts, "spec.bfd", text)
    elif seen and seen.downs and seen.their_state != State.ADMIN_DOWN:
        yield _finding(SESSION_DOWN, facts, "spec.bfd", text)
    elif facts.waits_s > PATIENCE_S:
        yield _finding(NEVER_UP, facts, "spec.bfd", text)


def no_room(node: str, key: SessionKey, origin: str) -> Finding:
    """The datapath cannot have another session."""
    text = "the datapath has no room for another BFD session"
    about = (f"node/{node}", f"peer/{key.peer}")
    return Finding(TOO_MANY, origin, f"spec.bfd {node}", text, about)


def _finding(code: Code, facts: BFDFacts, field: str, text: str) -> Finding:
    about = (f"node/{facts.node}", f"peer/{facts.key.peer}")
    return Finding(code, facts.origin, f"{field} {facts.node}", text, about)
