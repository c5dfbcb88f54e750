"""Keys and values of somebody else's, whatever bytes they are: nobody ends, all others arrive.

    etcd ── view of agent east-1 ── derivations ── keys of its pods
         ├─ view of controller east ── derivations, leadership
         └─ view of speaker east-1

Before there was one pair of functions for keys, one key that is no UTF-8 ended all three, and again
after each start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from etcd_server import Etcd, client_of, running, until, until_async
from test_agent_store import OWN, PREFIX, WEST, agent_of, west

from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.client import Client
from clustermesh.remote import wire
from mesh.agent import Agent
from mesh.config import load_controller, load_speaker
from mesh.controller import Controller
from mesh.core.model import Finding, NodeKey
from mesh.objects.kubernetes import NODES
from mesh.observe import tables
from mesh.speaker import Speaker

#: Seconds of the random test, and its seed.
SOAK_S = 60.0 if os.environ.get("MESHGATE_SOAK") else 3.0
SEED = int(os.environ.get("MESHGATE_SEED", "") or random.randrange(1 << 32))

#: What all the processes follow, and a pod of another node of our cluster.
PLACES = (
    b"meshgate/v1/east/pod/east-2/",
    b"meshgate/v1/east/pod/",
    b"meshgate/v1/east/podcidr/10.1.0.0_16_24/number/",
    b"meshgate/v1/east/identity/labels/number/",
    b"meshgate/v1/east/block/",
    b"meshgate/v1/east/forget/",
    b"meshgate/v1/east/forgotten/",
    b"meshgate/v1/east/",
    b"cilium/cache/nodes/v1/west/",
    b"cilium/cache/services/v1/west/",
    b"cilium/cache/endpointslices/v1/west/",
    b"cilium/cache/identities/v1/west/id/",
    b"cilium/cache/ip/v1/west/",
    b"cilium/cache/",
    b"cilium/cluster-config/",
    b"cilium/synced/west/",
    b"cilium/kvstoremesh-lock/",
    b"cilium/",
)
#: Keys that the processes need to tell whether they are alive; nobody may write them here.
KEPT = (b"meshgate/v1/east/config", b"meshgate/v1/east/synced", b"meshgate/v1/east/leader")
CONTROLLER = """
cluster: {{name: east, id: 1}}
instance: east-a
manifests: {place}
etcd: {{endpoints: ["http://{address}"]}}
pools: {{podCIDRs: [{{cidr: 10.1.0.0/16, nodePrefix: 24}}]}}
socket: {place}/controller.sock
stateDir: {place}/controller
"""
SPEAKER = """
cluster: {{name: east, id: 1}}
node: east-1
manifests: {place}
etcd: {{endpoints: ["http://{address}"]}}
routerID: 10.99.0.11
runDir: {place}/speaker
socket: {place}/speaker.sock
exabgpUser: "1900000001"
"""


@dataclass
class Parts:
    """What of an agent, a controller and a speaker works with the store."""

    agent: Agent
    controller: Controller
    speaker: Speaker
    tasks: Sequence[asyncio.Task[Any]]

    def alive(self) -> None:
        """Raises what a part has ended with; what is wrong can be told to others."""
        for task in self.tasks:
            if task.done():
                task.result()
                raise AssertionError(f"{task.get_name()} has ended")
        for found in (self.agent.findings(), self.controller.findings(), self.speaker.findings()):
            tables.encode(list(found))

    def findings(self) -> Iterable[Finding]:
        yield from self.agent.findings()
        yield from self.controller.findings()
        yield from self.speaker.findings()

    def found(self, code: str) -> list[str]:
        return [one.object for one in self.findings() if one.code == code]


@contextlib.asynccontextmanager
async def parts(server: Etcd, place: Path) -> AsyncIterator[Parts]:
    agent = agent_of(server, place)
    for name, text in (("controller", CONTROLLER), ("speaker", SPEAKER)):
        (place / name).mkdir(exist_ok=True)
        (place / f"{name}.yaml").write_text(text.format(place=place, address=server.address))
    controller = Controller(load_controller(place / "controller.yaml"))
    speaker = Speaker(load_speaker(place / "speaker.yaml"))
    for objects in (controller.sources.objects, speaker.objects):
        for table in objects.tables().values():
            table.mark_synced()
        objects[NODES].replace({NodeKey("east", "east-1"): OWN})
    jobs = {
        "agent's store": agent.features.store.run(agent.entries),
        "agent's loop": agent.loop.run(),
        "controller's store": controller.view.run(),
        "controller's loop": controller.loop.run(),
        "leadership": controller.leading.run(),
        "snapshot of pods": controller.leading.pods.run(),
        "snapshot of claims": controller.leading.allocator.keep(),
        "speaker's store": speaker.view.run(),
        "speaker's loop": speaker.loop.run(),
    }
    tasks = [asyncio.create_task(job, name=name) for name, job in jobs.items()]
    try:
        yield Parts(agent, controller, speaker, tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in (agent.features.store.client, controller.client, speaker.client):
            await client.aclose()


async def put(client: Client, key: bytes, value: bytes) -> None:
    await client.txn(
        [], [pb.RequestOp(request_put=pb.PutRequest(key=key, value=value))], repeat=True
    )


async def delete(client: Client, key: bytes) -> None:
    request = pb.DeleteRangeRequest(key=key)
    await client.txn([], [pb.RequestOp(request_delete_range=request)], repeat=True)


async def gone(client: Client, key: bytes) -> bool:
    return await client.get(key.decode(errors="surrogateescape")) is None


async def serves(client: Client, it: Parts, number: int) -> None:
    """A change of an honest cluster arrives at the agent and at the controller."""
    name = f"probe-{number}"
    node = WEST.__class__("north", name, WEST.addresses[:0])
    key = wire.node_key("north", name)
    await put(client, wire.config_key("north").encode(), wire.cluster_config(3))
    await put(client, key.encode(), wire.node_value(node, 3))
    both = (it.agent.features.store.remote.nodes, it.controller.features.remote.nodes)

    def arrived() -> bool:
        it.alive()
        return all(NodeKey("north", name) in table.rows for table in both)

    await until(arrived, f"{name} arrives at both")
    await delete(client, key.encode())
    await until(lambda: not any(NodeKey("north", name) in t.rows for t in both), "and goes")


async def lost_connection(server: Etcd, it: Parts) -> None:
    server.kill()
    clients = (it.agent.features.store.client, it.controller.client, it.speaker.client)
    await until(lambda: all(client.problem for client in clients), "the outage is noticed")
    server.start()


async def started(client: Client, it: Parts) -> None:
    await west(client)
    await until(lambda: it.controller.leading.leader.leads, "the controller leads")
    await until_async(lambda: client.get(f"{PREFIX}synced"), "the store is marked")
    await until(lambda: it.agent.features.store.remote.complete.synced, "the agent has all")


def test_a_key_that_is_no_text_costs_itself(tmp_path: Path) -> None:
    """Of a pod, with the certificate of another node of the cluster; and of a node of a peer."""

    async def run(server: Etcd) -> None:
        own = b"meshgate/v1/east/pod/east-1/x/y\xff"
        pod = b"meshgate/v1/east/pod/east-2/x/y\xff"
        node = b"cilium/cache/nodes/v1/west/z\xff"
        async with client_of(server.endpoint) as client, parts(server, tmp_path) as it:
            await started(client, it)
            for key in (own, pod):
                await put(client, key, b"{}")
            await serves(client, it, 1)
            await put(client, node, b"{}")
            await lost_connection(server, it)  # the newest key is what proves the store
            await serves(client, it, 2)
            it.agent.entries.recheck()
            await until_async(lambda: gone(client, own), "an agent tidies its own place")
            names = [key.decode(errors="backslashreplace") for key in (pod, node)]
            assert set(names) <= set(it.found("M171")), it.found("M171")
        async with client_of(server.endpoint) as client, parts(server, tmp_path) as it:
            await serves(client, it, 3)  # all parts start beside these keys
            await delete(client, pod)
            await delete(client, node)
            await until(lambda: not it.found("M171"), "nothing is said once they are gone")

    with running(tmp_path / "etcd") as server:
        asyncio.run(run(server))


class Anything:
    """Keys and values with a bit of sense here and there."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.values = [
            b"", b"{}", b"[]", b"null", b'{"owner": "east-1"}', b'{"store": 5}', b"[" * 5000,
            b'{"a":' * 5000, b'{"addresses": ["10.1.0.9"], "labels": "x"}',
            b'{"addresses": ["\xff"], "labels": "\\ud800"}', b"k8s:a=b;", wire.cluster_config(2),
            b'{"owner": "a", "released": 99999999999999999999}', wire.node_value(WEST, 2),
            b'{"id": 2, "capabilities": {"endpointSlicesExportMode": "endpointslices-only"}}',
        ]  # fmt: skip

    def key(self) -> bytes:
        chance = self.chance
        while True:
            parts = [self.part() for _ in range(chance.randrange(1, 4))]
            key = chance.choice(PLACES) + b"/".join(parts)
            if key and not key.startswith(KEPT):
                return key

    def part(self) -> bytes:
        chance = self.chance
        known = b"west-1", b"10.2.0.5", b"131077", b"shop", b"number", b"5", b"9" * 5000, b"synced"
        return chance.choice((chance.choice(known), chance.randbytes(chance.randrange(6))))

    def value(self) -> bytes:
        chance = self.chance
        value = bytearray(chance.choice(self.values))
        if value and chance.random() < 0.3:
            value[chance.randrange(len(value))] = chance.randrange(256)
        return chance.choice((bytes(value), chance.randbytes(chance.randrange(40))))


@pytest.mark.parametrize("seed", [SEED])
def test_any_bytes_as_key_and_value_end_nobody(tmp_path: Path, seed: int) -> None:
    """Put, listed, watched, deleted, and seen again after a lost connection."""

    async def run(server: Etcd) -> None:
        chance, anything, there = random.Random(seed), Anything(seed), list[bytes]()
        async with client_of(server.endpoint) as client, parts(server, tmp_path) as it:
            await started(client, it)
            end, rounds = asyncio.get_running_loop().time() + SOAK_S, 0
            while asyncio.get_running_loop().time() < end or rounds < 2:
                for _ in range(60):
                    if there and chance.random() < 0.3:
                        await delete(client, there.pop(chance.randrange(len(there))))
                        continue
                    there.append(anything.key())
                    await put(client, there[-1], anything.value())
                rounds += 1
                await serves(client, it, rounds)
                if rounds % 4 == 1:
                    await lost_connection(server, it)
                    await serves(client, it, 1000 + rounds)
        async with client_of(server.endpoint) as client, parts(server, tmp_path) as it:
            await serves(client, it, 0)  # and listed by those who start now

    with running(tmp_path / "etcd") as server:
        asyncio.run(run(server))
