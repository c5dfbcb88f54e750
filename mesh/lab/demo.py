"""``make demo``: what Meshgate does, shown on a lab with the real commands and their real output.

Each step prints commands as a user would type them, what they print, and one line that says what
that proves; the line is computed from the output, so a claim that does not hold says so and the
demo fails. The lab stays up.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.lab import demo_tenants

_BIN = Path(os.path.relpath(Path(sys.executable).parent))
_PYTHON = _BIN / "python"
_PROBE = Path(os.path.relpath(__file__)).with_name("probe.py")
_ECHO = _PROBE.with_name("legacy.py")
ECHO_PORT = 9000
DEAD_S = 3


@dataclass(frozen=True, slots=True)
class Promise:
    """One line of the summary."""

    text: str
    holds: bool


#: What to do after the demo; ``bin`` is where the commands are.
_FURTHER = """The lab is still up; look further with
     {bin}/meshgate status
     {bin}/meshgate flow list
     {bin}/meshgate lab exec east/shop/client-1 curl -s http://10.97.1.10/
     {bin}/meshgate lab exec east-1 tcpdump -ni uplink udp port 8472
   and remove it with
     make clean-lab"""
#: Whether a claim holds, as a sign.
_MARKS = {True: "✓", False: "✗"}


class Demo:
    """Runs commands visibly and collects claims."""

    def __init__(self) -> None:
        self.claims: list[Promise] = []
        self.begin = time.monotonic()
        self._environment = {
            **os.environ,
            "PATH": f"{_BIN.absolute()}:{os.environ.get('PATH', '')}",
        }

    def title(self, text: str) -> None:
        """The heading of a step."""
        print(f"\n── {text} {'─' * max(0, 96 - len(text))}", flush=True)

    def run(self, command: str) -> str:
        """Run a command visibly; what it printed."""
        print(f"$ {command}", flush=True)
        answer = subprocess.run(
            ["bash", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env=self._environment,
        )
        print(answer.stdout.rstrip(), flush=True)
        return answer.stdout

    def follow(self, command: str) -> bool:
        """Run a command with its output passed on as it comes; whether it succeeded."""
        print(f"$ {command}", flush=True)
        done = subprocess.run(["bash", "-c", command], check=False, env=self._environment)
        return done.returncode == 0

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a command in the background, visibly."""
        print(f"$ {command} &", flush=True)
        return subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment,
        )

    def text(self, command: str) -> str:
        """What a command prints, which is not shown."""
        answer = subprocess.run(
            ["bash", "-c", command],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            env=self._environment,
        )
        return answer.stdout

    def quiet(self, command: str) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.text(command))

    def claim(self, text: str, *, holds: bool) -> None:
        """Say what the step has proved, or that it has not."""
        self.claims.append(Promise(text, holds))
        print(f"   {_MARKS[holds]} {text}", flush=True)

    def summary(self, further: str) -> int:
        """All claims and the time; 0 when every one held. ``further``: what to do then."""
        self.title("Summary")
        for claim in self.claims:
            print(f"   {_MARKS[claim.holds]} {claim.text}")
        took_s = time.monotonic() - self.begin
        print(f"\n   {took_s:.0f} seconds. {further.format(bin=_BIN)}")
        return 0 if all(claim.holds for claim in self.claims) else 1


def objects(demo: Demo) -> None:
    """Nodes and identities of both clusters."""
    demo.title("Two clusters know each other: nodes and identities through the shared etcd")
    demo.run("meshgate node list")
    demo.run("meshgate identity list")
    nodes = demo.quiet("meshgate node list -o json")
    found = {row["cluster"] for row in demo.quiet("meshgate identity list -o json")}
    both = found >= {"east", "west"} and all(row["podCIDRs"] and row["locator"] for row in nodes)
    demo.claim(
        f"{len(nodes)} nodes with pod CIDRs and locators, identities of both clusters",
        holds=len(nodes) == 6 and both,
    )


def services(demo: Demo) -> None:
    """A global service answered by pods of both clusters."""
    demo.title("A pod of east calls the global service shop/web: both clusters answer")
    demo.run("meshgate service list")
    rows = demo.quiet("meshgate service list -o json")
    east = next(row for row in rows if row["cluster"] == "east" and row["name"] == "web")
    urls = [f"http://[{a}]/" if ":" in a else f"http://{a}/" for a in east["addresses"]]
    for url in urls:
        demo.run(f"meshgate lab exec east/shop/client-1 curl -s '{url}'")
    curl = f"curl -s -o /dev/null -w '%header{{x-pod}}\\n' {urls[0]}"
    answers = demo.run(
        f'meshgate lab exec east/shop/client-1 bash -c "for n in {{1..20}}; do {curl}; done"'
        " | sort | uniq -c"
    )
    clusters = {line.split()[-1].partition("/")[0] for line in answers.splitlines() if line}
    demo.claim(
        f"the answers came from {' and '.join(sorted(clusters))}",
        holds=clusters >= {"east", "west"},
    )


