"""Every kind of document that is read: one line for each room that declares some."""

from __future__ import annotations

from bgp import peer
from gateway import policy
from mesh.nodes import pod_cidrs
from mesh.objects import kubernetes
from mesh.objects.schema import Kinds
from mesh.services import kinds as services
from srv6 import locators

#: Words of ``BGPPeer.spec.advertise``.
ADVERTISED = (pod_cidrs.ADVERTISED, policy.ADVERTISED, locators.ADVERTISED)

KINDS = Kinds(
    (
        *kubernetes.KINDS,
        *services.KINDS,
        *policy.KINDS,
        *peer.kinds(ADVERTISED),
    )
)
