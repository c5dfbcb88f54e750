"""Cilium's kvstoremesh, with its own users, between a store of ours and a Cilium cluster's etcd.

``python -m tests.tools.cilium.mirror`` (``make kvstoremesh``) builds kvstoremesh (a Go toolchain,
once), and starts two etcds and a controller of cluster east on the first one. The second etcd has
the keys of cluster north, as Cilium 1.20.2 writes them. One kvstoremesh writes north into our store
as the user of role ``writer``; another one, as north's own, reads east as that of role ``reader``.
Both directions change meanwhile, and the writer is killed and started again.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from clustermesh.etcd.client import Client
from tests.interop import controllers
from tests.interop.controllers import Controller, Mesh
from tests.interop.etcd_server import Etcd, free_port, until, until_async
from tests.tools.cilium.programs import KVSTOREMESH, binary, configuration
from tests.tools.cilium.run import change

LABELS = (
    "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=north;"
    "k8s:io.cilium.k8s.policy.serviceaccount=default;k8s:io.kubernetes.pod.namespace=shop;"
)
IDENTITY = 3 << 16 | 1
NODE = {
    "Name": "north-1",
    "Cluster": "north",
    "IPAddresses": [
        {"Type": "InternalIP", "IP": "10.99.0.41"},
        {"Type": "InternalIP", "IP": "fd99::41"},
        {"Type": "CiliumInternalIP", "IP": "10.3.0.115"},
        {"Type": "CiliumInternalIP", "IP": "fd03::1243"},
    ],
    "IPv4AllocCIDR": {"IP": "10.3.0.0", "Mask": "////AA=="},
    "IPv4SecondaryAllocCIDRs": None,
    "IPv6AllocCIDR": {"IP": "fd03::", "Mask": "//////////8AAAAAAAAAAA=="},
    "IPv6SecondaryAllocCIDRs": None,
    "ClusterID": 3,
    "Source": "custom-resource",
    "EncryptionKey": 0,
    "Labels": {},
    "Annotations": None,
    "WireguardPubKey": "",
    "BootID": "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
}
SERVICE = {
    "cluster": "north",
    "namespace": "shop",
    "name": "web",
    "frontends": {"10.96.3.10": {"http": {"Protocol": "TCP", "Port": 80}}},
    "backends": {"10.3.0.20": {"http": {"Protocol": "TCP", "Port": 8080}}},
    "labels": {},
    "selector": {"app": "web"},
    "includeExternal": True,
    "shared": True,
    "clusterID": 3,
}
CONFIG = {
    "id": 3,
    "capabilities": {
        "syncedCanaries": True,
        "maxConnectedClusters": 255,
        "serviceExportsEnabled": False,
        "endpointSlicesExportMode": "services-and-endpointslices",
    },
}
#: Seconds within which a change has arrived, and changes of each cluster's pods at a time.
WITHIN_S, CHANGES = 60, 200
KINDS = ("nodes", "services", "endpointslices", "serviceexports", "ip", "identities")


def pod(number: int) -> tuple[str, bytes]:
    """The key and value of an address of north."""
    ip = f"10.3.0.{number}"
    value = {
        "IP": ip,
        "Mask": None,
        "HostIP": "10.99.0.41",
        "ID": IDENTITY,
        "Key": 0,
        "Metadata": "cilium-global:north:north-1:7",
        "K8sNamespace": "shop",
        "K8sPodName": f"web-{number}",
    }
    return f"cilium/state/ip/v1/default/{ip}", json.dumps(value).encode()


def north() -> dict[str, bytes]:
    """What the clustermesh-apiserver of cluster north has in its etcd; the canaries last."""
    rows = {
        "cilium/.heartbeat": b"2026-11-29T00:00:00Z",
        "cilium/cluster-config/north": json.dumps(CONFIG).encode(),
        "cilium/state/nodes/v1/north/north-1": json.dumps(NODE).encode(),
        f"cilium/state/identities/v1/id/{IDENTITY}": LABELS.encode(),
        "cilium/state/services/v1/north/shop/web": json.dumps(SERVICE).encode(),
        **dict(pod(number) for number in (20, 21)),
    }
    places = ("nodes/v1", "services/v1", "endpointslices/v1", "serviceexports/v1", "identities/v1")
    synced = {f"cilium/synced/north/cilium/state/{place}": b"synced" for place in places}
    return {**rows, **synced, "cilium/synced/north/cilium/state/ip/v1": b"synced"}


@dataclass
class Kvstoremesh:
    """One process of Cilium's: which clusters it mirrors, from where, and into which etcd."""

    directory: Path
    name: str
    number: int
    own: Path
    sources: Mapping[str, Path]
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def start(self) -> None:
        folder = self.directory / "clusters"
        folder.mkdir(parents=True, exist_ok=True)
        for name, source in self.sources.items():
            (folder / name).write_text(source.read_text())
        ports = [("--health-port", free_port()), ("--gops-port", free_port())]
        words = [word for option, port in ports for word in (option, str(port))]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(binary(KVSTOREMESH)),
                    *("--cluster-name", self.name, "--cluster-id", str(self.number)),
                    *("--clustermesh-config", str(folder), "--kvstore-opt"),
                    *(f"etcd.config={self.own}", *words, *self.options),
                    *("--api-serve-addr", f"127.0.0.1:{free_port()}"),
                    *("--shell-sock-path", str(self.directory / "shell.sock")),
                ],
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )

    def end(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def complaints(self) -> list[str]:
        """Lines of its log above INFO."""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if "level=warn" in line or "level=error" in line]


