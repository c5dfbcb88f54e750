"""BIRD 2 and GoBGP 3.10 in the router's namespace of frr_router.py, run by hand.

10.99.0.1 (BIRD, AS 65101: iBGP) and 10.99.0.2 (GoBGP, AS 65003) peer with 10.99.0.11.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.interop.speaker.frr_router import ROUTER, run, until

BIRD, GOBGP = "10.99.0.1", "10.99.0.2"
_BIRD = """
log "{folder}/bird.log" all;
router id 10.99.0.1;
protocol device {{ }}
include "{folder}/routes.conf";
protocol bgp node {{
  local 10.99.0.1 as 65101; neighbor 10.99.0.11 as 65101; passive on; strict bind on; hold time 9;
  ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};
  ipv6 {{ import all; export where source = RTS_STATIC; next hop address fd99::1; }};
}}
"""
_GOBGP = """
[global.config]
as = 65003
router-id = "10.99.0.2"
local-address-list = ["10.99.0.2"]
[[neighbors]]
[neighbors.config]
neighbor-address = "10.99.0.11"
peer-as = 65101
[neighbors.transport.config]
passive-mode = true
[neighbors.timers.config]
hold-time = 9
{families}
"""
_FAMILIES = ("ipv4-unicast", "ipv6-unicast", "l3vpn-ipv4-unicast", "l3vpn-ipv6-unicast")
_FAMILY = '[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = "{}"\n'


class Bird:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def routes(self, text: str) -> None:
        """Static routes, in BIRD's words."""
        (self.folder / "routes.conf").write_text(text)
        if (self.folder / "bird.ctl").exists():
            self.ask("configure")

    def ask(self, *words: str) -> str:
        return run("birdc", "-s", str(self.folder / "bird.ctl"), *words)


class GoBGP:
    """The API listens on the loopback of the router's namespace."""

    def ask(self, *words: str) -> str:
        return run("ip", "netns", "exec", ROUTER, "gobgp", *words)

    def add(self, route: str) -> None:
        """A route, in the words of its command line."""
        self.ask("global", "rib", "add", *route.split())

    def rib(self, family: str) -> dict[str, Any]:
        return dict(json.loads(self.ask("global", "rib", "-a", family, "-j") or "{}"))


@contextmanager
def bird(folder: Path, routes: str) -> Iterator[Bird]:
    it = Bird(folder)
    it.routes(routes)
    (folder / "bird.conf").write_text(_BIRD.format(folder=folder))
    words = ["bird", "-f", "-c", str(folder / "bird.conf"), "-s", str(folder / "bird.ctl")]
    process = subprocess.Popen(["ip", "netns", "exec", ROUTER, *words])
    try:
        until((folder / "bird.ctl").exists, "BIRD runs")
        yield it
    finally:
        process.kill()
        process.wait()


@contextmanager
def gobgp(folder: Path) -> Iterator[GoBGP]:
    run("ip", "-n", ROUTER, "addr", "add", f"{GOBGP}/24", "dev", "r0")
    families = "".join(map(_FAMILY.format, _FAMILIES))
    (folder / "gobgpd.toml").write_text(_GOBGP.format(families=families))
    words = ["gobgpd", "-f", str(folder / "gobgpd.toml"), "--pprof-disable"]
    with (folder / "gobgpd.log").open("wb") as log:
        process = subprocess.Popen(
            ["ip", "netns", "exec", ROUTER, *words, "--api-hosts", "127.0.0.1:50051"],
            stdout=log,
            stderr=log,
        )
    it = GoBGP()
    try:
        until(lambda: _answers(it), "GoBGP runs")
        yield it
    finally:
        process.kill()
        process.wait()


def _answers(it: GoBGP) -> bool:
    try:
        return bool(it.ask("global"))
    except subprocess.CalledProcessError:
        return False