def routes(demo: Demo) -> None:
    """The router's BGP table."""
    demo.title("The data-centre router has learned pod CIDRs, locators and egress addresses")
    shown = demo.quiet("meshgate lab show -o json")
    vtysh = f"meshgate lab exec router vtysh --vty_socket {shown['vtySocketDir']}"
    table = demo.run(f"{vtysh} -c 'show bgp ipv4 unicast'")
    table += demo.run(f"{vtysh} -c 'show bgp ipv6 unicast'")
    wanted = [cidr for row in demo.quiet("meshgate node list -o json") for cidr in row["podCIDRs"]]
    wanted += [row["locator"] for row in demo.quiet("meshgate node list -o json")]
    wanted += [address for row in shown["egress"] for address in row["addresses"]]
    missing = [prefix for prefix in wanted if f" {prefix}" not in table]
    text = "every pod CIDR, locator and egress address is in the router's table"
    demo.claim(text if not missing else f"missing: {', '.join(missing)}", holds=not missing)


def egress(demo: Demo) -> None:
    """A covered pod is one stable address outside; an uncovered one is refused."""
    demo.title("Egress: the legacy network sees one address of a cluster, the rest is refused")
    shown = demo.quiet("meshgate lab show -o json")
    legacy = shown["legacy"]
    demo.run("meshgate egress list")
    log = Path(legacy["log"])
    before = len(log.read_text().splitlines())
    for address in legacy["addresses"]:
        demo.run(_say("east/shop/client-1", address, legacy["tcp"]))
    lines = demo.run(f"tail -n +{before + 1} {log}").splitlines()
    east = next(row for row in shown["egress"] if row["cluster"] == "east")
    sources = {line.split()[2] for line in lines}
    demo.claim(
        f"the legacy server saw {', '.join(sorted(sources)) or 'nobody'}",
        holds=sources == set(east["addresses"]),
    )
    refused = demo.run(_say("east/shop/web-1", legacy["addresses"][0], legacy["tcp"]))
    counter = demo.run("meshgate lab exec firewall nft list counter inet firewall refused")
    packets = int((re.search(r"packets (\d+)", counter) or [0, 0])[1])
    demo.claim(
        "the pod that no policy covers is refused by the firewall, and counted",
        holds="refused" in refused.lower() and packets > 0,
    )


def feeds(demo: Demo) -> None:
    """The firewall has the addresses from the feed, and the feed knows it."""
    demo.title("Feed: the firewall fetches the addresses that it lets pass, and the feed knows it")
    shown = demo.quiet("meshgate lab show -o json")
    feed, (group,) = shown["feed"], shown["feed"]["groups"]
    ask = f"curl -s --cacert {feed['ca']} -u {feed['user']}:{feed['password']} {feed['url']}{group}"
    for form in ("forti", "pan", "cisco.md5"):
        demo.run(f"meshgate lab exec firewall {ask}.{form}")
    body = demo.run(f"meshgate lab exec firewall {ask}.txt")
    sets = demo.run("meshgate lab exec firewall nft list set inet firewall feed4")
    demo.run("meshgate feed list")
    rows = demo.quiet("meshgate feed list -o json")
    wanted = next(one["addresses"] for one in shown["egress"] if one["cluster"] == "east")
    listed = set(body.split()) == set(wanted) and wanted[0] in sets
    settled = all(row["settled"] == row["epoch"] for row in rows if row["group"] == group)
    demo.claim(
        f"the feed lists {', '.join(wanted)}; the firewall has fetched and loaded them",
        holds=listed and settled and bool(rows),
    )


def flows(demo: Demo) -> None:
    """A flow names both identities."""
    demo.title("Flows: who talked to whom")
    target = _pod(demo, "west/shop/web-1")["addresses"][0]
    demo.run(f"meshgate lab exec east/shop/client-1 curl -s http://{target}:8080/")
    rows = [
        row
        for row in demo.quiet("meshgate flow list -o json")
        if row["destination"]["address"] == target and row["destination"]["port"] == 8080
    ]
    last = r"NR == 1 {print} /west\/shop\/web-1:8080/ {last = $0} END {print last}"
    demo.run(f"meshgate flow list | awk '{last}'")
    identities = {(row["source"]["identity"], row["destination"]["identity"]) for row in rows}
    client, web = _pod(demo, "east/shop/client-1"), _pod(demo, "west/shop/web-1")
    wanted = (client["identity"], web["identity"])
    demo.claim(
        f"one flow carries both identities: {wanted[0]} -> {wanted[1]}", holds=wanted in identities
    )


