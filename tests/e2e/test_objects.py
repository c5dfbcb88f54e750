"""Objects from a real API server: the same rows as from a folder, and what happens to them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from bgp.peer import PEERS
from gateway.policy import POLICIES
from mesh import sources
from mesh.config import load_agent, load_controller, load_speaker
from mesh.controller import Controller
from mesh.core.findings import Code
from mesh.core.model import Finding
from mesh.k8s import watches, write_back
from mesh.k8s.access import Access
from mesh.k8s.api import Api
from mesh.k8s.settings import Kubernetes
from mesh.k8s.source import ApiServer
from mesh.k8s.watches import Watch
from mesh.objects import crds
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import HOST_PODS, NODES, PODS
from mesh.objects.manifests import Manifests
from mesh.objects.tables import Objects
from mesh.services.kinds import SERVICES, SLICES
from mesh.speaker import READS, Speaker
from srv6.vrf.kind import VRFS
from tests.e2e import api_server
from tests.e2e.test_definitions import VALID, document

WAIT_S = 60.0
USER, CILIUM = "reader", "ciliumegressgatewaypolicies.cilium.io"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
Document = dict[str, Any]


def node(name: str, address: str) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"role": "gateway"}},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


def pod(name: str, on: str, **spec: object) -> Document:
    container = {"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"containers": [container], **({"nodeName": on} if on else {}), **spec},
    }


def service(name: str) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]},
    }


def endpoints(name: str) -> Document:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-1",
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"port": 8080, "protocol": "TCP", "name": ""}],
        "endpoints": [{"addresses": ["10.1.0.2"]}],
    }


def cilium_policy() -> Document:
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": "from-cilium"},
        "spec": {
            "selectors": [{"podSelector": {"matchLabels": {"app": "web"}}}],
            "destinationCIDRs": ["192.0.2.0/24"],
            "egressGateway": {
                "nodeSelector": {"matchLabels": {"role": "gateway"}},
                "egressIP": "198.51.100.10",
            },
        },
    }


def cilium_definition() -> Document:
    kind = "CiliumEgressGatewayPolicy"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    plural = CILIUM.partition(".")[0]
    names = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
    version = {
        "name": "v2",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": CILIUM},
        "spec": {"group": "cilium.io", "scope": "Cluster", "names": names, "versions": [version]},
    }


def path_of(made: Document, *, whole: bool = False) -> str:
    """Path of the collection of a document's kind, in its namespace unless ``whole``."""
    (watch,) = [
        one
        for one in watches.of_controller(KINDS)
        if (one.kind.api_version, one.kind.kind) == (made["apiVersion"], made["kind"])
    ]
    namespace = made["metadata"].get("namespace")
    if whole or not namespace:
        return watch.path
    head, _, plural = watch.path.rpartition("/")
    return f"{head}/namespaces/{namespace}/{plural}"


