"""The chart at a real API server, which takes every object, and at real Helm, which makes the same.

Each service account may do what its process does, and nothing else.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from clustermesh import founding
from clustermesh.asking import RefusedError
from clustermesh.etcd.client import Client, Denied, EtcdAddress
from clustermesh.issued import write_pki
from clustermesh.issuer import AUDIENCE, Caller, Issuer
from mesh.host import drained
from mesh.install import chart, etcd, installing, leaving, rights, uninstalling
from mesh.install import pod as pod_of
from mesh.install.api import Api, ApiError, of_kubeconfig, path_of
from mesh.install.chart import FOLDER, NAMESPACE, Rendered
from mesh.install.installing import InstallError
from mesh.install.leaving import LEAVE, LEFT, REFUSED, WIPE, WIPED, Report
from mesh.install.pod import issuers
from tests.e2e.api_server import ApiServer
from tests.interop.etcd_server import Etcd, free_port
from tests.tools.helm import build

FILES = sorted(path.name for path in FOLDER.glob("values-*.yaml"))
#: Other branches of the templates.
SETTINGS: list[list[str]] = [
    [],
    ["agentNotReadyTaint=true", "kubernetes.host=https://192.0.2.1:6443", "image.tag=edge"],
    ["speaker.image=there/is:one", "etcd.storageClassName=fast", "etcd.quotaBytes=8589934592"],
    ["speaker.enabled=false", "overlayPort=9000", "masquerade.nonMasqueradeCIDRs={10.0.0.0/8}"],
]
WRONG = [
    "cluster.name=East", "cluster.id=256", "cluster.title=x", "mode=both", "egress.blockSize=100",
    "agent.maxUnavailable=many", "controller.replicas=4", "etcd.enabled=false", "pools.podCIDRs=x",
    "kubernetes.host=10.0.0.1", "services.kubeProxy=maybe", "host.bpffs=1", "uplink=a b",
    "masquerade.mode=yes", "etcd.storageSize=big", "agent.limits={x}", "certificateHours=0",
]  # fmt: skip
CORE = f"/api/v1/namespaces/{NAMESPACE}"


def rendered(file: str = "values-whole.yaml", *settings: str) -> Rendered:
    return chart.render(chart.values_of([FOLDER / file], settings))


def everything(found: Rendered) -> list[Any]:
    return [*found.objects, *(one for hooks in found.hooks.values() for one in hooks)]


def template(file: str, settings: list[str]) -> subprocess.CompletedProcess[str]:
    """What real Helm makes of the chart."""
    words = [str(build.helm()), "template", "meshgate", str(FOLDER), "-n", NAMESPACE]
    words += ["--kube-version", "1.36.3", "-f", str(FOLDER / file)]
    words += [word for one in settings for word in ("--set", one)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def by_name(objects: list[Any]) -> dict[tuple[str, str], Any]:
    """Helm writes its own name into one label."""
    for one in objects:
        one["metadata"].get("labels", {}).pop("app.kubernetes.io/managed-by", None)
    return {(one["kind"], one["metadata"]["name"]): one for one in objects}


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda one: ",".join(one) or "defaults")
@pytest.mark.parametrize("file", FILES)
def test_helm_makes_the_same_objects(file: str, settings: list[str]) -> None:
    done = template(file, settings)
    assert done.returncode == 0, done.stderr
    helms = by_name([one for one in yaml.safe_load_all(done.stdout) if one])
    ours = by_name(everything(rendered(file, *settings)))
    assert helms.keys() == ours.keys()
    for name, one in helms.items():
        assert one == ours[name], name


@pytest.mark.parametrize("setting", WRONG)
def test_helm_refuses_what_we_refuse(setting: str) -> None:
    done = template("values-whole.yaml", [setting])
    assert done.returncode, "Helm takes it"
    with pytest.raises(chart.ChartError):
        rendered("values-whole.yaml", setting)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    made = ApiServer(tmp_path_factory.mktemp("api"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def admin(server: ApiServer) -> Api:
    """An administrator, with the chart's objects made but no pod, since nothing runs any."""
    api = of_kubeconfig(server.kubeconfig())
    found = rendered("values-whole.yaml", "agentNotReadyTaint=true")
    list(installing.applied(api, [installing.namespace_object(NAMESPACE), *found.definitions]))
    # Its kind of storage cannot be changed, and each test has another one.
    objects = [one for one in found.objects if one["kind"] != "StatefulSet"]
    list(installing.applied(api, objects))
    hooks = [one for one in found.hooks["pre-install"] if one["kind"] != "Job"]
    list(installing.applied(api, hooks))
    for name in ("n1", "n2"):
        api.post("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    return api


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda one: ",".join(one) or "defaults")
@pytest.mark.parametrize("file", FILES)
def test_the_api_server_takes_every_object(admin: Api, file: str, settings: list[str]) -> None:
    """Strictly: a field that it does not know is refused."""
    found = rendered(file, *settings)
    for one in everything(found):
        assert admin.apply(one, dry=True)["metadata"]["name"], installing.name_of(one)
    lines = list(installing.dry_run(admin, found, NAMESPACE))
    assert len(lines) == len(found.definitions) + len(found.objects) + len(
        found.hooks["pre-install"]
    )
    assert all(line.endswith("(dry run)") for line in lines)


