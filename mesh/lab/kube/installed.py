"""Meshgate on a cluster of the bed, as its chart installs it: ``meshgate install`` with the image.

The nodes take the image from its archive, as they take all others of the bed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from clustermesh.issued import ROOT, files_of
from mesh.core.files import replace_file
from mesh.lab import processes
from mesh.lab.kube import bringup, configs, credentials, node
from mesh.lab.kube.topology import Cluster, Topology
from mesh.lab.places import Lab, LabError
from mesh.lab.settings import pki_directory

CHECKOUT = Path(__file__).resolve().parents[3]
IMAGE = CHECKOUT / "build" / "meshgate-image.tar"
_CHART = CHECKOUT / "deploy" / "helm" / "meshgate"
_TAINT = "meshgate.io/agent-not-ready"
READY_WITHIN_S = 300.0
#: Where the chart is, and the Secret with CA and root of an etcd that several clusters share.
NAMESPACE, SECRET = "meshgate-system", "meshgate-etcd-root"
_GROUP = "meshgate.io/v1alpha1"
_PROGRAMMED = (
    *("wait", "--for=condition=Programmed", "egresspolicy/legacy", "bgppeer/router"),
    "--timeout=60s",
)
_DNS = ("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=180s")


def make_image() -> None:
    """Write the image's archive. Raises LabError."""
    _run([sys.executable, "-m", "deploy.image"])


def install(lab: Lab, shape: Topology, cluster: Cluster) -> None:
    """Install the chart, and wait until pods may start everywhere and DNS serves.

    Then a policy covers all pods of the cluster towards the legacy network, and the gateway
    announces its addresses to the router.

    Raises:
        LabError: something does not become ready; the text names it.

    """
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(_take_image, lab, each.name) for each in cluster.nodes]:
            done.result()
    try:
        if len(shape.clusters) > 1:
            given = json.dumps({"apiVersion": "v1", "kind": "List", "items": _shared(lab)})
            bringup.kubectl(lab, cluster, "apply", "-f", "-", given=given)
        label = ("label", "--overwrite", "node", cluster.control_plane.name, "meshgate.io/etcd=")
        bringup.kubectl(lab, cluster, *label)
        config = f"--kubeconfig={kubeconfig(lab, cluster)}"
        command = [sys.executable, "-m", "mesh.cli", "install", config]
        _run([*command, *values(shape, cluster)])
        if not processes.wait_until(lambda: not _problem(lab, cluster), READY_WITHIN_S, pause=0.3):
            raise LabError(f"{_problem(lab, cluster)} ({READY_WITHIN_S:.0f} s after the install)")
        bringup.kubectl(lab, cluster, *_DNS)
        given = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects(shape, cluster)})
        bringup.kubectl(lab, cluster, "apply", "-f", "-", given=given)
        bringup.kubectl(lab, cluster, *_PROGRAMMED)
    except subprocess.CalledProcessError as error:
        raise LabError(f"{cluster.name}: {(error.stderr or error.stdout).strip()}") from error


def values(shape: Topology, cluster: Cluster) -> list[str]:
    """The options of ``meshgate install``: a node of the bed is not the whole machine.

    One cluster has an etcd of its chart; several share that of the bed.
    """
    settings: dict[str, object] = {
        "cluster.name": cluster.name,
        "cluster.id": cluster.id,
        "agentNotReadyTaint": "true",
        "host.cgroupRoot": configs.CGROUP,
    }
    if cluster.proxy == "none":
        settings["kubernetes.host"] = credentials.server(cluster)
    if len(shape.clusters) > 1:
        endpoint = f"https://{shape.etcd.addresses[0]}:{shape.etcd.port}"
        settings |= {"etcd.enabled": "false", "etcd.external.secret": SECRET}
        settings |= {"etcd.external.endpoints": f"{{{endpoint}}}"}
    pairs = [f"--set={name}={value}" for name, value in settings.items()]
    return [f"--values={_CHART / f'values-{mode(cluster)}.yaml'}", *pairs]


def mode(cluster: Cluster) -> str:
    """How Meshgate is installed on a cluster: ``whole``, or ``beside`` the CNI that it has."""
    return "whole" if cluster.cni == "none" else "beside"


def kubeconfig(lab: Lab, cluster: Cluster) -> Path:
    """The file of an administrator's kubeconfig for commands of this machine; written anew."""
    path = lab.run / "kubectl" / f"{cluster.name}.kubeconfig"
    path.parent.mkdir(exist_ok=True)
    replace_file(path, credentials.for_this_machine(lab, cluster))
    return path


def objects(shape: Topology, cluster: Cluster) -> list[dict[str, Any]]:
    """The objects of ours on each bed: all pods reach the legacy network by egress addresses."""
    gateways = {"matchLabels": {"role": "gateway"}}
    policy = {
        "selectors": [{"namespaceSelector": {}}],
        "destinationCIDRs": [str(network) for network in shape.legacy.networks],
        "addresses": [str(address) for address in cluster.egress],
        "gateways": {"nodeSelector": gateways},
    }
    peer = {
        "nodeSelector": gateways,
        "address": str(shape.router.addresses[0]),
        "asn": shape.router.asn,
        "localASN": cluster.asn,
        "advertise": ["egressIPs"],
    }
    return [
        {"apiVersion": _GROUP, "kind": kind, "metadata": {"name": name}, "spec": spec}
        for kind, name, spec in (("EgressPolicy", "legacy", policy), ("BGPPeer", "router", peer))
    ]


def _shared(lab: Lab) -> list[dict[str, Any]]:
    """What each cluster must have to share the etcd of the bed."""
    pki = pki_directory(lab)
    root = files_of(pki, ROOT)
    files = {"ca.crt": pki / "ca.crt", "ca.key": pki / "ca.key", "root.crt": root.cert}
    files |= {"root.key": root.key}
    data = {name: path.read_text() for name, path in files.items()}
    secret = {"metadata": {"name": SECRET, "namespace": NAMESPACE}, "stringData": data}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "Secret", **secret},
    ]


def _take_image(lab: Lab, name: str) -> None:
    _run(node.argv(lab, name, ["ctr", "-n", "k8s.io", "images", "import", str(IMAGE)]))


def _problem(lab: Lab, cluster: Cluster) -> str:
    """What keeps pods from starting; empty when nothing does."""
    for each in bringup.nodes(lab, cluster):
        name = each["metadata"]["name"]
        if not bringup.is_ready(each):
            return f"node {name} is not Ready"
        if any(one["key"] == _TAINT for one in each["spec"].get("taints", ())):
            return f"node {name} has the taint {_TAINT}"
    return ""


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
