"""Real controller processes on a real etcd with client certificates, each in its own folder."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import yaml

from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.auth import CONTROLLER, EtcdUser, bootstrap_auth
from clustermesh.etcd.client import Client
from clustermesh.issued import Pki, write_pki
from clustermesh.publish import PREFIXES
from mesh.observe.tables import Process, ask
from mesh.pools.prefixes import subnet
from tests.interop.etcd_server import Etcd

CLUSTERS = ("east", "west", "north")
IDS = {"east": 1, "west": 2, "north": 3}
#: All instances of a cluster's controller are one user here: what they may do is the same.
USERS = {cluster: EtcdUser(cluster, CONTROLLER, "a") for cluster in CLUSTERS}
REPOSITORY = Path(__file__).parents[2]

#: Validity of published keys here; the leadership has a third of it.
LEASE_S = 6
END_OF_TEST = "zz-end-of-test"

Row = dict[str, Any]


def manifest(kind: str, name: str, namespace: str = "", api: str = "v1", **parts: Any) -> Row:
    meta: Row = {"name": name, **parts.pop("meta", {})}
    if namespace:
        meta["namespace"] = namespace
    return {"apiVersion": api, "kind": kind, "metadata": meta, **parts}


def node(cluster: str, number: int) -> Row:
    host = 10 * IDS[cluster] + number
    addresses = [{"type": "InternalIP", "address": a} for a in (f"10.99.0.{host}", f"fd99::{host}")]
    labels = {"role": "gateway"} if number == 2 else {}
    return manifest(
        "Node", f"{cluster}-{number}", meta={"labels": labels}, status={"addresses": addresses}
    )


def pod(app: str, node_name: str, number: int) -> Row:
    spec = {"nodeName": node_name, "containers": []}
    return manifest("Pod", f"{app}-{number}", "shop", meta={"labels": {"app": app}}, spec=spec)


def egress_policy(cluster: str) -> Row:
    number = IDS[cluster]
    return manifest(
        "EgressPolicy",
        "erp",
        api="meshgate.io/v1alpha1",
        spec={
            "selectors": [{"podSelector": {"matchLabels": {"app": "client"}}}],
            "destinationCIDRs": ["192.0.2.0/24", "2001:db8:2::/64"],
            "excludedCIDRs": [],
            "addresses": [f"198.51.100.{number}0", f"2001:db8:100::{number}0"],
            "gateways": {"nodeSelector": {"matchLabels": {"role": "gateway"}}},
        },
    )


def service(cluster: str) -> Row:
    number = IDS[cluster]
    annotations = {"service.cilium.io/global": "true"}
    addresses = [f"10.97.{number}.10", f"fd97:{number}::10"]
    return manifest(
        "Service",
        "web",
        "shop",
        meta={"annotations": annotations},
        spec={
            "clusterIPs": addresses,
            "clusterIP": addresses[0],
            "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    )


@dataclass
class Controller:
    """One process of one configuration; ``fields`` replaces parts of it."""

    mesh: Mesh
    cluster: str
    instance: str
    fields: Row = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> Path:
        return self.mesh.directory / self.instance

    @property
    def socket(self) -> Path:
        return self.directory / "controller.sock"

    def start(self) -> Controller:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "controller.yaml"
        path.write_text(yaml.safe_dump(self._config()))
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mesh.cli", "controller", "--config", str(path)],
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )
        return self

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(number)
        return self.process.wait(10)

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def status(self) -> Row:
        answer = ask([Process("", "controller", self.socket)])[0]
        return dict(answer.status)

    def rows(self, noun: str) -> list[Row]:
        answer = ask([Process("", "controller", self.socket)], [noun])[0]
        return list(answer.rows.get(noun, ()))

    def findings(self) -> list[tuple[str, str, str]]:
        found = self.status().get("findings", [])
        return sorted((f["code"], f["object"], f["field"]) for f in found)

    def leads_and_is_ready(self) -> bool:
        status = self.status()
        return bool(status.get("leads") and status.get("ready"))

    def _config(self) -> Row:
        number, user = IDS[self.cluster], self.mesh.pki.users[USERS[self.cluster].cn]
        return {
            "cluster": {"name": self.cluster, "id": number},
            "instance": self.instance,
            "manifests": str(self.mesh.manifests(self.cluster)),
            "etcd": {
                "endpoints": [f"https://{self.mesh.etcd.address}"],
                "ca": str(self.mesh.pki.ca),
                "cert": str(user.cert),
                "key": str(user.key),
            },
            "pools": {
                "podCIDRs": [
                    {"cidr": f"10.{number}.0.0/16", "nodePrefix": 24},
                    {"cidr": f"fd0{number}::/48", "nodePrefix": 64},
                ],
                "locators": [{"cidr": f"fcbb:bb0{number}::/32", "nodePrefix": 48}],
            },
            "leaseSeconds": LEASE_S,
            "stateDir": str(self.directory / "state"),
            "socket": str(self.socket),
            **self.fields,
        }


class Mesh:
    """An etcd, certificates and manifests of every cluster."""

    def __init__(self, directory: Path, etcd: Etcd, pki: Pki) -> None:
        self.directory = directory
        self.etcd = etcd
        self.pki = pki
        self.started: list[Controller] = []

    def manifests(self, cluster: str) -> Path:
        return self.directory / "manifests" / cluster

    def apply(self, cluster: str, name: str, *documents: Row) -> None:
        path = self.manifests(cluster) / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(yaml.safe_dump_all(documents))
        fresh.replace(path)

    def apply_all(self, cluster: str) -> None:
        """Two nodes, a web and a client pod on each, the policy and the service."""
        self.apply(cluster, "nodes", node(cluster, 1), node(cluster, 2))
        pods = [pod(app, f"{cluster}-{n}", n) for n in (1, 2) for app in ("web", "client")]
        self.apply(cluster, "pods", *pods)
        self.apply(cluster, "egress", egress_policy(cluster))
        self.apply(cluster, "service", service(cluster))

    def controller(self, name: str, instance: str = "", **fields: Any) -> Controller:
        it = Controller(self, name, instance or f"{name}-a", fields)
        self.started.append(it)
        return it

    def stop(self) -> None:
        for it in self.started:
            if it.process and it.process.poll() is None:
                it.end(signal.SIGKILL)


@contextlib.contextmanager
def mesh(directory: Path) -> Iterator[Mesh]:
    users = ["root", *(user.cn for user in USERS.values())]
    pki = write_pki(directory / "pki", users, ["127.0.0.1"])
    etcd = Etcd(directory / "etcd", pki)
    it = Mesh(directory, etcd, pki)
    try:
        yield it
    finally:
        it.stop()
        etcd.stop()


@contextlib.asynccontextmanager
async def root(it: Mesh) -> AsyncIterator[Client]:
    client = Client(it.etcd.endpoint)
    try:
        yield client
    finally:
        await client.aclose()


async def start_etcd(it: Mesh) -> None:
    it.etcd.start()
    async with root(it) as client:
        await bootstrap_auth(client, USERS.values(), PREFIXES)


async def keys(client: Client, prefix: str) -> dict[str, bytes]:
    return {kv.key.decode(): kv.value for kv in (await client.list(prefix)).kvs}


async def claims(client: Client, cluster: str) -> dict[str, Any]:
    """Every key of a claim with its owner or number."""
    found = await keys(client, f"meshgate/v1/{cluster}/")
    parts = ("/number/", "/owner/")
    return {
        key: msgspec.json.decode(value).get("owner", msgspec.json.decode(value).get("number"))
        for key, value in found.items()
        if any(part in key for part in parts)
    }


async def history(client: Client, prefix: str, since: int) -> list[pb.Event]:
    """All events under the prefix from revision ``since`` until now."""
    end = prefix + END_OF_TEST
    await client.put(end, b"")
    found: list[pb.Event] = []
    async with contextlib.aclosing(client.watch(prefix, since)) as watch:
        async for seen in watch:
            for event in seen.events:
                if event.kv.key == end.encode() and event.type == pb.Event.PUT:
                    await client.delete(end)
                    return found
                found.append(event)
    return found


async def deletions(client: Client, prefix: str, since: int) -> list[str]:
    """Keys under the prefix that were deleted from revision ``since`` until now."""
    events = await history(client, prefix, since)
    gone = [e.kv.key.decode() for e in events if e.type == pb.Event.DELETE]
    return [key for key in gone if not key.endswith(END_OF_TEST)]


async def owners(client: Client, prefix: str) -> dict[str, list[str]]:
    """Everybody who ever owned a number, by the number's key."""
    found: dict[str, list[str]] = {}
    for event in await history(client, prefix, 1):
        key = event.kv.key.decode()
        if event.type == pb.Event.PUT and "/number/" in key:
            found.setdefault(key, []).append(msgspec.json.decode(event.kv.value)["owner"])
    return found


