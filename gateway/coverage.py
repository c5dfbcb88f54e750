"""Which policies cover each pod, in order of precedence; agent and controller have one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway import claims
from gateway.addressed import Addressed
from gateway.gateways import Gateways
from gateway.plan import EgressPlan, by_precedence
from gateway.policy import POLICIES, EgressPolicy
from mesh.core.groups import By
from mesh.core.model import Claim, ClaimKey, Pod, PodKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.identity.matching import Matching
from mesh.objects.tables import Objects

#: Held claims by noun.
ClaimsOf = Callable[[str], Table[ClaimKey, Claim]]


class Coverage:
    """``covered`` names the policies of each covered pod of ``pods``.

    ``policies`` have the addresses that they have now.
    """

    def __init__(self, objects: Objects, pods: Table[PodKey, Pod], held: ClaimsOf) -> None:
        self.covered: Table[PodKey, tuple[str, ...]] = Table("covered pod")
        self.addressed = Addressed(objects, held(claims.NOUN), held(claims.DRAINING))
        self.policies = self.addressed.table
        self.gateways = Gateways(objects, self.policies, held(claims.CARRIER))
        # Of the objects: an address that changes moves no pod.
        by_object = objects[POLICIES]
        self._matching = Matching(objects, pods, by_object, lambda policy: policy.selectors)

    def derive(self, loop: Loop) -> None:
        """Add the derivations."""
        self.addressed.derive(loop)
        self.gateways.derive(loop)
        self._matching.derive(loop)
        loop.group(self.covered, _names, By(self._matching.chosen))

    def plan(self) -> EgressPlan:
        """The whole picture, for the command line and for findings."""
        policies = {one.name: one for one in by_precedence(self.policies.rows.values())}
        gateways = self.gateways.of_policy.rows
        return EgressPlan(
            policies, self.covered.rows, {name: gateways.get(name, ()) for name in policies}
        )


def _names(
    key: PodKey, policies: Mapping[str, EgressPolicy] | None
) -> dict[PodKey, tuple[str, ...]]:
    if not policies:
        return {}
    return {key: tuple(policy.name for policy in by_precedence(policies.values()))}
