"""``meshgate egress explain POD DESTINATION``: how a pod's packet leaves, and what lost and why.

The rows are those of the processes: the controllers list each policy with its networks and pods.
What a packet meets is judged as the datapath judges it: the longest network decides (S7), and of
two policies with the same network the older one (S18). Networks that BGP labels select are known to
the agents alone, and such a policy is named as one that may come first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from mesh.core.arguments import address

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from mesh.core.model import IP
    from mesh.core.noun import Row


_LABELLED = (
    "it selects learned networks by labels: where one has the destination, it comes before networks"
)


@dataclass(frozen=True, slots=True)
class GatewayReach:
    """A network of a policy that has the destination."""

    policy: Row
    network: str
    excluded: bool

    @property
    def order(self) -> tuple[int, bool, str, str, bool]:
        """The longest first, then the oldest policy; an exclusion beats a destination."""
        created = str(self.policy["created"] or "")
        bits = ip_network(self.network).prefixlen
        return -bits, not created, created, str(self.policy["policy"]), not self.excluded


@dataclass(frozen=True, slots=True)
class Explained:
    """What becomes of a packet; ``lost`` are policies of the pod with the reason why not they."""

    verdict: str
    policy: str | None = None
    network: str | None = None
    address: str | None = None
    owner: str | None = None
    gateways: Sequence[Row] = ()
    blocks: Sequence[Row] = ()
    lost: Mapping[str, str] = field(default_factory=dict)


def explain(pod: Row, destination: IP, policies: Iterable[Row], blocks: Iterable[Row]) -> Explained:
    """What becomes of a packet of the pod; ``policies`` and ``blocks`` are rows of the cluster."""
    name = f"{pod['namespace']}/{pod['name']}"
    covering = [one for one in policies if name in (one["pods"] or ())]
    reaches = sorted(_reaches(covering, destination), key=lambda one: one.order)
    if not reaches:
        return Explained("not covered: it leaves with the pod's own address", lost=_lost(covering))
    first = reaches[0]
    lost = _lost(covering, reaches)
    if first.excluded:
        text = f"excluded by {first.policy['policy']}: it leaves with the pod's own address"
        return Explained(text, first.policy["policy"], first.network, lost=lost)
    return _leaving(pod, destination, first, list(blocks), lost)


def _leaving(
    pod: Row, destination: IP, first: GatewayReach, blocks: Sequence[Row], lost: Mapping[str, str]
) -> Explained:
    policy, name = first.policy, first.policy["policy"]
    gateways = policy["gateways"] or ()
    family = [one for one in policy["addresses"] if ip_address(one).version == destination.version]
    if not family:
        text = f"dropped (NO_EGRESS_IP): {name} has no IPv{destination.version} address"
        return Explained(text, name, first.network, gateways=gateways, lost=lost)
    owner = (policy.get("owners") or {}).get(family[0])
    if not gateways:
        text = f"dropped (NO_EGRESS_GATEWAY): {name} has no gateway"
        return Explained(text, name, first.network, family[0], owner, lost=lost)
    own = [one for one in blocks if (one["address"], one["node"]) == (family[0], pod["node"])]
    if not own:
        text = f"dropped (NO_BLOCK): {pod['node']} has no ports of {family[0]}"
        return Explained(text, name, first.network, family[0], owner, gateways, lost=lost)
    text = f"translated to {family[0]}"
    if family[1:]:
        text += f", or {' or '.join(family[1:])}: the one of which the pod has ports"
    return Explained(text, name, first.network, family[0], owner, gateways, own, lost)


def _reaches(policies: Iterable[Row], destination: IP) -> Iterator[GatewayReach]:
    for policy in policies:
        for column in ("destinations", "excluded"):
            inside = [one for one in policy[column] or () if destination in ip_network(one)]
            if inside:
                longest = max(inside, key=lambda one: ip_network(one).prefixlen)
                yield GatewayReach(policy, longest, excluded=column == "excluded")


def _lost(covering: Sequence[Row], reaches: Sequence[GatewayReach] = ()) -> dict[str, str]:
    """Why the other policies of the pod do not decide."""
    found: dict[str, str] = {}
    for policy in covering:
        name = policy["policy"]
        mine = [one for one in reaches if one.policy is policy]
        if mine and mine[0] is not reaches[0] and reaches[0].policy is not policy:
            found[name] = _beaten(mine[0], reaches[0])
        elif not mine:
            found[name] = "no network of it has the destination"
        if policy["labelled"]:
            found[name] = (
                "it selects learned networks by labels: where one has the destination, "
                "it comes before networks"
            )
    return found


def _beaten(one: GatewayReach, by: GatewayReach) -> str:
    name = by.policy["policy"]
    if ip_network(one.network).prefixlen < ip_network(by.network).prefixlen:
        return f"{one.network} is shorter than {by.network} of {name}"
    return f"{name} is older, and has {by.network} too"


def path_of(pod: Row, address: str | None, direct: Iterable[Row]) -> str | None:
    """By which path the address leaves the pod's node; None: it leaves nowhere translated.

    ``direct`` are the rows of addresses that want the direct path; all others go by gateways.
    """
    if address is None:
        return None
    place = pod["cluster"], pod["node"], address
    rows = [one for one in direct if (one["cluster"], one["node"], one["address"]) == place]
    return str(rows[0]["path"]) if rows else "gateway"


# The command


def add(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    explain_ = verbs.add_parser(
        "explain", help="how a pod's packets to a destination leave, and what lost and why"
    )
    explain_.add_argument("pod", metavar="POD", help="[CLUSTER/][NAMESPACE/]NAME")
    explain_.add_argument("destination", metavar="DESTINATION", type=address)
    explain_.add_argument("-o", "--output", choices=("table", "json"), default="table")
    explain_.set_defaults(run=_explain)


def _explain(parsed: argparse.Namespace) -> int:
    # Command line and nouns of other rooms lie above this room, so they are called by their name.
    tables: Any = import_module("mesh.observe.tables")
    listing: Any = import_module("mesh.observe.listing")
    nouns: Any = import_module("mesh.nouns").NOUNS
    details = nouns["egress"].details
    asked = [nouns["pod"], details, nouns["block"], nouns["direct-path"]]
    answers = tables.ask(
        tables.processes(tables.run_directory()), [one.name for one in asked], patient=True
    )
    pods, policies, blocks, direct = (listing.merge(one, answers) for one in asked)
    found = listing.Choice(parsed.pod, {}).of(nouns["pod"], pods)
    if len(found) != 1:
        why = "is no pod" if not found else "is several pods: say CLUSTER/NAMESPACE/NAME"
        print(f"meshgate: {parsed.pod} {why} (`meshgate pod list`)", file=sys.stderr)
        return 1
    (pod,) = found
    of_cluster = [row for row in policies if row["cluster"] == pod["cluster"]]
    said = explain(
        pod, parsed.destination, of_cluster, (b for b in blocks if b["cluster"] == pod["cluster"])
    )
    row = _row(pod, parsed.destination, said) | {"path": path_of(pod, said.address, direct)}
    sys.stdout.writelines(
        [json.dumps(row, indent=2), "\n"] if parsed.output == "json" else _text(row)
    )
    return 0


def _row(pod: Row, destination: IP, said: Explained) -> Row:
    return {
        "pod": f"{pod['cluster']}/{pod['namespace']}/{pod['name']}",
        "node": pod["node"],
        "destination": str(destination),
        "verdict": said.verdict,
        "policy": said.policy,
        "network": said.network,
        "address": said.address,
        "owner": said.owner,
        "gateways": list(said.gateways),
        "blocks": [{"first": one["first"], "last": one["last"]} for one in said.blocks],
        "lost": [{"policy": name, "reason": why} for name, why in said.lost.items()],
    }


_HEALTH = {True: "healthy", False: "down since {}", None: "has not answered yet"}


_PATHS = {"direct": "straight from {}, back by a gateway", "gateway": "by a gateway, both ways"}


def _text(row: Row) -> Iterator[str]:
    yield f"{row['pod']} on {row['node']} to {row['destination']}: {row['verdict']}\n"
    if row["policy"]:
        yield f"  policy    {row['policy']} ({row['network']})\n"
    if row["path"]:
        yield f"  path      {_PATHS[row['path']].format(row['node'])}\n"
    if row["owner"]:
        yield f"  owner     {row['owner']} answers for {row['address']} on layer 2\n"
    for one in row["gateways"]:
        health = _HEALTH[one["healthy"]].format(one["since"])
        yield f"  gateway   {one['node']} ({health})\n"
    for one in row["blocks"]:
        yield f"  block     {one['first']}-{one['last']} of {row['node']}\n"
    for one in row["lost"]:
        yield f"  not       {one['policy']}: {one['reason']}\n"
