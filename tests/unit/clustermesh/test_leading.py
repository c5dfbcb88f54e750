"""What only the leader does, without etcd."""

from __future__ import annotations

import asyncio
from typing import cast

from clustermesh.store.allocator import Allocator
from clustermesh.store.leading import ClaimTarget, Wants
from clustermesh.store.own import Own
from gateway import blocks
from gateway.controller import EgressController
from gateway.settings import EgressSettings
from mesh.core.feature import Want
from mesh.core.table import Changes
from mesh.objects.kinds import KINDS
from mesh.objects.tables import Objects

ONE, TWO = (Want(blocks.NOUN, "198.51.100.10", f"east-1/{k}") for k in range(2))


def test_who_has_gone_lacks_nothing() -> None:
    """A finding about an owner without a number ends with the owner, whatever the store says."""
    own = Own("east")
    wants = Wants([EgressController("east", EgressSettings(), Objects(KINDS.nouns), own)])
    wants.wanted.upsert({ONE: True})
    wants.refused.upsert({ONE: "no number is free"})
    assert [finding.code for finding in wants.findings("east")] == ["M145"]
    wants.take(Changes({}, frozenset({ONE})))
    assert list(wants.findings("east")) == []


def test_a_claim_that_is_wanted_again_before_its_release_is_not_released() -> None:
    """Releases go one by one, each takes a round trip: the policy may be back before the last."""
    own = Own("east")
    wants = Wants([EgressController("east", EgressSettings(), Objects(KINDS.nouns), own)])
    released: list[Want] = []

    class Slow:
        async def release(self, noun: str, pool: str, owner: str) -> None:
            released.append(Want(noun, pool, owner))
            wants.wanted.upsert({TWO: True})

    claims = ClaimTarget(cast("Allocator", Slow()), wants)
    asyncio.run(claims.delete({ONE, TWO}))
    assert released == [ONE]