class Server(api_server.ApiServer):
    """The API server with our definitions and some objects."""

    def make(self, made: Document) -> Document:
        status, answer = self.ask("POST", path_of(made), made)
        assert status == 201, answer["message"]
        found: Document = answer
        return found

    def remove(self, made: Document) -> None:
        self.ask("DELETE", f"{path_of(made)}/{made['metadata']['name']}?gracePeriodSeconds=0")

    def define(self, definition: Any) -> None:
        """Create a definition and wait until its kind is served."""
        status, answer = self.ask("POST", CRDS, definition)
        assert status in (201, 409), answer["message"]
        spec = definition["spec"]
        version, plural = spec["versions"][0]["name"], spec["names"]["plural"]
        end = time.monotonic() + WAIT_S
        while self.ask("GET", f"/apis/{spec['group']}/{version}/{plural}")[0] != 200:
            assert time.monotonic() < end, f"not served: {plural}"
            time.sleep(0.1)

    def fill(self) -> None:
        """Objects of each kind that is read."""
        for one in crds.definitions():
            self.define(one)
        self.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
        for number in (1, 2):
            self.make(node(f"east-{number}", f"10.99.0.{10 + number}"))
        for kind, spec in VALID.items():
            self.make(document(kind, spec))
        for made in (pod("web-1", "east-1"), pod("web-2", "east-2"), pod("pending", "")):
            self.make(made)
        self.make(pod("host", "east-1", hostNetwork=True))
        self.make(service("web"))
        self.make(endpoints("web"))

    def documents(self) -> Iterator[Document]:
        """Every object as the API server has it."""
        for watch in watches.of_controller(KINDS):
            status, answer = self.ask("GET", watch.path)
            for item in answer["items"] if status == 200 else ():
                yield {"apiVersion": watch.kind.api_version, "kind": watch.kind.kind, **item}

    def grant(self) -> None:
        """Let the user read everything."""
        kinds = watches.of_controller(KINDS)
        rules = [
            {
                "apiGroups": [one.kind.group],
                "resources": [one.resource.partition(".")[0]],
                "verbs": ["get", "list", "watch"],
            }
            for one in kinds
        ]
        role = {"metadata": {"name": USER}, "rules": rules}
        self.ask("POST", f"{RBAC}/clusterroles", role)
        self.bind()

    def bind(self, subject: Document | None = None, role: str = USER) -> None:
        binding = {
            "metadata": {"name": role},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": role,
            },
            "subjects": [subject or {"kind": "User", "name": USER}],
        }
        status, answer = self.ask("POST", f"{RBAC}/clusterrolebindings", binding)
        assert status == 201, answer["message"]

    def grant_nodes(self) -> None:
        """Let the user read nodes, and which API server it is: what a speaker needs at least."""
        rules = [
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]},
            {
                "apiGroups": [""],
                "resources": ["namespaces"],
                "resourceNames": ["kube-system"],
                "verbs": ["list"],
            },
        ]
        role = {"metadata": {"name": f"{USER}-nodes"}, "rules": rules}
        self.ask("POST", f"{RBAC}/clusterroles", role)
        self.bind(role=f"{USER}-nodes")

    def grant_writes(self) -> None:
        """Let the user write what a leader writes."""
        plurals = [one["spec"]["names"]["plural"] for one in crds.definitions()]
        rules = [
            {
                "apiGroups": ["meshgate.io"],
                "resources": [f"{plural}/status" for plural in plurals],
                "verbs": ["patch"],
            },
            {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
        ]
        role = {"metadata": {"name": f"{USER}-writes"}, "rules": rules}
        self.ask("POST", f"{RBAC}/clusterroles", role)
        self.bind(role=f"{USER}-writes")

    def unbind(self) -> None:
        self.ask("DELETE", f"{RBAC}/clusterrolebindings/{USER}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("api"), (USER,))
    try:
        made.start()
        made.fill()
        yield made
    finally:
        made.stop()


def source(
    kubeconfig: Path,
    chosen: Sequence[Watch] | None = None,
    state: Path | None = None,
    accepted: set[str] | None = None,
    life_s: int = 300,
) -> ApiServer:
    chosen = watches.of_controller(KINDS) if chosen is None else chosen
    return ApiServer(
        Api(Access(Kubernetes(kubeconfig=kubeconfig))), chosen, "east", state,
        kinds=KINDS, accepted=lambda: accepted or set(), life_s=life_s, absent_s=1.0,
    )  # fmt: skip


@asynccontextmanager
async def running(one: ApiServer | sources.Sources) -> AsyncIterator[None]:
    jobs = [one.run] if isinstance(one, ApiServer) else one.jobs().values()
    tasks = [asyncio.create_task(job()) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(holds: Callable[[], object], shown: Callable[[], object] = str) -> None:
    """``shown`` is what a failure shows."""
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end, f"waited for {WAIT_S} s: {shown()}"
        await asyncio.sleep(0.02)


def codes(one: ApiServer) -> list[tuple[str, str]]:
    return sorted((found.code, found.field) for found in one.findings())


def names(objects: Objects) -> list[str]:
    return sorted(key.name for key in objects[PODS].rows)


def plain(objects: Objects) -> dict[str, dict[Any, Any]]:
    """Rows by noun, without the places of their documents."""
    tables = objects.tables()
    return {
        noun: {key: _placeless(row) for key, row in table.rows.items()}
        for noun, table in tables.items()
    }


def _placeless(row: Any) -> Any:
    has = is_dataclass(row) and "origin" in {field.name for field in fields(row)}
    return replace(row, origin="") if has and not isinstance(row, type) else row


def folder(server: Server, place: Path) -> Objects:
    """The same documents as a folder of manifests."""
    place.mkdir()
    for number, made in enumerate(server.documents()):
        (place / f"{number}.json").write_text(json.dumps(made))
    manifests = Manifests(place, "east", kinds=KINDS)
    time.sleep(0.3)  # files rest before they are read
    manifests.scan()
    manifests.scan()
    assert all(table.synced for table in manifests.objects.tables().values())
    return manifests.objects


def configuration(server: Server, place: Path, role: str) -> Path:
    """A real configuration whose objects come from the API server."""
    common: Document = {
        "cluster": {"name": "east", "id": 1},
        "kubernetes": {"kubeconfig": str(server.kubeconfig())},
        "etcd": {"endpoints": ["http://127.0.0.1:1"]},
        "socket": str(place / f"{role}.sock"),
    }
    own: dict[str, Document] = {
        "agent": {
            "node": "east-1",
            "bpffs": "/sys/fs/bpf/none",
            "cgroup": "/sys/fs/cgroup",
            "uplink": "lo",
            "podNetns": "/run/netns/{namespace}_{name}",
            "stateDir": str(place / role),
        },
        "controller": {
            "instance": "c1",
            "pools": {"podCIDRs": [{"cidr": "10.1.0.0/16", "nodePrefix": 24}]},
            "stateDir": str(place / role),
        },
        "speaker": {"node": "east-1", "runDir": str(place / role), "exabgpUser": "nobody"},
    }
    path = place / f"{role}.yaml"
    path.write_text(yaml.safe_dump(common | own[role]))
    return path


def test_rows_are_those_of_a_folder_with_the_same_documents(server: Server, tmp_path: Path) -> None:
    """A controller, an agent and a speaker, as their configuration makes them."""
    expected = plain(folder(server, tmp_path / "manifests"))
    assert all(expected[noun.name] for noun in (PODS, HOST_PODS, NODES, SERVICES, SLICES, POLICIES))

    async def run() -> None:
        controller = Controller(load_controller(configuration(server, tmp_path, "controller")))
        speaker = Speaker(load_speaker(configuration(server, tmp_path, "speaker")))
        config = load_agent(configuration(server, tmp_path, "agent"))
        agent = sources.of(
            config, "east", config.state_dir,
            lambda kinds: watches.of_agent(kinds, config.node),
            kinds=KINDS, accepted=set,
        )  # fmt: skip
        for one in (controller.sources, agent, speaker.sources):
            async with running(one):
                await until(lambda one=one: one.objects.findings.synced)
            assert all(table.synced for table in one.objects.tables().values())
        await controller.client.aclose()
        await speaker.client.aclose()
        assert plain(controller.sources.objects) == expected
        of_agent = plain(agent.objects)
        assert names(agent.objects) == ["web-1"]
        pods = {key: row for key, row in expected[PODS.name].items() if row.node == "east-1"}
        assert of_agent == expected | {PODS.name: pods}
        read = {noun for noun, rows in plain(speaker.objects).items() if rows}
        assert read == {noun.name for noun in READS if expected.get(noun.name)}
        assert read >= {NODES.name, PEERS.name, POLICIES.name, SERVICES.name, VRFS.name}
        assert plain(speaker.objects)[NODES.name] == expected[NODES.name]

    asyncio.run(run())


def test_a_pod_comes_to_an_agent_when_it_is_bound_and_goes_when_it_is_deleted(
    server: Server,
) -> None:
    made = pod("late", "")

    async def run() -> None:
        one = source(server.kubeconfig(), watches.of_agent(KINDS, "east-1"))
        async with running(one):
            await until(lambda: one.objects[PODS].synced)
            await asyncio.to_thread(server.make, made)
            target = {"apiVersion": "v1", "kind": "Node", "name": "east-1"}
            binding = {"metadata": {"name": "late"}, "target": target}
            place = f"{path_of(made)}/late/binding"
            status, answer = await asyncio.to_thread(server.ask, "POST", place, binding)
            assert status == 201, answer["message"]
            await until(lambda: names(one.objects) == ["late", "web-1"])
            (row,) = [r for k, r in one.objects[PODS].rows.items() if k.name == "late"]
            assert not row.serving
            await asyncio.to_thread(server.remove, made)
            await until(lambda: names(one.objects) == ["web-1"])

    asyncio.run(run())


def test_a_foreign_kind_comes_in_with_its_definition_and_goes_with_it(server: Server) -> None:
    async def run() -> None:
        one = source(server.kubeconfig())
        rows = one.objects[POLICIES].rows
        async with running(one):
            await until(lambda: one.objects.findings.synced)
            assert (list(rows), codes(one)) == (["one"], [])
            await asyncio.to_thread(server.define, cilium_definition())
            await asyncio.to_thread(server.make, cilium_policy())
            await until(lambda: sorted(rows) == ["from-cilium", "one"])
            assert rows["from-cilium"].origin == "CiliumEgressGatewayPolicy/from-cilium"
            await asyncio.to_thread(server.ask, "DELETE", f"{CRDS}/{CILIUM}")
            await until(lambda: list(rows) == ["one"])

    asyncio.run(run())


def test_a_killed_api_server_changes_nothing_and_what_it_lost_is_found(server: Server) -> None:
    """It is killed, its etcd is compacted, and objects come and go unseen."""
    made = service("unseen")

    async def run() -> None:
        one = source(server.kubeconfig())
        async with running(one):
            await until(lambda: one.objects.findings.synced)
            before = plain(one.objects)
            await asyncio.to_thread(server.kill)
            await until(lambda: codes(one) == [("M200", "")])
            assert plain(one.objects) == before
            await asyncio.to_thread(server.start)
            await until(lambda: not codes(one))
            assert plain(one.objects) == before
            await asyncio.to_thread(server.make, made)
            await until(lambda: len(one.objects[SERVICES].rows) == 3)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(server.remove, made)
        for number in range(5):
            other = service(f"other-{number}")
            await asyncio.to_thread(server.make, other)
            await asyncio.to_thread(server.remove, other)
        await asyncio.to_thread(server.compact)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        async with running(one):
            await until(lambda: plain(one.objects) == before)
            await until(lambda: not codes(one))

    asyncio.run(run())


def test_rights_that_are_taken_away_are_a_finding_and_rows_stay(server: Server) -> None:
    server.grant()

    async def run() -> None:
        one = source(server.kubeconfig(USER), life_s=2)
        async with running(one):
            await until(lambda: one.objects.findings.synced)
            before = plain(one.objects)
            await asyncio.to_thread(server.unbind)
            await until(lambda: ("M202", "watch pods") in codes(one))
            assert {code for code, _ in codes(one)} == {"M202"}
            assert plain(one.objects) == before
            (text,) = {f.text for f in one.findings() if f.field == "watch pods"}
            assert f'User "{USER}" cannot' in text
            await asyncio.to_thread(server.bind)
            await until(lambda: not codes(one))
            assert plain(one.objects) == before

    try:
        asyncio.run(run())
    finally:
        server.unbind()


def test_an_expired_token_is_read_again_from_its_file(server: Server, tmp_path: Path) -> None:
    server.grant()
    server.unbind()
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": USER}}
    status, answer = server.ask("POST", "/api/v1/namespaces/shop/serviceaccounts", account)
    assert status == 201, answer["message"]
    uid = answer["metadata"]["uid"]
    server.bind({"kind": "ServiceAccount", "name": USER, "namespace": "shop"})
    token = tmp_path / "token"
    token.write_text(server.account_token("shop", USER, uid, time.time() + 5))
    kubeconfig = server.kubeconfig_of("account", {"tokenFile": str(token)})

    async def run() -> None:
        one = source(kubeconfig, life_s=2)
        async with running(one):
            await until(lambda: one.objects.findings.synced)
            before = plain(one.objects)
            await until(lambda: codes(one) == [("M201", "")])
            assert plain(one.objects) == before
            token.write_text(server.account_token("shop", USER, uid, time.time() + 600))
            await until(lambda: not codes(one))

    try:
        asyncio.run(run())
    finally:
        server.unbind()


def test_an_exec_plugin_gives_a_token_and_runs_again_when_it_ends(
    server: Server, tmp_path: Path
) -> None:
    """With the least rights that a speaker needs."""
    runs, script = tmp_path / "runs", tmp_path / "plugin"
    status = {"token": server.tokens[USER], "expirationTimestamp": "2020-01-01T00:00:00Z"}
    version = "client.authentication.k8s.io/v1"
    answer = {"apiVersion": version, "kind": "ExecCredential", "status": status}
    script.write_text(f"#!/bin/sh\necho run >> {runs}\ncat <<'END'\n{json.dumps(answer)}\nEND\n")
    script.chmod(0o755)
    plugin = {"apiVersion": version, "command": str(script), "interactiveMode": "Never"}
    kubeconfig = server.kubeconfig_of("plugin", {"exec": plugin})
    server.grant_nodes()

    async def run() -> None:
        one = source(kubeconfig, watches.of_nouns(KINDS, [NODES]))
        async with running(one):
            await until(lambda: one.objects.findings.synced)
            assert len(one.objects[NODES].rows) == 2

    asyncio.run(run())
    assert len(runs.read_text().splitlines()) > 1


def test_conditions_and_events_say_what_is_wrong_and_nothing_is_written_twice(
    server: Server,
) -> None:
    """By a role of the least rights: status of the own kinds, and Events."""
    code = Code("E399", "Something is wrong.", "Mend it.")
    found: list[Finding] = []
    lacking = ["n1"]
    path = f"{path_of(document('EgressPolicy', {}))}/one"
    server.grant()
    server.grant_writes()

    def read() -> tuple[dict[str, tuple[str, str]], str]:
        _, one = server.ask("GET", path)
        held = one.get("status", {}).get("conditions", ())
        says = {each["type"]: (each["status"], each["reason"]) for each in held}
        return says, one["metadata"]["resourceVersion"]

    def events() -> list[Document]:
        _, answer = server.ask("GET", "/api/v1/namespaces/default/events")
        return [one for one in answer["items"] if one["involvedObject"]["name"] == "one"]

    async def run() -> None:
        one = source(server.kubeconfig(USER))
        writing = one.write_back(lambda: found, lambda: True, lambda *_: lacking)
        task = asyncio.create_task(writing())
        async with running(one):
            well = {
                "Accepted": ("True", "Used"),
                "Programmed": ("False", "NodesLackIt"),
                "Healthy": ("True", "NoFinding"),
            }
            await until(lambda: read()[0] == well)
            lacking.clear()
            well["Programmed"] = ("True", "OnAllNodes")
            await until(lambda: read()[0] == well)
            found.append(Finding(code, "EgressPolicy/one", "spec.addresses", "is wrong"))
            await until(lambda: read()[0] == well | {"Healthy": ("False", "E399")})
            await until(events)
            version = read()[1]
            await asyncio.sleep(3 * write_back.LOOK_S)
            assert read()[1] == version, "nothing has changed"
            (event,) = events()
            assert (event["reason"], event["message"]) == ("E399", "spec.addresses: is wrong")
            status, _ = await asyncio.to_thread(
                server.ask, "PATCH", f"{path}/status", {"status": {"conditions": []}}
            )
            assert status == 200
            await until(lambda: read()[0].get("Healthy") == ("False", "E399"))
            found.clear()
            await until(lambda: read()[0] == well)
            assert not codes(one)
        task.cancel()

    try:
        asyncio.run(run())
    finally:
        server.unbind()


def test_another_empty_api_server_changes_nothing_until_it_is_accepted(
    server: Server, tmp_path: Path
) -> None:
    """The last test of the module: the API server's objects are gone afterwards."""
    accepted = set[str]()

    async def run() -> None:
        one = source(server.kubeconfig(), state=tmp_path, accepted=accepted)
        async with running(one):
            await until(lambda: one.objects.findings.synced)
            before = plain(one.objects)
            await asyncio.to_thread(server.wipe)
            for definition in crds.definitions():
                await asyncio.to_thread(server.define, definition)
            await until(lambda: codes(one) == [("M204", "")], lambda: list(one.findings()))
            await asyncio.to_thread(server.make, node("west-1", "10.99.0.21"))
            (found,) = one.findings()
            assert one.identity.uid in found.text
            assert plain(one.objects) == before
        again = source(server.kubeconfig(), state=tmp_path, accepted=accepted)
        async with running(again):
            await until(lambda: codes(again) == [("M204", "")])
            assert not any(table.synced for table in again.objects.tables().values() if table.rows)
        async with running(one):
            _, namespace = await asyncio.to_thread(
                server.ask, "GET", "/api/v1/namespaces/kube-system"
            )
            accepted.add(namespace["metadata"]["uid"])
            await until(lambda: [key.name for key in one.objects[NODES].rows] == ["west-1"])
            await until(lambda: not codes(one))
            assert not one.objects[PODS].rows

    asyncio.run(run())
