"""Three routers in ``ROUTER`` that dial one speaker, and what each has learned, in one form.

FRR at 10.99.0.1, GoBGP at 10.99.0.2, BIRD at 10.99.0.3; all of AS 65000.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.interop.speaker.frr_router import ROUTER, Router, run, until

FRR, GOBGP, BIRD = "10.99.0.1", "10.99.0.2", "10.99.0.3"
#: Prefix -> MED, communities, large communities, length of the AS path.
Table = Mapping[str, tuple[int, tuple[str, ...], tuple[str, ...], int]]

_GOBGP = """
[global.config]
  as = 65000
  router-id = "10.99.0.2"
  port = -1
[[neighbors]]
  [neighbors.config]
    neighbor-address = "{node}"
    peer-as = 65101
  [neighbors.transport.config]
    local-address = "10.99.0.2"
  [neighbors.timers.config]
    hold-time = 9
    keepalive-interval = 3
    connect-retry = 1
    idle-hold-time-after-reset = 1
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
"""
_BIRD = """
log stderr all;
router id 10.99.0.3;
protocol device {{ }}
protocol bgp speaker {{
  local 10.99.0.3 port 1790 as 65000; neighbor {node} port 179 as 65101;
  hold time 9; connect delay time 1; connect retry time 2; error wait time 1, 2;
  ipv4 {{ import all; export none; }};
}}
"""
#: Values of GoBGP's JSON for path attributes (RFC 4271 5.1, RFC 1997, RFC 8092).
_PATH, _MED, _COMMUNITIES, _LARGE = 2, 4, 8, 32


@contextmanager
def dialling(
    router: Router, node: str, directory: Path
) -> Iterator[dict[str, Callable[[], Table]]]:
    """The tables of the three, while they dial ``node``."""
    for address in (GOBGP, BIRD):
        run("ip", "-n", ROUTER, "addr", "add", f"{address}/24", "dev", "r0")
    router.vty.configure(
        "router bgp 65000", f"no neighbor {node} passive", f"neighbor {node} timers connect 1"
    )
    processes: list[subprocess.Popen[bytes]] = []
    try:
        (directory / "gobgpd.toml").write_text(_GOBGP.format(node=node))
        (directory / "bird.conf").write_text(_BIRD.format(node=node))
        api, control = "127.0.0.1:50091", str(directory / "bird.ctl")
        for words in (
            ["gobgpd", "-f", f"{directory}/gobgpd.toml", "--api-hosts", api, "--pprof-disable"],
            ["bird", "-f", "-c", f"{directory}/bird.conf", "-s", control],
        ):
            with (directory / f"{words[0]}.log").open("ab") as log:
                command = ["ip", "netns", "exec", ROUTER, *words]
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        until(Path(control).exists, "BIRD listens")
        yield {
            FRR: lambda: of_frr(router),
            GOBGP: lambda: of_gobgp(api),
            BIRD: lambda: of_bird(control),
        }
    finally:
        for process in processes:
            process.kill()
            process.wait()
        router.vty.configure(
            "router bgp 65000", f"neighbor {node} passive", f"no neighbor {node} timers connect"
        )
        for address in (GOBGP, BIRD):
            run("ip", "-n", ROUTER, "addr", "del", f"{address}/24", "dev", "r0")


def of_frr(router: Router) -> Table:
    found: dict[str, tuple[int, tuple[str, ...], tuple[str, ...], int]] = {}
    for prefix in router.vty.routes("ipv4 unicast"):
        (path,) = router.vty.json(f"show bgp ipv4 unicast {prefix}").get("paths", [{}])
        if path:
            found[prefix] = (
                path.get("metric", 0),
                tuple(sorted(path.get("community", {}).get("string", "").split())),
                tuple(sorted(path.get("largeCommunity", {}).get("string", "").split())),
                path["aspath"]["length"],
            )
    return found


def of_gobgp(api: str) -> Table:
    host, port = api.split(":")
    command = ["gobgp", "-u", host, "-p", port, "-j", "global", "rib", "-a", "ipv4"]
    done = subprocess.run(
        ["ip", "netns", "exec", ROUTER, *command], capture_output=True, text=True, check=False
    )
    rows = json.loads(done.stdout) if done.stdout.strip() else {}
    found = {}
    for prefix, paths in (rows or {}).items():
        attributes: dict[int, Any] = {one["type"]: one for one in paths[0]["attrs"]}
        numbers = attributes.get(_COMMUNITIES, {}).get("communities", [])
        large = attributes.get(_LARGE, {}).get("value", [])
        found[prefix] = (
            attributes.get(_MED, {}).get("metric", 0),
            tuple(sorted(map(_community, numbers))),
            tuple(sorted(f"{o['ASN']}:{o['LocalData1']}:{o['LocalData2']}" for o in large)),
            sum(len(one["asns"]) for one in attributes[_PATH]["as_paths"]),
        )
    return found


def _community(number: int) -> str:
    return "no-export" if number == 0xFFFFFF01 else f"{number >> 16}:{number & 0xFFFF}"


def of_bird(control: str) -> Table:
    done = subprocess.run(
        ["birdc", "-s", control, "show route all"], capture_output=True, text=True, check=False
    )
    found = {}
    for part in re.split(r"\n(?=\S+/\d+ )", done.stdout):
        prefix = re.match(r"(\S+/\d+) ", part)
        if not prefix:
            continue
        values = dict(re.findall(r"BGP\.(\w+): (.*)", part))
        pairs = re.findall(r"\((\d+),(\d+)\)", values.get("community", ""))
        large = re.findall(r"\((\d+), (\d+), (\d+)\)", values.get("large_community", ""))
        numbers = (_community(int(one) << 16 | int(two)) for one, two in pairs)
        found[prefix[1]] = (
            int(values.get("med", 0)),
            tuple(sorted(numbers)),
            tuple(sorted(":".join(one) for one in large)),
            len(values["as_path"].split()),
        )
    return found
