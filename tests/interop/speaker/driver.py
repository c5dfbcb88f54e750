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
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from bgp.desired import Peering, RouteKey
from bgp.exabgp.engine import Engine
from bgp.exabgp.session import Session
from bgp.peer import Route
from bpf.privileges import User
from mesh.core.model import IP
from mesh.core.reconcile import Loop
from mesh.core.table import Table

#: ExaBGP's; no user database hands out its number.
USER = User(1_900_000_001, 1_900_000_001)


def peering(row: dict[str, Any]) -> Peering:
    return Peering(
        name="router",
        address=ip_address(row["address"]),
        asn=row.get("asn", 65000),
        local_address=ip_address(row["local"]),
        local_asn=65101,
        hold_s=row.get("hold", 9),
        graceful_restart_s=120,
        advertise=("podCIDRs",),
    )


def route(row: list[str]) -> tuple[RouteKey, Route]:
    prefix = ip_network(row[1])
    return RouteKey(ip_address(row[0]), prefix), Route(prefix, ip_address(row[2]))


class Driver:
    def __init__(self, run_dir: Path, file: Path) -> None:
        self.file = file
        self.engine = Engine(run_dir, USER)
        self.engine.own()
        self.session = Session(self.engine, IPv4Address("10.99.0.11"))
        self.peers: Table[IP, Peering] = Table("peers")
        self.routes: Table[RouteKey, Route] = Table("routes")
        self.loop = Loop()
        self.of_peers = self.loop.apply(self.peers, self.session.peers)
        self.of_routes = self.loop.apply(self.routes, self.session.routes, after=[self.of_peers])
        self.session.lost = self.lost
        self.seen = ""

    def lost(self) -> None:
        self.of_peers.recheck()
        self.of_routes.recheck()

    def load(self) -> None:
        text = self.file.read_text()
        if text == self.seen:
            return
        self.seen = text
        said = json.loads(text)
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
        said = {
            "arrived": self.of_peers.current and self.of_routes.current,
            "seen": self.seen,
            "states": {peer: [state.state, state.reason] for peer, state in states.items()},
            "owed": [str(peer) for peer in self.session.owed],
            "errors": {**self.of_peers.report.errors, **self.of_routes.report.errors},
            "written": self.of_routes.report.written,
        }
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps(said))
        fresh.replace(f"{self.file}.out")

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.session.run())
            group.create_task(self.loop.run())
            group.create_task(self.watch())


if __name__ == "__main__":
    asyncio.run(Driver(Path(sys.argv[1]), Path(sys.argv[2])).run())
