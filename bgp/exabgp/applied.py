"""What was last applied, in files: a new ExaBGP gets it at once, whoever is away.

After ``kill -9`` of ExaBGP the routers keep the routes for the graceful restart time; manifests
or etcd may be unreachable for longer. So sessions and routes are written down after each round,
and the next ExaBGP is configured and filled from here before any source has been read. Sessions and
why they are down are a small file that is written as a whole. Routes are a journal, because there
may be 100,000 of them, and a change of one must cost that of one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import msgspec

from bgp.desired import Peering
from bgp.exabgp.plain import made, plain
from bgp.route import PeerKey, Route, RouteKey, ServiceSID
from mesh.core.files import in_words, replace_file
from mesh.core.journal import Journal, read
from mesh.core.model import IP

VERSION = 2


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a session went down, as a NOTIFICATION said it; ``sent``: it was ours."""

    text: str
    sent: bool


class Memory:
    """The sessions and routes that ExaBGP was last given, and why sessions are down.

    A router says once why it ends a session. So a cause outlives the speaker that has heard it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._journal = Journal(path.with_name("routes.journal"))
        self._problems: dict[Path, str] = {}
        self.peerings: dict[PeerKey, Peering] = {}
        self.routes: dict[RouteKey, Route] = {}
        self.filled = 0  # pid of the ExaBGP that was given the routes
        self.settled = True  # ExaBGP has said that it has loaded the sessions
        self.causes: dict[IP, Cause] = {}
        self._ranges: list[Peering] = []
        self._load()

    @property
    def problem(self) -> str:
        """Why a file cannot be written; empty: all are."""
        return "; ".join(self._problems.values())

    def peering(self, router: IP) -> Peering | None:
        """The session of a router: its own, or that of the range in which it is."""
        found = self.peerings.get(router)
        if found is not None:
            return found
        return next((one for one in self._ranges if router in ip_network(one.address)), None)

    def save(
        self,
        *,
        peerings: Mapping[PeerKey, Peering] | None = None,
        filled: int | None = None,
        settled: bool | None = None,
    ) -> None:
        """Write sessions and causes down; what is given replaces what was."""
        self._have(self.peerings if peerings is None else dict(peerings))
        self.filled = self.filled if filled is None else filled
        self.settled = self.settled if settled is None else settled
        said = {
            "version": VERSION,
            "filled": self.filled,
            "settled": self.settled,
            "peerings": [plain(peering) for peering in self.peerings.values()],
            "causes": [{"peer": str(peer), **asdict(one)} for peer, one in self.causes.items()],
        }
        try:
            replace_file(self.path, json.dumps(said))
            self._problems.pop(self.path, None)
        except OSError as error:  # announcing goes on; only the next ExaBGP would know less
            self._problems[self.path] = f"{self.path} cannot be written: {in_words(error)}"

    def explain(self, peer: IP, cause: Cause | None) -> None:
        """Note why a session is down; None: it is up."""
        if self.causes.get(peer) == cause:
            return
        self.causes.pop(peer, None)
        if cause:
            self.causes[peer] = cause
        self.save()

    def remember(self, rows: Mapping[RouteKey, Route], forget: Iterable[RouteKey] = ()) -> None:
        """Add and drop routes."""
        changes: dict[str, bytes | None] = {}
        for key in forget:
            if self.routes.pop(key, None) is not None:
                changes[_name(key)] = None
        for key, route in rows.items():
            if self.routes.get(key) != route:
                changes[_name(key)] = _packed(route)
        self.routes |= rows
        if changes:
            self._write(changes)

    def replace(self, routes: Mapping[RouteKey, Route]) -> None:
        """What ExaBGP says that it announces."""
        self.remember(routes, [key for key in self.routes if key not in routes])

    def close(self) -> None:
        """Let another speaker write the routes."""
        self._journal.close()

    def _write(self, changes: Mapping[str, bytes | None]) -> None:
        path = self._journal.path
        try:
            if path in self._problems:  # changes are missing in it
                self._journal.replace({_name(k): _packed(r) for k, r in self.routes.items()})
            else:
                self._journal.append(changes)
            self._problems.pop(path, None)
        except OSError as error:
            self._problems[path] = f"{path} cannot be written: {in_words(error)}"

    def _have(self, peerings: dict[PeerKey, Peering]) -> None:
        self.peerings = peerings
        self._ranges = [one for one in peerings.values() if one.dynamic]

    def _load(self) -> None:
        try:
            said = json.loads(self.path.read_text())
            peerings = [made(Peering, _modern(row)) for row in said["peerings"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return  # nothing remembered, or by another version: the sources fill it again
        self._have({peering.address: peering for peering in peerings})
        self.filled = said.get("filled", 0)
        self.settled = said.get("settled", True)
        with suppress(ValueError, KeyError, TypeError):
            self.causes = dict(map(_cause, said.get("causes", ())))
        self.routes = self._routes(said.get("routes"))

    def _routes(self, former: Any) -> dict[RouteKey, Route]:
        """Routes of the journal; of the file itself where version 1 has written it."""
        with suppress(OSError, ValueError, KeyError, TypeError, msgspec.MsgspecError):
            if former is not None:
                return dict(map(_former_route, former))
            found = read(self._journal.path)
            return dict(_unpacked(name, value) for name, value in found.items())
        return {}


def _modern(row: dict[str, Any]) -> dict[str, Any]:
    """A session as version 1 wrote it had words only."""
    words = row["advertise"]
    row["advertise"] = [{"kind": one} if isinstance(one, str) else one for one in words]
    return row


def _former_route(row: dict[str, Any]) -> tuple[RouteKey, Route]:
    prefix = ip_network(row["prefix"])
    return RouteKey(ip_address(row["peer"]), prefix), Route(prefix, ip_address(row["next_hop"]))


def _name(key: RouteKey) -> str:
    return f"{key.peer} {key.prefix} {key.rd}"


def _packed(route: Route) -> bytes:
    sid = route.sid and (str(route.sid.sid), route.sid.behaviour, route.sid.structure)
    return msgspec.msgpack.encode(
        (
            str(route.next_hop), route.communities, route.large, route.extended, route.med,
            route.local_preference, route.prepend, sid,
        )
    )  # fmt: skip


def _unpacked(name: str, value: bytes) -> tuple[RouteKey, Route]:
    peer, prefix, rd = name.split(" ")
    hop, communities, large, extended, med, preference, prepend, sid = msgspec.msgpack.decode(value)
    key = RouteKey(ip_network(peer) if "/" in peer else ip_address(peer), ip_network(prefix), rd)
    service = None
    if sid is not None:
        service = ServiceSID(IPv6Address(sid[0]), sid[1], tuple(sid[2]) if sid[2] else None)
    route = Route(
        key.prefix, ip_address(hop), tuple(communities), tuple(large), tuple(extended), med,
        preference, prepend, rd, service,
    )  # fmt: skip
    return key, route


def _cause(row: dict[str, Any]) -> tuple[IP, Cause]:
    return ip_address(row["peer"]), Cause(str(row["text"]), bool(row["sent"]))
