"""Real controllers on a real etcd (client certificates, users and grants as in the lab)."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clustermesh import publish
from clustermesh.etcd.auth import bootstrap_auth
from clustermesh.remote import wire
from clustermesh.remote.holdings import OwnFacts
from clustermesh.remote.importer import Imports
from mesh.core import journal
from mesh.core.model import Node
from tests.interop import controllers
from tests.interop.controllers import (
    LEASE_S,
    USERS,
    Controller,
    Mesh,
    claims,
    deletions,
    keys,
    owners,
    pod,
    put_pods,
    root,
)
from tests.interop.etcd_server import until, until_async

pytestmark = pytest.mark.slow

CACHE = "cilium/cache/"
WHOLE = ("nodes", "identities", "addresses", "services", "synced")


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with controllers.mesh(tmp_path) as it:
        yield it


async def ready(it: Controller) -> Controller:
    await until(it.leads_and_is_ready, f"{it.instance} leads and is ready")
    return it


async def up(mesh: Mesh, cluster: str = "east") -> Controller:
    """etcd, a leading controller and what the agents wrote, all of it published."""
    await controllers.start_etcd(mesh)
    mesh.apply_all(cluster)
    it = await ready(mesh.controller(cluster).start())
    async with root(mesh) as client:
        await put_pods(client, cluster)
        await published(client, cluster)
    return it


async def published(client: Any, cluster: str, addresses: int = 8) -> None:
    async def complete() -> bool:
        found = await keys(client, f"{wire.ADDRESSES}{cluster}/")
        marks = await keys(client, f"{wire.CANARIES}{cluster}/")
        return len(found) == addresses and len(marks) == len(publish.PREFIXES)

    await until_async(complete, f"{addresses} addresses and the canaries of {cluster}")


def test_a_leader_puts_the_heartbeat_without_a_lease(mesh: Mesh) -> None:
    """Cilium's clients connect anew when it is missing; a lease would end it with its leader."""

    async def scenario() -> None:
        it = await up(mesh)
        async with root(mesh) as client:
            beat = await client.get("cilium/.heartbeat")
        assert beat is not None
        assert beat.lease == 0
        assert it.findings() == []

    asyncio.run(scenario())


def test_a_role_of_an_earlier_version_holds_up_slices_alone(mesh: Mesh) -> None:
    """The store's grants know nothing of slices: all else is published, and a finding names it."""

    async def scenario() -> None:
        mesh.etcd.start()
        async with root(mesh) as client:

            async def leases() -> dict[str, int]:
                kvs = (await client.list(f"{wire.CANARIES}east/")).kvs
                return {kv.key.decode(): kv.lease for kv in kvs}

            before = [prefix for prefix in publish.PREFIXES if prefix not in publish.LATER]
            await bootstrap_auth(client, USERS.values(), before)
            mesh.apply_all("east")
            # the former lease stands longer than a controller takes to start on a busy machine
            it = await ready(mesh.controller("east", leaseSeconds=60).start())
            await put_pods(client, "east")
            await until(lambda: "M149" in {f[0] for f in it.findings()}, "a finding names it")
            first = await leases()
            it.end(signal.SIGTERM)
            it.start()

            async def stand() -> bool:
                now = await leases()
                others = [key for key in first if wire.SLICES[:-1] not in key]
                return all(now.get(key, first[key]) != first[key] for key in others)

            await until_async(stand, "the canaries of all other prefixes on new leases", 60)
            late = wire.canary_key("east", wire.SLICES)
            assert (await leases()).get(late) == first[late]
            await bootstrap_auth(client, USERS.values(), publish.PREFIXES)

            async def all_stand() -> bool:
                return (await leases()).get(late) != first[late]

            await until_async(all_stand, "the canary of slices", 60)

    asyncio.run(scenario())


async def everything(client: Any, cluster: str) -> dict[str, bytes]:
    """All published keys of a cluster."""
    found = await keys(client, "cilium/")
    return {key: value for key, value in found.items() if wire.cluster_of(key) == cluster}


