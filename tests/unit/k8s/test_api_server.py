"""The API server as a source of objects, when something is wrong: what happens to the rows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_api_server import NAMESPACES, PODS, Document, FakeApiServer

from gateway.policy import POLICIES
from mesh.core.model import PodKey
from mesh.k8s import watches
from mesh.k8s.findings import IN_BOTH
from mesh.k8s.source import ApiServer
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NAMESPACES as NAMESPACE
from mesh.objects.kubernetes import PODS as POD
from mesh.objects.manifests import Manifests
from mesh.objects.sources import Sources

pytestmark = pytest.mark.slow

EGRESS = "/apis/meshgate.io/v1alpha1/egresspolicies"
CILIUM = "/apis/cilium.io/v2/ciliumegressgatewaypolicies"
RESOURCE = "ciliumegressgatewaypolicies.cilium.io"
WAIT_S = 10.0
Test = Callable[[FakeApiServer, Path], Coroutine[Any, Any, None]]


def pod(name: str, namespace: str = "shop", node: str = "east-1", **metadata: object) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": {"nodeName": node},
    }


def policy(name: str, address: str) -> Document:
    return {
        "apiVersion": "meshgate.io/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": name},
        "spec": {
            "selectors": [{"podSelector": {}}],
            "destinationCIDRs": ["192.0.2.0/24"],
            "addresses": [address],
            "gateways": {"nodeSelector": {}},
        },
    }


def cilium_policy(name: str) -> Document:
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": name},
        "spec": {
            "selectors": [{"podSelector": {}}],
            "destinationCIDRs": ["192.0.2.0/24"],
            "egressGateway": {
                "nodeSelector": {"matchLabels": {"role": "gateway"}},
                "egressIP": "198.51.100.10",
            },
        },
    }


def run(test: Test, folder: Path, collections: tuple[str, ...] = (NAMESPACES, PODS)) -> None:
    async def serve() -> None:
        async with FakeApiServer(collections).serve() as server:
            await test(server, folder)

    asyncio.run(serve())


def source(
    server: FakeApiServer,
    folder: Path,
    *,
    state: Path | None = None,
    accepted: set[str] | None = None,
    silence_s: float = 5.0,
    nouns: tuple[Any, ...] = (NAMESPACE, POD),
    node: str = "",
) -> ApiServer:
    chosen = watches.of_nouns(KINDS, nouns)
    if node:
        chosen = tuple(one for one in watches.of_agent(KINDS, node) if one.kind.noun in nouns)
    return ApiServer(
        server.api(folder, silence_s), chosen, "east", state,
        kinds=KINDS, accepted=lambda: accepted or set(), pauses=(0.01, 0.05), absent_s=0.05,
    )  # fmt: skip


@asynccontextmanager
async def running(one: ApiServer) -> AsyncIterator[ApiServer]:
    task = asyncio.create_task(one.run())
    try:
        yield one
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not holds():
            await asyncio.sleep(0.005)


def pods(one: ApiServer) -> list[str]:
    return sorted(f"{key.namespace}/{key.name}" for key in one.objects[POD].rows)


def codes(one: ApiServer) -> list[tuple[str, str]]:
    rows = [*one.objects.findings.rows.values(), *one.findings()]
    return sorted((found.code, found.field) for found in rows)


def test_a_list_of_many_pages_is_complete_before_anything_counts_as_synced(tmp_path: Path) -> None:
    async def test(server: FakeApiServer, folder: Path) -> None:
        for number in range(1200):
            server.put(PODS, pod(f"p{number}"))
        async with running(source(server, folder)) as one:
            await until(lambda: one.objects[POD].synced)
            assert len(one.objects[POD].rows) == 1200
            assert server.asked.count(f"continue {PODS}") == 2
            server.put(PODS, pod("p1", node="east-2"))
            server.delete(PODS, "shop/p2")
            await until(lambda: len(one.objects[POD].rows) == 1199)
            assert one.objects[POD].rows[PodKey("east", "shop", "p1")].node == "east-2"

    run(test, tmp_path)


def test_two_namespaces_may_have_the_same_name(tmp_path: Path) -> None:
    async def test(server: FakeApiServer, folder: Path) -> None:
        server.put(PODS, pod("web", "a"))
        server.put(PODS, pod("web", "b"))
        async with running(source(server, folder)) as one:
            await until(lambda: pods(one) == ["a/web", "b/web"])
            server.delete(PODS, "a/web")
            await until(lambda: pods(one) == ["b/web"])

    run(test, tmp_path)


@pytest.mark.parametrize("as_status", [True, False], ids=["status", "event"])
def test_what_was_deleted_while_events_were_lost_is_deleted(
    tmp_path: Path, *, as_status: bool
) -> None:
    async def test(server: FakeApiServer, folder: Path) -> None:
        server.gone_as_status = as_status
        server.put(PODS, pod("p1"))
        server.put(PODS, pod("p2"))
        async with running(source(server, folder)) as one:
            await until(lambda: f"watch {PODS}" in server.asked)
            revision = one.objects[POD].revision
            server.delete(PODS, "shop/p1", unseen=True)
            server.forget()
            await until(lambda: pods(one) == ["shop/p2"])
            assert one.objects[POD].revision == revision + 1, "p2 was not written again"

    run(test, tmp_path)


def test_a_list_whose_page_is_gone_begins_anew(tmp_path: Path) -> None:
    async def test(server: FakeApiServer, folder: Path) -> None:
        server.gone_pages = 2
        for number in range(600):
            server.put(PODS, pod(f"p{number}"))
        async with running(source(server, folder)) as one:
            await until(lambda: one.objects[POD].synced)
            assert len(one.objects[POD].rows) == 600
            assert server.asked.count(f"list {PODS}") == 3

    run(test, tmp_path)


def test_a_list_that_breaks_off_deletes_nothing(tmp_path: Path) -> None:
    async def test(server: FakeApiServer, folder: Path) -> None:
        for number in range(600):
            server.put(PODS, pod(f"p{number}"))
        async with running(source(server, folder)) as one:
            await until(lambda: one.objects[POD].synced)
            server.gone_pages = 5
            server.forget()
            await until(lambda: not server.gone_pages)
            assert len(one.objects[POD].rows) == 600

    run(test, tmp_path)


def test_bookmarks_move_the_place_where_the_next_watch_begins(tmp_path: Path) -> None:
    async def test(server: FakeApiServer, folder: Path) -> None:
        server.put(PODS, pod("p1"))
        async with running(source(server, folder)) as one:
            await until(lambda: f"watch {PODS}" in server.asked)
            for _ in range(5):  # events of another kind
                server.put(NAMESPACES, {"metadata": {"name": f"n{server.revision}"}})
            server.bookmark(PODS)
            server.bookmark(NAMESPACES)
            await until(lambda: len(one.objects[NAMESPACE].rows) == 5)
            await until(lambda: server.told == server.revision)
            server.oldest = server.revision
            server.cut()
            await until(lambda: server.asked.count(f"watch {PODS}") > 1)
            server.put(PODS, pod("p2"))
            await until(lambda: pods(one) == ["shop/p1", "shop/p2"])
            assert server.asked.count(f"list {PODS}") == 1

    run(test, tmp_path)


def test_a_silent_connection_is_given_up(tmp_path: Path) -> None:
    async def test(server: FakeApiServer, folder: Path) -> None:
        async with running(source(server, folder, silence_s=0.2)) as one:
            await until(lambda: f"watch {PODS}" in server.asked)
            server.silent = True
            server.put(PODS, pod("p1"))
            await until(lambda: server.told == server.revision)
            server.silent = False
            await until(lambda: pods(one) == ["shop/p1"])

    run(test, tmp_path)


def test_an_object_may_be_longer_than_a_buffer(tmp_path: Path) -> None:
    async def test(server: FakeApiServer, folder: Path) -> None:
        async with running(source(server, folder)) as one:
            await until(lambda: f"watch {PODS}" in server.asked)
            server.put(PODS, pod("long", annotations={"a": "x" * 3_000_000}))
            server.put(PODS, pod("short"))
            await until(lambda: pods(one) == ["shop/long", "shop/short"])

    run(test, tmp_path)


def test_a_refused_token_is_read_again(tmp_path: Path) -> None:
    async def test(server: FakeApiServer, folder: Path) -> None:
        server.put(PODS, pod("p1"))
        server.token = "first"  # noqa: S105
        async with running(source(server, folder)) as one:
            await until(lambda: pods(one) == ["shop/p1"])
            server.token = "second"  # noqa: S105
            server.cut()
            await until(lambda: ("M201", "") in codes(one))
            assert pods(one) == ["shop/p1"]
            (folder / "token").write_text("second")
            await until(lambda: not codes(one))
            server.put(PODS, pod("p2"))
            await until(lambda: pods(one) == ["shop/p1", "shop/p2"])

    run(test, tmp_path)


def test_a_kind_that_may_not_be_read_holds_up_itself_alone(tmp_path: Path) -> None:
    async def test(server: FakeApiServer, folder: Path) -> None:
        server.put(PODS, pod("p1"))
        server.put(NAMESPACES, {"metadata": {"name": "shop"}})
        server.refused[PODS] = 403
        async with running(source(server, folder)) as one:
            await until(lambda: one.objects[NAMESPACE].synced and codes(one))
            assert codes(one) == [("M202", "list pods")]
            assert not one.objects[POD].synced
            server.refused.clear()
            await until(lambda: one.objects[POD].synced)
            assert (pods(one), codes(one)) == (["shop/p1"], [])
            server.refused[PODS] = 403
            server.cut()
            await until(lambda: codes(one) == [("M202", "watch pods")])
            assert pods(one) == ["shop/p1"]

    run(test, tmp_path)


def test_an_own_kind_without_a_definition_is_a_finding_and_one_of_others_is_awaited(
    tmp_path: Path,
) -> None:
    async def test(server: FakeApiServer, folder: Path) -> None:
        async with running(source(server, folder, nouns=(POLICIES,))) as one:
            await until(lambda: codes(one))
            assert codes(one) == [("M203", "list egresspolicies.meshgate.io")]
            assert not one.objects[POLICIES].synced
            server.objects[EGRESS] = {}
            await until(lambda: one.objects[POLICIES].synced)
            assert not codes(one)
            server.objects[CILIUM] = {}
            server.put(CILIUM, cilium_policy("erp"))
            await until(lambda: list(one.objects[POLICIES].rows) == ["erp"])
            del server.objects[CILIUM]  # its definition is deleted
            server.cut()
            await until(lambda: not one.objects[POLICIES].rows)

    run(test, tmp_path)


def test_of_two_objects_of_one_name_the_first_kind_counts(tmp_path: Path) -> None:
    async def test(server: FakeApiServer, folder: Path) -> None:
        server.put(CILIUM, cilium_policy("erp"))
        server.put(EGRESS, policy("erp", "198.51.100.11"))
        async with running(source(server, folder, nouns=(POLICIES,))) as one:
            await until(lambda: one.objects[POLICIES].synced)
            row = one.objects[POLICIES].rows["erp"]
            assert row.origin == "CiliumEgressGatewayPolicy/erp"
            (found,) = one.objects.findings.rows.values()
            assert (found.code, found.object) == ("M104", "EgressPolicy/erp")
            server.delete(CILIUM, "/erp")
            await until(lambda: one.objects[POLICIES].rows["erp"].origin == "EgressPolicy/erp")
            assert not codes(one)

    run(test, tmp_path, (NAMESPACES, EGRESS, CILIUM))


def test_an_object_that_becomes_wrong_keeps_its_row_also_over_a_restart(tmp_path: Path) -> None:
    async def test(server: FakeApiServer, folder: Path) -> None:
        state, nouns = folder / "state", (POLICIES,)
        server.put(EGRESS, policy("erp", "198.51.100.10"))
        server.put(EGRESS, policy("never", "no address"))
        async with running(source(server, folder, nouns=nouns, state=state)) as one:
            await until(lambda: one.objects[POLICIES].synced)
            row = one.objects[POLICIES].rows["erp"]
            await until((state / "apiserver.journal").exists)
            server.put(EGRESS, policy("erp", "300.0.0.1"))
            await until(lambda: len(codes(one)) == 2)
            assert one.objects[POLICIES].rows == {"erp": row}
        async with running(source(server, folder, nouns=nouns, state=state)) as one:
            await until(lambda: one.objects[POLICIES].synced)
            assert one.objects[POLICIES].rows == {"erp": row}
            texts = {f.object: f.text for f in one.objects.findings.rows.values()}
            assert texts["EgressPolicy/erp"].endswith("; it stays as it was")
            assert "stays" not in texts["EgressPolicy/never"]
            server.delete(EGRESS, "/erp")
            await until(lambda: not one.objects[POLICIES].rows)

    run(test, tmp_path, (NAMESPACES, EGRESS))


def test_another_api_server_changes_nothing_until_it_is_accepted(tmp_path: Path) -> None:
    async def test(server: FakeApiServer, folder: Path) -> None:
        state, accepted = folder / "state", set[str]()
        server.put(PODS, pod("p1"))
        async with running(source(server, folder, state=state, accepted=accepted)) as one:
            await until(lambda: one.objects[POD].synced)
        server.replace("uid-2")
        async with running(source(server, folder, state=state, accepted=accepted)) as one:
            await until(lambda: codes(one))
            assert codes(one) == [("M204", "")]
            assert not one.objects[POD].synced
            accepted.add("uid-2")
            await until(lambda: one.objects[POD].synced)
            assert json.loads((state / "apiserver.json").read_text()) == {"uid": "uid-2"}
            await until(lambda: not codes(one))

    run(test, tmp_path)


def test_an_api_server_that_is_replaced_while_it_is_watched_deletes_nothing(tmp_path: Path) -> None:
    async def test(server: FakeApiServer, folder: Path) -> None:
        accepted = set[str]()
        server.put(PODS, pod("p1"))
        async with running(source(server, folder, accepted=accepted)) as one:
            await until(lambda: f"watch {PODS}" in server.asked and one.objects[POD].synced)
            server.replace("uid-2")
            await until(lambda: codes(one) == [("M204", "")])
            server.put(PODS, pod("of another cluster"))
            asked = len(server.asked)
            await until(lambda: server.asked[asked:].count("who") > 3)
            assert pods(one) == ["shop/p1"]
            server.delete(PODS, "shop/of another cluster")
            accepted.add("uid-2")
            await until(lambda: not pods(one))
            await until(lambda: not codes(one))

    run(test, tmp_path)


def test_nothing_is_written_before_all_is_listed_nor_to_another_api_server(tmp_path: Path) -> None:
    """The fake takes no writes: one that is tried is a finding."""

    async def test(server: FakeApiServer, folder: Path) -> None:
        server.put(EGRESS, policy("erp", "198.51.100.10"))
        server.refused[CILIUM] = 403
        one = source(server, folder, nouns=(POLICIES,))
        task = asyncio.create_task(
            one.write_back(tuple, lambda: True, lambda *_: (), look_s=0.01)()
        )
        async with running(one):
            await until(lambda: codes(one) == [("M202", f"list {RESOURCE}")])
            await until(lambda: server.asked.count(f"list {CILIUM}") > 3)
            assert codes(one) == [("M202", f"list {RESOURCE}")]
            server.refused.clear()
            await until(lambda: codes(one) == [("M209", "patch status")])
            server.replace("uid-2")
            await until(lambda: codes(one) == [("M204", "")])
        task.cancel()

    run(test, tmp_path, (NAMESPACES, EGRESS, CILIUM))


def test_another_api_server_without_a_kind_deletes_nothing_of_it(tmp_path: Path) -> None:
    async def test(server: FakeApiServer, folder: Path) -> None:
        accepted = set[str]()
        server.put(CILIUM, cilium_policy("erp"))
        nouns = (POLICIES,)
        async with running(source(server, folder, accepted=accepted, nouns=nouns)) as one:
            await until(lambda: one.objects[POLICIES].synced)
            server.replace("uid-2")
            del server.objects[CILIUM]
            await until(lambda: codes(one) == [("M204", "")])
            asked = len(server.asked)
            await until(lambda: server.asked[asked:].count(f"list {CILIUM}") > 3)
            assert list(one.objects[POLICIES].rows) == ["erp"]
            accepted.add("uid-2")
            await until(lambda: not one.objects[POLICIES].rows)

    run(test, tmp_path, (NAMESPACES, EGRESS, CILIUM))


def test_a_store_that_was_set_back_is_listed_again(tmp_path: Path) -> None:
    async def test(server: FakeApiServer, folder: Path) -> None:
        server.put(PODS, pod("p1"))
        server.put(PODS, pod("p2"))
        async with running(source(server, folder)) as one:
            await until(lambda: f"watch {PODS}" in server.asked)
            await until(lambda: len(pods(one)) == 2)
            del server.objects[PODS]["shop/p2"]  # it was not there yet
            server.set_back(50)
            await until(lambda: pods(one) == ["shop/p1"])

    run(test, tmp_path)


def test_rows_stay_while_the_api_server_is_away_and_attempts_are_paced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.k8s.source.AWAY_S", 0.1)

    async def test(folder: Path) -> None:
        server = FakeApiServer()
        async with server.serve():
            server.put(PODS, pod("p1"))
            one = source(server, folder)
            task = asyncio.create_task(one.run())
            await until(lambda: one.objects[POD].synced)
        await until(lambda: codes(one) == [("M200", "")])
        assert pods(one) == ["shop/p1"]
        (found,) = one.findings()
        assert "no answer for" in found.text
        server.delete(PODS, "shop/p1")
        server.put(PODS, pod("p2"))
        async with server.serve():
            await until(lambda: pods(one) == ["shop/p2"])
            await until(lambda: not codes(one))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(test(tmp_path))


def test_an_agent_hears_of_the_pods_of_its_node_alone(tmp_path: Path) -> None:
    async def test(server: FakeApiServer, folder: Path) -> None:
        server.put(PODS, pod("p1"))
        server.put(PODS, pod("p2", node="east-2"))
        async with running(source(server, folder, node="east-1")) as one:
            await until(lambda: one.objects[POD].synced)
            server.put(PODS, pod("p3", node="east-2"))
            server.put(PODS, pod("p4"))
            await until(lambda: pods(one) == ["shop/p1", "shop/p4"])

    run(test, tmp_path)


def test_of_an_object_in_both_sources_the_folders_counts(tmp_path: Path) -> None:
    async def test(server: FakeApiServer, folder: Path) -> None:
        manifests = folder / "manifests"
        manifests.mkdir()
        (manifests / "p.json").write_text(json.dumps(pod("p1", node="east-9")))
        server.put(PODS, pod("p1"))
        server.put(PODS, pod("p2"))
        of_folder = Manifests(manifests, "east", interval_s=0.01, kinds=KINDS)
        one = source(server, folder)
        both = Sources({"manifests": of_folder, "API server": one}, KINDS, IN_BOTH)
        rows = both.objects[POD].rows
        tasks = [asyncio.create_task(job()) for job in both.jobs().values()]
        await until(lambda: both.objects[POD].synced and len(rows) == 2)
        first = PodKey("east", "shop", "p1")
        assert rows[first].node == "east-9"
        await until(lambda: [f.code for f in both.findings()] == ["M205"])
        (found,) = both.findings()
        assert found.object == "Pod/shop/p1"
        assert found.text == f"also in {manifests}/p.json Pod/shop/p1, which counts"
        (manifests / "p.json").unlink()
        await until(lambda: rows[first].node == "east-1")
        assert not list(both.findings())
        server.delete(PODS, "shop/p1")
        await until(lambda: [key.name for key in rows] == ["p2"])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(test, tmp_path)
