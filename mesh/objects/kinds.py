"""Every kind of document that is read: one line for each room that declares some.

Run as a program it prints ``docs/objects.md``.
"""

from __future__ import annotations

import sys

from bgp import peer
from bgp.cilium import kinds as cilium
from clustermesh import contract
from gateway import foreign, policy, pool
from mesh.nodes import pod_cidrs
from mesh.objects import fields, kubernetes
from mesh.objects.schema import Kind, Kinds
from mesh.services import cidrs
from mesh.services import kinds as services
from srv6 import locators
from srv6.vrf import kind as vrf

#: Words of ``BGPPeer.spec.advertise``.
ADVERTISED = (
    pod_cidrs.ADVERTISED,
    services.ADVERTISED,
    policy.ADVERTISED,
    locators.ADVERTISED,
    locators.VRFS_ADVERTISED,
)
#: Types of Cilium's advertisements, and which words they are.
CILIUM_WORDS = {"PodCIDR": pod_cidrs.ADVERTISED, "Service": services.ADVERTISED}

KINDS = Kinds(
    (
        *kubernetes.KINDS,
        *services.KINDS,
        *cidrs.KINDS,
        *policy.KINDS,
        *foreign.KINDS,
        *pool.KINDS,
        *peer.kinds(ADVERTISED),
        *cilium.KINDS,
        *vrf.KINDS,
        *contract.KINDS,
    )
)


def page() -> str:
    """``docs/objects.md``: the kinds of others with their fields; ours have a schema."""
    listed: dict[str, Kind] = {}
    for kind in KINDS:
        if kind.fields:  # of several versions the first one is listed
            listed.setdefault(kind.kind, kind)
    return fields.document(
        (f"{kind.kind} ({kind.api_version})", kind.fields) for kind in listed.values()
    )


if __name__ == "__main__":
    sys.stdout.write(page())
