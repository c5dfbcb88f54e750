"""``make demo-k8s``: Meshgate on two real clusters, shown with real commands and their real output.

``east`` has no other network: Meshgate is its CNI. ``west`` keeps kube-router, and Meshgate stands
beside it. Both share one etcd; router, firewall and legacy network are those of the lab. The
clusters stay up.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mesh.lab import places
from mesh.lab.demo import Demo
from mesh.lab.kube import bringup, cli, images, installed, topology
from mesh.lab.places import LabError

TOPOLOGY = installed.CHECKOUT / "tests" / "e2e" / "beds" / "two.yaml"
#: Commands of each cluster run on its first node, where its API server is.
_KUBECTL = {name: f"meshgate lab kube exec {name}-1 -- kubectl" for name in ("east", "west")}
_PROBE = Path(__file__).parents[1] / "probe.py"
_ECHO = _PROBE.with_name("legacy.py")
_PORT, ECHO_PORT = 8080, 9000
#: Seconds of a transfer: a rolling upgrade of two agents ends well before.
_TRANSFER_S = 60
_WORKLOAD = """
apiVersion: v1
kind: Namespace
metadata: {{name: shop}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web-{cluster}, namespace: shop}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - {{name: web, image: "{image}", args: [netexec, --http-port={port}]}}
---
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  annotations: {{service.cilium.io/global: "true"}}
spec:
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: {port}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: shop, labels: {{app: client}}}}
spec:
  nodeName: {cluster}-1
  containers: [{{name: client, image: "{image}", args: [pause]}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: other, namespace: shop, labels: {{app: other}}}}
spec:
  nodeName: {cluster}-1
  containers: [{{name: other, image: "{image}", args: [pause]}}]
"""
#: Pods of the label alone, in place of all pods.
_COVERS = {"spec": {"selectors": [{"podSelector": {"matchLabels": {"app": "client"}}}]}}


def bring_up() -> None:
    """Two clusters with Meshgate on both, by the chart. Raises LabError."""
    lab = places.current(cli.NAME, cli.RUN)
    shape = topology.load(TOPOLOGY)
    installed.make_image()
    bringup.down(lab)
    bringup.up(lab, shape, TOPOLOGY.read_text())
    for cluster in shape.clusters:
        installed.install(lab, shape, cluster)
        text = _WORKLOAD.format(cluster=cluster.name, image=images.AGNHOST, port=_PORT)
        bringup.kubectl(lab, cluster, "apply", "-f", "-", given=text)
        patch = ("patch", "egresspolicy", "legacy", "--type=merge", "-p", json.dumps(_COVERS))
        bringup.kubectl(lab, cluster, *patch)
        every = ("wait", "--for=condition=Ready", "pod", "--all", "-n", "shop", "--timeout=120s")
        bringup.kubectl(lab, cluster, *every)


def nodes(demo: Demo) -> None:
    """Pods of both clusters, and what Meshgate is there."""
    demo.title("Two clusters of Kubernetes: Meshgate is the network of east, and beside west's")
    for kubectl in _KUBECTL.values():
        demo.run(f"{kubectl} get nodes -o wide")
        demo.run(f"{kubectl} -n meshgate-system get daemonset,deployment")
        demo.run(f"{kubectl} -n shop get pods -o wide")
        demo.run(f"{kubectl} get egresspolicy,bgppeer")
    lists = [
        json.loads(demo.text(f"{one} get nodes -o json"))["items"] for one in _KUBECTL.values()
    ]
    ready = [bringup.is_ready(node) for found in lists for node in found]
    demo.claim(f"{sum(ready)} nodes are Ready", holds=ready == [True] * 4)


def services(demo: Demo) -> None:
    """A global service answered by pods of both clusters."""
    demo.title("A pod of east calls the global service shop/web: both clusters answer")
    ask = "for n in {1..30}; do curl -s -m 5 http://web.shop.svc.cluster.local/hostname; echo; done"
    said = demo.run(f"{_KUBECTL['east']} -n shop exec client -- bash -c '{ask}' | sort | uniq -c")
    clusters = set(re.findall(r"web-(east|west)-", said))
    demo.claim(
        f"the answers came from {' and '.join(sorted(clusters)) or 'nobody'}",
        holds=clusters == {"east", "west"},
    )


def egress(demo: Demo) -> None:
    """A covered pod is one stable address outside; another one is refused."""
    demo.title("Egress: the legacy network sees one address of a cluster, the rest is refused")
    shown = demo.quiet("meshgate lab kube show -o json")
    legacy, log = shown["legacy"], Path(shown["legacy"]["log"])
    for name, kubectl in _KUBECTL.items():
        before = len(log.read_text().splitlines())
        for address in legacy["addresses"]:
            demo.run(_say(kubectl, "client", address, legacy["tcp"]))
        lines = demo.run(f"tail -n +{before + 1} {log}").splitlines()
        sources = {line.split()[2] for line in lines if " tcp " in line}
        wanted = set(shown["clusters"][name]["egress"])
        demo.claim(
            f"of {name} the legacy server saw {', '.join(sorted(sources)) or 'nobody'}",
            holds=sources == wanted,
        )
        refused = demo.run(_say(kubectl, "other", legacy["addresses"][0], legacy["tcp"]))
        demo.claim(f"the uncovered pod of {name} is refused", holds="hello" not in refused)


def routes(demo: Demo) -> None:
    """The router's way to egress addresses."""
    demo.title("The data-centre router has learned the egress addresses from the gateways")
    shown = demo.quiet("meshgate lab kube show -o json")
    vtysh = f"meshgate lab kube exec router vtysh --vty_socket {shown['vtySocketDir']}"
    table = demo.run(f"{vtysh} -c 'show bgp ipv4 unicast' -c 'show bgp ipv6 unicast'")
    wanted = [one for cluster in shown["clusters"].values() for one in cluster["egress"]]
    missing = [address for address in wanted if f" {address}/" not in table]
    text = "every egress address is in the router's table"
    demo.claim(text if not missing else f"missing: {', '.join(missing)}", holds=not missing)


