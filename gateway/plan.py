"""Egress policies: order, gateways, classes, and their findings. Pure.

Semantics: ``reference/egress.md`` 3. A *class* is the set of policies that cover a pod, as one
number in the pod's map entry: the maps hold classes x networks instead of pods x networks. The
number is derived from the policies' names, so that it means the same before and after a restart,
while old entries are still in the maps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from gateway.findings import CONFLICT, NO_ADDRESS, NO_GATEWAY, SHARED_ADDRESS
from gateway.policy import EgressPolicy
from mesh.core.model import IP, Finding, Network, Node, PodKey

#: Sets of policies that no pod has any more and that keep their class and rows.
RETIRED_CLASSES = 32


@dataclass(frozen=True, slots=True)
class EgressPlan:
    """Policies, the pods that they cover and their gateways, as one picture.

    ``policies`` come in order of precedence; ``covered`` names each covered pod's policies in that
    order; ``gateways`` has every policy, with no node where none is eligible.
    """

    policies: Mapping[str, EgressPolicy] = field(default_factory=dict)
    covered: Mapping[PodKey, tuple[str, ...]] = field(default_factory=dict)
    gateways: Mapping[str, tuple[Node, ...]] = field(default_factory=dict)


def by_precedence(policies: Iterable[EgressPolicy]) -> list[EgressPolicy]:
    """Oldest first, then by name (S18); a policy without a creation time counts as new."""
    return sorted(policies, key=lambda one: (not one.created, one.created, one.name))


def address_for(policy: EgressPolicy, family: int) -> IP | None:
    """The egress address of a family."""
    return next((a for a in policy.addresses if a.version == family), None)


def exclusions(policy: EgressPolicy) -> tuple[Network, ...]:
    """The excluded networks that have an effect: those inside a destination."""
    return tuple(
        network
        for network in policy.excluded
        if any(_inside(network, destination) for destination in policy.destinations)
    )


def _inside(network: Network, other: Network) -> bool:
    """Whether every address of ``network`` is in ``other``; the families may differ."""
    return (
        network.version == other.version
        and network.prefixlen >= other.prefixlen
        and network.network_address in other
    )


def names_of(nodes: Iterable[Node]) -> list[str]:
    """Names of nodes, in their order."""
    return [node.name for node in nodes]


# Classes


def egress_classes(
    sets: Iterable[tuple[str, ...]],
    previous: Mapping[tuple[str, ...], int] | None = None,
    *,
    retired: int = RETIRED_CLASSES,
    reserved: Collection[int] = (0,),
) -> dict[tuple[str, ...], int]:
    """The class of each set of policies; ``reserved`` numbers mean something else.

    A set in ``previous`` keeps its number. The latest sets that are no longer wanted stay, too, up
    to ``retired``: a pod that comes back to one finds its rows.
    """
    last = dict(previous or {})
    wanted = sorted(set(sets))
    gone = [names for names in last if names not in set(wanted)]
    numbers = {names: last[names] for names in gone[max(len(gone) - retired, 0) :]}
    taken = {*reserved, *last.values()}
    for names in wanted:
        number = last.get(names) or class_number(names)
        while names not in last and number in taken:
            number = (number + 1) & 0xFFFFFFFF
        numbers[names] = number
        taken.add(number)
    return numbers


def class_number(names: tuple[str, ...]) -> int:
    """The number of a set, unless another one has it."""
    digest = hashlib.sha256("/".join(names).encode()).digest()
    return int.from_bytes(digest[:4], "big")


# Findings


def findings_of(plan: EgressPlan) -> list[Finding]:
    """Everything that is wrong with the policies of a plan."""
    return [
        *_gateway_findings(plan.policies, plan.gateways),
        *_address_findings(plan.policies.values()),
        *_conflicts(plan.policies, plan.covered),
        *_shared_addresses(plan.policies, plan.gateways),
    ]


def _gateway_findings(
    policies: Mapping[str, EgressPolicy], gateways: Mapping[str, tuple[Node, ...]]
) -> list[Finding]:
    text = "selects no node with an IPv4 address: what the policy covers is dropped"
    return [
        Finding(NO_GATEWAY, policy.origin, policy.fields.gateways, f"{name} {text}", _about(policy))
        for name, policy in policies.items()
        if not gateways[name]
    ]


def _address_findings(policies: Iterable[EgressPolicy]) -> list[Finding]:
    findings = []
    for policy in policies:
        families = {d.version for d in policy.destinations if not address_for(policy, d.version)}
        for family in sorted(families):
            text = (
                f"no IPv{family} address: covered packets to IPv{family} destinations are dropped"
            )
            field = f"{policy.fields.addresses} (IPv{family})"
            findings.append(Finding(NO_ADDRESS, policy.origin, field, text, _about(policy)))
    return findings


def _conflicts(
    policies: Mapping[str, EgressPolicy], covered: Mapping[PodKey, tuple[str, ...]]
) -> list[Finding]:
    """One finding for each pair of policies that want the same network of the same pod (S18)."""
    by_set: dict[tuple[str, ...], list[PodKey]] = {}
    for pod, names in covered.items():
        by_set.setdefault(names, []).append(pod)
    pods: dict[tuple[str, str], list[PodKey]] = {}
    for names, members in by_set.items():
        for pair in combinations(names, 2):
            pods.setdefault(pair, []).extend(members)
    networks = {
        name: {*policy.destinations, *exclusions(policy)} for name, policy in policies.items()
    }
    return [
        _conflict(policies[winner], policies[loser], sorted(both), common)
        for (winner, loser), both in sorted(pods.items())
        if (common := networks[winner] & networks[loser])
    ]


def _conflict(
    winner: EgressPolicy, loser: EgressPolicy, pods: Sequence[PodKey], networks: set[Network]
) -> Finding:
    first = min(networks, key=str)
    text = (
        f"Conflict: {first}{_more(len(networks))} of pod {pods[0].namespace}/{pods[0].name}"
        f"{_more(len(pods))} belongs to the older policy {winner.name} ({winner.origin})"
    )
    return Finding(CONFLICT, loser.origin, "spec.destinationCIDRs", text, _about(loser, winner))


def _about(*policies: EgressPolicy) -> tuple[str, ...]:
    return tuple(f"egress/{policy.name}" for policy in policies)


def _more(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""


def _shared_addresses(
    policies: Mapping[str, EgressPolicy], gateways: Mapping[str, tuple[Node, ...]]
) -> list[Finding]:
    """Policies that share an address but not its gateways; the oldest one's are used."""
    owners: dict[IP, EgressPolicy] = {}
    findings = []
    for name, policy in policies.items():
        for address in policy.addresses:
            nodes = names_of(gateways[name])
            owner = owners.setdefault(address, policy) if nodes else policy
            others = names_of(gateways[owner.name])
            if nodes and others and nodes != others:
                text = (
                    f"{address} leaves through {', '.join(others)}, as policy {owner.name}"
                    f" ({owner.origin}) says, not through {', '.join(nodes)}"
                )
                about = (*_about(policy, owner), f"address/{address}")
                findings.append(
                    Finding(SHARED_ADDRESS, policy.origin, policy.fields.addresses, text, about)
                )
    return findings