def pod(admin: Api, account: str, node: str) -> Any:
    """A pod of an account on a node, as the API server keeps it."""
    container = {"name": "c", "image": "i"}
    labels = {
        "app.kubernetes.io/name": "meshgate",
        "app.kubernetes.io/component": account.removeprefix("meshgate-"),
    }
    made = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{account}-{node}", "namespace": NAMESPACE, "labels": labels},
        "spec": {"serviceAccountName": account, "nodeName": node, "containers": [container]},
    }
    with suppress(ApiError):
        return admin.post(f"{CORE}/pods", made)
    return admin.get(f"{CORE}/pods/{account}-{node}")


def token(admin: Api, account: str, node: str, *audiences: str) -> str:
    """What the kubelet would put into the pod."""
    of = pod(admin, account, node)["metadata"]
    bound = {"kind": "Pod", "apiVersion": "v1", "name": of["name"], "uid": of["uid"]}
    spec = {"audiences": list(audiences), "boundObjectRef": bound}
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    answer = admin.post(f"{CORE}/serviceaccounts/{account}/token", request)
    return str(answer["status"]["token"])


def as_account(server: ApiServer, admin: Api, account: str, node: str = "n1") -> Api:
    mine = token(admin, account, node)
    tls = ssl.create_default_context(cafile=str(server.directory / "pki/ca.crt"))
    return Api(f"https://127.0.0.1:{server.port}", tls, lambda: f"Bearer {mine}")


def may(
    api: Api, verb: str, resource: str, name: str = "", group: str = "", inside: str = ""
) -> bool:
    """What ``kubectl auth can-i`` asks."""
    resource, _, sub = resource.partition("/")
    wanted = {"verb": verb, "group": group, "resource": resource, "subresource": sub}
    wanted |= {"name": name, "namespace": inside}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": wanted},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    return bool(api.post(path, review)["status"]["allowed"])


def test_an_agent_may_not_write_what_is_not_its_own(server: ApiServer, admin: Api) -> None:
    agent = as_account(server, admin, "meshgate-agent")
    assert may(agent, "watch", "pods")
    assert may(agent, "list", "egresspolicies", group="meshgate.io")
    assert not any(may(agent, verb, "pods") for verb in ("create", "patch", "delete", "update"))
    assert not may(agent, "patch", "egresspolicies", group="meshgate.io")
    assert not may(agent, "patch", "egresspolicies/status", group="meshgate.io")
    assert not may(agent, "get", "secrets", inside=NAMESPACE)
    assert not may(agent, "get", "secrets", "meshgate-ca", inside=NAMESPACE)
    assert not may(agent, "patch", "configmaps", "meshgate-etcd", inside=NAMESPACE)
    with pytest.raises(ApiError) as raised:
        agent.post(f"{CORE}/pods", {"apiVersion": "v1", "kind": "Pod"})
    assert raised.value.status == 403