def test_a_cluster_is_published_in_the_cached_layout(mesh: Mesh) -> None:
    """Another cluster's import firewall accepts every key; canaries came after the data."""

    async def scenario() -> None:
        it = await up(mesh)
        async with root(mesh) as client:
            found = await everything(client, "east")
            listing = await client.list("cilium/")
        peer = Imports(OwnFacts("west", 2))
        changes = peer.apply(found)
        assert peer.findings == {}
        assert it.findings() == []
        assert {key.name for key in changes.nodes.upsert} == {"east-1", "east-2"}
        assert all(row.locator for row in changes.nodes.upsert.values())
        assert len(changes.identities.upsert) == 2
        assert len(changes.addresses.keys) == 8
        assert peer.importers["east"].canaries == set(publish.PREFIXES)
        created = {kv.key.decode(): kv.create_revision for kv in listing.kvs}
        canary = min(created[wire.canary_key("east", prefix)] for prefix in publish.PREFIXES)
        assert max(created[key] for key in created if key.startswith(wire.NODES)) < canary
        leases = {kv.lease for kv in listing.kvs if kv.key != wire.HEARTBEAT.encode()}
        assert 0 not in leases

    asyncio.run(scenario())


def test_claims_are_made_for_everything(mesh: Mesh) -> None:
    """Label sets, pod CIDRs of both families, locators, and blocks for nodes of covered pods."""

    async def scenario() -> None:
        it = await up(mesh)
        async with root(mesh) as client:
            found = await claims(client, "east")
        nouns = [key.split("/")[3] for key in found if "/number/" in key]
        assert {noun: nouns.count(noun) for noun in set(nouns)} == {
            "identity": 2,
            "podcidr": 4,
            "locator": 2,
            "block": 8,
            "egress": 2,
            "carrier": 2,
        }
        blocks = it.rows("block")
        assert len(blocks) == 8
        assert {(row["node"], row["last"] - row["first"]) for row in blocks} == {
            ("east-1", 255),
            ("east-2", 255),
        }
        nodes = it.rows("node")
        assert [(row["name"], len(row["podCIDRs"])) for row in nodes] == [
            ("east-1", 2),
            ("east-2", 2),
        ]
        assert nodes[0]["locator"] != nodes[1]["locator"]
        assert [row["pods"] for row in it.rows("egress")] == [["shop/client-1", "shop/client-2"]]

    asyncio.run(scenario())


def test_each_pod_is_confirmed_in_keys_that_no_lease_ends(mesh: Mesh) -> None:
    """From its object, whatever its node says; another leader and another store change nothing."""
    place = "meshgate/v1/east/confirmed/"
    web = f"{place}east-1/shop/web-1"

    async def scenario() -> None:
        it = await up(mesh)
        async with root(mesh) as client:
            kvs = (await client.list(place)).kvs
            before = {kv.key.decode(): kv.value for kv in kvs}
            names = [f"east-{n}/shop/{app}-{n}" for n in (1, 2) for app in ("client", "web")]
            assert sorted(before) == [*(f"{place}{name}" for name in names), f"{place}synced"]
            assert {kv.lease for kv in kvs} == {0}
            owned = await claims(client, "east")
            numbers = {text: n for text, n in owned.items() if "/identity/labels/owner/" in text}
            label = next(n for text, n in numbers.items() if "k8s:app=web;" in text)
            assert msgspec.json.decode(before[web]) == {"identity": label}
            it.end(signal.SIGKILL)
            await ready(it.start())
            assert await keys(client, place) == before
            mesh.apply("east", "pods", *(pod("web", f"east-{n}", n) for n in (1, 2)))

            async def gone() -> bool:
                return not any("/client-" in key for key in await keys(client, place))

            await until_async(gone, "pods without an object are not confirmed")
        mesh.etcd.kill()
        mesh.etcd.wipe()
        await controllers.start_etcd(mesh)
        async with root(mesh) as client:

            async def back() -> bool:
                found = await keys(client, place)
                return found.get(web) == before[web] and f"{place}synced" in found

            await until_async(back, "the same is confirmed in another store", 60)

    asyncio.run(scenario())


