"""A speaker without its sources: tables come from a JSON file that the test rewrites.

Usage: ``python -m tests.interop.speaker.driver RUNDIR FILE``. The file holds ``peers`` (list of
Peering fields), ``routes`` (list of peer, prefix, next hop), ``synced``; ``FILE.out`` gets what
the session says: states, whether everything has arrived, End-of-RIB owed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from bgp.desired import Peering
from bgp.exabgp.engine import Engine
from bgp.exabgp.session import Session
from bgp.peer import Advertise
from bgp.route import Family, PeerKey, Route, RouteKey, ServiceSID
from bpf.privileges import User
from mesh.core.model import IP
from mesh.core.reconcile import Loop
from mesh.core.table import Table

#: ExaBGP's; no user database hands out its number.
USER = User(1_900_000_001, 1_900_000_001)


def address(text: str) -> PeerKey:
    return ip_network(text) if "/" in text else ip_address(text)


def peering(row: dict[str, Any]) -> Peering:
    more = {key: row[key] for key in row.keys() - {"address", "asn", "local", "hold"}}
    if "families" in more:
        more["families"] = tuple(map(Family, more["families"]))
    made = Peering(
        name="router",
        address=address(row["address"]),
        asn=row.get("asn", 65000),
        local_address=ip_address(row["local"]),
        local_asn=65101,
        hold_s=row.get("hold", 9),
        graceful_restart_s=120,
        advertise=(Advertise("podCIDRs"),),
    )
    return replace(made, **more)


def route(row: list[Any]) -> tuple[RouteKey, Route]:
    """A peer, a prefix, a next hop, and attributes where there are some."""
    more = {
        key: tuple(one) if isinstance(one, list) else one for key, one in dict(*row[3:]).items()
    }
    if "sid" in more:
        sid, behaviour, structure = more["sid"]
        more["sid"] = ServiceSID(ip_address(sid), behaviour, structure and tuple(structure))
    made = Route(ip_network(row[1]), ip_address(row[2]), **more)
    return RouteKey(address(row[0]), made.prefix, made.rd), made


class Driver:
    def __init__(self, run_dir: Path, file: Path) -> None:
        self.file = file
        self.engine = Engine(run_dir, USER)
        self.engine.own()
        self.session = Session(self.engine, IPv4Address("10.99.0.11"))
        self.peers: Table[PeerKey, Peering] = Table("peers")
        self.routes: Table[RouteKey, Route] = Table("routes")
        self.loop = Loop()
        self.of_peers = self.loop.apply(self.peers, self.session.peers)
        self.of_routes = self.loop.apply(self.routes, self.session.routes, after=[self.of_peers])
        self.session.lost = self.lost
        self.session.heard = self.hear
        self.heard = {"received": 0, "sent": 0}
        self.seen = 0

    def lost(self) -> None:
        self.of_peers.recheck()
        self.of_routes.recheck()

    def hear(self, _peer: IP, received: bool, body: bytes) -> None:  # noqa: FBT001 - of the session
        self.heard["received" if received else "sent"] += len(body) > 0

    def load(self) -> None:
        mark = self.file.stat().st_mtime_ns
        if mark == self.seen:
            return
        said = json.loads(self.file.read_text())
        self.seen = mark
        peers = {row.address: row for row in map(peering, said["peers"])}
        routes = dict(map(route, said["routes"]))
        if said["synced"]:
            self.peers.replace(peers)
            self.routes.replace(routes)
        else:
            self.peers.upsert(peers)
            self.routes.upsert(routes)

    async def watch(self) -> None:
        while True:
            self.load()
            if self.of_peers.current and self.of_routes.current and self.session.owed:
                with suppress(OSError):  # the session starts over, and owes it again
                    await self.session.release()
            self.say()
            await asyncio.sleep(0.02)

    def say(self) -> None:
        states = {str(p.address): self.session.state(p) for p in self.peers.rows.values()}
        for peering in self.peers.rows.values():
            members = self.session.states.members(peering)
            states |= {str(member): state for member, state in members.items()}
        said: dict[str, Any] = {
            "arrived": self.of_peers.current and self.of_routes.current,
            "seen": self.seen,
            "states": {peer: [state.state, state.reason] for peer, state in states.items()},
            "owed": [str(peer) for peer in self.session.owed],
            "errors": [
                f"{key} {why}"
                for of in (self.of_peers, self.of_routes)
                for key, why in of.report.errors.items()
            ],
            "written": self.of_routes.report.written,
            "heard": self.heard,
            **self.more(),
        }
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps(said, default=str))
        fresh.replace(f"{self.file}.out")

    def more(self) -> dict[str, Any]:
        return {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.session.run())
            group.create_task(self.loop.run())
            group.create_task(self.watch())


if __name__ == "__main__":
    asyncio.run(Driver(Path(sys.argv[1]), Path(sys.argv[2])).run())