def test_an_agent_takes_a_taint_from_its_own_node_alone(server: ApiServer, admin: Api) -> None:
    """The admission policy stands some seconds after it was made."""
    agent = as_account(server, admin, "meshgate-agent", "n1")
    taint = [{"key": "meshgate.io/agent-not-ready", "effect": "NoSchedule"}]
    for name in ("n1", "n2"):
        admin.merge(f"/api/v1/nodes/{name}", {"spec": {"taints": taint}})
    _await(lambda: _denied(agent, "n2", {"metadata": {"annotations": {"tried": "x"}}}))
    assert "an agent may change the node that it runs on" in _refusal(
        agent, "n2", {"spec": {"taints": None}}
    )
    assert "nothing else" in _refusal(agent, "n1", {"metadata": {"labels": {"role": "gateway"}}})
    other = {"key": "other", "effect": "NoSchedule"}
    admin.merge("/api/v1/nodes/n1", {"spec": {"taints": [*taint, other]}})
    assert pod_of.take_taint(agent, "n1")
    assert admin.get("/api/v1/nodes/n1")["spec"]["taints"] == [other]
    assert not pod_of.take_taint(agent, "n1")
    with pytest.raises(ApiError):
        pod_of.take_taint(agent, "n2")
    assert admin.get("/api/v1/nodes/n2")["spec"]["taints"] == taint


def _denied(api: Api, node: str, change: Any) -> bool:
    try:
        api.merge(f"/api/v1/nodes/{node}", change)
    except ApiError as error:
        return error.status in (403, 422)
    return False


def _refusal(api: Api, node: str, change: Any) -> str:
    with pytest.raises(ApiError) as raised:
        api.merge(f"/api/v1/nodes/{node}", change)
    return str(raised.value)


def _await(true: Any, within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_the_controller_writes_conditions_and_events_only(server: ApiServer, admin: Api) -> None:
    api = as_account(server, admin, "meshgate-controller")
    assert may(api, "patch", "egresspolicies/status", group="meshgate.io")
    assert may(api, "create", "events")
    assert may(api, "create", "tokenreviews", group="authentication.k8s.io")
    assert not may(api, "patch", "egresspolicies", group="meshgate.io")
    assert not may(api, "patch", "nodes")
    assert not may(api, "get", "secrets", "meshgate-ca", inside=NAMESPACE)


def test_the_install_makes_its_secrets_by_name_and_may_be_repeated(
    server: ApiServer, admin: Api
) -> None:
    """Server-side apply of a named object needs no right to create others of its kind."""
    api = as_account(server, admin, "meshgate-install")
    assert not may(api, "create", "secrets", inside=NAMESPACE)
    assert not may(api, "get", "secrets", "other", inside=NAMESPACE)
    with pytest.raises(ValueError, match=r"kubectl label node NAME meshgate\.io/etcd="):
        list(etcd.make_secrets(api, NAMESPACE, 32379))
    admin.merge("/api/v1/nodes/n1", {"metadata": {"labels": {"meshgate.io/etcd": ""}}})
    addresses = [{"type": "InternalIP", "address": "192.0.2.11"}]
    admin.merge("/api/v1/nodes/n1/status", {"status": {"addresses": addresses}})
    lines = list(etcd.make_secrets(api, NAMESPACE, 32379))
    assert lines == [
        "secret/meshgate-ca made",
        "secret/meshgate-etcd-server made",
        "configmap/meshgate-etcd: https://192.0.2.11:32379",
    ]
    made = admin.get(f"{CORE}/secrets/meshgate-ca")["data"]
    assert set(made) == set(founding.CA_KEYS)
    kept = list(etcd.make_secrets(api, NAMESPACE, 32379))
    assert kept[:2] == ["secret/meshgate-ca stays", "secret/meshgate-etcd-server stays"]
    assert admin.get(f"{CORE}/secrets/meshgate-ca")["data"] == made
    told = admin.get(f"{CORE}/configmaps/meshgate-etcd")["data"]
    assert told["endpoints"] == "https://192.0.2.11:32379"
    assert told["ca.crt"].encode() == base64.b64decode(made["ca.crt"])


def test_definitions_are_brought_up_to_date_by_the_install(server: ApiServer, admin: Api) -> None:
    """Those of ours, by name; no others."""
    api = as_account(server, admin, "meshgate-install")
    ours = rendered().definitions
    assert len(list(installing.applied(api, ours))) == len(ours)
    other: Any = yaml.safe_load(yaml.safe_dump(ours[0]))
    other["metadata"]["name"] = "others.meshgate.io"
    with pytest.raises(ApiError) as raised:
        api.apply(other)
    assert raised.value.status == 403


def test_the_api_server_says_whose_token_it_is(server: ApiServer, admin: Api) -> None:
    api = as_account(server, admin, "meshgate-controller")
    agents = token(admin, "meshgate-agent", "n2", AUDIENCE)
    assert etcd.reviewed(api, NAMESPACE, agents) == Caller("node", "n2")
    speakers = token(admin, "meshgate-speaker", "n1", AUDIENCE)
    assert etcd.reviewed(api, NAMESPACE, speakers) == Caller("speaker", "n1")


@pytest.mark.parametrize(
    ("account", "audiences", "why"),
    [
        ("meshgate-agent", (), "does not know the token"),
        ("meshgate-install", (AUDIENCE,), "gets no certificate"),
    ],
)
def test_other_tokens_get_nothing(
    server: ApiServer, admin: Api, account: str, audiences: tuple[str, ...], why: str
) -> None:
    api = as_account(server, admin, "meshgate-controller")
    with pytest.raises(RefusedError, match=why):
        etcd.reviewed(api, NAMESPACE, token(admin, account, "n1", *audiences))
    with pytest.raises(RefusedError):
        etcd.reviewed(api, NAMESPACE, "no.token.atall")


def test_the_issuers_are_found_without_dns(server: ApiServer, admin: Api) -> None:
    agent = as_account(server, admin, "meshgate-agent")
    assert list(issuers(agent, NAMESPACE)) == []
    admin.post(
        f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices",
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "one",
                "labels": {"kubernetes.io/service-name": "meshgate-controller"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "issuer", "port": 32381}],
            "endpoints": [{"addresses": ["192.0.2.11"]}, {"addresses": ["192.0.2.12"]}],
        },
    )
    assert list(issuers(agent, NAMESPACE)) == ["192.0.2.11:32381", "192.0.2.12:32381"]


