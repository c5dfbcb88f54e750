"""Routes as ExaBGP lists them, read back: the words of our own commands, or a former one's JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import msgspec

from bgp.exabgp.lines import ODD, OddLine
from bgp.route import PeerKey, Route, RouteKey, ServiceSID

_SUBTYPES = {2: "target", 3: "origin"}
_PART = re.compile(
    r"(?P<name>next-hop|med|local-preference|rd|label) (?P<value>\S+)"
    r"|(?P<list>community|large-community|extended-community|as-path) \[ (?P<items>[^]]+) \]"
    r"|bgp-prefix-sid-srv6 \( l3-service (?P<sid>\S+) (?P<behaviour>\S+)"
    r"(?: \[ ?(?P<shape>[0-9, ]+?) ?\])? \)"
)


def routes(line: str) -> Iterator[tuple[RouteKey, Route]]:
    """The routes of one line of the answer to ``ROUTES``. Raises ``OddLine``."""
    try:
        peer, text, prefixes = line.split(" | ")
        session = ip_network(peer) if "/" in peer else ip_address(peer)
        model = _model(text)
        for prefix in prefixes.split():
            network = ip_network(prefix)
            yield RouteKey(session, network, model.rd), _with(model, network)
    except (*ODD, LookupError) as error:
        raise OddLine(line, error) from error


def _with(model: Route, prefix: object) -> Route:
    return Route(
        prefix, model.next_hop, model.communities, model.large, model.extended, model.med,  # type: ignore[arg-type]
        model.local_preference, model.prepend, model.rd, model.sid,
    )  # fmt: skip


def _model(text: str) -> Route:
    """A route of the prefix 0.0.0.0/0 with the attributes of a command."""
    one: dict[str, str] = {}
    lists: dict[str, tuple[str, ...]] = {}
    sid = None
    for part in _PART.finditer(text):
        if part["name"]:
            one[part["name"]] = part["value"]
        elif part["list"]:
            lists[part["list"]] = tuple(part["items"].split())
        else:
            numbers = [int(n) for n in (part["shape"] or "").replace(",", " ").split()]
            shape = (*numbers,) if numbers else None
            sid = ServiceSID(IPv6Address(part["sid"]), int(part["behaviour"], 16), shape)  # type: ignore[arg-type]
    path = lists.get("as-path", ())
    return Route(
        ip_network("0.0.0.0/0"),
        ip_address(one["next-hop"]),
        lists.get("community", ()),
        lists.get("large-community", ()),
        tuple(extended_text(bytes.fromhex(w[2:])) for w in lists.get("extended-community", ())),
        _number(one, "med"),
        _number(one, "local-preference"),
        max(len(path) - 1, 0),
        one.get("rd", ""),
        sid,
    )


def _number(found: dict[str, str], name: str) -> int | None:
    return int(found[name]) if name in found else None


def extended_text(octets: bytes) -> str:
    """An extended community in words; what is no route target or origin, in hexadecimal digits."""
    kind, subtype = octets[0] & 0x3F, octets[1]
    if subtype not in _SUBTYPES or kind not in (0, 1, 2):
        return f"0x{octets.hex()}"
    name = _SUBTYPES[subtype]
    if kind == 0:
        return f"{name}:{int.from_bytes(octets[2:4])}:{int.from_bytes(octets[4:])}"
    head = str(IPv4Address(octets[2:6])) if kind == 1 else str(int.from_bytes(octets[2:6]))
    return f"{name}:{head}:{int.from_bytes(octets[6:])}"


class _Peer(msgspec.Struct):
    address: str


class _Nlri(msgspec.Struct):
    prefix: str
    nexthop: str


class _Route(msgspec.Struct):
    nlri: _Nlri


class _DumpedRoute(msgspec.Struct):
    peer: _Peer
    route: _Route


def dumped_route(line: str) -> tuple[RouteKey, Route]:
    """One line of the answer to ``ROUTES_JSON``, of which prefix and next hop are read.

    Raises ``OddLine``.
    """
    try:
        message = msgspec.json.decode(line, type=_DumpedRoute)
        prefix = ip_network(message.route.nlri.prefix)
        key = RouteKey(_session(message.peer.address), prefix)
        return key, Route(prefix, ip_address(message.route.nlri.nexthop))
    except ODD as error:
        raise OddLine(line, error) from error


def _session(text: str) -> PeerKey:
    return ip_network(text) if "/" in text else ip_address(text)