def mirrors(mesh: Mesh, etcd: Etcd) -> Iterator[Kvstoremesh]:
    """The writer into our store, and north's own, which reads it."""
    plain = mesh.directory / "north.yaml"
    plain.write_text(yaml.safe_dump({"endpoints": [f"http://{etcd.address}"]}))
    writer, reader = configuration(mesh, "writer"), configuration(mesh, "reader")
    yield Kvstoremesh(mesh.directory / "writer", "mesh", 255, writer, {"north": plain})
    yield Kvstoremesh(mesh.directory / "reader", "north", 3, plain, {"east": reader})


def copies(found: Mapping[str, bytes], cluster: str) -> dict[str, bytes]:
    """Keys of a cluster in the cached layout."""
    begins = tuple(f"cilium/cache/{kind}/v1/{cluster}/" for kind in KINDS)
    return {key: value for key, value in found.items() if key.startswith(begins)}


def as_cached(found: Mapping[str, bytes]) -> dict[str, bytes]:
    """What a kvstoremesh makes of the keys of north, in the cached layout."""
    places = {
        "cilium/state/nodes/v1/north/": "cilium/cache/nodes/v1/north/",
        "cilium/state/services/v1/north/": "cilium/cache/services/v1/north/",
        "cilium/state/identities/v1/id/": "cilium/cache/identities/v1/north/id/",
        "cilium/state/ip/v1/default/": "cilium/cache/ip/v1/north/",
    }
    return {
        place + key.removeprefix(begin): value
        for key, value in found.items()
        for begin, place in places.items()
        if key.startswith(begin)
    }


class Both:
    """The two stores, and what is to be the same in them."""

    def __init__(self, ours: Client, theirs: Client) -> None:
        self.ours, self.theirs = ours, theirs

    async def same(self) -> bool:
        """Whether each store has the other's cluster as that one has it."""
        ours = await controllers.keys(self.ours, "cilium/")
        theirs = await controllers.keys(self.theirs, "cilium/")
        east = copies(ours, "east")
        return (
            len(east) > 0
            and east == copies(theirs, "east")
            and as_cached(theirs) == copies(ours, "north")
        )

    async def churn(self, changes: int) -> None:
        """Pods of both clusters get other addresses."""
        for number in range(changes):
            await change(self.ours, number)
            await self.theirs.put(*pod(number % 100 + 100))
            await self.theirs.delete(pod((number + 50) % 100 + 100)[0])


async def walk(it: Controller, both: Both, writer: Kvstoremesh) -> None:
    """The steps; each is printed when it holds."""

    async def holds(what: str) -> None:
        await until_async(both.same, what, WITHIN_S)
        print(what)

    await holds("east is in north's etcd, north is in ours")
    await until(lambda: "north-1" in str(it.rows("node")), "north-1 is in `node list`", WITHIN_S)
    await until(lambda: north_services(it), "the service of north is in `service list`", WITHIN_S)
    await both.churn(CHANGES)
    await holds(f"the same after {CHANGES} changes of pods of each cluster")
    writer.end()
    await both.theirs.delete("cilium/state/services/v1/north/shop/web")
    await asyncio.to_thread(writer.start)
    await both.churn(CHANGES)
    await until(lambda: not north_services(it), "a service of the time without a writer", WITHIN_S)
    print("the writer was killed: what was deleted meanwhile is gone")


def north_services(it: Controller) -> list[object]:
    """Services of north as our controller lists them."""
    return [row for row in it.rows("service") if row["cluster"] == "north"]


async def run() -> int:
    """Everything; 1 when a kvstoremesh or our controller has complained."""
    with tempfile.TemporaryDirectory() as folder, controllers.mesh(Path(folder)) as mesh:
        await controllers.start_etcd(mesh)
        mesh.apply_all("east")
        it = mesh.controller("east").start()
        etcd = Etcd(Path(folder) / "north")
        etcd.start()
        await until(it.leads_and_is_ready, "east leads and is ready", 120)
        writer, reader = await asyncio.to_thread(lambda: list(mirrors(mesh, etcd)))
        theirs = Client(etcd.endpoint)
        try:
            async with controllers.root(mesh) as ours:
                await controllers.put_pods(ours, "east")
                for key, value in north().items():
                    await theirs.put(key, value)
                for one in (writer, reader):
                    await asyncio.to_thread(one.start)
                await walk(it, Both(ours, theirs), writer)
        except AssertionError:
            for one in (writer, reader):
                print(one.log.read_text()[-3000:] if one.log.exists() else "no log")
            raise
        else:
            complaints = [line for one in (writer, reader) for line in one.complaints()]
            found = [text for text in it.findings() if "north" in str(text)]
            print(*complaints, *found, sep="\n")
            print(f"complaints of kvstoremesh {len(complaints)}, findings about north {len(found)}")
            return 1 if complaints or found else 0
        finally:
            await theirs.aclose()
            for one in (writer, reader):
                one.end()
            etcd.stop()


if __name__ == "__main__":
    sys.exit(asyncio.run(run()))
