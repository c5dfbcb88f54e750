"""Pods that an egress policy covers and that are in a VRF: which of the two has their packets.

The VRF has what its ``destinations`` say, without an egress address; the policy has the rest. A
finding names the networks that both want. What a pod's tenant address sends to a covered network
that only a router has told the VRF is dropped (``is_covered_in_vrf`` in ``vrf.h``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from gateway.findings import COVERED_IN_VRF
from gateway.policy import POLICIES, EgressPolicy
from mesh.core.feature import AgentFeature
from mesh.core.model import Finding, Network, PodKey
from mesh.core.table import Table
from mesh.objects.tables import Objects

#: Pods and networks that a finding names.
_NAMED = 1, 4

#: A VRF and a policy, by name.
Pair = tuple[str, str]


class InVRFs(AgentFeature):
    """``covered`` and ``vrf_of_pod`` are about pods of this node.

    ``destinations`` gives those of a VRF.
    """

    def __init__(
        self,
        objects: Objects,
        covered: Table[PodKey, tuple[str, ...]],
        vrf_of_pod: Table[PodKey, str],
        destinations: Callable[[str], tuple[Network, ...]],
    ) -> None:
        self._policies = objects[POLICIES]
        self._covered, self._vrf_of_pod = covered, vrf_of_pod
        self._destinations = destinations

    def findings(self) -> Iterable[Finding]:
        pods = contested(self._covered.rows, self._vrf_of_pod.rows)
        for (vrf, name), keys in sorted(pods.items()):
            policy = self._policies.rows.get(name)
            both = tuple(shared(self._destinations(vrf), policy.destinations)) if policy else ()
            if policy and both:
                yield finding(vrf, policy, both, keys)


def contested(
    covered: Mapping[PodKey, tuple[str, ...]], vrf_of_pod: Mapping[PodKey, str]
) -> dict[Pair, list[PodKey]]:
    """The pods that both a VRF has and a policy covers, sorted, by these two."""
    found: dict[Pair, list[PodKey]] = {}
    for key in sorted(covered.keys() & vrf_of_pod.keys()):
        for name in covered[key]:
            found.setdefault((vrf_of_pod[key], name), []).append(key)
    return found


def shared(vrf: Iterable[Network], policy: Iterable[Network]) -> Iterator[Network]:
    """The networks that are in both: of two that overlap the smaller one."""
    others = tuple(policy)
    for one in vrf:
        for other in others:
            if one.version == other.version and one.overlaps(other):
                yield one if one.prefixlen >= other.prefixlen else other


def finding(
    vrf: str, policy: EgressPolicy, both: tuple[Network, ...], pods: list[PodKey]
) -> Finding:
    """That a VRF takes what a policy covers; it names the pod, the policy and the VRF."""
    first, more = pods[0], len(pods) - _NAMED[0]
    rest = f" (and {more} more)" if more else ""
    networks = ", ".join(map(str, both[: _NAMED[1]])) + (", …" if len(both) > _NAMED[1] else "")
    text = (
        f"what pod {first.namespace}/{first.name}{rest} sends to {networks} goes into VRF {vrf} "
        f"without an egress address, though policy {policy.name} covers it"
    )
    about = (f"egress/{policy.name}", f"vrf/{vrf}")
    return Finding(COVERED_IN_VRF, policy.origin, "spec.destinationCIDRs", text, about)
