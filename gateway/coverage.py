"""Which policies cover each pod, in order of precedence; agent and controller have one."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.gateways import Gateways
from gateway.plan import EgressPlan, by_precedence
from gateway.policy import POLICIES, EgressPolicy
from mesh.core.groups import By
from mesh.core.model import Pod, PodKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.identity.matching import Matching
from mesh.objects.tables import Objects


class Coverage:
    """``covered`` names the policies of each covered pod of ``pods``."""

    def __init__(self, objects: Objects, pods: Table[PodKey, Pod]) -> None:
        self.covered: Table[PodKey, tuple[str, ...]] = Table("covered pod")
        self.gateways = Gateways(objects)
        self._policies = objects[POLICIES]
        self._matching = Matching(objects, pods, self._policies, lambda policy: policy.selectors)

    def derive(self, loop: Loop) -> None:
        """Add the derivations."""
        self.gateways.derive(loop)
        self._matching.derive(loop)
        loop.group(self.covered, _names, By(self._matching.chosen))

    def plan(self) -> EgressPlan:
        """The whole picture, for the command line and for findings."""
        policies = {one.name: one for one in by_precedence(self._policies.rows.values())}
        gateways = self.gateways.of_policy.rows
        return EgressPlan(
            policies, self.covered.rows, {name: gateways.get(name) for name in policies}
        )


def _names(
    key: PodKey, policies: Mapping[str, EgressPolicy] | None
) -> dict[PodKey, tuple[str, ...]]:
    if not policies:
        return {}
    return {key: tuple(policy.name for policy in by_precedence(policies.values()))}
