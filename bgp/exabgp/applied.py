"""What was last applied, in a file: a new ExaBGP gets it at once, whoever is away.

After ``kill -9`` of ExaBGP the routers keep the routes for the graceful restart time; manifests
or etcd may be unreachable for longer. So sessions and routes are written down after each round,
and the next ExaBGP is configured and filled from here before any source has been read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from bgp.desired import Peering, RouteKey
from bgp.peer import Route
from mesh.core.files import in_words, replace_file
from mesh.core.model import IP

VERSION = 1


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
        self.problem = ""  # why the file cannot be written
        self.peerings: dict[IP, Peering] = {}
        self.routes: dict[RouteKey, Route] = {}
        self.filled = 0  # pid of the ExaBGP that was given the routes
        self.settled = True  # ExaBGP has said that it has loaded the sessions
        self.causes: dict[IP, Cause] = {}
        self._load()

    def save(
        self,
        *,
        peerings: Mapping[IP, Peering] | None = None,
        filled: int | None = None,
        settled: bool | None = None,
    ) -> None:
        """Write everything down; what is given replaces what was."""
        self.peerings = self.peerings if peerings is None else dict(peerings)
        self.filled = self.filled if filled is None else filled
        self.settled = self.settled if settled is None else settled
        said = {
            "version": VERSION,
            "filled": self.filled,
            "settled": self.settled,
            "peerings": [asdict(peering) for peering in self.peerings.values()],
            "routes": [
                {"peer": key.peer, "prefix": key.prefix, "next_hop": route.next_hop}
                for key, route in self.routes.items()
            ],
            "causes": [{"peer": peer, **asdict(cause)} for peer, cause in self.causes.items()],
        }
        try:
            replace_file(self.path, json.dumps(said, default=str))
            self.problem = ""
        except OSError as error:  # announcing goes on; only the next ExaBGP would know less
            self.problem = f"{self.path} cannot be written: {in_words(error)}"

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
        for key in forget:
            self.routes.pop(key, None)
        self.routes |= rows
        self.save()

    def replace(self, routes: Mapping[RouteKey, Route]) -> None:
        """What ExaBGP says that it announces."""
        if routes != self.routes:
            self.routes = dict(routes)
            self.save()

    def _load(self) -> None:
        try:
            said = json.loads(self.path.read_text())
            peerings = [_peering(row) for row in said["peerings"]]
            routes = [_route(row) for row in said["routes"]]
        except (OSError, ValueError, KeyError, TypeError):
            return  # nothing remembered, or by another version: the sources fill it again
        self.peerings = {peering.address: peering for peering in peerings}
        self.routes = dict(routes)
        self.filled = said.get("filled", 0)
        self.settled = said.get("settled", True)
        with suppress(ValueError, KeyError, TypeError):
            self.causes = dict(map(_cause, said.get("causes", ())))


def _peering(row: dict[str, Any]) -> Peering:
    row["address"] = ip_address(row["address"])
    row["local_address"] = ip_address(row["local_address"])
    row["advertise"] = tuple(row["advertise"])
    return Peering(**row)


def _route(row: dict[str, Any]) -> tuple[RouteKey, Route]:
    prefix = ip_network(row["prefix"])
    return RouteKey(ip_address(row["peer"]), prefix), Route(prefix, ip_address(row["next_hop"]))


def _cause(row: dict[str, Any]) -> tuple[IP, Cause]:
    return ip_address(row["peer"]), Cause(str(row["text"]), bool(row["sent"]))
