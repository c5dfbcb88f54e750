"""A fake of the forwarding part of a provider edge: copies bgpd's tables to the kernel's seg6.

FRR is the whole control plane. Where this machine's kernel refuses FRR's own entries, because they
need a VRF device, this process makes entries that do the same: End.DX4 and End.DX6 towards a VRF's
namespace in place of End.DT4 and End.DT6, and encapsulation of what a VRF sends. It copies SIDs and
nothing else: a route that bgpd lacks is not installed, and one that bgpd has lost is removed. When
bgpd does not answer, it has no routes. Its entries stand in a table of their own (``edge.py``),
where zebra does not see them. What it has copied stands in ``fake_pe.json`` for ``lab show``.
Started by ``lab up``. Source: bgp-exabgp.md 13, srv6-l3vpn.md 10 and 12.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_network
from pathlib import Path
from types import FrameType
from typing import Any

from bgp.routers.vty import Vty
from mesh.core.files import replace_file
from mesh.core.model import Network
from mesh.lab import edge, places
from mesh.lab.edge import FAKE_TABLE, TO_EDGE
from mesh.lab.fabric import Edge, vrf_host
from mesh.lab.places import Lab
from mesh.lab.topology import load

PERIOD_S = 0.5
DOES = (
    "copies SIDs and segment lists from bgpd's tables to kernel seg6 (End.DX4, End.DX6, encap); "
    "a route that bgpd lacks is not installed"
)
_ACTIONS = {4: "End.DX4", 6: "End.DX6"}
_FAMILIES = {4: "ipv4", 6: "ipv6"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One route of a namespace; ``way`` are the words of ``ip route`` behind the prefix."""

    host: str
    prefix: Network
    way: str


Key = tuple[str, Network]


def own_sids(text: str) -> dict[tuple[str, int], IPv6Address]:
    """The SID of each VRF and IP version, of what `show bgp segment-routing srv6` says."""
    found: dict[tuple[str, int], IPv6Address] = {}
    vrf = ""
    for line in text.splitlines():
        word, _, value = line.strip().partition(": ")
        if word == "- name":
            vrf = value.split()[-1]
        elif word.startswith("vpn_policy[") and word.endswith("tovpn_sid"):
            version = 6 if "AFI_IP6" in word else 4
            with suppress(ValueError):  # none
                found[vrf, version] = IPv6Address(value)
    return found


def vpn_routes(tree: Mapping[str, Any]) -> dict[Network, IPv6Address]:
    """Prefix -> SID of the best paths that have one, of a table with details as JSON."""
    found = {}
    for prefix, entry in tree.get("routes", {}).items():
        paths = entry if isinstance(entry, list) else entry.get("paths", [])
        for path in paths:
            best, sid = path.get("bestpath"), path.get("remoteSid")
            if sid and isinstance(best, dict) and best.get("overall"):
                found[ip_network(prefix)] = IPv6Address(sid)
    return found


def own_entries(pe: Edge, sids: Mapping[tuple[str, int], IPv6Address]) -> Iterator[Entry]:
    """What the edge does with packets for its own SIDs: it hands the inner packet to the VRF."""
    for number, tenant in enumerate(pe.tenants):
        for version, hop in zip((4, 6), edge.hops(number), strict=True):
            if sid := sids.get((tenant.name, version)):
                action = f"encap seg6local action {_ACTIONS[version]} nh{version} {hop}"
                yield Entry("pe", ip_network(sid), f"{action} dev {tenant.name}")


def encap_entries(vrf: str, routes: Mapping[Network, IPv6Address]) -> Iterator[Entry]:
    """What a VRF does with packets of its tenant for prefixes of the VPN."""
    for prefix, sid in routes.items():
        way = f"encap seg6 mode encap segs {sid} dev {TO_EDGE}"
        yield Entry(vrf_host(vrf), prefix, way)


