"""One node with a container runtime: real etcd, controller, agent and plugin, and empty namespaces.

::

    namespace NAME: uplink (10.99.0.11), etcd, controller, agent; sandboxes NAME-1, NAME-2, …

The test is the runtime: it makes sandboxes and calls the plugin as a runtime does.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bpf import netns
from bpf.build import build as build_programs
from bpf.maps import Map
from bpf.object import BPFFS, mount_bpffs
from deploy.cni.build import BUILT
from deploy.cni.build import build as build_plugin
from mesh.cni.install import install
from mesh.core.address import decode_address
from tests.interop.controllers import manifest
from tests.interop.etcd_server import Etcd
from tests.packet.conftest import cgroup_mount
from tests.patience import wait

ROOT = Path(__file__).resolve().parents[2]
CIDRS = [
    {"cidr": "10.1.0.0/16", "nodePrefix": 24},
    {"cidr": "fd01::/48", "nodePrefix": 64},
]
EGRESS, LEGACY = "198.51.100.10", "192.0.2.0/24"
FIELDS = ("ifindex", "identity", "egress_class")
_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Said:
    """What the plugin printed, and its exit status."""

    status: int
    text: str
    took_s: float

    @property
    def row(self) -> dict[str, Any]:
        """The document on stdout."""
        row: dict[str, Any] = json.loads(self.text)
        return row

    @property
    def code(self) -> int:
        """The error's code, 0 for success."""
        return int(self.row["code"]) if self.status else 0


