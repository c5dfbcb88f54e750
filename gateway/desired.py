"""Rows of egress for the maps of a node, and for the command line.

Pure. The plan (``gateway/egress.py``) and the claims of blocks go in; every function returns the
whole wanted state of one map. The agent encodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, ip_address

from gateway.egress import Plan, address_for, block_count, block_ports, exclusions
from mesh.addresses import tunnel_endpoint
from mesh.core.model import (
    IP,
    Block,
    BlockKey,
    Claim,
    EgressPolicy,
    Network,
    Node,
    NodeKey,
    Pod,
    PodKey,
)

#: The noun of block claims; their pool is the egress address.
NOUN = "block"
#: ``OWN_BLOCKS`` of ``bpf/include/port.h``.
OWN_BLOCKS = 16


class Action(StrEnum):
    """Names of ``enum egress_action``; their numbers are in BTF."""

    TRANSLATE = "EGRESS_TRANSLATE"
    EXCLUDED = "EGRESS_EXCLUDED"
    NO_GATEWAY = "EGRESS_NO_GATEWAY"
    NO_ADDRESS = "EGRESS_NO_ADDRESS"
    NO_ROOM = "EGRESS_NO_ROOM"


@dataclass(frozen=True, slots=True)
class EgressKey:
    """A destination network as a class of pods sees it."""

    egress: int
    network: Network


@dataclass(frozen=True, slots=True)
class EgressRow:
    """What happens there; ``address`` only with ``TRANSLATE``."""

    action: Action
    address: IP | None = None


@dataclass(frozen=True, slots=True)
class BlockOwner:
    """Value of ``mg_block``: the tunnel endpoint that may use the block."""

    node: IPv4Address
    epoch: int


def egress_rows(plan: Plan, classes: Mapping[tuple[str, ...], int]) -> dict[EgressKey, EgressRow]:
    """``mg_egress``: at most classes x networks of their policies.

    The longest prefix decides (S7); of two policies with the same network the first one (S18).
    A policy that has gone is left out of a class that still names it.
    """
    rows: dict[EgressKey, EgressRow] = {}
    for names, number in classes.items():
        for name in names:
            if name in plan.policies:
                for network, row in _policy_rows(plan, plan.policies[name]).items():
                    rows.setdefault(EgressKey(number, network), row)
    return rows


def _policy_rows(plan: Plan, policy: EgressPolicy) -> dict[Network, EgressRow]:
    """One policy's networks; an exclusion beats a destination of the same length."""
    rows = {network: _destination(plan, policy, network) for network in policy.destinations}
    return rows | {network: EgressRow(Action.EXCLUDED) for network in exclusions(policy)}


def _destination(plan: Plan, policy: EgressPolicy, network: Network) -> EgressRow:
    address = address_for(policy, network)
    if address is None:
        return EgressRow(Action.NO_ADDRESS)
    if plan.gateways[policy.name] is None:
        return EgressRow(Action.NO_GATEWAY)
    return EgressRow(Action.TRANSLATE, address)


def gateway_rows(plan: Plan) -> dict[IP, tuple[IPv4Address, ...]]:
    """``mg_egress_addr``: egress address -> tunnel endpoints of its gateways, today one."""
    rows: dict[IP, tuple[IPv4Address, ...]] = {}
    for name, policy in plan.policies.items():
        node = plan.gateways[name]
        endpoint = tunnel_endpoint(node) if node else None
        if endpoint:
            for address in policy.addresses:
                rows.setdefault(address, (endpoint,))
    return rows


def pod_classes(
    plan: Plan, classes: Mapping[tuple[str, ...], int], pods: Mapping[PodKey, Pod]
) -> dict[IP, int]:
    """Class by address of every covered pod that has addresses."""
    return {
        address: classes[names]
        for key, names in plan.covered.items()
        if key in pods and names in classes
        for address in pods[key].addresses
    }


def block_rows(claims: Iterable[Claim], cluster: str, block_size: int) -> dict[BlockKey, Block]:
    """Blocks of a cluster; a claim that is no block of this size is left out."""
    rows = {}
    for claim in claims:
        address = _pool_address(claim.pool) if claim.noun == NOUN else None
        if address is None or not 0 <= claim.number < block_count(block_size):
            continue
        first, last = block_ports(claim.number, block_size)
        node, _, _ = claim.owner.rpartition("/")
        row = Block(address, claim.number, first, last, cluster, node, claim.epoch)
        rows[BlockKey(address, claim.number)] = row
    return rows


def _pool_address(pool: str) -> IP | None:
    try:
        return ip_address(pool)
    except ValueError:
        return None


def block_owners(
    blocks: Mapping[BlockKey, Block], nodes: Mapping[NodeKey, Node]
) -> dict[BlockKey, BlockOwner]:
    """``mg_block``: blocks of the nodes that we know; the others' packets have no owner."""
    rows = {}
    for key, block in blocks.items():
        node = nodes.get(NodeKey(block.cluster, block.node))
        endpoint = tunnel_endpoint(node) if node else None
        if endpoint:
            rows[key] = BlockOwner(endpoint, block.epoch)
    return rows


def own_blocks(blocks: Mapping[BlockKey, Block], node: str) -> dict[IP, tuple[int, ...]]:
    """``mg_own_block``: the block numbers of one node by egress address, at most OWN_BLOCKS."""
    rows: dict[IP, tuple[int, ...]] = {}
    for key in sorted(blocks, key=lambda key: (key.address.version, key.address, key.number)):
        if blocks[key].node == node:
            rows[key.address] = (*rows.get(key.address, ()), key.number)[:OWN_BLOCKS]
    return rows


def listed(plan: Plan, cluster: str) -> list[dict[str, object]]:
    """What ``meshgate egress list`` shows: gateway is a node's name or null."""
    pods: dict[str, list[str]] = {name: [] for name in plan.policies}
    for key in sorted(plan.covered):
        for name in plan.covered[key]:
            pods[name].append(f"{key.namespace}/{key.name}")
    rows: list[dict[str, object]] = []
    for name, policy in sorted(plan.policies.items()):
        node = plan.gateways[name]
        rows.append(
            {
                "cluster": cluster,
                "policy": name,
                "addresses": [str(address) for address in policy.addresses],
                "gateway": node.name if node else None,
                "pods": pods[name],
            }
        )
    return rows
