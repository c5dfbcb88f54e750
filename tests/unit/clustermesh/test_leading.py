"""What only the leader does, without etcd."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import cast

from clustermesh.controller import PublishController
from clustermesh.etcd.client import Client
from clustermesh.store.allocator import Allocator
from clustermesh.store.leader import Fence
from clustermesh.store.leading import Candidate, ClaimTarget, Leading, Wants
from clustermesh.store.own import Own
from gateway import blocks
from gateway.controller import EgressController
from gateway.settings import EgressSettings
from mesh.core.feature import Want
from mesh.core.passes import Gate
from mesh.core.reconcile import Loop
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


def test_a_deposed_controller_drops_the_errors_of_its_term(tmp_path: Path) -> None:
    """What could not be written, restored or claimed is the next leader's affair."""
    own = Own("east")
    wants = Wants([EgressController("east", EgressSettings(), Objects(KINDS.nouns), own)])
    who = Candidate("east", 1, "east-1", 900, tmp_path)
    client = cast("Client", Answering())
    publishing = cast("PublishController", None)
    leading = Leading(who, client, own, wants, publishing, {}, Gate())

    async def term() -> None:
        loop = Loop()
        failed = loop.apply(wants.wanted, ClaimTarget(leading.allocator, wants))
        failed.report.errors["ip/10.1.0.2"] = "refused"
        wants.refused.upsert({ONE: "full"})
        leading.__dict__.update(
            _agree=answer(1), _mismatches=answer([]), _loop=lambda _: (loop, []), leader=Leader()
        )
        leading.allocator.__dict__["recover"] = answer(["claim/1 not restored"])
        leads = asyncio.create_task(leading.run())
        while not leading.applied:
            await asyncio.sleep(0)
        assert len([*leading.findings(), *wants.findings("east")]) == 3
        leads.cancel()
        await asyncio.wait({leads})

    asyncio.run(term())
    assert [*leading.findings(), *wants.findings("east")] == []


class Leader:
    """Leads at once."""

    problem = ""

    async def run(self, lead: Callable[[Fence], Coroutine[None, None, None]]) -> None:
        await lead(Fence("leader", 1, 1))


class Answering:
    """A store that has something under each key."""

    problem = ""

    async def get(self, _: str) -> str:
        return "there"


def answer(value: object) -> Callable[..., Coroutine[None, None, object]]:
    async def give(*_: object) -> object:
        return value

    return give
