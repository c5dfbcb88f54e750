"""Which claims a cluster wants, and what its claims amount to.

Pure; the controller's side of ``clustermesh/store/allocator.py``. A want names an owner and a pool;
the allocator finds the number. Identities, pod CIDRs and locators stay claimed for good, so that a
node or label set that comes back finds its number again; a port block that no node needs any more
is given back and rests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv6Network, ip_network

import msgspec

from clustermesh.remote import wire
from clustermesh.remote.holdings import OwnFacts
from clustermesh.store.claims import owner_key
from clustermesh.store.own import StoredConfig
from gateway import rows as gateway_rows
from gateway.plan import Plan, block_count
from mesh.config import ControllerConfig, Pool, Pools
from mesh.core.model import (
    Claim,
    EgressPolicy,
    Finding,
    Namespace,
    Network,
    Node,
    Pod,
    PodKey,
    ServiceObject,
)
from mesh.identity import labels as identity
from mesh.nodes.pools import pool_name, pool_size, subnet

POD_CIDR = "podcidr"
LOCATOR = "locator"
BLOCK = gateway_rows.NOUN
#: Nouns of claims, until each feature declares its own.
CLAIMED = (identity.NOUN, POD_CIDR, LOCATOR, BLOCK)
#: Nouns whose claims are given back when nobody wants them any more.
RELEASED = frozenset({BLOCK})

#: Pieces of a pool that are looked at: an IPv6 pool may have far more than there can be nodes.
MOST_NODES = 1 << 20

POOL_FULL = "M145"
OTHER_CONFIG = "M146"
ID_USED = "M147"
OVERLAP = "M148"


@dataclass(frozen=True, slots=True, order=True)
class Want:
    """An owner that is to have a number of a pool."""

    noun: str
    pool: str
    owner: str


def identities(pods: Iterable[Pod], namespaces: Mapping[str, Namespace]) -> set[Want]:
    """One for each label text of the pods."""
    texts = {identity.identity_labels(pod, identity.namespace_of(pod, namespaces)) for pod in pods}
    return {Want(identity.NOUN, identity.POOL, text) for text in texts}


def subnets(nodes: Iterable[Node], pools: Pools) -> set[Want]:
    """A piece of every pool for every node."""
    return {
        Want(noun, pool_of(pool), node.name)
        for node in nodes
        for noun, group in ((POD_CIDR, pools.pod_cidrs), (LOCATOR, pools.locators))
        for pool in group
    }


def blocks(plan: Plan, pods: Mapping[PodKey, Pod], blocks_per_node: int) -> set[Want]:
    """Blocks of a policy's egress addresses for every node that hosts a pod it covers."""
    hosts = {
        (name, pods[key].node)
        for key, names in plan.covered.items()
        if key in pods and pods[key].node
        for name in names
    }
    return {
        Want(BLOCK, str(address), f"{node}/{k}")
        for name, node in hosts
        for address in plan.policies[name].addresses
        for k in range(blocks_per_node)
    }


def candidates(
    want: Want, cluster_id: int, block_size: int, foreign: Iterable[Published]
) -> Sequence[int]:
    """The numbers of a pool that may be given away."""
    if want.noun == identity.NOUN:
        first = cluster_id << identity.CLUSTER_SHIFT
        return range(first + 1, first + (1 << identity.CLUSTER_SHIFT))
    if want.noun == BLOCK:
        return range(block_count(block_size))
    return free_numbers(want.pool, foreign)


def pool_of(pool: Pool) -> str:
    """The pool's name in keys."""
    return pool_name(pool.cidr, pool.node_prefix)


def refused_finding(cluster: str, want: Want, text: str) -> Finding:
    """An owner that gets no number."""
    return Finding(POOL_FULL, owner_key(cluster, want.noun, want.pool, want.owner), "number", text)


# --- What claims amount to --------------------------------------------------------------------


