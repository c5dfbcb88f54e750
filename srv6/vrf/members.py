"""Which pods are in which VRF: of several that select a pod, the oldest keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mesh.core.groups import By
from mesh.core.model import Finding, Pod, PodKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.identity.matching import Matching
from mesh.objects.tables import Objects
from srv6.vrf.accepted import by_precedence
from srv6.vrf.findings import POD_OF_ANOTHER
from srv6.vrf.kind import VRF, VRFS

#: Pods of a conflict that its finding names.
_NAMED = 1


@dataclass(frozen=True, slots=True)
class VRFMember:
    """The VRF of a pod; ``others`` select the pod, too, and do not get it."""

    vrf: str
    others: tuple[str, ...] = ()


class Members:
    """``table`` has the pods of ``pods`` that a VRF selects, also one that is not used."""

    def __init__(self, objects: Objects, pods: Table[PodKey, Pod]) -> None:
        self.table: Table[PodKey, VRFMember] = Table("pod of VRF")
        self._vrfs = objects[VRFS]
        self._matching = Matching(objects, pods, self._vrfs, lambda vrf: vrf.selectors)

    def derive(self, loop: Loop) -> None:
        """Add the derivations."""
        self._matching.derive(loop)
        loop.group(self.table, _member, By(self._matching.chosen))

    def findings(self) -> Iterable[Finding]:
        """Pods that two VRFs select; one finding for each pair of VRFs."""
        return conflicts(self.table.rows, self._vrfs.rows)


def _member(key: PodKey, chosen: Mapping[str, VRF] | None) -> dict[PodKey, VRFMember]:
    if not chosen:
        return {}
    first, *others = (one.name for one in by_precedence(chosen.values()))
    return {key: VRFMember(first, tuple(others))}


def conflicts(members: Mapping[PodKey, VRFMember], vrfs: Mapping[str, VRF]) -> list[Finding]:
    """One finding for each pair of VRFs that select the same pods."""
    pods: dict[tuple[str, str], list[PodKey]] = {}
    for key, member in members.items():
        for other in member.others:
            pods.setdefault((member.vrf, other), []).append(key)
    return [
        _conflict(vrfs[older], vrfs[younger], sorted(keys))
        for (older, younger), keys in sorted(pods.items())
        if older in vrfs and younger in vrfs
    ]


def _conflict(older: VRF, younger: VRF, keys: list[PodKey]) -> Finding:
    first, more = keys[0], len(keys) - _NAMED
    rest = f" (and {more} more)" if more else ""
    text = (
        f"pod {first.namespace}/{first.name}{rest} belongs to the older VRF {older.name} "
        f"({older.origin}), not to {younger.name} as well"
    )
    about = (f"vrf/{younger.name}", f"vrf/{older.name}")
    return Finding(POD_OF_ANOTHER, younger.origin, "spec.pods", text, about)
