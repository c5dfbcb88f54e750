"""What only the leader does, without etcd."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from clustermesh.store.allocator import Allocator
from mesh.allocation import BLOCK, Want
from mesh.config import Cluster, ControllerConfig, Etcd, Pools
from mesh.controller_tables import ControllerTables
from mesh.leading import Claims
from mesh.objects.kinds import KINDS
from mesh.objects.tables import Objects

CONFIG = ControllerConfig(
    cluster=Cluster(name="east", id=1),
    instance="east-a",
    manifests=Path("manifests"),
    etcd=Etcd(endpoints=("http://127.0.0.1:1",)),
    pools=Pools(pod_cidrs=()),
    state_dir=Path("state"),
    socket=Path("socket"),
)
ONE, TWO = (Want(BLOCK, "198.51.100.10", f"east-1/{k}") for k in range(2))


def test_a_claim_that_is_wanted_again_before_its_release_is_not_released() -> None:
    """Releases go one by one, each takes a round trip: the policy may be back before the last."""
    tables = ControllerTables(CONFIG, Objects(KINDS.nouns))
    released: list[Want] = []

    class Slow:
        async def release(self, noun: str, pool: str, owner: str) -> None:
            released.append(Want(noun, pool, owner))
            tables.wanted.upsert({TWO: True})

    claims = Claims(cast("Allocator", Slow()), tables)
    asyncio.run(claims.delete({ONE, TWO}))
    assert released == [ONE]
