"""The agent and a store that is replaced: no kernel, no maps, but a real etcd."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import cast

import msgspec
from etcd_server import Etcd, Leadership, client_of, running, task_of, until, until_async

from clustermesh.etcd.client import Client
from clustermesh.remote import wire
from clustermesh.remote.known import KnownClusters
from clustermesh.store.claims import encode_number
from clustermesh.store.forgetting import Forgetting
from clustermesh.store.own import Own
from mesh.agent import Agent, Features
from mesh.config import load_agent
from mesh.core.model import Node, NodeKey, Pod, PodKey
from mesh.kernel import Kernel
from mesh.nodes.uplink import Facts
from mesh.objects.kubernetes import NODES, PODS
from mesh.pods.links import Device

CONFIG = """
cluster: {{name: east, id: 1}}
node: east-1
manifests: {place}
etcd: {{endpoints: ["http://{address}"]}}
bpffs: {place}
cgroup: {place}
uplink: uplink
services: {{kubeProxy: false}}
socket: {place}/socket
podNetns: /run/netns/{{cluster}}-{{namespace}}_{{name}}
stateDir: {place}
"""
PREFIX = "meshgate/v1/east/"
ENTRY = f"{PREFIX}pod/east-1/shop/web-1"
OWN = Node("east", "east-1", (IPv4Address("10.99.0.11"),))
WEST = Node("west", "west-1", (IPv4Address("10.99.0.21"),), (ip_network("10.2.0.0/24"),))


def agent_of(server: Etcd, place: Path) -> Agent:
    """An agent with one pod, which its kernel has."""
    path = place / "agent.yaml"
    path.write_text(CONFIG.format(place=place, address=server.address))
    agent = Agent(load_agent(path), cast("Kernel", None))
    objects = agent.sources.objects
    for table in objects.tables().values():
        table.mark_synced()
    objects[NODES].replace({NodeKey("east", "east-1"): OWN})
    key = PodKey("east", "shop", "web-1")
    objects[PODS].replace({key: Pod("east", "shop", "web-1", "east-1")})
    facts = Facts(7, 1500, IPv4Address("10.99.0.11"), "uplink")
    agent.features = Features(agent.config, facts, objects, agent.kernel)
    agent.features.hosts.private.mark_synced()  # the kernel was asked, and has no routes
    agent.features.derive(agent.loop)
    pods = agent.features.pods
    agent.entries = agent.loop.apply(pods.entry, agent.features.store.entries())
    macs = "0a:58:0a:01:00:02", "0e:58:0a:01:00:02"
    pods.devices.replace({key: Device(7, *macs, (IPv4Address("10.1.0.2"),))})
    return agent


async def east(client: Client, store: str) -> None:
    """What the controller of east puts into a new store."""
    config = {"name": "east", "id": 1, "podCIDRs": ["10.1.0.0_16_24"], "locators": []}
    await client.put(f"{PREFIX}config", msgspec.json.encode(config))
    await client.put(f"{PREFIX}podcidr/10.1.0.0_16_24/number/0", encode_number("east-1"))
    await client.put(f"{PREFIX}synced", msgspec.json.encode({"store": store}))


async def west(client: Client) -> None:
    """What the controller of west publishes."""
    await client.put(wire.config_key("west"), wire.cluster_config(2))
    await client.put(wire.node_key("west", "west-1"), wire.node_value(WEST, 2))
    await client.put(wire.canary_key("west", wire.ADDRESSES), b"now")


def test_a_pod_that_a_leader_restores_after_it_has_gone_goes_again_at_once(tmp_path: Path) -> None:
    async def run(server: Etcd) -> None:
        agent = agent_of(server, tmp_path)
        store = agent.features.store
        async with (
            client_of(server.endpoint) as writer,
            task_of(store.run(agent.entries)),
            task_of(agent.loop.run()),
        ):
            await east(writer, "one")
            await until_async(lambda: writer.get(ENTRY), "the pod's key")
            await until(lambda: agent.entries.current, "everything is written")
            gone = f"{PREFIX}pod/east-1/shop/gone"
            await writer.put(gone, b'{"addresses": ["10.1.0.9"], "labels": "x"}')
            await writer.delete(ENTRY)

            async def right() -> bool:
                return bool(await writer.get(ENTRY)) and await writer.get(gone) is None

            await until_async(right, "both are put right", 10)
        await store.client.aclose()

    with running(tmp_path / "etcd") as server:
        asyncio.run(run(server))


def test_a_store_counts_as_known_once_each_of_its_clusters_is_complete(tmp_path: Path) -> None:
    """Else an agent that restarts beside it would take the clusters that it lacks for gone."""

    async def run(server: Etcd) -> None:
        agent = agent_of(server, tmp_path)
        store = agent.features.store
        async with (
            client_of(server.endpoint) as writer,
            task_of(store.run(agent.entries)),
            task_of(agent.loop.run()),
        ):
            await west(writer)
            await east(writer, "one")
            await until(lambda: store.remote.complete.synced, "complete")
            await store.remember()
            assert (store.known.store, store.known.clusters) == ("one", ("west",))
            server.kill()
            await until(lambda: store.client.problem, "the outage is noticed")
            server.wipe()
            server.start()
            await east(writer, "two")
            await until(lambda: store.own.store == "two", "another store")
            await until(lambda: store.held, "west is held")
            await until(lambda: store.remote.held_clusters() == {"west"}, "west is shown as held")
            await store.remember()
            assert store.known.store == "one"
            await west(writer)
            await until(lambda: not store.held, "west is back")
            assert store.remote.held_clusters() == set()
            await store.remember()
            assert (store.known.store, store.known.clusters) == ("two", ("west",))
        await store.client.aclose()

    with running(tmp_path / "etcd") as server:
        asyncio.run(run(server))


def test_a_cluster_that_never_comes_back_is_forgotten_on_request(tmp_path: Path) -> None:
    """Until then the agent says that it awaits it; a leader's key ends that for all agents."""

    async def run(server: Etcd) -> None:
        agent = agent_of(server, tmp_path)
        store = agent.features.store

        def awaited() -> list[str]:
            return [f.object for f in store.findings() if f.code == "D610"]

        async with (
            client_of(server.endpoint) as writer,
            task_of(store.run(agent.entries)),
            task_of(agent.loop.run()),
        ):
            await west(writer)
            await east(writer, "one")
            await until(lambda: store.remote.complete.synced, "complete")
            assert awaited() == []
            server.kill()
            await until(lambda: store.client.problem, "the outage is noticed")
            server.wipe()
            server.start()
            await east(writer, "two")
            await until(lambda: awaited() == ["Cluster/west"], "west is awaited")
            assert store.remote.nodes.rows
            fence = await Leadership().take(writer)
            own = Own("east")
            own.to_forget.upsert({"west": None})
            await Forgetting(writer, own, lambda: ()).meet(fence)
            await until(lambda: not store.remote.nodes.rows, "its node is gone")
            await until(lambda: not (awaited() or store.held), "nobody is awaited")
            await until(lambda: store.own.store == "two", "the store is known by its id")
            await store.remember()
            assert (store.known.store, store.known.clusters) == ("two", ())
            own.forgotten.upsert({"west": None})
            await Forgetting(writer, own, lambda: ["west"]).meet(fence)
            assert await writer.get(f"{PREFIX}forgotten/west") is None
            await west(writer)
            await until(lambda: store.remote.nodes.rows, "it may come back all the same")
        await store.client.aclose()

    with running(tmp_path / "etcd") as server:
        asyncio.run(run(server))


def test_an_agent_that_starts_beside_a_replaced_store_awaits_what_it_knew(tmp_path: Path) -> None:
    """Its own services are derived all the same, and the request ends the wait."""

    async def run(server: Etcd) -> None:
        KnownClusters(tmp_path / "peers.json").write("one", ["west"])
        agent = agent_of(server, tmp_path)
        store, services = agent.features.store, agent.features.services
        async with (
            client_of(server.endpoint) as writer,
            task_of(store.run(agent.entries)),
            task_of(agent.loop.run()),
        ):
            await east(writer, "two")
            await until(lambda: services.service.synced, "services are derived")
            assert not store.remote.complete.synced
            assert [f.object for f in store.findings() if f.code == "D610"] == ["Cluster/west"]
            await writer.put(f"{PREFIX}forgotten/west", b"{}")
            await until(lambda: store.remote.complete.synced, "nobody is awaited")
            assert not [f for f in store.findings() if f.code == "D610"]
        await store.client.aclose()

    with running(tmp_path / "etcd") as server:
        asyncio.run(run(server))