def agent_killed(demo: Demo) -> None:
    """The agent dies during a transfer and nothing is lost."""
    demo.title("The agent is killed and started again during a transfer: nothing is lost")
    target = _pod(demo, "west/shop/web-1")["addresses"]
    echo = demo.start(
        f"meshgate lab exec west/shop/web-1 {_PYTHON} {_ECHO} {ECHO_PORT} {ECHO_PORT}"
    )
    time.sleep(1)
    legacy = demo.quiet("meshgate lab show -o json")["legacy"]
    probe = f"meshgate lab exec east/shop/client-1 {_PYTHON} {_PROBE} udp --seconds {DEAD_S + 6}"
    transfers = {
        "to the pod in west, IPv4": demo.start(f"{probe} {target[0]} {ECHO_PORT}"),
        "to the pod in west, IPv6": demo.start(f"{probe} {target[1]} {ECHO_PORT}"),
        "to the legacy server": demo.start(f"{probe} {legacy['addresses'][0]} {legacy['udp']}"),
    }
    time.sleep(2)
    demo.run("meshgate lab ps | grep -e ROLE -e 'east-1 *agent'")
    demo.run('kill -9 $(meshgate lab ps | awk \'$1 == "east-1" && $2 == "agent" {print $3}\')')
    time.sleep(DEAD_S)
    demo.run("meshgate lab start east-1/agent")
    lost = 0
    for name, transfer in transfers.items():
        text, _ = transfer.communicate()
        print(f"{name}: {text.strip()}")
        lost += json.loads(text.splitlines()[-1])["missing"]
    echo.terminate()
    echo.wait()
    demo.claim(f"1,000 packets a second in three transfers: {lost} lost", holds=lost == 0)


def gateway_lost(demo: Demo) -> None:
    """A gateway is cut off under load and every connection lives."""
    demo.title("Any gateway, no loss: one of two is cut off while 50 connections talk through them")
    demo.run("meshgate gateway list | grep -e NODE -e '^east *east-1 '")
    said = demo.run("meshgate egress drill --kill east-2 --how cut --seconds 3")
    survived = re.search(r"(\d+) of (\d+) survived", said)
    gap = re.search(r"outwards.*gap (\d+) ms", said)
    leaked = "refused      0 packets" in said
    demo.claim(
        f"{survived[0] if survived else 'nobody survived'}; "
        f"packets found the other gateway within {gap[1] if gap else '?'} ms",
        holds=bool(survived and survived[1] == survived[2] and gap) and leaked,
    )
    demo.run("meshgate gateway list | grep -e NODE -e '^east *east-1 '")


def tenants(demo: Demo) -> None:
    """Tenants in the L3VPN of the provider edge."""
    demo_tenants.tenants(demo, _say)


STEPS: tuple[Callable[[Demo], None], ...] = (
    objects,
    services,
    routes,
    egress,
    feeds,
    flows,
    agent_killed,
    gateway_lost,
    tenants,
    demo_tenants.sids,
    demo_tenants.why_not,
    demo_tenants.cut,
)


def main() -> int:
    """All steps; 0 when every claim held."""
    demo = Demo()
    demo.title("Two clusters, a router, a firewall and a legacy network on this machine")
    if not demo.follow("meshgate lab up"):
        print("The lab did not come up. `make clean-lab` removes it.")
        return 1
    demo.run("meshgate status")
    for step in STEPS:
        step(demo)
    return demo.summary(_FURTHER)


def _say(pod: str, address: str, port: int) -> str:
    """A command line that sends a word to an echo server and prints the echo."""
    script = f"exec 3<>/dev/tcp/{address}/{port} && echo hello from {pod} >&3 && head -1 <&3"
    return f"meshgate lab exec {pod} timeout 5 bash -c {shlex.quote(script)}"


def _pod(demo: Demo, name: str) -> dict[str, Any]:
    cluster, namespace, pod = name.split("/")
    rows: list[dict[str, Any]] = demo.quiet("meshgate pod list -o json")
    wanted = {"cluster": cluster, "namespace": namespace, "name": pod}
    return next(row for row in rows if wanted.items() <= row.items())


if __name__ == "__main__":
    sys.exit(main())
