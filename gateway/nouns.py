"""Egress policies and port blocks as ``meshgate egress list`` and ``block list`` print them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from gateway.findings import UNEXPLAINED
from gateway.witnesses import witnesses
from mesh.core.noun import Problem, Row, Shown, noun

if TYPE_CHECKING:  # the command line starts with the columns and without numpy
    from gateway.blocks import Block
    from gateway.layer2 import SegmentOwner
    from gateway.plan import EgressPlan
    from gateway.policy import EgressPolicy
    from mesh.core.model import IP, Listed, Node


def _title(policies: Sequence[Row]) -> str:
    return f"Egress policies: {len(policies)}"


def _problem(policy: Row) -> Problem | None:
    if policy["gateway"] or policy["state"] == DRAINING:
        return None
    cluster, name = policy["cluster"], policy["policy"]
    text = "no node is its gateway: packets that it covers are dropped"
    about = (f"cluster/{cluster}", f"egress/{name}")
    return Problem(UNEXPLAINED, f"{cluster}/{name}", "gateway", text, about)


def _names(policy: Row) -> list[str]:
    """The gateways by name; a process of an older version knows the first one only."""
    first = [policy["gateway"]] if policy["gateway"] else []
    return [one["node"] for one in policy["gateways"] or ()] or first


#: Of a gateway that some node gets no answer from.
SILENT = "does not answer"


def _silent(policy: Row) -> set[str]:
    return {one["node"] for one in policy["gateways"] or () if one["healthy"] is False}


def _together(one: Sequence[Row], other: Sequence[Row]) -> list[Row]:
    """The column ``gateways`` of two processes. Their nodes' views become one."""
    rows = {row["node"]: _of_today(row) for row in other}
    first = [_of_today(row) for row in one]
    both = [row | _views(row, rows[row["node"]]) if row["node"] in rows else row for row in first]
    silent_to = {row["node"]: row["silentTo"] for row in both}
    return [row | _judged(row, silent_to) for row in both]


def _of_today(row: Row) -> Row:
    """A process of an older version says only whether the gateway answers, and since when."""
    return gateway_view(row["node"], "", row["since"], healthy=row["healthy"]) | row


def _views(one: Row, other: Row) -> Row:
    times = [row["answersSince"] for row in (one, other) if row["answersSince"] is not None]
    return {
        "answersSince": min(times, default=None),
        "silentTo": one["silentTo"] | other["silentTo"],
    }


def _judged(row: Row, silent_to: Mapping[str, Mapping[str, float]]) -> Row:
    """Whether the gateway answers, and since when, by all nodes that are believed."""
    since = [row["silentTo"][node] for node in witnesses(row["node"], silent_to)]
    if since:
        return {"healthy": False, "since": min(since)}
    answers = row["answersSince"]
    return {"healthy": None if answers is None else True, "since": answers}


def gateway_view(
    gateway: str, node: str, since: float | None = None, *, healthy: bool | None = None
) -> Row:
    """One gateway in the column ``gateways``, as one node sees it.

    ``since`` is in seconds of the epoch. ``silentTo`` has the nodes that get no answer, with since
    when; ``answersSince`` the first time from which on some node gets answers.
    """
    return {
        "node": gateway,
        "healthy": healthy,
        "since": since,
        "answersSince": since if healthy else None,
        "silentTo": {node: since} if healthy is False else {},
    }


def _counted(policy: Row) -> Row:
    pods = policy["pods"]
    count = len(pods) if isinstance(pods, list) else pods
    silent = _silent(policy)
    names = [f"{one} ({SILENT})" if one in silent else one for one in _names(policy)]
    owners = policy.get("owners") or {}
    addresses = [
        f"{one} (on {owners[one]})" if one in owners else one for one in policy["addresses"] or ()
    ]
    return policy | {"pods": count, "gateways": names, "addresses": addresses}


def _carried(policy: Row, against: Callable[[object], str]) -> Row:
    """The gateways, each with the reason why it cannot carry the policy's traffic, if any."""
    if not policy["gateway"]:
        return policy | {"gateway": "none: covered packets are dropped"}
    silent = _silent(policy)
    faults = [
        (node, against(node) or (SILENT if node in silent else "")) for node in _names(policy)
    ]
    noted = [f"{node} ({why})" if why else node for node, why in faults]
    return policy | {"gateway": noted[0], "gateways": noted}


#: States of a policy; of addresses that no policy wants any more and that connections still have.
ACTIVE, WAITING, DRAINING = "active", "waiting", "draining"
_COLUMNS = ("cluster", "policy", "addresses", "owners", "gateway", "gateways", "pods", "state")
_SHOWN = ("cluster", "policy", "addresses", "gateways", "pods", "state")
#: What ``meshgate egress show`` prints of a policy, and ``explain`` judges by.
DETAILS = noun(
    "egress-policy",
    "egress policies with their networks",
    "cluster policy state created addresses pool destinations excluded names labelled gateways "
    "maxGateways outbound mapping quotaPorts quotaNewPerSecond activation pods origin owners",
    "cluster policy",
)
EGRESS = noun(
    "egress",
    "egress policies, their addresses and gateways",
    " ".join(_COLUMNS),
    "cluster policy state",
    Shown(_title, _SHOWN, _problem, _counted),
    _carried,
    verbs=(
        "gateway.verbs gateway.evict gateway.explain gateway.feed.verbs mesh.lab.drilling "
        "mesh.lab.conformance.verbs"
    ),
    details=DETAILS,
    joined={"gateways": _together},
)
GATEWAY = noun(
    "gateway",
    "gateways of egress addresses, and whether they answer a node",
    "cluster node gateway healthy since answers downs",
    "cluster node gateway",
)
DIRECT_PATH = noun(
    "direct-path",
    "egress addresses that want the direct path, and by which way a node's packets go",
    "cluster node address path silent",
    "cluster node address",
)
BLOCK = noun(
    "block",
    "port blocks of egress addresses",
    "address number first last cluster node epoch",
    "address number",
)


