"""``meshgate etcd init``: CA, certificates and users of an etcd, as files or as Secrets.

May be repeated: what is good stays (``clustermesh/founding.py``). Also whose token a certificate is
asked for, which the issuer needs to know.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from clustermesh.asking import RefusedError
from clustermesh.certs import names_of
from clustermesh.etcd.errors import EtcdError
from clustermesh.founding import CA_KEYS, found, root_problem
from clustermesh.issued import ROOT, SERVER, Folder, files_of, write_pair, write_pki
from clustermesh.issuer import AUDIENCE, ROLES, Caller, Issuer
from mesh.core.files import replace_file
from mesh.install.api import Api, ApiError
from mesh.install.leaving import config_map

#: Secrets of the chart's own etcd, and where processes find it.
_CA, _SERVER, _ENDPOINTS = "meshgate-ca", "meshgate-etcd-server", "meshgate-etcd"
_LABEL = "meshgate.io/etcd"
_NODE_CLAIM = "authentication.kubernetes.io/node-name"


def make_files(into: Path, addresses: Sequence[str], endpoints: Sequence[str]) -> Iterator[str]:
    """A folder as ``meshgate cluster`` wants it. Raises OSError, ValueError."""
    if not (into / "ca.crt").exists():
        write_pki(into, [ROOT], addresses)
        yield f"{into}: a new CA, root and a server's certificate for {', '.join(addresses)}"
    else:
        folder = Folder(into)
        with folder.locked():
            renewed = list(folder.renew())
            missing = _lacks(files_of(into, SERVER).cert.read_bytes(), addresses)
            if missing:
                served = [*addresses, "localhost", "127.0.0.1", "::1"]
                write_pair(into, SERVER, folder.authority.issue_server("etcd-server", served))
                renewed.append(f"{SERVER}, now for {', '.join(addresses)}")
        yield f"{into}: {', '.join(renewed) or 'nothing'} renewed"
    if endpoints:
        _found_users(into, endpoints)
        yield "etcd: root is there, and authentication is on"


def _lacks(cert: bytes, addresses: Sequence[str]) -> bool:
    return not set(addresses) <= set(names_of(cert))


def _found_users(pki: Path, endpoints: Sequence[str]) -> None:
    """Raises OSError."""
    try:
        Issuer("", pki, endpoints, timedelta()).found_users()
    except EtcdError as error:
        raise OSError(f"{', '.join(endpoints)}: {error}") from error


def make_secrets(api: Api, namespace: str, port: int) -> Iterator[str]:
    """Secrets of the chart's own etcd. Raises ApiError, ValueError."""
    addresses = _etcd_addresses(api)
    root = f"/api/v1/namespaces/{namespace}/secrets"
    former = {name: _secret(api.find(f"{root}/{name}")) for name in (_CA, _SERVER)}
    made = dict(zip((_CA, _SERVER), found(former[_CA], former[_SERVER], addresses), strict=True))
    for name, data in made.items():
        if dict(data) == former[name]:
            yield f"secret/{name} stays"
            continue
        api.apply(_secret_of(namespace, name, data))
        yield f"secret/{name} made"
    endpoints = [f"https://{_bracketed(one)}:{port}" for one in addresses[:1]]
    api.apply(_endpoints_of(namespace, endpoints, made[_CA]["ca.crt"]))
    yield f"configmap/meshgate-etcd: {', '.join(endpoints)}"


def take_secret(api: Api, namespace: str, name: str, endpoints: Sequence[str]) -> Iterator[str]:
    """An etcd that is there: its Secret is tried, and its authentication is on.

    Raises ApiError, OSError, ValueError.
    """
    found = api.find(f"/api/v1/namespaces/{namespace}/secrets/{name}")
    if found is None:
        raise ValueError(f"Secret {namespace}/{name} is missing; it has {', '.join(CA_KEYS)}")
    data = _secret(found)
    if problem := root_problem(data):
        raise ValueError(f"Secret {namespace}/{name}: {problem}")
    with tempfile.TemporaryDirectory() as place:
        for key in CA_KEYS:
            replace_file(Path(place) / key, data[key])
        _found_users(Path(place), endpoints)
    yield "etcd: root is there, and authentication is on"
    api.apply(_endpoints_of(namespace, endpoints, data["ca.crt"]))
    yield f"configmap/meshgate-etcd: {', '.join(endpoints)}"


def _etcd_addresses(api: Api) -> list[str]:
    """Addresses of the one node with etcd. Raises ValueError."""
    nodes = api.get("/api/v1/nodes", labelSelector=_LABEL)["items"]
    if len(nodes) != 1:
        names = ", ".join(node["metadata"]["name"] for node in nodes) or "none"
        text = f"one node must have the label {_LABEL}, there is {names}: "
        raise ValueError(f"{text}kubectl label node NAME {_LABEL}=")
    found = nodes[0]["status"].get("addresses", ())
    inside = [one["address"] for one in found if one["type"] == "InternalIP"]
    if not inside:
        raise ValueError(f"node {nodes[0]['metadata']['name']} has no InternalIP")
    return inside


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _secret(found: Any) -> dict[str, bytes]:
    data = (found or {}).get("data") or {}
    return {key: base64.b64decode(value) for key, value in data.items()}


def _secret_of(namespace: str, name: str, data: Mapping[str, bytes]) -> Mapping[str, Any]:
    packed = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {**config_map(namespace, name), "kind": "Secret", "type": "Opaque", "data": packed}


def _endpoints_of(namespace: str, endpoints: Sequence[str], ca: bytes) -> Mapping[str, Any]:
    data = {"endpoints": ",".join(endpoints), "ca.crt": ca.decode()}
    return {**config_map(namespace, _ENDPOINTS), "data": data}


def reviewed(api: Api, namespace: str, token: str) -> Caller:
    """Whose token it is, as the API server says. Raises RefusedError; OSError when it is away."""
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [AUDIENCE]},
    }
    try:
        status = api.post("/apis/authentication.k8s.io/v1/tokenreviews", review)["status"]
    except ApiError as error:
        raise OSError(f"the API server does not judge the token: {error}") from error
    if not status.get("authenticated") or AUDIENCE not in status.get("audiences", ()):
        raise RefusedError(f"the API server does not know the token: {status.get('error', '')}")
    user = status["user"]
    prefix, _, account = user["username"].rpartition(":")
    nodes = user.get("extra", {}).get(_NODE_CLAIM, ())
    if prefix != f"system:serviceaccount:{namespace}" or account not in ROLES:
        raise RefusedError(f"{user['username']} gets no certificate")
    if len(nodes) != 1:
        raise RefusedError(f"the token of {user['username']} names no node; Kubernetes 1.32 does")
    return Caller(ROLES[account], nodes[0])
