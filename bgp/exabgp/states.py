"""What ExaBGP's events say of each session: its state, and why it is down."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from bgp.desired import Peering
from bgp.exabgp.applied import Cause, Memory
from bgp.exabgp.lines import OddLine, SessionEvent
from bgp.reasons import (
    SILENT_AGAIN_S,
    SILENT_S,
    closed,
    notified,
    replaces,
    silent,
    with_sequel,
)
from bgp.route import Family, PeerKey
from mesh.core.model import IP

log = logging.getLogger(__name__)

#: A router of a range whose session ended so long ago is not shown any more.
GONE_S = 600.0


@dataclass(frozen=True, slots=True)
class State:
    """One session: ``state`` is established, down, connecting or, of a range, listening.

    ``reason`` is in words, ``entered`` the Unix time of the last event.
    """

    state: str
    reason: str
    entered: float
    families: tuple[Family, ...] = ()


class States:
    """``memory`` keeps the cause of each session's end; a reason here is what came after it."""

    def __init__(self, memory: Memory, unix: Callable[[], float] = time.time) -> None:
        self.owed: set[IP] = set()  # up, and without End-of-RIB
        #: What ExaBGP last said of a session and nobody can read; None: of one that we do not have.
        self.odd: dict[IP | None, str] = {}
        self._memory, self._unix = memory, unix
        self._states: dict[PeerKey, State] = {}
        #: A NOTIFICATION came, and "down" comes next: what is to be added to the cause.
        self._sequel: dict[IP, str] = {}

    def of(self, peering: Peering, member: IP | None = None) -> State | None:
        """The session as it is now, of a range that of ``member``; None: nothing is known of it."""
        router: PeerKey = peering.address if member is None else member
        now, state = self._unix(), self._states.get(router)
        if state is None:
            return None
        patience_s = {"connecting": SILENT_S, "down": SILENT_AGAIN_S}.get(state.state)
        if patience_s is not None and now - state.entered > patience_s:
            state = replace(state, state="down", reason=silent(peering))
        cause = self._memory.causes.get(router)  # type: ignore[arg-type]  # a range has none
        if cause is None or state.state == "established":
            return state
        return replace(state, reason=with_sequel(cause.text, state.reason))

    def members(self, peering: Peering) -> dict[IP, State]:
        """The routers of a range that have been here lately, each with its session."""
        now, found = self._unix(), dict[IP, State]()
        for router, state in list(self._states.items()):
            if not isinstance(router, IPv4Address | IPv6Address):
                continue
            if not peering.dynamic or self._memory.peering(router) != peering:
                continue
            if state.state == "down" and now - state.entered > GONE_S:
                del self._states[router]
                self._memory.explain(router, None)
            elif now_is := self.of(peering, router):
                found[router] = now_is
        return found

    def families(self, peer: PeerKey) -> tuple[Family, ...]:
        """What was negotiated."""
        state = self._states.get(peer)
        return state.families if state else ()

    def standing(self) -> dict[IP, tuple[Family, ...]]:
        """Routers whose session stands, and what was negotiated."""
        return {
            peer: state.families
            for peer, state in self._states.items()
            if state.state == "established" and isinstance(peer, IPv4Address | IPv6Address)
        }

    def forget(self) -> None:
        """Another conversation with ExaBGP begins; causes stay."""
        self._states = {}
        self.owed.clear()
        self.odd.clear()

    def expect(self, peers: Iterable[PeerKey]) -> None:
        """These are the sessions from now on, and those of routers in these ranges."""
        found: dict[PeerKey, State] = {}
        for peer in peers:
            new = "connecting" if isinstance(peer, IPv4Address | IPv6Address) else "listening"
            found[peer] = self._states.get(peer) or State(new, "", self._unix())
        for peer, state in self._states.items():
            if isinstance(peer, IPv4Address | IPv6Address):
                of = self._memory.peering(peer)
                if of is not None and of.dynamic:
                    found.setdefault(peer, state)
        self._states = found
        self.owed = {peer for peer in self.owed if peer in found}
        self.odd = {peer: text for peer, text in self.odd.items() if peer is None or peer in found}
        for peer in [peer for peer in self._memory.causes if peer not in found]:
            self._memory.explain(peer, None)

    def up(self, peer: IP, families: tuple[Family, ...]) -> None:
        """The session stands."""
        self._memory.explain(peer, None)
        self._states[peer] = State("established", "", self._unix(), families)
        self.owed.add(peer)

    def note_odd(self, line: OddLine) -> None:
        """A line that cannot be read says nothing of any session, and is told."""
        peer = line.peer if line.peer and self._memory.peering(line.peer) else None
        if peer not in self.odd:
            log.warning("ExaBGP says what cannot be read: peer=%s error=%s", peer, line)
        self.odd[peer] = str(line)

    def hear(self, event: SessionEvent) -> None:
        """Take in what has happened."""
        self.odd.pop(event.peer, None)
        if event.kind == "notification":
            self._hear_notification(event)
            return
        sequel = self._sequel.pop(event.peer, None)
        if event.kind == "negotiated":
            state = self._states.get(event.peer)
            why = state.reason if state else ""
            self._states[event.peer] = State("connecting", why, self._unix(), event.families)
        elif event.state == "up":
            self.up(event.peer, self.families(event.peer))
        elif event.state == "down":
            self._down(event, sequel)

    def _hear_notification(self, event: SessionEvent) -> None:
        peering = self._peering(event.peer)
        if peering is None:
            return
        cause, text = self._memory.causes.get(event.peer), notified(peering, event)
        if replaces(cause, event):
            self._memory.explain(event.peer, Cause(text, event.sent))
            text = ""
        self._sequel[event.peer] = text

    def _down(self, event: SessionEvent, sequel: str | None) -> None:
        self.owed.discard(event.peer)
        peering = self._peering(event.peer)
        if sequel is None:
            sequel = closed(peering, event.text) if peering else ""
        state = self._states.get(event.peer)
        self._states[event.peer] = State("down", sequel, self._unix())
        if not state or (state.state, state.reason) != ("down", sequel):
            cause = self._memory.causes.get(event.peer)
            text = with_sequel(cause.text if cause else "", sequel)
            log.warning("session is down: peer=%s reason=%s said=%r", event.peer, text, event.text)

    def _peering(self, router: IP) -> Peering | None:
        """The session of a router by its own address, also where it is a range's."""
        found = self._memory.peering(router)
        return replace(found, address=router) if found and found.dynamic else found
