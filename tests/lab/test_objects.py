"""Whether and where an object takes traffic: conditions, host networks, sidecars, odd manifests."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from running import Lab, wait

SERVER = Path(__file__).with_name("named.py")
CLIENT, OTHER = "east/shop/client-1", "west/shop/client-1"
READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
UNREADY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}
GLOBAL = {"service.cilium.io/global": "true"}

#: Connects again and again, and says who answered each time, or the error's name.
ASK = """
import errno, socket, sys
for _ in range(int(sys.argv[3])):
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), 3) as s:
            print(s.recv(100).decode())
    except OSError as error:
        print(errno.errorcode.get(error.errno, type(error).__name__))
"""


def ask(lab: Lab, pod: str, address: str, port: int = 80, times: int = 30) -> set[str]:
    """Who answers a pod at an address."""
    return set(lab.python(pod, ASK, address, port, times).split())


def pod(name: str, node: str, **more: Any) -> dict[str, Any]:
    """A pod that says its name at port 8080; ``status`` and further fields of ``spec``."""
    container = {"name": "c", "command": [sys.executable, str(SERVER), "8080", name]}
    metadata = {"name": name, "namespace": "shop", "labels": {"app": more.pop("app", name)}}
    metadata |= more.pop("metadata", {})
    status = {"status": more.pop("status")} if "status" in more else {}
    spec = {"nodeName": node, "containers": [container | more.pop("container", {})], **more}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, **status}


def service(name: str, address: str, **more: Any) -> dict[str, Any]:
    """A service at port 80 with the pods of its own name, if ``selector`` says nothing else."""
    metadata = {"name": name, "namespace": "shop", "annotations": more.pop("annotations", {})}
    spec = {"clusterIP": address, "ports": [{"port": 80, "targetPort": 8080}],
            "selector": {"app": name}, **more}  # fmt: skip
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def part(service: str, *endpoints: dict[str, Any]) -> dict[str, Any]:
    """An EndpointSlice of a service."""
    labels = {"kubernetes.io/service-name": service}
    metadata = {"name": f"{service}-x", "namespace": "shop", "labels": labels}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": "IPv4",
        "endpoints": list(endpoints),
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    }


class Folder:
    """Files of one test in the clusters' folders of manifests."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.paths: set[Path] = set()

    def put(self, *documents: dict[str, Any], cluster: str = "east") -> None:
        """One file with these objects, instead of the one before."""
        self.write("\n---\n".join(map(json.dumps, documents)) + "\n", cluster)

    def write(self, text: str, cluster: str = "east", name: str = "objects.yaml") -> None:
        path = Path(self.lab.shown["manifests"][cluster]) / f"test-{name}"
        fresh = path.with_name(f".{path.name}")
        fresh.write_text(text)
        fresh.rename(path)
        self.paths.add(path)


@pytest.fixture
def folder(lab: Lab) -> Iterator[Folder]:
    with opened(lab) as made:
        yield made


@contextmanager
def opened(lab: Lab) -> Iterator[Folder]:
    made = Folder(lab)
    try:
        yield made
    finally:
        for path in made.paths:
            path.unlink()
        wait(lab.healthy, 20, "healthy again")


def backends(lab: Lab, name: str, cluster: str = "east") -> list[str]:
    """Addresses behind a service."""
    for row in lab.table("service"):
        if (row["cluster"], row["name"]) == (cluster, name):
            return sorted(one["address"] for one in row["backends"] if "." in one["address"])
    return []


def serves(lab: Lab, pod: str, address: str, names: set[str], port: int = 80) -> None:
    """Wait until exactly these answer."""
    wait(lambda: ask(lab, pod, address, port, 12) == names, 20, f"{address} answers: {names}")
    found = Counter(lab.python(pod, ASK, address, port, 30).split())
    assert set(found) == names, found


def test_only_pods_that_are_ready_answer_in_both_clusters(lab: Lab, folder: Folder) -> None:
    """Another cluster gets no backend that is not ready or terminates. Then one becomes ready."""

    def pods(second: dict[str, Any]) -> list[dict[str, Any]]:
        deleted = {"deletionTimestamp": "2026-11-29T11:00:00Z", "deletionGracePeriodSeconds": 300}
        return [
            pod("rd-1", "east-1", app="rd", status=READY),
            pod("rd-2", "east-2", app="rd", status=second),
            pod("rd-3", "east-2", app="rd", status=READY, metadata=deleted | {
                "name": "rd-3", "namespace": "shop", "labels": {"app": "rd"}}),
            service("rd", "10.97.1.51", annotations=GLOBAL),
        ]  # fmt: skip

    folder.put(*pods(UNREADY))
    folder.put(service("rd", "10.97.2.51", annotations=GLOBAL), cluster="west")
    for client, address in ((CLIENT, "10.97.1.51"), (OTHER, "10.97.2.51")):
        serves(lab, client, address, {"rd-1"})
    folder.put(*pods(READY))
    for client, address in ((CLIENT, "10.97.1.51"), (OTHER, "10.97.2.51")):
        serves(lab, client, address, {"rd-1", "rd-2"})


