"""Change of ExaBGP for a speaker that comes later; ``patches.py`` has the others.

13. ``meshgate opens`` gives the OPEN of each router whose session stands, in hexadecimal digits: a
    speaker that has not heard it knows what the router can do all the same. Stock tells some of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from exabgp.bgp.message import Message
from exabgp.bgp.message.direction import Direction
from exabgp.reactor.api.command.command import Command

from bgp.exabgp.commands import OPENS


def change() -> None:
    """Make this change."""
    unpack = Message.unpack

    def kept(kind: Any, data: Any, direction: Any, negotiated: Any) -> Any:
        message = unpack(kind, data, direction, negotiated)
        if kind == Message.CODE.OPEN and direction == Direction.IN:
            message.octets = bytes(data)
        return message

    def opens(_api: Any, reactor: Any, service: str, line: str, _json: bool) -> bool:  # noqa: FBT001 - ExaBGP calls it
        reactor.asynchronous.schedule(service, line, _opens(reactor, service))
        return True

    Message.unpack = staticmethod(kept)
    Command.register(OPENS)(opens)
    for encoding in ("text", "json"):
        Command.callback[encoding][OPENS] = opens


def _opens(reactor: Any, service: str) -> Iterator[None]:
    for name in reactor.established_peers():
        peer = reactor._peers[name]  # noqa: SLF001 - has no public reader
        octets = getattr(peer.proto and peer.proto.negotiated.received_open, "octets", b"")
        if octets:
            reactor.processes.write(service, f"{reactor.neighbor_ip(name)} {octets.hex()}")
        yield
    reactor.processes.answer_done(service)