@dataclass
class Node:
    """The node; ``place`` has its files."""

    name: str
    place: Path
    etcd: Etcd
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def space(self) -> Path:
        return Path("/run/netns") / self.name

    @property
    def conf_dir(self) -> Path:
        return self.place / "net.d"

    @property
    def bin_dir(self) -> Path:
        return self.place / "bin"

    @property
    def socket(self) -> Path:
        return self.place / "cni.sock"

    # --- Objects and processes ----------------------------------------------------------------

    def put(self, name: str, *documents: Mapping[str, Any]) -> None:
        """Write a file of the folder of manifests, as a whole."""
        path = self.place / "manifests" / f"{name}.yaml"
        fresh = path.with_suffix(".new")
        fresh.write_text(yaml.safe_dump_all(documents))
        fresh.replace(path)

    def drop(self, name: str) -> None:
        (self.place / "manifests" / f"{name}.yaml").unlink()

    def pod(self, name: str, app: str = "web", uid: str = "", **labels: str) -> None:
        """Write a Pod object of this node."""
        meta: dict[str, Any] = {"labels": {"app": app, **labels}}
        if uid:
            meta["uid"] = uid
        spec = {"nodeName": "east-1", "containers": []}
        self.put(name, manifest("Pod", name, "shop", meta=meta, spec=spec))

    def start(self, role: str) -> None:
        """Start the agent or the controller."""
        config = self.place / f"{role}.yaml"
        with netns.enter(self.space), (self.place / f"{role}.log").open("ab") as log:
            self.processes[role] = subprocess.Popen(
                [sys.executable, "-m", "mesh.cli", role, "--config", str(config)],
                stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def kill(self, role: str) -> None:
        """As a crash: nothing is cleaned up."""
        self.processes[role].kill()
        self.processes.pop(role).wait()

    def signal(self, role: str, number: signal.Signals) -> None:
        self.processes[role].send_signal(number)

    def log(self, role: str) -> str:
        """The end of what a process has said."""
        return (self.place / f"{role}.log").read_text()[-3000:]

    def ready(self) -> bool:
        """Whether STATUS says that pods can be connected."""
        return self.call("STATUS").status == 0

    # --- The runtime --------------------------------------------------------------------------

    def sandbox(self) -> Path:
        """A network namespace as a runtime makes it."""
        path = Path("/run/netns") / f"{self.name}-{next(_NUMBERS)}"
        subprocess.run(["ip", "netns", "add", path.name], check=True)
        subprocess.run(["ip", "-n", path.name, "link", "set", "lo", "up"], check=True)
        return path

    def config(self, version: str = "1.1.0", **fields: object) -> dict[str, object]:
        """What a runtime gives to the plugin on stdin."""
        return {
            "cniVersion": version, "name": "meshgate", "type": "meshgate-cni",
            "socket": str(self.socket), **fields,
        }  # fmt: skip

    def begin(
        self, command: str, space: Path | str = "", container: str = "", *, pod: str = "",
        uid: str = "", interface: str = "eth0", config: Mapping[str, object] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Callable[[], Said]:  # fmt: skip
        """Start the plugin; the result waits for its end."""
        arguments = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={pod}"
        arguments += f";K8S_POD_UID={uid}" if uid else ""
        environment = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_NETNS": str(space),
            "CNI_IFNAME": interface if container else "", "CNI_ARGS": arguments if pod else "",
            "CNI_PATH": str(self.bin_dir), **(variables or {}),
        }  # fmt: skip
        began = time.monotonic()
        child = subprocess.Popen(
            [self.bin_dir / "meshgate-cni"], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdin is not None
        child.stdin.write(json.dumps(self.config() if config is None else config))
        child.stdin.close()
        child.stdin = None

        def end() -> Said:
            text, _ = child.communicate(timeout=60)
            return Said(child.returncode, text, time.monotonic() - began)

        return end

    def call(self, *arguments: Any, **fields: Any) -> Said:
        """``begin``, to its end."""
        return self.begin(*arguments, **fields)()

    # --- What the kernel has ------------------------------------------------------------------

    def ip(self, space: Path, *words: str) -> Any:
        """What ``ip -j`` says in a namespace."""
        command = ["ip", "-j", "-n", space.name, *words]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        return json.loads(answer.stdout or "[]")

    def devices(self) -> dict[str, str]:
        """Host ends of pods with their aliases."""
        links = self.ip(self.space, "-d", "link", "show")
        return {
            one["ifname"]: one.get("ifalias", "")
            for one in links
            if one["ifname"].startswith("mgp")
        }

    def addresses(self, space: Path, interface: str = "eth0") -> set[str]:
        """Addresses of global scope in a sandbox, with their lengths."""
        found = self.ip(space, "addr", "show", "dev", interface)
        infos = found[0]["addr_info"] if found else []
        return {f"{one['local']}/{one['prefixlen']}" for one in infos if one["scope"] == "global"}

    def rows(self) -> dict[str, dict[str, int]]:
        """``mg_pod_addr``: what the datapath has of each address."""
        with open_map(BPFFS / self.name / "mg_pod_addr") as rows:
            keys, values = rows.dump()
        return {
            str(decode_address(key["w"])): {name: int(value[name]) for name in FIELDS}
            for key, value in zip(keys, values, strict=True)
        }

    def classes(self) -> set[int]:
        """Classes that ``mg_egress`` has."""
        with open_map(BPFFS / self.name / "mg_egress") as rows:
            return {int(key["egress_class"]) for key in rows.dump()[0]}

    def own_blocks(self) -> set[str]:
        """Egress addresses of which this node has ports in the datapath."""
        with open_map(BPFFS / self.name / "mg_own_block") as rows:
            return {str(decode_address(key["w"])) for key in rows.dump()[0]}

    def entries(self) -> dict[str, Any]:
        """Keys of this node's pods in the store, by the pod's name."""
        command = ["etcdctl", "--endpoints", self.etcd.address, "get", "--prefix", "-w", "json"]
        with netns.enter(self.space):
            answer = subprocess.run(
                [*command, "meshgate/v1/east/pod/east-1/shop/"], capture_output=True, check=True
            )
        found = json.loads(answer.stdout).get("kvs", [])
        return {
            base64.b64decode(kv["key"]).decode().rpartition("/")[2]: json.loads(
                base64.b64decode(kv["value"])
            )
            for kv in found
        }


@contextmanager
def open_map(path: Path) -> Iterator[Map]:
    found = Map.open_pinned(path)
    try:
        yield found
    finally:
        found.close()


def add(node: Node, name: str, **fields: Any) -> tuple[Path, str, Said]:
    """A pod with its object and sandbox, connected; its sandbox, container and result."""
    node.pod(name, fields.pop("app", "web"))
    space, container = node.sandbox(), f"c-{name}"
    said = node.call("ADD", space, container, pod=name, **fields)
    assert said.status == 0, f"{said.text}\n{node.log('agent')}"
    return space, container, said


@contextmanager
def running(place: Path, mode: str = "whole") -> Iterator[Node]:
    """A node that is ready; what it made goes at the end."""
    build_programs()
    build_plugin()
    mount_bpffs()
    name = f"mgc{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    cgroup = cgroup_mount() / name
    cgroup.mkdir()
    node = Node(name, place, Etcd(place / "etcd"))
    try:
        _uplink(node)
        _files(node, cgroup, mode)
        with netns.enter(node.space):
            node.etcd.start()
        for role in ("controller", "agent"):
            node.start(role)
        wait(node.ready, 60, lambda: f"ready: {node.log('agent')}{node.log('controller')}")
        yield node
    finally:
        for process in node.processes.values():
            process.kill()
            process.wait()
        node.etcd.stop()
        for path in Path("/run/netns").glob(f"{name}*"):
            subprocess.run(["ip", "netns", "del", path.name], check=True)
        shutil.rmtree(BPFFS / name, ignore_errors=True)
        cgroup.rmdir()


def _uplink(node: Node) -> None:
    for words in (
        ("link", "set", "lo", "up"),
        ("link", "add", "uplink", "type", "veth", "peer", "name", "router"),
        ("addr", "add", "10.99.0.11/24", "dev", "uplink"),
        ("link", "set", "uplink", "up"),
        ("link", "set", "router", "up"),
    ):
        subprocess.run(["ip", "-n", node.name, *words], check=True)


def _files(node: Node, cgroup: Path, mode: str) -> None:
    for folder in ("manifests", "net.d"):
        (node.place / folder).mkdir()
    install(node.bin_dir, BUILT)
    both: dict[str, Any] = {
        "cluster": {"name": "east", "id": 1}, "mode": mode,
        "manifests": str(node.place / "manifests"),
        "etcd": {"endpoints": [f"http://{node.etcd.address}"]},
    }  # fmt: skip
    configs = {
        "agent": {
            "node": "east-1", "uplink": "uplink", "bpffs": str(BPFFS / node.name),
            "cgroup": str(cgroup), "socket": str(node.place / "run/agent.sock"),
            "stateDir": str(node.place / "agent"),
            "cni": {
                "socket": str(node.socket), "confDir": str(node.conf_dir),
                "binDir": str(node.bin_dir),
            },
        },
        "controller": {
            "instance": "one", "pools": {"podCIDRs": CIDRS},
            "socket": str(node.place / "run/controller.sock"),
            "stateDir": str(node.place / "controller"),
        },
    }  # fmt: skip
    (node.place / "run").mkdir()
    for role, config in configs.items():
        (node.place / f"{role}.yaml").write_text(yaml.safe_dump({**both, **config}))
    node.put(
        "node",
        manifest(
            "Node", "east-1", meta={"labels": {"role": "gateway"}},
            status={"addresses": [{"type": "InternalIP", "address": "10.99.0.11"}]},
        ),
        manifest("Namespace", "shop"),
        manifest(
            "EgressPolicy", "erp", api="meshgate.io/v1alpha1",
            spec={
                "selectors": [{"podSelector": {"matchLabels": {"app": "client"}}}],
                "destinationCIDRs": [LEGACY], "addresses": [EGRESS],
                "gateways": {"nodeSelector": {"matchLabels": {"role": "gateway"}}},
            },
        ),
    )  # fmt: skip
