"""A change of ExaBGP for its loop.

11. It sleeps until something comes. Stock looks at everything 100 times a second, which is all of
    its idle load (1.45 % of a core): it waits 10 ms at most, because connections that are being
    opened, the listener and the pauses between attempts are no part of what it waits for.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from exabgp.bgp.fsm import FSM
from exabgp.reactor.loop import Reactor

#: Longest sleeps in milliseconds: all sessions stand; one waits before it dials; one is opened.
_STANDING, _WAITING, _OPENING = 250, 100, 20
_READ = select.POLLIN | select.POLLPRI | select.POLLHUP | select.POLLNVAL | select.POLLERR


def change() -> None:
    """Make this change."""
    stock = Reactor._wait_for_io  # noqa: SLF001 - there is no hook

    def wait(self: Any, sleep: int) -> Iterator[int]:
        listening = {one.fileno() for one in self.listener._sockets} if self.listener else set()  # noqa: SLF001 - there is no reader
        known = self.__dict__.setdefault("listening", set())
        for gone in known - listening:
            _forget(self, gone)
        for new in listening - known:
            self._poller.register(new, _READ)
        self.listening = listening
        for fd in stock(self, _longest(self) if sleep else 0):
            if fd not in listening:
                yield fd

    Reactor._wait_for_io = wait  # noqa: SLF001 - there is no hook


def _forget(reactor: Any, fd: int) -> None:
    with suppress(KeyError, ValueError, OSError):
        reactor._poller.unregister(fd)  # noqa: SLF001 - there is no hook


def _longest(reactor: Any) -> int:
    """How long nothing can happen that is not waited for, in milliseconds."""
    if not reactor.asynchronous.ready():
        return 0
    return min(map(_patience, reactor._peers.values()), default=_STANDING)  # noqa: SLF001 - there is no reader


def _patience(peer: Any) -> int:
    neighbor = peer.neighbor
    if peer.fsm == FSM.ESTABLISHED:
        owes = neighbor.rib.outgoing.pending() or neighbor.eor or neighbor.refresh
        return 0 if owes else _STANDING
    if peer.proto is None:
        return _STANDING if neighbor["passive"] else _OPENING if peer.generator else _WAITING
    return _OPENING
