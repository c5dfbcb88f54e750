"""Every kind of document that is read: one line for each room that declares some.

Run as a program it prints ``docs/objects.md``.
"""

from __future__ import annotations

import sys

from bgp import peer
from clustermesh import contract
from gateway import policy
from mesh.nodes import pod_cidrs
from mesh.objects import fields, kubernetes
from mesh.objects.schema import Kinds
from mesh.services import cidrs
from mesh.services import kinds as services
from srv6 import locators

#: Words of ``BGPPeer.spec.advertise``.
ADVERTISED = (pod_cidrs.ADVERTISED, policy.ADVERTISED, locators.ADVERTISED)

KINDS = Kinds(
    (
        *kubernetes.KINDS,
        *services.KINDS,
        *cidrs.KINDS,
        *policy.KINDS,
        *peer.kinds(ADVERTISED),
        *contract.KINDS,
    )
)


def page() -> str:
    """``docs/objects.md``: the kinds of others with their fields; ours have a schema."""
    listed = [kind for kind in KINDS if kind.fields]
    return fields.document((f"{kind.kind} ({kind.api_version})", kind.fields) for kind in listed)


if __name__ == "__main__":
    sys.stdout.write(page())
