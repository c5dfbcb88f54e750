"""Holds a step that would withdraw most of a router's routes for the sake of an incomplete list.

An object that is deleted goes by an event, and its routes with it. Objects that are merely absent
from a new list (an API server that was set back, an etcd that was restored, a speaker that starts)
may be absent by mistake. So such a step is held where it withdraws more than a share of the routes
of a session, and at least ``LEAST`` of them, until the objects are back or an operator says that
the step is meant. What is held stays announced as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from bgp.route import PeerKey, Route, RouteKey

#: Fewer withdrawals than these are never held.
LEAST = 10
#: Seconds after an absence was seen in a list in which a step may come from it.
AFTER_LIST_S = 60.0


@dataclass(slots=True)
class Held:
    """Routes of one session that would be withdrawn, of so many; ``since`` is Unix time."""

    routes: dict[RouteKey, Route]
    of: int
    since: float


@dataclass(slots=True)
class Guard:
    """``share`` in percent; 100 holds nothing."""

    share: int
    held: dict[PeerKey, Held] = field(default_factory=dict)
    #: Sessions that no object names any more, with the Unix time since when they are held.
    sessions: dict[PeerKey, float] = field(default_factory=dict)
    _let_go: set[RouteKey] = field(default_factory=set)  # by an operator, before the next step
    _left: set[PeerKey] = field(default_factory=set)  # sessions that an operator has let go

    def step(
        self,
        announced: Mapping[RouteKey, Route],
        wanted: Mapping[RouteKey, Route],
        sessions: Collection[PeerKey],
        *,
        listed: bool,
        now: float,
    ) -> dict[RouteKey, Route]:
        """The routes that are kept beside ``wanted``.

        ``listed``: the step may come from what a list lacks. ``now`` is Unix time.
        """
        for peer in list(self.held):
            left = {k: row for k, row in self.held[peer].routes.items() if k not in wanted}
            if left and peer in sessions:
                self.held[peer].routes = left
            else:
                del self.held[peer]
        if listed and self.share < 100:
            self._hold(announced, wanted, sessions, now)
        self._let_go.clear()
        return {key: row for one in self.held.values() for key, row in one.routes.items()}

    def keep(
        self,
        former: Mapping[PeerKey, int],
        wanted: Collection[PeerKey],
        *,
        listed: bool,
        now: float,
    ) -> Collection[PeerKey]:
        """Sessions that are kept beside ``wanted``; ``former`` has the routes announced on each."""
        for peer in [one for one in self.sessions if one in wanted or one not in former]:
            del self.sessions[peer]
        self._left = {peer for peer in self._left if peer in former and peer not in wanted}
        if listed and self.share < 100:
            for peer, count in former.items():
                if peer not in wanted and peer not in self._left and count >= LEAST:
                    self.sessions.setdefault(peer, now)
        return self.sessions.keys()

    def accept(self, peer: PeerKey, at: float) -> bool:
        """Let go what is held of a session since before ``at``; whether there is something."""
        if self.sessions.get(peer, at + 1) <= at:
            del self.sessions[peer]
            self._left.add(peer)
            return True
        held = self.held.get(peer)
        if held is None or held.since > at:
            return False
        self._let_go |= self.held.pop(peer).routes.keys()
        return True

    def _hold(
        self,
        announced: Mapping[RouteKey, Route],
        wanted: Mapping[RouteKey, Route],
        sessions: Collection[PeerKey],
        now: float,
    ) -> None:
        counts: dict[PeerKey, int] = {}
        gone: dict[PeerKey, dict[RouteKey, Route]] = {}
        for key, row in announced.items():
            if key.peer in sessions:
                counts[key.peer] = counts.get(key.peer, 0) + 1
                if key not in wanted and key not in self._let_go:
                    gone.setdefault(key.peer, {})[key] = row
        for peer, routes in gone.items():
            many = len(routes) >= LEAST and 100 * len(routes) > self.share * counts[peer]
            if many and peer not in self.held:
                self.held[peer] = Held(routes, counts[peer], now)
            elif peer in self.held:  # what was absent before, and what goes on to be absent
                self.held[peer].routes |= routes