async def put_pods(client: Client, cluster: str, count: int = 2) -> None:
    """What the agents of both nodes would write: a web and a client pod on each."""
    for n in range(1, count + 1):
        for at, app in enumerate(("web", "client")):
            labels = (
                f"k8s:app={app};k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop;"
                f"k8s:io.cilium.k8s.policy.cluster={cluster};"
                "k8s:io.cilium.k8s.policy.serviceaccount=default;"
                "k8s:io.kubernetes.pod.namespace=shop;"
            )
            row = {"addresses": await pod_addresses(client, cluster, n, at), "labels": labels}
            key = f"meshgate/v1/{cluster}/pod/{cluster}-{n}/shop/{app}-{n}"
            await client.put(key, msgspec.json.encode(row))


async def pod_addresses(client: Client, cluster: str, node_number: int, at: int) -> list[str]:
    """Addresses from the node's claimed CIDRs."""
    prefix, name = f"meshgate/v1/{cluster}/podcidr/", f"{cluster}-{node_number}"
    found = await keys(client, prefix)
    pools = {key.split("/")[4]: value for key, value in found.items() if key.endswith(f"/{name}")}
    return [
        str(subnet(pool, msgspec.json.decode(value)["number"]).network_address + 5 + at)
        for pool, value in sorted(pools.items())
    ]
