"""A real FRR router (zebra and bgpd, run by hand) in a network namespace, for interop tests.

bgpt-n  n0 10.99.0.11/24 fd99::11/64  ----  r0 10.99.0.1/24 fd99::1/64  bgpt-r (FRR)
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from tests.patience import wait

FRR = Path("/usr/lib/frr")
#: Names of this process alone: two runs on one machine must not meet.
NODE, ROUTER = f"bgpt{os.getpid()}-n", f"bgpt{os.getpid()}-r"
DEADLINE_S = 30.0


def until(fact: Callable[[], Any], sentence: str, deadline_s: float = DEADLINE_S) -> Any:
    """The first true value of ``fact``; fails with ``sentence`` at the deadline."""
    return wait(fact, deadline_s, sentence, 0.02)


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


class Vty:
    """Questions to bgpd through its vty socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self.ask("enable")

    def ask(self, command: str) -> str:
        self.socket.sendall(command.encode() + b"\0")
        answer = b""
        while not (len(answer) >= 4 and answer[-4:-1] == b"\0\0\0"):
            part = self.socket.recv(65536)
            if not part:
                raise ConnectionError("bgpd closed the vty")
            answer += part
        return answer[:-4].decode()

    def configure(self, *lines: str) -> None:
        for line in ("configure terminal", *lines, "end"):
            self.ask(line)

    def json(self, command: str) -> Any:
        return json.loads(self.ask(f"{command} json") or "{}")

    def peer(self, address: str, family: str = "ipv4 unicast") -> dict[str, Any]:
        peers: dict[str, dict[str, Any]] = self.json(f"show bgp {family} summary").get("peers", {})
        return peers.get(address, {})

    def routes(self, family: str) -> dict[str, set[str]]:
        """Prefix -> next hops in the BGP table."""
        table = self.json(f"show bgp {family}").get("routes", {})
        return {
            prefix: {hop["ip"] for path in paths for hop in path["nexthops"]}
            for prefix, paths in table.items()
        }


@contextmanager
def network() -> Iterator[None]:
    """Two namespaces joined by a veth pair."""
    for name in (NODE, ROUTER):
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")
    try:
        run("ip", "-n", NODE, "link", "add", "n0", "type", "veth", "peer", "r0", "netns", ROUTER)
        for name, link, host in ((NODE, "n0", "11"), (ROUTER, "r0", "1")):
            run("ip", "-n", name, "link", "set", link, "up")
            run("ip", "-n", name, "addr", "add", f"10.99.0.{host}/24", "dev", link)
            run("ip", "-n", name, "addr", "add", f"fd99::{host}/64", "dev", link, "nodad")
        yield
    finally:
        for name in (NODE, ROUTER):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


class Router:
    """zebra and bgpd in ``ROUTER``; ``vty`` asks bgpd."""

    def __init__(self, directory: Path, config: str) -> None:
        self.directory = directory
        directory.mkdir(parents=True)
        (directory / "zebra.conf").write_text("hostname router\n")
        (directory / "bgpd.conf").write_text(config)
        shutil.chown(directory, "frr", "frr")
        for file in directory.iterdir():
            shutil.chown(file, "frr", "frr")
        self._start("zebra")
        until((directory / "zserv.api").exists, "zebra listens")
        self._start("bgpd", "-p", "179")
        until((directory / "bgpd.vty").exists, "bgpd listens")
        self.vty = Vty(directory / "bgpd.vty")

    def _start(self, daemon: str, *more: str) -> None:
        d = self.directory
        words = [
            str(FRR / daemon),
            "-d",
            "-f",
            str(d / f"{daemon}.conf"),
            "-z",
            str(d / "zserv.api"),
        ]
        words += ["--vty_socket", str(d), "-i", str(d / f"{daemon}.pid")]
        words += ["-u", "frr", "-g", "frr", "-P", "0", *more]
        run("ip", "netns", "exec", ROUTER, *words)

    def stop(self) -> None:
        for daemon in ("bgpd", "zebra"):
            with suppress(OSError, ValueError):
                pid = int((self.directory / f"{daemon}.pid").read_text())
                os.kill(pid, signal.SIGKILL)

    def kernel(self, family: str = "-4") -> dict[str, str]:
        """Prefix -> next hop of the BGP routes in the router's kernel."""
        rows = json.loads(
            run("ip", "-j", family, "-n", ROUTER, "route", "show", "proto", "bgp") or "[]"
        )
        return {row["dst"]: row.get("gateway", "") for row in rows}


def holds(router: Router, *routes: list[str]) -> bool:
    """Whether table and kernel hold exactly these, with their next hops."""
    return held(router) == whole(*routes)


def held(router: Router) -> list[dict[str, set[str]]]:
    """Next hops by prefix, in the kernel and in the table."""
    kernel = {
        prefix if "/" in prefix else f"{prefix}/{ip_address(prefix).max_prefixlen}": {hop}
        for family in ("-4", "-6")
        for prefix, hop in router.kernel(family).items()
    }
    return [kernel, router.vty.routes("ipv4 unicast") | router.vty.routes("ipv6 unicast")]


def whole(*routes: list[str]) -> list[dict[str, set[str]]]:
    """``held`` of a router that has exactly these routes."""
    return [{prefix: {hop} for _, prefix, hop in routes}] * 2


def stale(router: Router) -> bool:
    return any(
        "Stale" in router.vty.ask(f"show bgp {f} unicast")
        and "S>" in router.vty.ask(f"show bgp {f} unicast")
        for f in ("ipv4", "ipv6")
    )


def holds_on(router: Router, neighbor: str, *routes: list[str]) -> bool:
    found = {
        prefix
        for family in ("ipv4", "ipv6")
        for prefix in router.vty.json(f"show bgp {family} unicast neighbors {neighbor} routes").get(
            "routes", {}
        )
    }
    return found == {route[1] for route in routes}
