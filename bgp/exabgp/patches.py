"""ExaBGP 5.0 with the changes that it needs; the only importer of exabgp.

``bgp/exabgp/launcher.py`` calls ``read_all`` and ``main`` in the process that becomes ExaBGP. Each
change has a test that fails when ExaBGP no longer needs it:
tests/interop/speaker/test_exabgp_changes.py.

1. ``reload`` acknowledges after the new configuration has been loaded. Stock acknowledges first,
   and forgets the reload while a route waits to be sent, for a peer that is away for ever.
2. A relay that died is replaced. Stock: one write to its broken pipe stops every session for good.
3. The reason of a session's end includes the error. Stock: "closing connection" for all of them.
4. A router that was away is tried every 10 s at least, and one that has refused us once after
   0.3 s. Stock: every 60 s, and after 1 s. FRR refuses while it clears a session away, and dials
   itself a second after the end. When its own attempt then fails, it ends the session that has
   come up meanwhile, and drops our routes, because they have been stale twice (RFC 4724 4.2).
5. It stays in the folder in which it was started, and reads the configuration by the name that it
   was given. Stock goes to ``/`` and asks for the file's real path, through folders that are shut.

Changes 6 to 9 are in ``bulk.py``, 10 in ``members.py``, 11 in ``idle.py``, 12 in ``told.py``, 13 in
``opens.py``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

from exabgp.application.main import main as exabgp_main
from exabgp.configuration.configuration import Configuration
from exabgp.reactor.api.command.command import Command
from exabgp.reactor.api.processes import ProcessError, Processes
from exabgp.reactor.daemon import Daemon
from exabgp.reactor.delay import Delay
from exabgp.reactor.peer import Peer

from bgp.exabgp import bulk, idle, members, opens, told

#: How long the counters of sent messages stand still before a reload counts as free to go.
QUIET_S = 0.1
#: Longest wait for that: a router that does not read must not hold up the configuration.
PATIENCE_S = 2.0
#: Packages of ExaBGP whose modules are imported within functions, too.
_LATE = ("bgp", "configuration", "environment", "logger", "protocol", "reactor", "rib", "util")
#: Pauses between two attempts to connect: the first one, and the longest.
FIRST_S, LONGEST_S = 0.3, 10


def loaded_before_answered() -> None:
    """Change 1."""

    def command(_api: Any, reactor: Any, service: str, line: str, _json: object) -> bool:
        reactor.asynchronous.schedule(service, line, _reloaded(reactor, service))
        return True

    for encoding in ("text", "json"):
        Command.callback[encoding]["reload"] = command


def _reloaded(reactor: Any, service: str) -> Iterator[None]:
    """Reload when withdrawals have left for the routers, then answer."""
    yield from _quiet(reactor)
    if reactor.reload():
        reactor.processes.start(reactor.configuration.processes, restart=False)
        reactor.processes.answer_done(service)
    else:
        reactor.processes.answer_error(service)


def _quiet(reactor: Any) -> Iterator[None]:
    started = since = time.monotonic()
    seen: list[int] = []
    while since > (now := time.monotonic()) - QUIET_S and started > now - PATIENCE_S:
        names = reactor.established_peers()
        peers = [reactor._peers[name] for name in names]  # noqa: SLF001 - has no public reader
        sent = [peer.stats["send-update"] for peer in peers]
        if sent != seen or any(peer.neighbor.rib.outgoing.pending() for peer in peers):
            seen, since = sent, now
        yield


def broken_pipe_is_no_end() -> None:
    """Change 2: the reactor sees the relay's death by itself and starts another."""
    stock = Processes.write

    def write(self: Any, process: str, string: str | None, neighbor: Any = None) -> bool:
        try:
            return bool(stock(self, process, string, neighbor))
        except (ProcessError, KeyError):
            self._broken.clear()
            return True

    Processes.write = write


def reason_with_error() -> None:
    """Change 3."""
    stock: Callable[..., None] = Peer._close  # noqa: SLF001 - there is no hook

    def close(self: Any, message: str = "", error: object = "") -> None:
        text = str(error)
        stock(self, f"{message}: {text}" if text and text not in message else message, error)

    Peer._close = close  # noqa: SLF001 - there is no hook


def soon_again() -> None:
    """Change 4."""
    stock = Delay.increase

    def increase(self: Any) -> None:
        is_first = not self._next
        stock(self)
        self._next = FIRST_S if is_first else min(self._next, LONGEST_S)

    Delay.increase = increase


def stays() -> None:
    """Change 5."""
    stock = Daemon.__init__

    def init(self: Any, reactor: Any) -> None:
        here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        stock(self, reactor)
        os.fchdir(here)
        os.close(here)

    def reload(self: Any) -> Any:
        (name,) = names.setdefault(id(self), tuple(self._configurations))
        self._text, self._configurations = True, [Path(name).read_text(encoding="ascii")]
        return read(self)

    names: dict[int, tuple[str, ...]] = {}
    read = Configuration._reload  # noqa: SLF001 - there is no hook
    Daemon.__init__, Configuration._reload = init, reload  # noqa: SLF001 - there is no hook


def read_all() -> None:
    """Import what ExaBGP imports when it is needed: later its code may be out of reach."""
    for package in _LATE:
        found = import_module(f"exabgp.{package}")
        for module in walk_packages(found.__path__, f"{found.__name__}."):
            with suppress(ImportError):  # asks for a library that ExaBGP does without
                import_module(module.name)


def main(config: str) -> int:
    """Be ExaBGP."""
    loaded_before_answered()
    broken_pipe_is_no_end()
    reason_with_error()
    soon_again()
    stays()
    bulk.change()
    members.change()
    idle.change()
    told.change()
    opens.change()
    sys.argv = ["exabgp", "server", config]
    return int(exabgp_main() or 0)
