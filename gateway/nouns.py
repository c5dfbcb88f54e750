"""Egress policies and port blocks as ``meshgate egress list`` and ``block list`` print them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gateway.findings import UNEXPLAINED
from mesh.core.noun import Problem, Row, Shown, noun

if TYPE_CHECKING:  # the command line starts with the columns and without numpy
    from gateway.blocks import Block
    from gateway.plan import EgressPlan
    from gateway.policy import EgressPolicy
    from mesh.core.model import Node


def _title(policies: Sequence[Row]) -> str:
    return f"Egress policies: {len(policies)}"


def _problem(policy: Row) -> Problem | None:
    if policy["gateway"]:
        return None
    cluster, name = policy["cluster"], policy["policy"]
    text = "no node is its gateway: packets that it covers are dropped"
    about = (f"cluster/{cluster}", f"egress/{name}")
    return Problem(UNEXPLAINED, f"{cluster}/{name}", "gateway", text, about)


def _counted(policy: Row) -> Row:
    pods = policy["pods"]
    return policy | {"pods": len(pods) if isinstance(pods, list) else pods}


def _carried(policy: Row, against: Callable[[object], str]) -> Row:
    """The gateway, and the reason why it cannot carry the policy's traffic, if there is one."""
    gateway = policy["gateway"]
    if not gateway:
        return policy | {"gateway": "none: covered packets are dropped"}
    why = against(gateway)
    return policy | {"gateway": f"{gateway} ({why})"} if why else policy


_COLUMNS = ("cluster", "policy", "addresses", "gateway", "pods")
EGRESS = noun(
    "egress",
    "egress policies, their addresses and gateways",
    " ".join(_COLUMNS),
    "cluster policy",
    Shown(_title, _COLUMNS, _problem, _counted),
    _carried,
)
BLOCK = noun(
    "block",
    "port blocks of egress addresses",
    "address number first last cluster node epoch",
    "address number",
)


def policy_row(cluster: str, policy: EgressPolicy, gateway: Node | None) -> Row:
    """A policy without its pods, which every process knows; ``gateway`` is a name or null."""
    return {
        "cluster": cluster,
        "policy": policy.name,
        "addresses": [str(address) for address in policy.addresses],
        "gateway": gateway.name if gateway else None,
    }


def egress_rows(plan: EgressPlan, cluster: str) -> list[Row]:
    """Policies with the pods that they cover."""
    pods: dict[str, list[str]] = {name: [] for name in plan.policies}
    for key in sorted(plan.covered):
        for name in plan.covered[key]:
            pods[name].append(f"{key.namespace}/{key.name}")
    return [
        {**policy_row(cluster, policy, plan.gateways[name]), "pods": pods[name]}
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
