"""A change of ExaBGP for ranges: each router that dials is a session of its own.

10. A member of a range has its own adj-rib-out, End-of-RIB and requests, gets what the range was
    told, is addressed by its own address, and outlives a reload that leaves its range as it is.
    Stock shares one adj-rib-out and one queue among all members, so that a route goes to one of
    them only, and ends every member's session at each reload. Where it cannot listen, it starts
    nevertheless: the other sessions are none of those that wait. Stock ends.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from exabgp.configuration.configuration import Configuration
from exabgp.reactor.loop import Reactor
from exabgp.rib import RIB


@dataclass
class Dialled:
    """A router that has dialled: the neighbor made for it, and the range's name and neighbor."""

    neighbor: Any
    range: str
    of: Any


class Members:
    """The members of the ranges of one ExaBGP, by the name of their neighbor."""

    def __init__(self) -> None:
        self._members: dict[str, Dialled] = {}
        self._alive: dict[str, Any] = {}  # the reactor's sessions

    def add(self, reactor: Any, name: str, peer: Any) -> None:
        """Take in a session that a range was copied for; forget those that have ended."""
        self._alive = reactor._peers  # noqa: SLF001 - there is no reader
        configured = reactor.configuration.neighbors
        for key in [key for key in self._members if key not in self._alive]:
            configured.pop(key, None)
            del self._members[key]
        for key, of in configured.items():
            if of.range_size > 1 and of.rib is peer.neighbor.rib:
                _separate(peer.neighbor, of)
                self._members[name] = Dialled(peer.neighbor, key, of)
                configured[name] = peer.neighbor
                return

    def after_reload(self, configured: dict[str, Any]) -> None:
        """Members of ranges that are as they were stay configured; the others end."""
        for name, member in list(self._members.items()):
            of = configured.get(member.range)
            if name in self._alive and of is not None and of == member.of:
                member.of, member.neighbor.previous = of, member.neighbor
                configured.setdefault(name, member.neighbor)
            else:
                del self._members[name]

    def of(self, ranges: Any) -> list[str]:
        """Names of the members of ranges."""
        return [name for name, member in self._members.items() if member.range in ranges]


def change() -> None:
    """Make this change."""
    members = Members()
    register, reload = Reactor.register_peer, Configuration.reload
    inject, listen = Configuration.inject_change, Reactor._listen_for_neighbors  # noqa: SLF001 - there is no hook

    def register_peer(self: Any, name: str, peer: Any) -> None:
        members.add(self, name, peer)
        register(self, name, peer)

    def reloaded(self: Any) -> Any:
        done = reload(self)
        if done:
            members.after_reload(self.neighbors)
        return done

    def listen_for(self: Any) -> bool:
        listen(self)  # says in the log what it cannot listen on
        return True

    def inject_change(self: Any, peers: Any, one: Any) -> Any:
        return inject(self, [*peers, *members.of(peers)], one)

    Reactor.register_peer = register_peer
    Reactor._listen_for_neighbors = listen_for  # noqa: SLF001 - there is no hook
    Configuration.reload = reloaded
    Configuration.inject_change = inject_change


def _separate(neighbor: Any, of: Any) -> None:
    """Give a neighbor that was copied from its range tables and queues of its own."""
    neighbor.eor, neighbor.messages, neighbor.refresh = deque(), deque(), deque()
    neighbor.asm, neighbor.changes, neighbor.previous = {}, [], None
    RIB._cache.pop(neighbor.name(), None)  # noqa: SLF001 - of an earlier session
    neighbor.make_rib()
    for one in of.rib.outgoing.cached_changes():
        neighbor.rib.outgoing.update_cache(one)