def test_restart_within_the_lease_deletes_nothing(mesh: Mesh) -> None:
    """Stopped or killed: every key is put again on the new process's leases before the old end."""

    async def scenario() -> None:
        it = await up(mesh)
        async with root(mesh) as client:
            before = await client.list("cilium/")
            assert it.end(signal.SIGTERM) == 0
            assert await client.get("meshgate/v1/east/leader") is None
            await ready(it.start())
            it.end(signal.SIGKILL)
            assert await client.get("meshgate/v1/east/leader") is not None
            await ready(it.start())
            await asyncio.sleep(LEASE_S + 1)  # what still hangs on an old lease would go
            assert await deletions(client, CACHE, before.revision + 1) == []
            after = {kv.key: kv for kv in (await client.list("cilium/")).kvs}
            for kv in (kv for kv in before.kvs if kv.lease):  # the heartbeat has none
                assert after[kv.key].lease != kv.lease
                if not kv.key.startswith(b"cilium/synced/"):
                    assert after[kv.key].value == kv.value

    asyncio.run(scenario())


def test_wiped_store_comes_back_with_the_same_numbers(mesh: Mesh) -> None:
    """Etcd replaced by an empty one: claims, pods and published keys are restored from memory."""

    async def scenario() -> None:
        it = await up(mesh)
        async with root(mesh) as client:
            before, cilium = await claims(client, "east"), await everything(client, "east")
        mesh.etcd.kill()
        mesh.etcd.wipe()
        place = f"etcd https://{mesh.etcd.address}"
        await until(lambda: ("M151", place, "") in it.findings(), "a finding names etcd")
        await controllers.start_etcd(mesh)
        async with root(mesh) as client:
            await published(client, "east")
            await until(it.leads_and_is_ready, "the controller leads again")
            assert await claims(client, "east") == before
            assert await everything(client, "east") == cilium
            assert await deletions(client, CACHE, 1) == []
        assert it.findings() == []

    asyncio.run(scenario())


def test_two_clusters_keep_each_other_over_a_wiped_store(mesh: Mesh) -> None:
    """Each accepts all of the other; while the store is new, no row of the other goes away."""

    async def scenario() -> None:
        east = await up(mesh)
        mesh.apply_all("west")
        west = await ready(mesh.controller("west").start())
        async with root(mesh) as client:
            await put_pods(client, "west")
            await published(client, "west")
        whole = {"nodes": 2, "identities": 2, "addresses": 8, "services": 1, "synced": True}
        await until(lambda: counts(east, "west") == whole, "east has all of west")
        await until(lambda: counts(west, "east") == whole, "west has all of east")
        assert east.findings() == west.findings() == []
        mesh.etcd.kill()
        mesh.etcd.wipe()
        await controllers.start_etcd(mesh)
        async with root(mesh) as client:
            for cluster in ("east", "west"):
                await published(client, cluster)
            seen = [counts(east, "west"), counts(west, "east")]
            await until(east.leads_and_is_ready, "east leads again")
            await until(west.leads_and_is_ready, "west leads again")
            assert await deletions(client, CACHE, 1) == []
        seen += [counts(east, "west"), counts(west, "east")]
        assert seen == [whole] * 4
        assert east.findings() == west.findings() == []

    asyncio.run(scenario())


def counts(it: Controller, cluster: str) -> dict[str, Any]:
    """What a controller has of a cluster."""
    rows = [row for row in it.rows("cluster") if row["cluster"] == cluster]
    return {key: rows[0][key] for key in WHOLE} if rows else {}