@pytest.mark.parametrize("client", [CLIENT, "east/shop/client-2"])
def test_a_pod_in_its_nodes_network_answers_for_a_service(
    lab: Lab, folder: Folder, client: str
) -> None:
    """From another node and from its own, by the port's name, and then by its slice."""
    ports = [{"name": "http", "containerPort": 7700, "hostPort": 7700}]
    command = [sys.executable, str(SERVER), "7700", "host"]
    addresses = [{"ip": "10.99.0.12"}, {"ip": "fd99::12"}]
    node = {"phase": "Running", "podIPs": addresses, **READY}
    made = pod(
        "hn-1", "east-2", app="hn", hostNetwork=True, status=node,
        container={"command": command, "ports": ports},
    )  # fmt: skip
    asked = service(
        "hn", "10.97.1.50", clusterIPs=["10.97.1.50", "fd97:1::50"],
        ports=[{"port": 80, "targetPort": "http"}],
    )  # fmt: skip
    folder.put(made, asked)
    for address in ("10.97.1.50", "fd97:1::50"):
        serves(lab, client, address, {"host"})
    assert lab.healthy(), "a host port of such a pod is no finding"
    endpoints = part("hn", {"addresses": ["10.99.0.12"], "conditions": {"ready": True}})
    endpoints["ports"] = [{"name": "", "port": 7700}]
    folder.put(made, asked, endpoints)
    assert backends(lab, "hn") == ["10.99.0.12"]
    serves(lab, client, "10.97.1.50", {"host"})


def test_a_sidecars_port_is_found_by_its_name(lab: Lab, folder: Folder) -> None:
    sidecars = [
        {"name": "tls", "restartPolicy": "Always",
         "ports": [{"name": "https", "containerPort": 8080}]},
        {"name": "once", "ports": [{"name": "setup", "containerPort": 9444}]},
    ]  # fmt: skip
    port = {"name": "https", "port": 443, "targetPort": "https"}
    folder.put(
        pod("sc", "east-1", initContainers=sidecars), service("sc", "10.97.1.52", ports=[port])
    )
    serves(lab, CLIENT, "10.97.1.52", {"sc"}, 443)


def test_endpoints_that_serve_while_they_terminate_are_the_last_resort(
    lab: Lab, folder: Folder
) -> None:
    pods = [pod("term-1", "east-1", app="any"), pod("term-2", "east-2", app="any")]
    folder.put(*pods)
    wait(lambda: {"term-1", "term-2"} <= {row["name"] for row in lab.table("pod")}, 20, "pods")
    at = [next(a for a in lab.pod(f"east/shop/{p}")["addresses"] if "." in a)
          for p in ("term-1", "term-2")]  # fmt: skip
    asked = service("term", "10.97.1.53", selector={})
    leaving = {"ready": False, "serving": True, "terminating": True}
    gone = {"ready": False, "serving": False, "terminating": True}
    first = {"addresses": [at[0]], "conditions": leaving}
    folder.put(*pods, asked, part("term", first, {"addresses": [at[1]], "conditions": gone}))
    serves(lab, CLIENT, "10.97.1.53", {"term-1"})
    folder.put(*pods, asked, part("term", first, {"addresses": [at[1]]}))
    serves(lab, CLIENT, "10.97.1.53", {"term-2"})