def upgrade(demo: Demo) -> None:
    """All agents of east are replaced during three transfers."""
    demo.title("Every agent of east is replaced during three transfers: nothing is lost")
    legacy = demo.quiet("meshgate lab kube show -o json")["legacy"]
    here, there = _inside(demo, "east", "client"), _inside(demo, "west", "client")
    target = _addresses(demo, "west", "client")
    echo = demo.start(f"{there} {sys.executable} {_ECHO} {ECHO_PORT} {ECHO_PORT}")
    time.sleep(1)
    probe = f"{here} {sys.executable} {_PROBE} udp --seconds {_TRANSFER_S}"
    transfers = {
        "to the pod in west, IPv4": demo.start(f"{probe} {target[0]} {ECHO_PORT}"),
        "to the pod in west, IPv6": demo.start(f"{probe} {target[1]} {ECHO_PORT}"),
        "to the legacy server": demo.start(f"{probe} {legacy['addresses'][0]} {legacy['udp']}"),
    }
    time.sleep(2)
    kubectl = f"{_KUBECTL['east']} -n meshgate-system"
    demo.run(f"{kubectl} rollout restart daemonset/meshgate-agent")
    demo.run(f"{kubectl} rollout status daemonset/meshgate-agent --timeout={_TRANSFER_S}s")
    ended = [name for name, one in transfers.items() if one.poll() is not None]
    lost = 0
    for name, transfer in transfers.items():
        text, _ = transfer.communicate()
        print(f"{name}: {text.strip()}")
        lost += json.loads(text.splitlines()[-1])["missing"]
    echo.terminate()
    echo.wait()
    demo.claim(
        f"1,000 packets a second in three transfers: {lost} lost", holds=lost == 0 and not ended
    )


def _say(kubectl: str, pod: str, address: str, port: int) -> str:
    """A command that sends a word to an echo server and prints the echo."""
    script = f"exec 3<>/dev/tcp/{address}/{port} && echo hello from {pod} >&3 && head -1 <&3"
    return f"{kubectl} -n shop exec {pod} -- timeout 5 bash -c '{script}'"


def _addresses(demo: Demo, cluster: str, pod: str) -> list[str]:
    row = json.loads(demo.text(f"{_KUBECTL[cluster]} -n shop get pod {pod} -o json"))
    return [one["ip"] for one in row["status"]["podIPs"]]


def _inside(demo: Demo, cluster: str, pod: str) -> str:
    """What runs a command of this machine in the network namespace of a pod."""
    (address, *_) = _addresses(demo, cluster, pod)
    on_node = f"meshgate lab kube exec {cluster}-1 --"
    for name in demo.text(f"{on_node} ip netns list").split("\n"):
        words = f"{on_node} ip netns exec {name.split()[0]}" if name else ""
        if words and f" {address}/" in demo.text(f"{words} ip -o address"):
            return words
    raise LabError(f"no network namespace of {cluster}-1 has {address}")


STEPS: tuple[Callable[[Demo], None], ...] = (nodes, services, egress, routes, upgrade)


def main() -> int:
    """All steps; 0 when every claim held."""
    demo = Demo()
    demo.title("Two clusters of real kubelets and API servers; Meshgate comes by its chart")
    try:
        bring_up()
        for step in STEPS:
            step(demo)
    except LabError as error:
        print(f"The clusters did not come up: {error}")
        return 1
    return demo.summary(
        """The clusters are still up; look further with
     {bin}/meshgate lab kube exec east-1 kubectl get pods -A -o wide
     {bin}/meshgate lab kube exec west-1 kubectl get egresspolicies
   and remove them with
     {bin}/meshgate lab kube down"""
    )


if __name__ == "__main__":
    sys.exit(main())