def test_wiped_store_and_restarted_controller(mesh: Mesh) -> None:
    """Even without memory the numbers come back, from the snapshot in its state directory."""

    async def scenario() -> None:
        it = await up(mesh)
        snapshot = it.directory / "state" / "pods.journal"
        await until(
            lambda: snapshot.exists() and len(journal.read(snapshot)) == 4,
            "the pods' snapshot is written",
        )
        async with root(mesh) as client:
            before, cilium = await claims(client, "east"), await everything(client, "east")
        it.end(signal.SIGKILL)
        mesh.etcd.kill()
        mesh.etcd.wipe()
        await controllers.start_etcd(mesh)
        await ready(it.start())
        async with root(mesh) as client:
            await published(client, "east")
            assert await claims(client, "east") == before
            now = await everything(client, "east")
            assert {k: v for k, v in now.items() if k not in _canaries("east")} == {
                k: v for k, v in cilium.items() if k not in _canaries("east")
            }

    asyncio.run(scenario())


def by_key(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["address"], row["number"]))


def test_standby_takes_over(mesh: Mesh) -> None:
    """A second instance waits, leads when the first is killed, and nothing is deleted."""

    async def scenario() -> None:
        first = await up(mesh)
        second = mesh.controller("east", "east-b").start()
        await until(lambda: second.status().get("ready"), "the standby knows everything")
        status = second.status()
        assert (status["leads"], status["leader"], status["findings"]) == (False, "east-a", [])
        assert by_key(second.rows("block")) == by_key(first.rows("block"))
        async with root(mesh) as client:
            revision = (await client.list("cilium/")).revision
            before = await claims(client, "east")
            first.end(signal.SIGKILL)
            await ready(second)
            await asyncio.sleep(LEASE_S)
            assert await deletions(client, CACHE, revision + 1) == []
            assert await claims(client, "east") == before

    asyncio.run(scenario())


def test_controllers_of_another_configuration_never_lead(mesh: Mesh) -> None:
    """Each says both values, also when the first one is gone, and writes nothing."""
    other: dict[str, tuple[dict[str, Any], str, str]] = {
        "podCIDRs": (
            {"pools": {"podCIDRs": [{"cidr": "10.9.0.0/16", "nodePrefix": 24}]}},
            "10.1.0.0_16_24",
            "10.9.0.0_16_24",
        ),
        "id": ({"cluster": {"name": "east", "id": 9}}, "1", "9"),
        "blockSize": ({"egress": {"blockSize": 512}}, "256", "512"),
    }

    async def scenario() -> None:
        first, key = await up(mesh), "meshgate/v1/east/config"
        started = {
            field: mesh.controller("east", f"east-{field.lower()}", **fields).start()
            for field, (fields, _, _) in other.items()
        }
        for field, (_, theirs, mine) in other.items():
            it = started[field]
            await until(lambda it=it, at=field: ("M146", key, at) in it.findings(), field)
            text = next(f["text"] for f in it.status()["findings"] if f["field"] == field)
            assert theirs in text
            assert mine in text
        first.end(signal.SIGTERM)
        async with root(mesh) as client:
            before = await client.list("meshgate/v1/east/")
            await asyncio.sleep(2)  # two more looks of each
            after = await client.list("meshgate/v1/east/")
        assert not any(it.status()["leads"] for it in started.values())
        assert [kv.value for kv in after.kvs] == [kv.value for kv in before.kvs]

    asyncio.run(scenario())


def test_second_cluster_with_our_id_never_leads(mesh: Mesh) -> None:
    """Its finding names both clusters."""

    async def scenario() -> None:
        await up(mesh)
        mesh.apply_all("west")
        other = mesh.controller("west", cluster={"name": "west", "id": 1}).start()
        key = wire.config_key("east")
        await until(lambda: ("M147", key, "id") in other.findings(), "the finding")
        text = next(f["text"] for f in other.status()["findings"] if f["code"] == "M147")
        assert "west" in text
        assert "east" in text
        async with root(mesh) as client:
            assert await everything(client, "west") == {}

    asyncio.run(scenario())