def test_each_field_works_or_is_a_finding(lab: Lab, folder: Folder) -> None:
    """One for each kind and field, with number and names; and the affinity annotation works."""
    web = {"app": "web"}
    ingress = {"loadBalancer": {"ingress": [{"ip": "203.0.113.10"}]}}
    ports = [{"port": 80, "targetPort": 8080, "nodePort": 30080}]
    near = GLOBAL | {"service.cilium.io/affinity": "local"}
    host_port = {"ports": [{"containerPort": 8080, "hostPort": 8088}]}
    folder.put(
        service("affinity", "10.97.1.54", selector=web, sessionAffinity="ClientIP"),
        service("node-local", "10.97.1.55", selector=web, internalTrafficPolicy="Local"),
        service(
            "published", "10.97.1.57", selector=web, type="LoadBalancer",
            externalIPs=["203.0.113.9"], ports=ports,
        ) | {"status": ingress},
        service("empty-ip", "", selector=web),
        service("web-near", "10.97.1.59", annotations=near, selector={"app": "near"}),
        pod("near-1", "east-1", app="near"),
        pod("hostport", "east-2", container=host_port),
    )  # fmt: skip
    folder.put(
        service("web-near", "10.97.2.59", annotations=GLOBAL, selector={"app": "near"}),
        pod("near-2", "west-1", app="near"),
        cluster="west",
    )

    def said() -> dict[tuple[str, str], str]:
        findings = lab.json("status")["findings"]
        return {
            (one["object"].rpartition(" ")[2], one["field"]): one["text"].partition(":")[0]
            for one in findings
            if one["code"] == "M106"
        }

    expected = {
        ("Service", "spec.sessionAffinity"): "1 object (shop/affinity)",
        ("Service", "spec.internalTrafficPolicy"): "1 object (shop/node-local)",
        ("Service", "spec.type"): "1 object (shop/published)",
        ("Service", "spec.externalIPs[]"): "1 object (shop/published)",
        ("Service", "spec.ports[].nodePort"): "1 object (shop/published)",
        ("Service", "status.loadBalancer.ingress[].ip"): "1 object (shop/published)",
        ("Service", "spec.clusterIP"): "1 object (shop/empty-ip)",
        ("Pod", "spec.containers[].ports[].hostPort"): "1 object (shop/hostport)",
    }
    wait(lambda: said() == expected, 20, "each field is a finding")
    serves(lab, OTHER, "10.97.2.59", {"near-1", "near-2"})
    serves(lab, CLIENT, "10.97.1.59", {"near-1"})


def test_a_pod_that_waits_for_a_node_is_no_backend_and_no_finding(lab: Lab, folder: Folder) -> None:
    """It was lost with its node and made anew under its name."""
    asked = service("sts", "10.97.1.61")
    folder.put(asked, pod("sts", "east-2"))
    serves(lab, CLIENT, "10.97.1.61", {"sts"})
    lab.kill("east-2/agent")
    try:
        pending = pod("sts", "", status={"phase": "Pending"})
        folder.put(asked, pending)
        wait(lambda: not backends(lab, "sts"), 10, "the address of before is no backend")
        wait(lambda: ask(lab, CLIENT, "10.97.1.61") == {"ECONNREFUSED"}, 10, "it is refused")
        assert not [f for f in lab.json("status")["findings"] if "sts" in f["object"]]
        folder.put(asked, pod("sts", "east-1"))
        serves(lab, CLIENT, "10.97.1.61", {"sts"})
    finally:
        lab.revive("east-2/agent")


SHAPES = """\ufeffapiVersion: v1
kind: Service
metadata: {name: merged, namespace: shop}
spec:
  <<: {clusterIP: 10.97.1.105}
  selector: {app: shape}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shape, namespace: shop}
spec: {replicas: 2, selector: {matchLabels: {app: web}}}
---
apiVersion: v1
kind: Endpoints
metadata: {name: old, namespace: shop}
subsets: [{addresses: [{ip: 192.0.2.10}], ports: [{port: 7007}]}]
---
apiVersion: v1
kind: Service
metadata: {name: old, namespace: shop}
spec: {clusterIP: 10.97.1.60, ports: [{port: 3306, targetPort: 7007}]}
"""
#: What comes back from an echo server.
ECHO = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 3) as s:
    s.sendall(b"hello")
    print(s.recv(100).decode())
"""


def test_manifests_of_odd_shapes_are_read_and_others_left_alone(lab: Lab, folder: Folder) -> None:
    folder.write(SHAPES)
    items = {"apiVersion": "v1", "kind": "PodList", "items": [pod("shape", "east-1")]}
    below = Path(lab.shown["manifests"]["east"]) / "below"
    below.mkdir()
    try:
        folder.write(json.dumps(items), name="list.json")
        path = next(path for path in folder.paths if path.suffix == ".json")
        folder.paths.add(path.rename(below / path.name))
        folder.paths.remove(path)
        serves(lab, CLIENT, "10.97.1.105", {"shape"})
        assert lab.python(CLIENT, ECHO, "10.97.1.60", 3306).startswith("hello")
        assert lab.healthy()
    finally:
        for path in below.iterdir():
            path.unlink()
            folder.paths.discard(path)
        below.rmdir()
