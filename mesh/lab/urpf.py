"""Strict source checks (uRPF, RFC 3704 2.2) at the router's port for a node.

The lab's fabric is one bridge, so the router's own check would see one interface for all nodes.
The rules stand at the node's port of the bridge, and let in what the node and its pods send as
their own.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mesh.lab import enter
from mesh.lab.places import Lab, LabError

if TYPE_CHECKING:
    from mesh.core.model import IP, Network
    from mesh.lab.topology import Topology

#: What every host may send: no address yet, link-local (RFC 4291 2.5.6).
_ALWAYS = {4: ("0.0.0.0",), 6: ("::", "fe80::/10")}  # noqa: S104 - a source, nobody binds to it


def table_name(node: str) -> str:
    """The nft table of a node's port."""
    return f"mg_urpf_{node.replace('-', '_')}"


def rules(node: str, own: Iterable[IP | Network]) -> str:
    """The input of nft: other sources than the node's own are counted and dropped."""
    sources: dict[int, list[str]] = {version: list(words) for version, words in _ALWAYS.items()}
    for one in own:
        sources[one.version].append(str(one))
    lines = [
        f"{family} saddr != {{ {', '.join(sources[version])} }} counter drop"
        for family, version in (("ip", 4), ("ip6", 6))
    ]
    hook = f'type filter hook ingress device "{node}" priority 0; policy accept;'
    body = "\n".join([hook, *lines])
    return f"table netdev {table_name(node)} {{\nchain in {{\n{body}\n}}\n}}\n"


def switch(lab: Lab, topology: Topology, node: str, *, on: bool) -> None:
    """Switch the check at a node's port on or off; nothing changes where it is so already.

    Raises:
        LabError: the lab has no such node, or nft refuses.

    """
    for cluster, host in topology.nodes:
        if host.name == node:
            own: list[IP | Network] = [*host.addresses, *(one.cidr for one in cluster.pod_cidrs)]
            break
    else:
        raise LabError(f"urpf: {node} is no node of this lab")
    name = table_name(node)
    text = f"table netdev {name}\ndelete table netdev {name}\n"
    text += rules(node, own) if on else ""
    command = enter.argv(lab.host("router"), ["nft", "-f", "-"])
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"urpf: {done.stderr.strip()}")