def test_violations_of_a_peer_are_findings(mesh: Mesh) -> None:
    """Each names the etcd key and the field, other rows go on, and it heals."""

    async def scenario() -> None:
        it = await up(mesh)
        node = Node("west", "west-1", (), (ip_network("10.1.0.0/24"),))
        bad = {
            wire.node_key("west", "west-1"): (wire.node_value(node, 2), "M129", "IPv4AllocCIDR"),
            wire.identity_key("west", 7): (b"k8s:a=b;", "M126", "id"),
            wire.service_key("west", "shop", "web"): (b"{", "M133", ""),
        }
        async with root(mesh) as client:
            await client.put(wire.config_key("west"), wire.cluster_config(2))
            await client.put(wire.identity_key("west", 2 << 16 | 5), _labels("west"))
            for key, (value, _, _) in bad.items():
                await client.put(key, value)
            expected = sorted((code, key, field) for key, (_, code, field) in bad.items())
            expected.append(("M148", "meshgate/v1/east/config", "podCIDRs"))
            await until(lambda: it.findings() == sorted(expected), "one finding each")
            assert [row["id"] for row in it.rows("identity") if row["cluster"] == "west"] == [
                2 << 16 | 5
            ]
            for key in bad:
                await client.delete(key)
            await until(lambda: it.findings() == [], "it heals")

    asyncio.run(scenario())


def test_prefixes_that_another_cluster_publishes_are_not_given_away(mesh: Mesh) -> None:
    """Subnets of our pool that somebody has are skipped; the finding names both."""

    async def scenario() -> None:
        await controllers.start_etcd(mesh)
        node = Node("west", "west-1", (), (ip_network("10.1.0.0/23"),))
        async with root(mesh) as client:
            await client.put(wire.node_key("west", "west-1"), wire.node_value(node, 2))
        mesh.apply_all("east")
        it = await ready(mesh.controller("east").start())
        cidrs = {row["podCIDRs"][0] for row in it.rows("node") if row["cluster"] == "east"}
        assert cidrs == {"10.1.2.0/24", "10.1.3.0/24"}
        texts = {f["code"]: f["text"] for f in it.status()["findings"]}
        assert "10.1.0.0/16 overlaps 10.1.0.0/23 of cluster west" in texts["M148"]

    asyncio.run(scenario())


def test_blocks_that_nobody_needs_rest(mesh: Mesh) -> None:
    """A node that hosts no covered pod any more gives its blocks back; others keep theirs."""

    async def scenario() -> None:
        it = await up(mesh)
        kept = by_key([row for row in it.rows("block") if row["node"] == "east-1"])
        async with root(mesh) as client:
            await client.put("meshgate/v1/east/demand/east-2", b"{}")  # as its agent says it
        pods = [controllers.pod(*args) for args in (("web", "east-2", 2), ("client", "east-1", 1))]
        mesh.apply("east", "pods", *pods)
        await until(lambda: len(it.rows("block")) == 4, "the blocks of east-2 are given back")
        assert by_key(it.rows("block")) == kept
        async with root(mesh) as client:
            found = await keys(client, "meshgate/v1/east/block/")
        released = [v for k, v in found.items() if "/number/" in k and _released(v)]
        assert len(released) == 4

    asyncio.run(scenario())


