"""Changes of ExaBGP for many routes and for UPDATEs as octets; ``patches.py`` has the others.

6. UPDATEs are passed on as octets and never decoded: a router's cannot end the session, and those
   that are sent cost nothing more. Stock decodes both, answers what it cannot read with a
   NOTIFICATION (3/9 for a VPN next hop of 48 octets, RFC 4659 3.2.1.1), and repeats what was
   negotiated with each.
7. Many routes take little time: commands run as long as there is something to do, for up to
   ``SLICE_S`` between two looks at the sessions. Stock runs 50 steps in 10 ms, begins an event loop
   for each 50, and copies each route. IPv6 and VPN prefixes with the same attributes share UPDATEs.
8. The graceful restart capability lists VPN families only where the session's description says so:
   a helper then drops VPN routes at once (FRR keeps them in its VRFs for ever, FRRouting #13633).
9. ``show adj-rib out meshgate`` gives the routes in the words in which they were announced,
   ``meshgate`` the number of these changes. Stock writes one JSON object a route.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from inspect import isgenerator
from typing import Any

from exabgp.bgp.message import Action, Message, Update
from exabgp.bgp.message.direction import Direction
from exabgp.bgp.message.open.capability import capabilities
from exabgp.bgp.message.update.attribute import Attributes
from exabgp.bgp.neighbor import Neighbor
from exabgp.protocol.family import SAFI
from exabgp.reactor.api import API
from exabgp.reactor.api.command.command import Command
from exabgp.reactor.api.response.json import JSON
from exabgp.reactor.asynchronous import ASYNC
from exabgp.reactor.protocol import Protocol
from exabgp.rib.outgoing import OutgoingRIB

from bgp.exabgp.config import GRACEFUL_VPN

#: What ``meshgate`` answers: a speaker sees whether the ExaBGP that runs has these changes.
LEVEL = 2
#: Seconds of commands between two looks at the sessions, whose hold time is 3 s at least.
SLICE_S = 0.02
#: Prefixes of one UPDATE; each is at most 24 octets long, and an UPDATE 4096.
GROUP = 100
#: Steps of a listing, and prefixes in a line of it.
LINE = 500
_UPDATE = Message.CODE.UPDATE


def octets_only() -> None:
    """Change 6."""
    unpack, to_api = Message.unpack, Protocol._to_api  # noqa: SLF001 - there is no hook
    empty = Update([], Attributes())

    def unread(kind: Any, data: Any, direction: Any, negotiated: Any) -> Any:
        if kind == _UPDATE and direction == Direction.IN:
            return empty
        return unpack(kind, data, direction, negotiated)

    def told(self: Any, direction: str, message: Any, raw: bytes) -> None:
        api = self.neighbor.api
        if direction == "send" and raw[18] == _UPDATE:
            if api["send-packets"]:
                processes = self.peer.reactor.processes
                processes.packets(self.neighbor, direction, _UPDATE, None, raw[:19], raw[19:])
            return
        packets, api["send-packets"] = api["send-packets"], []
        try:
            to_api(self, direction, message, raw)
        finally:
            api["send-packets"] = packets

    def send(self: Any, raw: bytes) -> Iterator[bool]:
        code = f"send-{Message.CODE.short(raw[18])}"
        self.peer.stats[code] += 1
        if self.neighbor.api.get(code, False):
            self._to_api("send", None, raw)
        yield from self.connection.writer(raw)

    Message.unpack = staticmethod(unread)
    Protocol._to_api, Protocol.send = told, send  # noqa: SLF001 - there is no hook
    JSON.packets = _packet


def _packet(
    self: Any, neighbor: Any, direction: str, category: int, _: Any, _header: bytes, body: bytes
) -> str:
    """The event of one message; its form begins as all events do."""
    kind = Message.string(category)
    return (
        f'{{ "exabgp": "{self.version}", "type": "{kind}", "neighbor": {{ "address": '
        f'{{ "local": "{neighbor["local-address"]}", "peer": "{neighbor["peer-address"]}" }}, '
        f'"direction": "{direction}", "message": {{ "category": {int(category)}, '
        f'"body": "0x{bytes(body).hex()}" }} }} }}'
    )


def many_routes() -> None:
    """Change 7."""
    stock_run, stock_updates = ASYNC.run, OutgoingRIB.updates
    remove_self = Neighbor.remove_self

    def run(self: Any) -> Any:
        if not all(isgenerator(callback) for _, callback in self._async):
            return stock_run(self)
        end = time.monotonic() + SLICE_S
        while self._async and time.monotonic() < end:
            _advance(self, end)
        return bool(self._async)

    def unchanged(self: Any, change: Any) -> Any:
        return remove_self(self, change) if change.nlri.nexthop.SELF else change

    def updates(self: Any, grouped: Any) -> Iterator[Any]:
        return _grouped(stock_updates(self, grouped)) if grouped else stock_updates(self, grouped)

    ASYNC.run = run
    Neighbor.remove_self = unchanged
    OutgoingRIB.updates = updates


def _advance(runner: Any, end: float) -> None:
    """Let the first callback run until it ends or the time is over."""
    uid, callback = runner._async.popleft()  # noqa: SLF001 - it is ours
    try:
        for _ in callback:
            if time.monotonic() >= end:
                runner._async.appendleft((uid, callback))  # noqa: SLF001 - it is ours
                return
    except Exception:  # noqa: BLE001 - as in stock: the command is refused, and nothing else
        runner._notify_error(uid)  # noqa: SLF001 - it is ours


def _grouped(updates: Iterator[Any]) -> Iterator[Any]:
    """UPDATEs of one prefix each that share attributes, family and action become one."""
    held: Any = None
    for update in updates:
        if held is not None and _joins(held, update):
            held.nlris.extend(update.nlris)
            continue
        if held is not None:
            yield held
        held = update if isinstance(update, Update) else None
        if held is None:
            yield update
        else:
            held = Update(list(update.nlris), update.attributes)
    if held is not None:
        yield held


def _joins(held: Any, update: Any) -> bool:
    if not (isinstance(update, Update) and update.nlris and held.nlris):
        return False
    if len(held.nlris) + len(update.nlris) > GROUP or held.attributes is not update.attributes:
        return False
    one, other = held.nlris[0], update.nlris[0]
    same = one.family().afi_safi() == other.family().afi_safi() and one.action == other.action
    return bool(same and one.nexthop.index() == other.nexthop.index())


def graceful_unicast() -> None:
    """Change 8."""
    stock = capabilities.Capabilities._graceful  # noqa: SLF001 - there is no hook

    def graceful(self: Any, neighbor: Any, restarted: Any) -> None:
        stock(self, neighbor, restarted)
        code = capabilities.Capability.CODE.GRACEFUL_RESTART
        if code in self and neighbor["description"] != GRACEFUL_VPN:
            for family in [one for one in self[code] if one[1] == SAFI.mpls_vpn]:
                del self[code][family]

    capabilities.Capabilities._graceful = graceful  # noqa: SLF001 - there is no hook


def own_words() -> None:
    """Change 9."""
    stock_attributes = API.api_attributes
    stock_show = Command.callback["text"]["show adj-rib out"]

    def kept(self: Any, command: str, peers: Any) -> Any:
        changes = stock_attributes(self, command, peers)
        if changes:
            _, _, said = command.partition(" attributes ")
            changes[0].attributes.said = said.partition(" nlri ")[0]
        return changes

    def show(api: Any, reactor: Any, service: str, line: str, use_json: bool) -> Any:  # noqa: FBT001 - ExaBGP calls it
        if not line.endswith(" meshgate"):
            return stock_show(api, reactor, service, line, use_json)
        reactor.asynchronous.schedule(service, line, _routes(reactor, service))
        return True

    def level(_api: Any, reactor: Any, service: str, _line: str, _json: bool) -> bool:  # noqa: FBT001 - ExaBGP calls it
        reactor.processes.write(service, str(LEVEL))
        reactor.processes.answer_done(service)
        return True

    API.api_attributes = kept
    Command.register("meshgate")(level)
    for encoding in ("text", "json"):
        Command.callback[encoding]["show adj-rib out"] = show
        Command.callback[encoding]["meshgate"] = level


def _routes(reactor: Any, service: str) -> Iterator[None]:
    for name in reactor.peers():
        peer = reactor.neighbor_ip(name)
        groups: dict[str, list[str]] = {}
        for change in reactor.neighor_rib(name, "out"):
            if change.nlri.action == Action.ANNOUNCE:
                said = getattr(change.attributes, "said", "")
                groups.setdefault(said, []).append(str(change.nlri.cidr.prefix()))
        yield
        for said, prefixes in groups.items():
            for at in range(0, len(prefixes), LINE):
                line = f"{peer} | {said} | {' '.join(prefixes[at : at + LINE])}"
                reactor.processes.write(service, line)
                yield
    reactor.processes.answer_done(service)


def change() -> None:
    """Make these changes."""
    octets_only()
    many_routes()
    graceful_unicast()
    own_words()
