"""What the programs of a node are told: arguments and configuration files, made from the topology.

Pure: texts and argument lists; ``bringup`` writes them. Traps that the values mend are in
the comments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from mesh.core.model import IP, Network
from mesh.lab.kube import credentials, images
from mesh.lab.kube.credentials import FRONT_PROXY, KUBELET_CLIENT
from mesh.lab.kube.init import Service
from mesh.lab.kube.topology import Cluster, Node

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
ETCD = "http://127.0.0.1:2379"
CONTROL_PLANE_TAINT = "node-role.kubernetes.io/control-plane=:NoSchedule"
CONFLIST = "10-bridge.conflist"
#: kube-router writes the node's pod CIDRs into this file, which must be there.
KUBE_ROUTER_CONFLIST = "10-kuberouter.conflist"
_CONFLISTS = "/etc/cni/net.d"
#: The node's folders and the paths where its programs see them. What is mounted over one of them
#: (volumes of pods) must reach the containers, so each is a mount of its own.
FOLDERS = {
    "etc-cni": "/etc/cni",
    "opt-cni": "/opt/cni",
    "kubelet": "/var/lib/kubelet",
    "containerd": "/var/lib/containerd",
    "cni": "/var/lib/cni",
    "meshgate": "/var/lib/meshgate",
    "pods": "/var/log/pods",
    "containers": "/var/log/containers",
}
#: Where a node sees its own group of the cgroup2 tree, which is the whole tree of a real node.
CGROUP = "/run/cgroup2"

Document = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Paths:
    """Where a node finds what it needs, in the file system that all nodes share."""

    folder: Path
    """The node's own folder."""
    secrets: Path
    """That of its cluster."""
    cgroup: str
    """The node's group in all trees, as kubelet is told."""


def services(
    cluster: Cluster, node: Node, paths: Paths, archives: Sequence[Path]
) -> tuple[Service, ...]:
    """The services of a node, in the order of their start."""
    config = str(paths.folder / "containerd.toml")
    kubeconfig = str(paths.secrets / f"{node.name}.kubeconfig")
    found = list(_control_plane(cluster, node, paths)) if node.control_plane else []
    found.append(Service("containerd", ("containerd", "--config", config)))
    found += [_import(archive) for archive in archives]
    kubelet = (
        *("kubelet", "--config", str(paths.folder / "kubelet.yaml"), "--kubeconfig", kubeconfig),
        *("--hostname-override", node.name, "--node-ip", _joined(_by_family(cluster, node))),
        "--v=2",
    )
    found.append(Service("kubelet", kubelet))
    if cluster.proxy != "none":
        proxy = ("kube-proxy", "--config", str(paths.folder / "proxy.yaml"), "--v=2")
        found.append(Service("kube-proxy", proxy))
    if cluster.cni == "kube-router":
        found.append(Service("kube-router", _kube_router(cluster, node, paths)))
    return tuple(found)


def _import(archive: Path) -> Service:
    command = ("ctr", "-n", "k8s.io", "images", "import", str(archive))
    return Service(f"import-{archive.stem}", command, once=True)


def _control_plane(cluster: Cluster, node: Node, paths: Paths) -> list[Service]:
    peer = "http://127.0.0.1:2380"
    etcd = (
        *("etcd", "--data-dir", str(paths.folder / "etcd"), "--log-level", "warn"),
        *("--listen-client-urls", ETCD, "--advertise-client-urls", ETCD),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
        *("--initial-cluster", f"default={peer}", "--logger", "zap"),
    )
    config = str(paths.secrets / f"{credentials.SCHEDULER}.kubeconfig")
    scheduler = ("kube-scheduler", *_kubeconfigs(config), "--leader-elect=false")
    return [
        Service("etcd", etcd),
        Service("kube-apiserver", api_server(cluster, node, paths)),
        Service("kube-controller-manager", _controllers(cluster, paths)),
        Service("kube-scheduler", scheduler),
    ]


