"""Namespaces, links and addresses of the conformance runner, and what a translator offers to cases.

    pod, other ── translator ── server (two addresses)

The ends are raw sockets (``ends.py``). A translator (``meshgate.py``, ``nftables.py``) is whatever
stands between them; all of its namespaces carry the name of the process that made them, and go with
it.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path

from bpf.netns import enter
from mesh.lab.conformance.ends import End
from mesh.lab.places import LabError

NETNS = Path("/run/netns")
POD = {4: "10.1.0.7", 6: "fd01::7"}
OTHER = {4: "10.1.0.8", 6: "fd01::8"}
SERVER = {4: ("192.0.2.10", "192.0.2.20"), 6: ("2001:db8:2::10", "2001:db8:2::20")}
#: A destination that the policy excludes.
EXCLUDED = {4: "192.0.2.129", 6: "2001:db8:2:8000::1"}
#: A router on the way to the server: only ICMP errors come from it.
HOP = {4: "192.0.2.99", 6: "2001:db8:2::99"}
EGRESS = {4: "198.51.100.10", 6: "2001:db8:100::10"}
WORLD = {4: "192.0.2.0/24", 6: "2001:db8:2::/48"}
POD_MAC, OTHER_MAC, SERVER_MAC = (bytes([2, 0, 0, 0, 1, n]) for n in (7, 8, 10))
HOST_MAC = bytes.fromhex("020000000201")
GATE_MAC = bytes.fromhex("020000000301")
#: Octets of an IP packet on the link to the server.
PATH_MTU = 1400
#: Ports of the egress address that the translator may use while ``narrow``.
NARROW = 256


def text(mac: bytes) -> str:
    """A MAC address as ip(8) takes it."""
    return mac.hex(":")


def run(*words: str, given: str | None = None) -> str:
    """What a command says. Raises LabError."""
    done = subprocess.run(words, check=False, capture_output=True, text=True, input=given)
    if done.returncode:
        raise LabError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def nodad(family: int) -> tuple[str, ...]:
    """The word of ip(8) for an address that is usable at once."""
    return () if family == 4 else ("nodad",)


class Namespaces:
    """Network namespaces of this process, gone at the end of ``stack``."""

    _numbers = itertools.count()

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._prefix = f"mgc{os.getpid()}n{next(self._numbers)}"

    def make(self, name: str) -> Path:
        """A new one, its loopback up; the kernel in it sends nothing by itself over IPv6."""
        full = f"{self._prefix}-{name}"
        run("ip", "netns", "add", full)
        self._stack.callback(run, "ip", "netns", "del", full)
        run("ip", "-n", full, "link", "set", "lo", "up")
        self.set(NETNS / full, "net/ipv6/conf/default/accept_dad", "0")
        self.set(NETNS / full, "net/ipv6/conf/default/router_solicitations", "0")
        return NETNS / full

    @staticmethod
    def set(place: Path, key: str, value: str) -> None:
        """One setting of the kernel in a namespace."""
        with enter(place):
            Path(f"/proc/sys/{key}").write_text(value)

    @staticmethod
    def get(place: Path, key: str) -> str:
        """Likewise, read."""
        with enter(place):
            return Path(f"/proc/sys/{key}").read_text().strip()

    def link(self, a: tuple[Path, str, bytes], b: tuple[Path, str, bytes], mtu: int = 1500) -> None:
        """A veth pair between two namespaces; each end has a name and a MAC."""
        (left, name, mac), (right, far, far_mac) = a, b
        run(
            "ip", "-n", left.name, "link", "add", "name", name, "address", text(mac),
            "mtu", str(mtu), "type", "veth",
            "peer", "name", far, "address", text(far_mac), "mtu", str(mtu), "netns", right.name,
        )  # fmt: skip
        for place, device in ((left, name), (right, far)):
            run("ip", "-n", place.name, "link", "set", "dev", device, "up")


def silence(place: Path, device: str) -> None:
    """Let the kernel of an end say nothing on its device."""
    Namespaces.set(place, f"net/ipv6/conf/{device}/disable_ipv6", "1")


def route_to_ends(place: Path, ends: dict[str, tuple[bytes, dict[int, tuple[str, ...]]]]) -> None:
    """Routes and neighbours of a router towards ends, by device: raw sockets answer no ARP."""
    for device, (mac, addresses) in ends.items():
        for family, each in addresses.items():
            for address in each:
                words = ("ip", f"-{family}", "-n", place.name)
                run(*words, "route", "replace", address, "dev", device)
                run(*words, "neigh", "replace", address, "lladdr", text(mac), "dev", device)


class Bed(ABC):
    """A translator between two pods and a server, with the three ends."""

    #: The heading of its column.
    name: str
    pod: End
    other: End
    server: End

    @property
    def ends(self) -> tuple[End, ...]:
        """All ends."""
        return self.pod, self.other, self.server

    def settle(self) -> None:
        """Forget what has arrived so far."""
        for end in self.ends:
            end.drain()

    @abstractmethod
    def lifetime(self, kind: str) -> int | None:
        """Seconds without a packet after which state of a kind goes, as the translator has them.

        ``udp``: one datagram; ``stream``: datagrams for longer; ``echo``; TCP: ``opening``,
        ``established``, ``closed``. None: it has no such state.
        """

    @abstractmethod
    def idle(self, seconds: int) -> bool:
        """Let all state have been idle for that time, and expire; False: the clock stands still."""

    @abstractmethod
    def narrow(self, ports: int | None) -> bool:
        """Leave the translator that many ports; None: as before. False: it cannot."""

    @abstractmethod
    def quota(self, ports: int) -> bool:
        """Give each pod so many ports at most; 0: as many as there are. False: it cannot."""
