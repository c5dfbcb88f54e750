"""Certificates, tokens and kubeconfigs of a cluster, in ``secrets/<cluster>`` of the run directory.

``ca.crt`` and ``ca.key``; pairs of the API server and of its clients; ``tokens.csv``;
``<user>.kubeconfig`` of each user. They are made once, so a cluster keeps them over a node's death.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

import yaml

from clustermesh.certs import Authority
from clustermesh.issued import write_pair
from mesh.core.files import private_folder, replace_file
from mesh.lab.kube.topology import Cluster
from mesh.lab.places import Lab

API_PORT = 6443
ADMIN, CONTROLLERS, SCHEDULER, PROXY = "admin", "controllers", "scheduler", "proxy"
KUBE_ROUTER = "kube-router"
#: The API server's own certificates as a client: of kubelets, and of aggregated API servers.
KUBELET_CLIENT, FRONT_PROXY = "kube-apiserver-kubelet-client", "front-proxy-client"
SERVER, ACCOUNTS = "apiserver", "accounts"


@dataclass(frozen=True, slots=True)
class User:
    """A user of the API server who has a token and a kubeconfig."""

    file: str
    """Its kubeconfig without the suffix."""
    name: str
    group: str = ""


def users(cluster: Cluster) -> list[User]:
    """All of them: the components, and each node's kubelet."""
    nodes = [User(node.name, f"system:node:{node.name}", "system:nodes") for node in cluster.nodes]
    return [
        User(ADMIN, "admin", "system:masters"),
        User(CONTROLLERS, "system:kube-controller-manager"),
        User(SCHEDULER, "system:kube-scheduler"),
        User(PROXY, "system:kube-proxy"),
        User(KUBE_ROUTER, "lab:kube-router"),
        *nodes,
    ]


def folder(lab: Lab, cluster: Cluster) -> Path:
    """Where they lie."""
    return lab.run / "secrets" / cluster.name


def kubeconfig(lab: Lab, cluster: Cluster, user: str = ADMIN) -> Path:
    """A user's kubeconfig, for commands on any host of the fabric."""
    return folder(lab, cluster) / f"{user}.kubeconfig"


def server(cluster: Cluster) -> str:
    """The URL of the cluster's API server."""
    address = cluster.control_plane.addresses[0]
    host = f"[{address}]" if isinstance(address, IPv6Address) else str(address)
    return f"https://{host}:{API_PORT}"


def port_file(lab: Lab, cluster: Cluster) -> Path:
    """The number of the loopback's port that leads to the API server (``forward``)."""
    return folder(lab, cluster) / "port"


def for_this_machine(lab: Lab, cluster: Cluster) -> str:
    """An administrator's kubeconfig that works outside of the fabric. Raises OSError."""
    port = int(port_file(lab, cluster).read_text())
    text = kubeconfig(lab, cluster).read_text()
    return text.replace(server(cluster), f"https://127.0.0.1:{port}")


def write(lab: Lab, cluster: Cluster) -> None:
    """Make all of them, unless they are there."""
    place = folder(lab, cluster)
    if (place / "tokens.csv").exists():
        return
    private_folder(place)
    authority = Authority.create(f"{cluster.name} CA")
    replace_file(place / "ca.crt", authority.pair.cert, mode=0o644)
    replace_file(place / "ca.key", authority.pair.key)
    write_pair(place, SERVER, authority.issue_server("kube-apiserver", served_names(cluster)))
    for name in (KUBELET_CLIENT, FRONT_PROXY):
        write_pair(place, name, authority.issue_user(name))
    write_pair(place, ACCOUNTS, authority.issue_user("service-accounts"))
    tokens = {user.file: secrets.token_hex(16) for user in users(cluster)}
    ca = authority.pair.cert.decode()
    for user, token in tokens.items():
        document = kubeconfig_document(cluster.name, server(cluster), ca, token)
        replace_file(kubeconfig(lab, cluster, user), document)
    replace_file(place / "tokens.csv", token_file(users(cluster), tokens))


def served_names(cluster: Cluster) -> list[str]:
    """Names and addresses under which the API server is asked."""
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
    addresses = (*cluster.control_plane.addresses, *(net[1] for net in cluster.services))
    return [
        *names,
        "kubernetes.default.svc.cluster.local",
        *("127.0.0.1", "::1"),
        *map(str, addresses),
    ]


def token_file(found: Iterable[User], tokens: Mapping[str, str]) -> str:
    """kube-apiserver's file of tokens: token, user, uid, groups."""
    rows = [
        f'{tokens[user.file]},{user.name},{user.file},"{user.group}"'
        if user.group
        else f"{tokens[user.file]},{user.name},{user.file}"
        for user in found
    ]
    return "".join(f"{row}\n" for row in rows)


def kubeconfig_document(name: str, url: str, ca: str, token: str) -> str:
    """A kubeconfig that needs no other file."""
    tree = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": url, "certificate-authority-data": _base64(ca)}}
        ],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    return yaml.safe_dump(tree, sort_keys=False)


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()