def api_server(cluster: Cluster, node: Node, paths: Paths) -> tuple[str, ...]:
    """The API server's command."""
    place = paths.secrets
    ca = place / "ca.crt"
    return (
        *("kube-apiserver", f"--etcd-servers={ETCD}", f"--advertise-address={node.addresses[0]}"),
        *("--bind-address=::", f"--secure-port={credentials.API_PORT}"),
        *_pair("--tls-cert-file", "--tls-private-key-file", place, credentials.SERVER),
        f"--client-ca-file={ca}",
        # It reads a public key out of a certificate, but not out of a key of form PKCS 8.
        *_pair(
            "--service-account-key-file",
            "--service-account-signing-key-file",
            place,
            credentials.ACCOUNTS,
        ),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        *_pair(
            "--kubelet-client-certificate",
            "--kubelet-client-key",
            place,
            KUBELET_CLIENT,
        ),
        "--kubelet-preferred-address-types=InternalIP",
        *(f"--requestheader-client-ca-file={ca}", "--requestheader-username-headers=X-Remote-User"),
        f"--requestheader-allowed-names={FRONT_PROXY}",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        *_pair("--proxy-client-cert-file", "--proxy-client-key-file", place, FRONT_PROXY),
        "--enable-aggregator-routing",  # no kube-proxy need stand between it and a pod
        f"--token-auth-file={place / 'tokens.csv'}",
        *("--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"),
        *("--allow-privileged", "--profiling=false"),
        f"--service-cluster-ip-range={_joined(cluster.services)}",
        f"--audit-policy-file={paths.folder / 'audit.yaml'}",
        f"--audit-log-path={paths.folder / 'audit.log'}",
        *("--audit-log-maxsize=200", "--audit-log-maxbackup=1"),
    )


def _controllers(cluster: Cluster, paths: Paths) -> tuple[str, ...]:
    place = paths.secrets
    config = str(place / f"{credentials.CONTROLLERS}.kubeconfig")
    return (
        *("kube-controller-manager", *_kubeconfigs(config), "--leader-elect=false"),
        f"--service-account-private-key-file={place / f'{credentials.ACCOUNTS}.key'}",
        f"--root-ca-file={place / 'ca.crt'}",
        *_pair("--cluster-signing-cert-file", "--cluster-signing-key-file", place, "ca"),
        *("--allocate-node-cidrs", f"--cluster-cidr={_joined(cluster.pod_cidrs)}"),
        f"--service-cluster-ip-range={_joined(cluster.services)}",
        *("--use-service-account-credentials", "--profiling=false"),
        f"--flex-volume-plugin-dir={paths.folder / 'volume-plugins'}",  # else below /usr
    )


def _kube_router(cluster: Cluster, node: Node, paths: Paths) -> tuple[str, ...]:
    """Routes by BGP and a firewall for network policies; services stay kube-proxy's.

    The fabric is one subnet, so there is no overlay (and the kernel has no ipip).
    """
    config = paths.secrets / f"{credentials.KUBE_ROUTER}.kubeconfig"
    return (
        *("env", f"KUBE_ROUTER_CNI_CONF_FILE={_CONFLISTS}/{KUBE_ROUTER_CONFLIST}"),
        *("kube-router", f"--kubeconfig={config}", f"--hostname-override={node.name}"),
        *("--run-router=true", "--run-firewall=true", "--run-service-proxy=false"),
        *("--run-loadbalancer=false", "--enable-overlay=false", "--bgp-graceful-restart"),
        *(f"--enable-ipv{net.version}=true" for net in cluster.pod_cidrs),
        *(f"--service-cluster-ip-range={net}" for net in cluster.services),
    )


def _kubeconfigs(path: str) -> tuple[str, ...]:
    names = ("--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig")
    return tuple(f"{name}={path}" for name in names)


def _pair(cert: str, key: str, place: Path, name: str) -> tuple[str, str]:
    return f"{cert}={place / name}.crt", f"{key}={place / name}.key"


