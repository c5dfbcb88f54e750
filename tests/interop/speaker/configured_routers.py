"""FRR, BIRD and GoBGP in ``ROUTER``, each from the text of ``meshgate bgp config``."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from bgp.routers.kinds import ROUTERS
from bgp.routers.side import Neighbor
from bgp.routers.vty import Vty
from tests.interop.speaker.frr_router import FRR, ROUTER, Router, run, until

ASN = 65000
GOBGP_API = "127.0.0.1:50051"


class RealRouter:
    """What a test asks of any router: whether a session is up, and what it has learned."""

    def __init__(self, directory: Path, text: str) -> None:
        self.directory = directory
        self.text = text
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        raise NotImplementedError

    def is_up(self, neighbor: str) -> bool:
        raise NotImplementedError

    def prefixes(self) -> set[str]:
        raise NotImplementedError

    def vpn_prefixes(self) -> set[str]:
        raise NotImplementedError

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def spawn(self, *words: str) -> None:
        log = (self.directory / f"{Path(words[0]).name}.log").open("ab")
        with log:
            self.processes.append(
                subprocess.Popen(["ip", "netns", "exec", ROUTER, *words], stdout=log, stderr=log)
            )

    def ask(self, *words: str) -> str:
        return run("ip", "netns", "exec", ROUTER, *words)


class Frr(RealRouter):
    """The whole text comes by vtysh, as an operator pastes it, into daemons without a peer."""

    def start(self) -> None:
        self.router = Router(self.directory / "frr", "")
        d = self.directory / "frr"
        (d / "bfdd.conf").write_text("")
        words = [str(FRR / "bfdd"), "-z", str(d / "zserv.api"), "--vty_socket", str(d)]
        words += ["-f", str(d / "bfdd.conf"), "-i", str(d / "bfdd.pid"), "-u", "frr", "-g", "frr"]
        self.spawn(*words, "-P", "0", "--bfdctl", str(d / "bfdd.sock"))
        until((d / "bfdd.vty").exists, "bfdd listens")
        file = self.directory / "pasted.conf"
        file.write_text(self.text)
        words = ["ip", "netns", "exec", ROUTER, "vtysh", "--vty_socket", str(d), "-f", str(file)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        said = f"{self.text}{done.stdout}{done.stderr}"
        assert not done.returncode, said
        assert "% " not in said, said
        self.bfd = Vty(d / "bfdd.vty")

    def stop(self) -> None:
        self.router.stop()
        super().stop()

    def is_up(self, neighbor: str) -> bool:
        return self.router.vty.peer(neighbor).get("state") == "Established"

    def prefixes(self) -> set[str]:
        vty = self.router.vty
        return {*vty.routes("ipv4 unicast"), *vty.routes("ipv6 unicast")}

    def vpn_prefixes(self) -> set[str]:
        table = self.router.vty.json("show bgp ipv4 vpn").get("routes", {})
        return {p for rows in table.get("routeDistinguishers", {}).values() for p in rows}


class Bird(RealRouter):
    def start(self) -> None:
        file = self.directory / "bird.conf"
        file.write_text(f"log stderr all;\n{self.text}")
        self.socket = str(self.directory / "bird.ctl")
        self.spawn("bird", "-f", "-c", str(file), "-s", self.socket)

    def birdc(self, command: str) -> str:
        done = subprocess.run(
            ["birdc", "-s", self.socket, command], capture_output=True, text=True, check=False
        )
        return done.stdout

    def is_up(self, neighbor: str) -> bool:
        parts = self.birdc("show protocols all").split("\n\n")
        (own,) = [p for p in parts if f"Neighbor address: {neighbor}\n" in f"{p}\n"] or [""]
        return "BGP state:          Established" in own

    def prefixes(self) -> set[str]:
        return {
            line.split()[0]
            for line in self.birdc("show route where source = RTS_BGP").splitlines()
            if "/" in line.split(" ")[0]
        }

    def vpn_prefixes(self) -> set[str]:
        """Of lines like ``10.99.0.11:7 10.60.1.1/32 …``."""
        lines = self.birdc("show route table meshgate_vpn4").splitlines()
        return {words[1] for words in map(str.split, lines) if len(words) > 1 and "/" in words[1]}


class GoBgp(RealRouter):
    def start(self) -> None:
        file = self.directory / "gobgpd.toml"
        file.write_text(self.text)
        self.spawn("gobgpd", "-f", str(file), "--api-hosts", GOBGP_API, "--pprof-disable")

    def json(self, *words: str) -> object:
        host, port = GOBGP_API.split(":")
        command = ["gobgp", "-u", host, "-p", port, "-j", *words]
        done = subprocess.run(
            ["ip", "netns", "exec", ROUTER, *command], capture_output=True, text=True, check=False
        )
        return json.loads(done.stdout) if done.stdout.strip() else []

    def is_up(self, neighbor: str) -> bool:
        rows = self.json("neighbor")
        return isinstance(rows, list) and any(
            row["state"].get("neighbor_address") == neighbor and row["state"]["session_state"] == 6
            for row in rows
        )

    def prefixes(self) -> set[str]:
        found: set[str] = set()
        for family in ("ipv4", "ipv6"):
            rows = self.json("global", "rib", "-a", family)
            found |= set(rows) if isinstance(rows, dict) else set()
        return found

    def vpn_prefixes(self) -> set[str]:
        rows = self.json("global", "rib", "-a", "vpnv4")
        return {key.rpartition(":")[2] for key in rows} if isinstance(rows, dict) else set()


REAL = {"frr": Frr, "bird": Bird, "gobgp": GoBgp}


@contextmanager
def real_router(kind: str, directory: Path, neighbors: list[Neighbor]) -> Iterator[RealRouter]:
    """A router with the configuration that ``meshgate bgp config`` prints for it."""
    text = ROUTERS[kind](ASN, ip_address("10.99.0.1"), neighbors)  # type: ignore[arg-type]
    router = REAL[kind](directory, text)
    router.start()
    try:
        yield router
    finally:
        router.stop()
