"""Steps of ``make demo`` about tenants: the L3VPN of the provider edge, and BFD."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.lab.demo import Demo

#: How long a cut may stay unseen, and how long the way back may take.
SEEN_WITHIN_S, BACK_WITHIN_S = 5.0, 20.0


def tenants(demo: Demo, say: Callable[[str, str, int], str]) -> None:
    """Pods of two tenants with one address reach hosts of two tenants with one address.

    ``say`` makes a command that sends a word to an echo server.
    """
    demo.title("Two tenants with the same addresses, each in its own L3VPN through the router")
    shown: dict[str, Any] = demo.quiet("meshgate lab show -o json")["tenants"]
    demo.run("meshgate vrf list")
    seen: dict[str, list[str]] = {}
    for name, tenant in shown.items():
        log = Path(tenant["log"])
        before = len(log.read_text().splitlines())
        pod = next(iter(tenant["pods"]))
        for address in tenant["addresses"]:
            demo.run(say(pod, address, tenant["tcp"]))
        lines = demo.run(f"tail -n +{before + 1} {log}").splitlines()
        seen[name] = sorted(line.split()[2] for line in lines if not line.startswith("#"))
    wanted = {name: sorted(next(iter(one["pods"].values()))) for name, one in shown.items()}
    same = len({tuple(addresses) for addresses in wanted.values()}) == 1
    demo.claim(
        f"each tenant's host saw {', '.join(wanted[min(wanted)])}, of its own tenant alone",
        holds=same and seen == wanted,
    )


def sids(demo: Demo) -> None:
    """The SID of a node's VRF is what FRR's VRF has as next hop."""
    demo.title("The router's L3VPN has our SID")
    shown = demo.quiet("meshgate lab show -o json")
    demo.run("meshgate sid list")
    rows = demo.quiet("meshgate sid list -o json")
    blue = shown["tenants"]["blue"]
    address = next(iter(blue["pods"].values()))[0]
    vtysh = f"meshgate lab exec pe vtysh --vty_socket {shown['hosts']['pe']['vtySocketDir']}"
    table = demo.run(f"{vtysh} -c 'show bgp vrf blue ipv4 unicast {address}/32'")
    own = [row["sid"] for row in rows if row["vrf"] == "blue" and row["sid"] in table]
    demo.claim(f"FRR's VRF blue has {', '.join(own) or 'no SID of ours'}", holds=bool(own))


def why_not(demo: Demo) -> None:
    """The speaker says why a prefix is not announced."""
    demo.title("Why is this prefix not announced?")
    prefix = "10.97.1.0/24"
    demo.run(f"meshgate peer routes router --advertised --why-not {prefix}")
    rows = demo.quiet(f"meshgate peer routes router --advertised --why-not {prefix} -o json")
    reasons = {str(row["reason"]) for row in rows}
    demo.claim(
        f"each node has a reason why {prefix} is not announced",
        holds=bool(reasons) and all(reasons),
    )


def cut(demo: Demo) -> None:
    """A link goes down, and BFD says so long before BGP's hold time."""
    demo.title("The link of a node is cut: BFD finds it")
    begun = time.monotonic()
    demo.run("meshgate lab exec router ip link set east-2 down")
    try:
        while _bfd(demo) == "up" and time.monotonic() - begun < SEEN_WITHIN_S:
            time.sleep(0.1)
        found, took = _bfd(demo), time.monotonic() - begun
        demo.run("meshgate peer list")
    finally:
        demo.run("meshgate lab exec router ip link set east-2 up")
    demo.claim(f"BFD is {found} after {took:.1f} s at most", holds=found == "down")
    while _bfd(demo) != "up" and time.monotonic() - begun < BACK_WITHIN_S:
        time.sleep(0.5)


def _bfd(demo: Demo) -> str:
    rows = demo.quiet("meshgate peer list -o json")
    found = next((row.get("bfd") for row in rows if row["node"] == "east-2"), None)
    return found if isinstance(found, str) else json.dumps(found)
