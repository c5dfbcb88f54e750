"""One change of each kind, in the steps in which a real cluster shows it.

Rows and keys of a step are made before the step's clock runs: between two ``yield``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from gateway.policy import POLICIES
from mesh.core.model import IP, Pod
from mesh.objects.kubernetes import NAMESPACES, NODES
from mesh.services.kinds import SLICES, EndpointSlice, EndpointSliceKey
from tests.bench import world
from tests.bench.sides import AgentSide, Side

Steps = Iterator[Callable[[], Any]]
#: Remote addresses of one batch.
BATCH = 100


class Events:
    """``rows`` names each kind of change as the report does."""

    def __init__(self, side: Side) -> None:
        self.side, self.size = side, side.size
        self._new = itertools.count(side.size.pods)
        self._old = itertools.count(7, 97)
        self._count = itertools.count(1)
        self.rows: dict[str, Callable[[], Steps]] = {
            "a pod elsewhere": self.pod_elsewhere,
            "a pod goes, elsewhere": self.pod_gone,
            "a pod here": self.pod_here,
            "a label of a pod": self.pod_label,
            "a label of a namespace": self.namespace_label,
            "an EndpointSlice": self.slice_changed,
            "a policy": self.policy_edited,
            "a node": self.node_added,
            "a label of a node": self.node_label,
            "an identity claimed": self.identity_claimed,
            "a block claimed": self.block_claimed,
            f"{BATCH} remote addresses": self.remote_addresses,
        }
        if not isinstance(side, AgentSide):
            del self.rows["a pod here"]
        if not side.size.peers:
            del self.rows[f"{BATCH} remote addresses"]

    def pod_elsewhere(self) -> Steps:
        """The object, what a controller confirms, its agent's key, two slices."""
        n = self._on(self._new, here=False)
        yield from self._pod(n, world.pod(self.size, n))

    def pod_here(self) -> Steps:
        """The object, a network namespace, the key that comes back."""
        n = self._on(self._new, here=True)
        side = self.side
        if not isinstance(side, AgentSide):
            raise TypeError
        row = world.pod(self.size, n)
        yield lambda: side.put_pod(row)
        confirmation = world.confirmation(self.size, n, row)
        yield lambda: side.own([confirmation])
        yield from side.pods_wired()
        yield from self._slices_with(n)

    def pod_gone(self) -> Steps:
        n = self._on(self._old, here=False) % self.size.pods
        row = world.pod(self.size, n)
        yield from self._slices_without(n)
        yield lambda: self.side.drop_pod(row)
        keys = [one(self.size, n, row).key for one in (world.confirmation, world.pod_entry)]
        yield lambda: self.side.own([], [keys[0]])
        yield lambda: self.side.own([], [keys[1]])

    def pod_label(self) -> Steps:
        """A label that its identity has: the identity is claimed, the key is written anew."""
        n = self._on(self._old, here=False) % self.size.pods
        row = world.pod(self.size, n)
        labels = tuple((k, f"v{n}" if k == "tier" else v) for k, v in row.labels)
        fresh = replace(row, labels=labels)
        number = (world.CLUSTER_ID << 16) + 50_000 + next(self._count)
        text = world.labels_of(fresh)
        yield lambda: self.side.put_pod(fresh)
        claim = world.claim("identity", "labels", number, text)
        yield lambda: self.side.own([claim])
        confirmation = world.confirmation(self.size, n, fresh, number)
        yield lambda: self.side.own([confirmation])
        entry = world.pod_entry(self.size, n, fresh)
        yield lambda: self.side.own([entry])

    def namespace_label(self) -> Steps:
        n = next(self._count) % self.size.namespaces
        row = world.namespace(n)
        labels = (*row.labels, ("zz", str(next(self._count))))
        table = self.side.objects[NAMESPACES]
        yield lambda: table.upsert({row.name: replace(row, labels=labels)})

    def slice_changed(self) -> Steps:
        """An endpoint of a service comes; its pod is known by other events."""
        n = self._on(self._new, here=False)
        yield from self._slices_with(n)

    def policy_edited(self) -> Steps:
        p = next(self._count) % self.size.policies
        row = world.policy(self.size, p)
        labels = f"app-{next(self._count):05d}"
        (selector,) = row.selectors
        rule = world.requirement("app.kubernetes.io/name", labels)
        chosen = replace(selector, pods=replace(world.NOTHING, requirements=(rule,)))
        fresh = replace(row, destinations=row.destinations[1:], selectors=(chosen,))
        table = self.side.objects[POLICIES]
        yield lambda: table.upsert({row.name: fresh})

    def node_added(self) -> Steps:
        """The object, its claims, its next hop."""
        n = self.size.nodes + next(self._count)
        side = self.side
        key, row = world.node_key(n), world.node(self.size, n)
        yield lambda: side.objects[NODES].upsert({key: row})
        claims = world.node_claims(n)
        yield lambda: side.own(claims)
        if isinstance(side, AgentSide):
            yield side.hops

    def node_label(self) -> Steps:
        """As a kubelet or an autoscaler does now and then."""
        n = 20 + next(self._count) % (self.size.nodes - 20)
        row = world.node(self.size, n)
        fresh = replace(row, labels=(*row.labels, ("zz", str(next(self._count)))))
        key = world.node_key(n)
        yield lambda: self.side.objects[NODES].upsert({key: fresh})

    def identity_claimed(self) -> Steps:
        number = (world.CLUSTER_ID << 16) + 40_000 + next(self._count)
        made = world.claim("identity", "labels", number, f"k8s:app=new-{number};")
        yield lambda: self.side.own([made])

    def block_claimed(self) -> Steps:
        number = next(self._count) % world.BLOCKS
        made = world.claim("block", "203.0.116.250", number, f"{world.node_name(20)}/0")
        yield lambda: self.side.own([made])

    def remote_addresses(self) -> Steps:
        """Addresses of another cluster with other identities."""
        start, step = next(self._old), next(self._count)
        numbers = [(start + a) % self.size.peer_addresses for a in range(BATCH)]
        batch = [world.peer_address(0, a, world.peer_identity(0, a + step)) for a in numbers]
        yield lambda: self.side.mesh(batch)

    # Parts

    def _on(self, numbers: Iterator[int], *, here: bool) -> int:
        own = world.OWN
        return next(n for n in numbers if (world.node_of(self.size, n) == own) == here)

    def _pod(self, n: int, row: Pod) -> Steps:
        yield lambda: self.side.put_pod(row)
        confirmation = world.confirmation(self.size, n, row)
        yield lambda: self.side.own([confirmation])
        entry = world.pod_entry(self.size, n, row)
        yield lambda: self.side.own([entry])
        yield from self._slices_with(n)

    def _slices_with(self, n: int) -> Steps:
        return self._slices(n, lambda have, mine: (*have[: world.SLICE - 1], mine))

    def _slices_without(self, n: int) -> Steps:
        return self._slices(n, lambda have, mine: tuple(a for a in have if a != mine))

    def _slices(self, n: int, change: Callable[[tuple[IP, ...], IP], tuple[IP, ...]]) -> Steps:
        """Both slices of the pod's service; a source without slices shows none."""
        s = n % self.size.workloads
        if not self.side.has_slices or s >= self.size.services:
            return
        v4, v6 = world.pod_addresses(self.size, n)
        rows: dict[EndpointSliceKey, EndpointSlice] = {}
        for key, row in world.slices(self.size, s):
            if key.name.endswith("-0"):
                mine = v6 if "-6-" in key.name else v4
                rows[key] = replace(row, addresses=change(row.addresses, mine))
        yield lambda: self.side.objects[SLICES].upsert(rows)