def _leaked(nodes: Sequence[Row]) -> str:
    return f"Leaked packets: {sum(node['packets'] for node in nodes)}"


def _last(node: Row) -> Row:
    last = node["last"]
    return node | {"last": f"{last['source']} -> {last['destination']}" if last else None}


#: Each agent says in a finding what has leaked, so no row needs one.
LEAK = noun(
    "leak",
    "packets of covered pods that left a node without an egress address",
    "node packets last",
    "node",
    Shown(
        _leaked,
        ("node", "packets", "last"),
        lambda _: None,
        _last,
        kept=lambda node: bool(node["packets"]),
    ),
    lambda node, _: _last(node),
)


def with_owners(rows: Iterable[Row], owners: Mapping[IP, SegmentOwner]) -> list[Row]:
    """The rows with the node that speaks for each address that is announced on layer 2."""
    nodes = {str(address): owner.node for address, owner in owners.items()}
    return [
        row | {"owners": {one: nodes[one] for one in row["addresses"] if one in nodes}}
        for row in rows
    ]


def policy_row(
    cluster: str,
    policy: EgressPolicy,
    gateways: Sequence[Node],
    listed: Mapping[IP, Listed] = MappingProxyType({}),
) -> Row:
    """A policy without its pods, which every process knows.

    It waits without gateway, and without an address that it may use (``listed``: what the feed says
    of addresses, for policies that ask firewalls).
    """
    at_once = policy.activation == "Immediate"
    able = [a for a in policy.addresses if at_once or (a in listed and listed[a].acknowledged)]
    state = ACTIVE if able and gateways else WAITING
    return _row(cluster, policy.name, policy.addresses, gateways, state)


def details(plan: EgressPlan, cluster: str, listed: Mapping[IP, Listed]) -> list[Row]:
    """Everything about the policies."""
    return [
        {column: row.get(column) for column in ("cluster", "policy", "state", "addresses")}
        | {"gateways": row["gateways"], "pods": row["pods"]}
        | _details(plan.policies[row["policy"]])
        for row in egress_rows(plan, cluster, listed)
    ]


def _details(policy: EgressPolicy) -> Row:
    return {
        "created": policy.created or None,
        "pool": policy.pool or None,
        "destinations": [str(one) for one in policy.destinations],
        "excluded": [str(one) for one in policy.excluded],
        "names": list(policy.names),
        "labelled": policy.labelled is not None,
        "maxGateways": policy.max_gateways,
        "outbound": policy.outbound,
        "mapping": policy.mapping,
        "quotaPorts": policy.quota_ports or None,
        "quotaNewPerSecond": policy.quota_new_per_second or None,
        "activation": policy.activation,
        "origin": policy.origin,
    }


def draining_rows(
    cluster: str, draining: Mapping[str, Sequence[IP]], gateways: Mapping[IP, Sequence[Node]]
) -> list[Row]:
    """Addresses that drain, by the policy that had them, with the nodes that carry the first."""
    return [
        _row(cluster, policy, some, gateways.get(some[0], ()), DRAINING) | {"pods": []}
        for policy, some in sorted(draining.items())
    ]


def _row(
    cluster: str, policy: str, addresses: Iterable[IP], gateways: Sequence[Node], state: str
) -> Row:
    """``gateway`` is the name of the first of ``gateways``, or null.

    Agents know which of them answer (``gateway/health.py``), and the lists of all processes become
    one.
    """
    return {
        "cluster": cluster,
        "policy": policy,
        "addresses": [str(address) for address in addresses],
        "gateway": gateways[0].name if gateways else None,
        "gateways": [gateway_view(one.name, "") for one in gateways],
        "state": state,
    }


def egress_rows(
    plan: EgressPlan, cluster: str, listed: Mapping[IP, Listed] = MappingProxyType({})
) -> list[Row]:
    """Policies with the pods that they cover."""
    pods: dict[str, list[str]] = {name: [] for name in plan.policies}
    for key in sorted(plan.covered):
        for name in plan.covered[key]:
            pods[name].append(f"{key.namespace}/{key.name}")
    return [
        {**policy_row(cluster, policy, plan.gateways[name], listed), "pods": pods[name]}
        for name, policy in sorted(plan.policies.items())
    ]


def block_row(block: Block) -> Row:
    """One row of ``block list``."""
    return {
        "address": block.address,
        "number": block.number,
        "first": block.first,
        "last": block.last,
        "cluster": block.cluster,
        "node": block.node,
        "epoch": block.epoch,
    }