class FakeEdge:
    """Makes the kernel's tables equal to bgpd's."""

    def __init__(self, lab: Lab, pe: Edge) -> None:
        self._lab, self._edge = lab, pe
        self._vty: Vty | None = None
        self._there: dict[Key, str | None] = {}  # None: left by a process before
        self._refused: list[str] = []

    def recover(self) -> None:
        """Take over what a process before has left."""
        for host in ("pe", *(vrf_host(tenant.name) for tenant in self._edge.tenants)):
            for family in ("-4", "-6"):
                words = ("ip", "-j", family, "route", "show", "table", str(FAKE_TABLE))
                done = self._in(host, words)
                for row in [] if done.returncode else json.loads(done.stdout):  # no such table
                    self._there[host, ip_network(row["dst"])] = None

    def round(self) -> None:
        """Read what bgpd has, make what is missing, remove what is too much."""
        wanted = {(one.host, one.prefix): one for one in self._wanted()}
        gone = [key for key in self._there if key not in wanted]
        new = [one for key, one in wanted.items() if self._there.get(key) != one.way]
        self._refused = []
        for host in {key[0] for key in gone} | {one.host for one in new}:
            lines = [
                *(_line("replace", one.prefix, one.way) for one in new if one.host == host),
                *(_line("del", key[1], "") for key in gone if key[0] == host),
            ]
            self._batch(host, lines)
        self._there = {key: one.way for key, one in wanted.items()}
        if gone or new:
            self._record(wanted.values())

    def _wanted(self) -> list[Entry]:
        try:
            if self._vty is None:
                self._vty = Vty(self._lab.host_run("pe") / "bgpd.vty")
            return self._read(self._vty)
        except (OSError, ValueError) as error:
            print(f"bgpd does not answer: {error}", flush=True)
            if self._vty is not None:
                self._vty.close()
                self._vty = None
            return []

    def _read(self, vty: Vty) -> list[Entry]:
        sids = own_sids(vty.ask("show bgp segment-routing srv6"))
        entries = [*own_entries(self._edge, sids)]
        for tenant in self._edge.tenants:
            for family in _FAMILIES.values():
                command = f"show bgp vrf {tenant.name} {family} unicast json detail"
                routes = vpn_routes(json.loads(vty.ask(command) or "{}"))
                entries += encap_entries(tenant.name, routes)
        return entries

    def _batch(self, host: str, lines: Iterable[str]) -> None:
        done = self._in(host, ("ip", "-force", "-batch", "-"), "\n".join([*lines, ""]))
        if done.returncode:
            self._refused += [line for line in done.stderr.splitlines() if line.strip()]
            print(f"{host}: {done.stderr.strip()}", flush=True)

    def _in(self, host: str, command: tuple[str, ...], text: str = "") -> Any:
        inside = ("nsenter", f"--net={self._lab.host(host).netns_path}", "--")
        return subprocess.run(
            [*inside, *command], input=text, text=True, capture_output=True, check=False
        )

    def _record(self, entries: Iterable[Entry]) -> None:
        rows = [f"{one.host}: {one.prefix} {one.way}" for one in entries]
        tree = {"does": DOES, "entries": sorted(rows), "refused": self._refused}
        replace_file(status_file(self._lab), json.dumps(tree))


def _line(verb: str, prefix: Network, way: str) -> str:
    return f"route {verb} {prefix} {way} table {FAKE_TABLE}"


def status_file(lab: Lab) -> Path:
    """Where it says what it has copied."""
    return lab.host_run("pe") / "fake_pe.json"


def shown(lab: Lab) -> dict[str, Any]:
    """What ``lab show`` says of it."""
    try:
        tree: dict[str, Any] = json.loads(status_file(lab).read_text())
    except (OSError, ValueError):
        return {"does": DOES, "entries": [], "refused": []}
    return tree


def main() -> None:
    """Work until SIGTERM; the entries stay."""
    stopped = False

    def end(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, end)
    lab = places.current()
    pe = load(lab.topology).pe
    if pe is None:
        return
    fake = FakeEdge(lab, pe)
    fake.recover()
    while not stopped:
        fake.round()
        time.sleep(PERIOD_S)


if __name__ == "__main__":
    main()