def pod_cidrs(claims: Iterable[Claim], pools: Sequence[str]) -> dict[str, tuple[Network, ...]]:
    """Pod CIDRs by node, in the order of the pools."""
    rows: dict[str, tuple[Network, ...]] = {}
    for claim in _claimed(POD_CIDR, claims, pools):
        rows[claim.owner] = (*rows.get(claim.owner, ()), subnet(claim.pool, claim.number))
    return rows


def locators(claims: Iterable[Claim], pools: Sequence[str]) -> dict[str, IPv6Network]:
    """Locator by node; of several pools the first counts."""
    rows: dict[str, IPv6Network] = {}
    for claim in _claimed(LOCATOR, claims, pools):
        network = subnet(claim.pool, claim.number)
        if isinstance(network, IPv6Network):
            rows.setdefault(claim.owner, network)
    return rows


def own_facts(
    config: StoredConfig,
    nodes: Iterable[Node],
    policies: Iterable[EgressPolicy],
    services: Iterable[ServiceObject],
) -> OwnFacts:
    """What no peer may claim: our pools, our egress and service addresses, our nodes' addresses."""
    pools = [whole(name) for name in _readable((*config.pod_cidrs, *config.locators))]
    virtual = {ip_network(a) for policy in policies for a in policy.addresses}
    virtual |= {ip_network(a) for service in services for a in service.addresses}
    addresses = frozenset(address for node in nodes for address in node.addresses)
    return OwnFacts(config.name, config.id, (*pools, *sorted(virtual, key=str)), addresses)


def whole(pool: str) -> Network:
    """All of a pool."""
    base, length, _ = pool.split("_")
    return ip_network(f"{base}/{length}")


def _readable(pools: Iterable[str]) -> list[str]:
    """Names that are a pool's: the key they come from may have been damaged."""
    found = []
    for name in pools:
        with suppress(ValueError):
            subnet(name, 0)
            found.append(name)
    return found


def _claimed(noun: str, claims: Iterable[Claim], pools: Sequence[str]) -> list[Claim]:
    """Claims of the pools in their order; a number that is outside of its pool is left out."""
    order = {pool: (at, pool_size(pool)) for at, pool in enumerate(_readable(pools))}
    mine = [c for c in claims if c.noun == noun and c.pool in order]
    return sorted(
        (claim for claim in mine if claim.number < order[claim.pool][1]),
        key=lambda claim: (order[claim.pool], claim.number),
    )


# --- Prefixes that another cluster publishes --------------------------------------------------


@dataclass(frozen=True, slots=True)
class Published:
    """Prefixes of our pools that a foreign node publishes, judged by nobody; ``created`` orders."""

    cluster: str
    node: str
    networks: tuple[Network, ...]
    created: int

    def __str__(self) -> str:
        return f"cluster {wire.plain(self.cluster)} (node {wire.plain(self.node)})"


def in_pools(networks: Iterable[Network], pools: Pools) -> tuple[Network, ...]:
    """The networks that meet one of our pools."""
    ours = [pool.cidr for pool in (*pools.pod_cidrs, *pools.locators)]
    return tuple(network for network in networks if any(_meet(network, one) for one in ours))


def free_numbers(pool: str, foreign: Iterable[Published]) -> Sequence[int]:
    """Numbers of the pool whose subnet meets nobody's published prefix."""
    taken: set[int] = set()
    base, size = subnet(pool, 0), min(pool_size(pool), MOST_NODES)
    for network in (network for other in foreign for network in other.networks):
        if network.version == base.version:
            first = int(network.network_address) - int(base.network_address)
            last = first + network.num_addresses - 1
            low, high = first // base.num_addresses, last // base.num_addresses
            taken.update(range(max(low, 0), min(high + 1, size)))
    return range(size) if not taken else [n for n in range(size) if n not in taken]