@pytest.fixture
def leaver(server: ApiServer, admin: Api, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process around the agent of node n1."""
    words = [sys.executable, str(Path(__file__).with_name("leaving_pod.py"))]
    words += [admin.host, str(server.directory / "pki/ca.crt")]
    words += [token(admin, "meshgate-agent", "n1"), "n1", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parents[2])}
    running = subprocess.Popen(words, env=environment)
    try:
        _await((tmp_path / "started").exists)
        yield running
    finally:
        running.terminate()
        running.wait(30)


def report_of(admin: Api, node: str) -> Report | None:
    found = admin.find(path_of(leaving.config_map(NAMESPACE, leaving.REPORTS)))
    return leaving.reports_of(found).get(node)


def test_an_agent_leaves_its_node_when_it_is_asked(
    admin: Api, leaver: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """Not while pods have links; once only; and it starts anew when the request is taken back."""
    request = path_of(leaving.config_map(NAMESPACE, leaving.REQUEST))
    admin.apply(leaving.config_map(NAMESPACE, leaving.REPORTS))
    (tmp_path / "wired").touch()
    admin.apply(leaving.Request("1", LEAVE).document(NAMESPACE))
    text = "1 pods have links of Meshgate; --evict ends them first"
    _await(lambda: report_of(admin, "n1") == Report("1", REFUSED, text))
    assert not (tmp_path / "undone").exists()
    admin.delete(request)
    (tmp_path / "wired").unlink()
    admin.apply(leaving.Request("2", LEAVE).document(NAMESPACE))
    _await(lambda: report_of(admin, "n1") == Report("2", LEFT, "1 things undone"))
    state = tmp_path / "var/lib/meshgate/agent/host.json"
    state.parent.mkdir(parents=True, exist_ok=True)
    state.touch()
    admin.apply(leaving.Request("2", WIPE).document(NAMESPACE))
    _await(lambda: report_of(admin, "n1") == Report("2", WIPED, "1 things undone"))
    assert not state.exists()
    assert (tmp_path / "undone").read_text() == "once\n"
    starts = len((tmp_path / "started").read_text().splitlines())
    assert starts == 1
    admin.delete(request)
    _await(lambda: len((tmp_path / "started").read_text().splitlines()) == starts + 1)
    assert leaver.poll() is None


def test_a_node_tells_how_far_its_drain_is(
    admin: Api, leaver: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """The agent runs on meanwhile; its side is two files."""
    admin.apply(leaving.config_map(NAMESPACE, leaving.REPORTS))
    folder = tmp_path / "var/lib/meshgate/agent"
    begin = time.time()
    admin.apply(leaving.Request("5", leaving.DRAIN, drain=300).document(NAMESPACE))
    _await(lambda: drained.asked(folder) is not None)
    asked_now = drained.asked(folder)
    assert asked_now
    assert asked_now.id == "5"
    assert begin + 299 < asked_now.until < begin + 330
    drained.answer(folder, drained.Drained("5", 3, done=False))
    _await(
        lambda: (
            report_of(admin, "n1") == Report("5", leaving.WAITING, "3 connections are translated")
        )
    )
    drained.answer(folder, drained.Drained("5", 0, done=True))
    _await(lambda: report_of(admin, "n1") == Report("5", leaving.DRAINED, "no connection left"))
    assert len((tmp_path / "started").read_text().splitlines()) == 1
    assert not (tmp_path / "undone").exists()
    admin.delete(path_of(leaving.config_map(NAMESPACE, leaving.REQUEST)))
    _await(lambda: drained.asked(folder) is None)
    assert leaver.poll() is None


def own_address() -> str:
    """An address of this machine that is none of loopback: slices may not name those."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])


def test_a_pod_gets_the_certificate_of_its_node(
    server: ApiServer, admin: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the slices of the API server to a key of etcd that only this node may write."""
    pki = write_pki(tmp_path / "pki", ["root"], ["127.0.0.1"])
    store = Etcd(tmp_path / "etcd", pki)
    store.start()
    port = free_port()
    url = f"https://{store.address}"
    issuer = Issuer("east", tmp_path / "pki", [url], timedelta(hours=24))
    issuer.found_users()
    controller = as_account(server, admin, "meshgate-controller")
    serving = issuer.server(f"[::]:{port}", partial(etcd.reviewed, controller, NAMESPACE))
    serving.start()
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
    of_service = {"kubernetes.io/service-name": "meshgate-controller"}
    made = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "real", "labels": of_service},
        "addressType": "IPv4",
        "ports": [{"name": "issuer", "port": port}],
        "endpoints": [{"addresses": [own_address()]}],
    }
    admin.post(slices, made)
    (tmp_path / "token").write_text(token(admin, "meshgate-agent", "n2", AUDIENCE))
    monkeypatch.setattr(pod_of, "TOKEN", tmp_path / "token")
    monkeypatch.setattr(pod_of, "CERTIFICATES", tmp_path)
    monkeypatch.setattr(pod_of, "CA", pki.ca)
    try:
        pod_of.Certificate(as_account(server, admin, "meshgate-agent", "n2"), NAMESPACE).renew()
        place = EtcdAddress([url], pki.ca, tmp_path / "tls.crt", tmp_path / "tls.key")
        assert asyncio.run(_written(place, "meshgate/v1/east/pod/n2/shop/web"))
        assert not asyncio.run(_written(place, "meshgate/v1/east/pod/n1/shop/web"))
    finally:
        admin.delete(f"{slices}/real")
        serving.stop(None)
        store.stop()


async def _written(place: EtcdAddress, key: str) -> bool:
    client = Client(place)
    try:
        await client.put(key, b"x")
    except Denied:
        return False
    finally:
        await client.aclose()
    return True


class Answering:
    """Agents of some nodes, as ``pod.Leaver`` would answer; a node of ``away`` says nothing."""

    def __init__(self, agents: dict[str, Api], states: dict[str, dict[str, str]]) -> None:
        self._agents, self._states = agents, states

    def look(self) -> None:
        """Answer what is asked now."""
        for node, api in self._agents.items():
            path, query = f"{CORE}/configmaps", f"metadata.name={leaving.REQUEST}"
            listed = api.get(path, fieldSelector=query)["items"]
            request = next(map(leaving.request_of, listed), None)
            if request and request.phase in self._states[node]:
                said = Report(request.id, self._states[node][request.phase], "as asked")
                leaving.report(api, NAMESPACE, node, said)


@pytest.fixture
def agents(server: ApiServer, admin: Api) -> dict[str, Api]:
    return {node: as_account(server, admin, "meshgate-agent", node) for node in ("n1", "n2")}


def asked(
    admin: Api,
    answering: Answering,
    monkeypatch: pytest.MonkeyPatch,
    within_s: float = 30.0,
    drain_s: int = 0,
) -> list[str]:
    monkeypatch.setattr(uninstalling, "time", _Clock(answering))
    return list(
        uninstalling.leave_nodes(admin, NAMESPACE, evict=False, drain_s=drain_s, within_s=within_s)
    )


class _Clock:
    """Time in which agents answer between two looks."""

    def __init__(self, answering: Answering) -> None:
        self._answering, self._now = answering, 0.0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds
        self._answering.look()


def test_a_node_that_refuses_stops_the_uninstall(
    admin: Api, agents: dict[str, Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    answering = Answering(agents, {"n1": {LEAVE: LEFT}, "n2": {LEAVE: REFUSED}})
    with pytest.raises(InstallError, match="node n2: as asked"):
        asked(admin, answering, monkeypatch)
    assert admin.find(path_of(leaving.config_map(NAMESPACE, leaving.REQUEST))) is None
    assert admin.find(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/meshgate-controller")


def test_nodes_leave_and_then_the_chart_goes(
    admin: Api, agents: dict[str, Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that is away is named, with what to do there. Nothing of the chart is left."""
    for name in ("meshgate-controller-n1", "meshgate-install-n1", "meshgate-speaker-n1"):
        admin.delete(f"{CORE}/pods/{name}", gracePeriodSeconds="0")
    admin.apply({**leaving.config_map(NAMESPACE, "meshgate-ca"), "kind": "Secret"})
    states = {"n1": {leaving.DRAIN: leaving.DRAINED, LEAVE: LEFT, WIPE: WIPED}}
    lines = asked(admin, Answering({"n1": agents["n1"]}, states), monkeypatch, 5.0, drain_s=10)
    assert lines[:3] == ["node n1 drained: as asked", "node n2: no word", "node n1 left: as asked"]
    assert "node n2 did not answer" in lines[3]
    assert "meshgate leave --root /host" in lines[3]
    assert "deployments/meshgate-controller deleted" in lines
    assert "secrets/meshgate-ca deleted" in lines
    found = rendered("values-whole.yaml", "agentNotReadyTaint=true")
    deleted = list(uninstalling.delete_chart(admin, found, NAMESPACE, definitions=False))
    assert "daemonset/meshgate-agent deleted" in deleted
    assert [path_of(one) for one in found.objects if admin.find(path_of(one))] == []
    assert admin.find(path_of(found.definitions[0])), "definitions stay without --crds"
    assert list(uninstalling.delete_chart(admin, found, NAMESPACE, definitions=True))


def test_verify_names_what_an_account_may_not_do(admin: Api) -> None:
    assert list(rights.denied(admin, NAMESPACE)) == []
    version, date = admin.version()
    assert version == "v1.36.3"
    assert date.endswith("GMT")


def test_helm_is_left_to_helm(admin: Api) -> None:
    """Helm would go on listing the release."""
    (one,) = (
        one
        for one in rendered().objects
        if path_of(one).endswith("/meshgate-agent") and one["kind"] == "DaemonSet"
    )
    made: Any = yaml.safe_load(yaml.safe_dump(one))
    made["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "Helm"
    admin.apply(made)
    with pytest.raises(InstallError, match="helm uninstall meshgate -n meshgate-system"):
        uninstalling.refuse_helm(admin, NAMESPACE)
    admin.delete(path_of(made))
    uninstalling.refuse_helm(admin, NAMESPACE)
