"""The routes of all sessions of a speaker, both ways: tables, task and file, joined to ExaBGP."""

from __future__ import annotations

from collections.abc import Callable, Container, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

from bgp.exabgp.lines import SessionEvent
from bgp.exabgp.session import Session
from bgp.findings import KEPT_NOT, MALFORMED, MAXIMUM, TOO_FAST, UNREAD
from bgp.ribs.incoming import FAULT_S, RibIn
from bgp.ribs.kept import Kept
from bgp.ribs.listener import Listener
from bgp.ribs.outgoing import RibOut
from bgp.route import Family, Route, RouteKey
from mesh.core.model import IP, Finding
from mesh.core.received import ReceivedKey

#: The file in the speaker's run directory.
FILE = "ribs.journal"


class _Announced(Container[ReceivedKey]):
    """What ExaBGP has for its sessions, asked by the keys of what was sent."""

    def __init__(self, routes: Mapping[RouteKey, Route]) -> None:
        self._routes = routes

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, ReceivedKey):
            return False
        return RouteKey(key.peer, key.prefix, key.rd) in self._routes


class Ribs:
    """``incoming.table`` is what other rooms read; ``down`` ends a session's routes at once."""

    def __init__(self, session: Session, run_dir: Path, node: str) -> None:
        self.outgoing = RibOut()
        self.incoming = RibIn(self.outgoing.table.rows)
        self.kept = Kept(run_dir / FILE, self.incoming.table, self.outgoing.table)
        self.listener = Listener(
            self.incoming, self.outgoing, self.kept, session.memory.peering, session.ask_again
        )
        self._session, self._node = session, node
        session.heard = self.listener.heard
        session.opened = self.listener.opened
        session.told = self._told
        session.refreshed = self._refreshed
        session.ended = self.listener.ended
        session.began = self.listener.began
        session.deaf = self._attached
        session.adapted = self.configured

    def jobs(self) -> Mapping[str, Callable[[], Coroutine[Any, Any, object]]]:
        """Tasks that run as long as the speaker."""
        return {
            "take in routes": self.listener.run,
            "ask for routes": self.listener.ask,
            "keep routes": self.kept.run,
        }

    def configured(self) -> None:
        """The sessions may be others."""
        self.incoming.router_id = self._session.router_id
        self.listener.configured(self._session.memory.peerings)

    def down(self, peer: IP) -> None:
        """The way to a router is broken: its routes are good for nothing from now on."""
        self.listener.down(peer, hard=True)

    def _told(self, event: SessionEvent) -> None:
        if event.kind == "notification":
            self.listener.notified(event.peer)
        elif event.state == "up":
            self.listener.up(event.peer, self._families(event.peer))
        elif event.state == "down":
            self.listener.down(event.peer)

    def _refreshed(self, peer: IP, family: Family, said: str) -> None:
        if said != "query":
            self.listener.refreshing(peer, family, ends=said == "end")

    def _attached(self) -> None:
        up = {peer: self._families(peer) for peer in self._session.states.standing()}
        self.configured()
        self.listener.attached(up, _Announced(self._session.memory.routes))

    def _families(self, peer: IP) -> tuple[Family, ...]:
        """What was negotiated; where we have come too late to hear it, what is configured."""
        negotiated = self._session.states.families(peer)
        session = self._session.memory.peering(peer)
        return negotiated or (session.families if session else ())

    # What is wrong

    def findings(self) -> Iterator[Finding]:
        """Of both tables, and of the file."""
        yield from self._of_maximum()
        yield from self._of_malformed()
        node = f"node/{self._node}"
        for peer, why in self.outgoing.problems.items():
            text = f"an UPDATE of {self._node} to {peer} cannot be read back: {why}"
            yield Finding(UNREAD, self._object(peer), self._node, text, (node, f"peer/{peer}"))
        if self.kept.problem:
            yield Finding(KEPT_NOT, f"{self._node}/speaker", "", self.kept.problem, (node,))
        late = self.listener.now() - self.listener.dropped_at
        if self.listener.dropped and late < FAULT_S:
            text = f"{self.listener.dropped} UPDATEs were dropped, and are asked for again"
            yield Finding(TOO_FAST, f"{self._node}/speaker", "updates", text, (node,))

    def _of_maximum(self) -> Iterator[Finding]:
        for (peer, family), number in self.incoming.surplus.items():
            most = self.incoming.of(peer).most
            about = (f"node/{self._node}", f"peer/{peer}")
            text = (
                f"{peer} has sent more than {most} prefixes of {family} to {self._node}: "
                f"{number} are not taken"
            )
            field = f"spec.maximumPrefixes {family} {peer} {self._node}"
            yield Finding(MAXIMUM, self._object(peer), field, text, about)

    def _of_malformed(self) -> Iterator[Finding]:
        for peer, faults in self.incoming.faults(self.listener.now()).items():
            about = (f"node/{self._node}", f"peer/{peer}")
            named = ", ".join(faults.prefixes) or "no prefix that could be read"
            text = (
                f"{peer} has sent {faults.count} malformed UPDATEs to {self._node}; the last one: "
                f"{faults.text} ({named})"
            )
            yield Finding(MALFORMED, self._object(peer), f"UPDATE {peer} {self._node}", text, about)

    def _object(self, peer: IP) -> str:
        session = self._session.memory.peering(peer)
        return (session.origin or f"BGPPeer/{session.name}") if session else f"peer/{peer}"