def pool_findings(pools: Pools, config_key: str, foreign: Iterable[Published]) -> list[Finding]:
    """Pools of ours out of which somebody publishes; one finding for each cluster and pool."""
    met: dict[tuple[str, Network, str], list[str]] = {}
    for other in foreign:
        for field, group in (("podCIDRs", pools.pod_cidrs), ("locators", pools.locators)):
            for pool in group:
                theirs = [f"{n} of {other}" for n in other.networks if _meet(pool.cidr, n)]
                met.setdefault((field, pool.cidr, other.cluster), []).extend(theirs)
    return [
        Finding(OVERLAP, config_key, field, f"{cidr} overlaps {found[0]}{_more(found)}")
        for (field, cidr, _), found in met.items()
        if found
    ]


def _more(found: Sequence[str]) -> str:
    return f" and {len(found) - 1} more" if len(found) > 1 else ""


def publishable(
    nodes: Iterable[Node], created: Mapping[str, int], foreign: Iterable[Published]
) -> tuple[list[Node], list[Finding]]:
    """Nodes without the prefixes that another cluster had published before, and what that is.

    ``created`` is the create revision of our nodes' published keys: who was there first keeps a
    prefix, so that nobody can push ours out.
    """
    rows: list[Node] = []
    findings: list[Finding] = []
    others = list(foreign)
    for node in nodes:
        mine = created.get(node.name)
        earlier = [other for other in others if mine is None or other.created < mine]
        met = _met(node, earlier)
        rows.append(
            replace(
                node,
                pod_cidrs=tuple(n for n in node.pod_cidrs if n not in met),
                locator=None if node.locator in met else node.locator,
            )
        )
        findings += [
            Finding(OVERLAP, wire.node_key(node.cluster, node.name), _field(node, network), text)
            for network, text in met.items()
        ]
    return rows, findings


def _field(node: Node, network: Network) -> str:
    """The field of the published node that names the prefix."""
    if network == node.locator:
        return f"Annotations.{wire.LOCATOR}"
    return f"IPv{network.version}AllocCIDR"


def _met(node: Node, others: Iterable[Published]) -> dict[Network, str]:
    mine = (*node.pod_cidrs, node.locator) if node.locator else node.pod_cidrs
    return {
        network: f"{network} is not published: it overlaps {theirs} of {other}"
        for other in others
        for theirs in other.networks
        for network in mine
        if _meet(network, theirs)
    }


def _meet(one: Network, other: Network) -> bool:
    if isinstance(one, IPv6Network):
        return isinstance(other, IPv6Network) and one.overlaps(other)
    return not isinstance(other, IPv6Network) and one.overlaps(other)


# --- Who we are -------------------------------------------------------------------------------


def stored_config(config: ControllerConfig) -> StoredConfig:
    """What this controller would write."""
    return StoredConfig(
        config.cluster.name,
        config.cluster.id,
        tuple(map(pool_of, config.pools.pod_cidrs)),
        tuple(map(pool_of, config.pools.locators)),
        config.egress.block_size,
        config.egress.blocks_per_node,
    )


def config_findings(key: str, stored: bytes, ours: StoredConfig) -> list[Finding]:
    """How the stored configuration differs from ours; each names both values."""
    try:
        theirs = msgspec.json.decode(stored, type=StoredConfig)
    except msgspec.DecodeError as error:
        return [Finding(OTHER_CONFIG, key, "", f"not readable: {error}")]
    names = msgspec.structs.fields(StoredConfig)
    pairs = ((f.encode_name, getattr(theirs, f.name), getattr(ours, f.name)) for f in names)
    return [
        Finding(OTHER_CONFIG, key, name, f"the cluster has {_text(theirs)}, this one {_text(mine)}")
        for name, theirs, mine in pairs
        if theirs != mine
    ]


def id_findings(ours: StoredConfig, configs: Mapping[str, bytes]) -> list[Finding]:
    """Clusters of another name that publish our id. ``configs`` are cluster config keys."""
    found = []
    for key, value in configs.items():
        name = wire.cluster_of(key)
        try:
            used = wire.decode(wire.ClusterConfig, value).id
        except wire.WireError:
            continue
        if used == ours.id and name != ours.name:
            text = f"cluster id {ours.id} of {ours.name} is used by cluster {wire.plain(name)}"
            found.append(Finding(ID_USED, wire.plain(key), "id", text))
    return found


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