def test_a_node_that_uses_its_blocks_gets_one_more(
    mesh: Mesh, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within a few tens of milliseconds: from the node's word to the claim in etcd."""
    address = "198.51.100.10"
    place = f"meshgate/v1/east/block/{address}/number/"

    async def scenario() -> list[float]:
        it = await up(mesh)
        waits = []
        async with root(mesh) as client:

            async def held(count: int) -> bool:
                found = (await keys(client, place)).values()
                return sum(b"east-1/" in v and not _released(v) for v in found) == count

            for used in (4, 8, 16, 31):
                begin = time.monotonic()
                word = json.dumps({address: used}).encode()
                await client.put("meshgate/v1/east/demand/east-1", word)
                while not await held(used + 1):
                    assert time.monotonic() - begin < 20
                    await asyncio.sleep(0.002)
                waits.append(time.monotonic() - begin)
            await client.put("meshgate/v1/east/demand/east-1", b"{}")
            await until_async(lambda: held(2), "the others rest", 20)
        assert len([row for row in it.rows("block") if row["address"] == address]) == 4
        return waits

    waits = asyncio.run(scenario())
    with capsys.disabled():
        text = ", ".join(f"{1000 * wait:.0f}" for wait in waits)
        sys.stdout.write(f"\nms until 3, 4, 8 and 15 further blocks are claimed: {text}\n")


def test_pool_without_room_is_a_finding(mesh: Mesh) -> None:
    """The node that got nothing is named; the other one is published."""

    async def scenario() -> None:
        await controllers.start_etcd(mesh)
        mesh.apply_all("east")
        pools = {"podCIDRs": [{"cidr": "10.1.0.0/24", "nodePrefix": 24}]}
        it = mesh.controller("east", pools=pools).start()
        await until(lambda: any(code == "M145" for code, _, _ in it.findings()), "the pool is full")
        async with root(mesh) as client:
            await until_async(
                lambda: _count(client, f"{wire.NODES}east/", 1), "one node is published"
            )

    asyncio.run(scenario())


def test_controller_starts_without_etcd(mesh: Mesh) -> None:
    """It serves its tables and says in words what is missing; then it leads."""

    async def scenario() -> None:
        mesh.apply_all("east")
        it = mesh.controller("east").start()
        await until(lambda: it.findings() != [], "a finding")
        text = next(f["text"] for f in it.status()["findings"] if f["code"] == "M151")
        assert mesh.etcd.address in text
        await controllers.start_etcd(mesh)
        await ready(it)
        assert it.findings() == []

    asyncio.run(scenario())


def test_controllers_racing_for_claims(mesh: Mesh) -> None:
    """Two of them, 500 label sets, SIGSTOP past the lease: no number twice, no set with two.

    Nobody's number ever changes hands, and nothing published is deleted.
    """

    async def scenario() -> None:
        await controllers.start_etcd(mesh)
        mesh.apply_all("east")
        both = [mesh.controller("east", f"east-{n}", leaseSeconds=9).start() for n in "ab"]
        await until(lambda: any(it.leads_and_is_ready() for it in both), "one of them leads")
        chance = random.Random(6)
        for part in range(5):
            leader = next(it for it in both if it.status().get("leads"))
            mesh.apply("east", f"load-{part}", *(_labelled(part, n) for n in range(100)))
            await asyncio.sleep(chance.uniform(0, 0.3))  # anywhere in the middle of its claims
            leader.send(signal.SIGSTOP)
            other = next(it for it in both if it is not leader)
            await until(other.leads_and_is_ready, f"{other.instance} leads")
            leader.send(signal.SIGCONT)
        await until(lambda: len(both[0].rows("identity")) == 502, "502 identities")
        async with root(mesh) as client:
            history = await owners(client, "meshgate/v1/east/identity/")
            assert all(len(set(names)) == 1 for names in history.values())
            found = await claims(client, "east")
            numbers = {k: v for k, v in found.items() if "/identity/labels/number/" in k}
            sets = {k: v for k, v in found.items() if "/identity/labels/owner/" in k}
            assert len(set(numbers.values())) == len(numbers) == 502
            assert {key.rpartition("/")[2]: owner for key, owner in numbers.items()} == {
                str(number): key.partition("/owner/")[2] for key, number in sets.items()
            }
            assert await deletions(client, CACHE, 1) == []

    asyncio.run(scenario())


def _labelled(part: int, number: int) -> dict[str, Any]:
    name = f"load-{part}-{number}"
    meta = {"labels": {"load": name}}
    return controllers.manifest("Pod", name, "shop", meta=meta, spec={"nodeName": "east-1"})


def _canaries(cluster: str) -> set[str]:
    return {wire.canary_key(cluster, prefix) for prefix in publish.PREFIXES}


def _labels(cluster: str) -> bytes:
    return f"k8s:app=x;{wire.CLUSTER_LABEL}={cluster};".encode()


def _released(value: bytes) -> bool:
    return bool(msgspec.json.decode(value)["released"])


async def _count(client: Any, prefix: str, count: int) -> bool:
    return len(await keys(client, prefix)) == count