def files(cluster: Cluster, node: Node, paths: Paths) -> dict[str, str]:
    """The configuration files in the node's folder, by name."""
    found = {
        "containerd.toml": _CONTAINERD,
        "kubelet.yaml": _yaml(kubelet(cluster, node, paths)),
        "resolv.conf": "",
    }
    if cluster.proxy != "none":
        found["proxy.yaml"] = _yaml(_proxy(cluster, node, paths))
    if node.control_plane:
        found["audit.yaml"] = _yaml(_AUDIT)
    return found


def kubelet(cluster: Cluster, node: Node, paths: Paths) -> Document:
    """KubeletConfiguration (kubelet.config.k8s.io/v1beta1)."""
    taints = [*cluster.taints, *([] if node.is_open else [CONTROL_PLANE_TAINT])]
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": paths.cgroup,
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(paths.secrets / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": [str(cluster.dns)],
        "clusterDomain": "cluster.local",
        "resolvConf": str(paths.folder / "resolv.conf"),
        "registerWithTaints": [_taint(text) for text in taints],
        "failSwapOn": False,
        # All nodes share one disk and one memory: none may think that they are its own.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "systemReserved": {"memory": "4Gi"},
        "registryPullQPS": 0,
        "serializeImagePulls": False,
        "maxPods": 60,
        "volumePluginDir": str(paths.folder / "volume-plugins"),
        "nodeStatusUpdateFrequency": "5s",
    }


def _taint(text: str) -> Document:
    key, _, rest = text.partition("=")
    value, _, effect = rest.partition(":")
    return {"key": key, "value": value, "effect": effect}


def _proxy(cluster: Cluster, node: Node, paths: Paths) -> Document:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": cluster.proxy,
        "clusterCIDR": _joined(cluster.pod_cidrs),
        "hostnameOverride": node.name,
        "clientConnection": {"kubeconfig": str(paths.secrets / f"{credentials.PROXY}.kubeconfig")},
        # Settings of the whole machine, which no node may change.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        "metricsBindAddress": "127.0.0.1:10249",
    }


#: Who did which verb to which resource: roles are judged by it.
_AUDIT: Document = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}

#: A machine without CAP_SYS_RESOURCE cannot lower an OOM score (``restrict_oom_score_adj``).
_CONTAINERD = f"""version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{images.PAUSE}"

[plugins."io.containerd.cri.v1.runtime"]
  disable_hugetlb_controller = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"
"""


def kube_router_conflist() -> str:
    """The network of a node whose pod CIDRs kube-router will add."""
    bridge = {
        "type": "bridge",
        "bridge": "kube-bridge",
        "isDefaultGateway": True,
        "hairpinMode": True,
        "ipam": {"type": "host-local"},
    }
    return _conflist("kubernetes", "1.0.0", bridge)


def _conflist(name: str, version: str, plugin: Document) -> str:
    """A list of this plugin and portmap."""
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    return json.dumps({"cniVersion": version, "name": name, "plugins": [plugin, portmap]}, indent=1)


def bridge_conflist(pod_cidrs: Sequence[Network], mtu: int) -> str:
    """The reference bridge on a node with these pod CIDRs; packets keep their source."""
    everywhere = {4: "0.0.0.0/0", 6: "::/0"}
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "mtu": mtu,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": str(net)}] for net in pod_cidrs],
            "routes": [{"dst": everywhere[net.version]} for net in pod_cidrs],
        },
    }
    return _conflist("bridge", "1.1.0", bridge)


def pod_routes(pod_cidrs: Sequence[Network], node: Node) -> list[str]:
    """``ip -batch`` lines of another host for a node's pods."""
    via = {address.version: address for address in node.addresses}
    return [f"route replace {net} via {via[net.version]}" for net in pod_cidrs]


def _by_family(cluster: Cluster, node: Node) -> list[IP]:
    """The node's addresses in the order of the families of its cluster."""
    by_family = {address.version: address for address in node.addresses}
    return [by_family[net.version] for net in cluster.services]


def _joined(values: Sequence[object]) -> str:
    return ",".join(map(str, values))


def _yaml(tree: Document) -> str:
    return yaml.safe_dump(dict(tree), sort_keys=False)
