"""``meshgate cluster user CLUSTER``: an etcd user for a Cilium cluster, made where the CA is.

A *writer* is the kvstoremesh that mirrors the cluster into the shared etcd: it writes the cluster's
own keys and the two locks, and reads the heartbeat, which our controllers put. So it runs without
``--enable-heartbeat``. Its lock is one key for the whole etcd, so one kvstoremesh with a file for
each Cilium cluster writes into an etcd (``reference/cilium-peer.md`` B8). A *reader* is a Cilium
agent, operator or kvstoremesh that reads all clusters and writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from clustermesh.certs import Authority, KeyPair
from clustermesh.etcd.auth import Grant, add_user
from clustermesh.etcd.client import Client, EtcdAddress
from clustermesh.remote import wire

#: Types of keys that a kvstoremesh mirrors; it needs those that we do not read as well.
TYPES = ("nodes", "services", "endpointslices", "serviceexports", "ip", "identities")
#: Where Cilium has its files.
PLACE = "/var/lib/cilium/clustermesh"
_LOCKS = ("cilium/.initlock/", wire.MESH_LOCK)
_HEARTBEAT = Grant(wire.HEARTBEAT, prefix=True)  # Cilium watches it as a prefix

WRITER, READER = "writer", "reader"


def grants(cluster: str, role: str) -> Sequence[Grant]:
    """What the user may do."""
    if role == READER:
        read = ("cilium/cache/", wire.CONFIGS, wire.CANARIES)
        return (_HEARTBEAT, *map(Grant, read))
    caches = [f"cilium/cache/{kind}/v1/{cluster}/" for kind in TYPES]
    own = [*caches, wire.config_key(cluster), f"{wire.CANARIES}{cluster}/", *_LOCKS]
    return (_HEARTBEAT, *(Grant(key, write=True) for key in own))


def user_name(cluster: str, role: str) -> str:
    """The name of the user, which is the common name of its certificate."""
    return f"{cluster}-kvstoremesh" if role == WRITER else f"{cluster}-reader"


@dataclass(frozen=True, slots=True)
class CiliumUser:
    """A user with its certificate; ``files`` are texts by name, the configuration last."""

    user: str
    files: Mapping[str, str]


def make(cluster: str, role: str, pki: Path, endpoints: Sequence[str]) -> CiliumUser:
    """Make the user in etcd, as root, and its certificate. It may be made again.

    ``pki`` has the files that ``write_pki`` writes. Raises ValueError, OSError.
    """
    if not wire.is_cluster_name(cluster):
        text = f"{cluster!r} is no cluster name: 1 to 32 of a-z, 0-9 and dash, not 'default'"
        raise ValueError(text)
    user = user_name(cluster, role)
    ca = KeyPair((pki / "ca.crt").read_bytes(), (pki / "ca.key").read_bytes())
    pair = Authority(ca).issue(user)
    address = EtcdAddress(endpoints, pki / "ca.crt", pki / "root.crt", pki / "root.key")
    asyncio.run(_enter(address, user, grants(cluster, role)))
    names = [f"{PLACE}/{user}.{end}" for end in ("ca.crt", "crt", "key")]
    config = dict(zip(("trusted-ca-file", "cert-file", "key-file"), names, strict=True))
    text = yaml.safe_dump({"endpoints": list(endpoints), **config}, sort_keys=False)
    texts = [part.decode() for part in (ca.cert, pair.cert, pair.key)]
    return CiliumUser(user, {**dict(zip(names, texts, strict=True)), f"{PLACE}/{user}.yaml": text})


async def _enter(address: EtcdAddress, user: str, rights: Sequence[Grant]) -> None:
    client = Client(address)
    try:
        await add_user(client, user, rights)
    finally:
        await client.aclose()
