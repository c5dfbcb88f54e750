"""Users of the shared etcd, made and taken away where the CA is.

``meshgate cluster node NAME``, ``controller INSTANCE`` and ``feed INSTANCE``: the users of our own
processes (D63). ``--issue`` makes user, role and certificate, ``--revoke`` takes all three away
(D64).

``meshgate cluster user CLUSTER``: a user for a Cilium cluster.

A *writer* is the kvstoremesh that mirrors the cluster into the shared etcd: it writes the cluster's
own keys and the two locks, and reads the heartbeat, which our controllers put. So it runs without
``--enable-heartbeat``. Its lock is one key for the whole etcd, so one kvstoremesh with a file for
each Cilium cluster writes into an etcd (``reference/cilium-peer.md`` B8). A *reader* is a Cilium
agent, operator or kvstoremesh that reads all clusters and writes nothing.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from clustermesh.certs import LIFETIME, PROCESS_LIFETIME, KeyPair
from clustermesh.etcd.auth import (
    CONTROLLER,
    FEED,
    NODE,
    SPEAKER,
    EtcdUser,
    Grant,
    add_user,
    remove_user,
    user_grants,
)
from clustermesh.etcd.client import Client, EtcdAddress
from clustermesh.issued import ROOT, Folder, files_of, write_pair
from clustermesh.publish import PREFIXES
from clustermesh.remote import wire
from clustermesh.store.own import revoked_key, revoked_value

#: Types of keys that a kvstoremesh mirrors; it needs those that we do not read as well.
TYPES = ("nodes", "services", "endpointslices", "serviceexports", "ip", "identities")
#: Where Cilium has its files, and where ours are.
PLACE, OUR_PLACE = "/var/lib/cilium/clustermesh", "/etc/meshgate"
_LOCKS = ("cilium/.initlock/", wire.MESH_LOCK)
_HEARTBEAT = Grant(wire.HEARTBEAT, prefix=True)  # Cilium watches it as a prefix

WRITER, READER = "writer", "reader"


def grants(cluster: str, role: str) -> Sequence[Grant]:
    """The rights of the user."""
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
class MadeUser:
    """A user with its certificate; ``files`` are texts by name, the configuration last."""

    user: str
    files: Mapping[str, str]
    pair: KeyPair


def make(cluster: str, role: str, pki: Path, endpoints: Sequence[str]) -> MadeUser:
    """Make the user in etcd, as root, and its certificate. It may be made again.

    ``pki`` is the folder of the CA (``issued.py``). Raises ValueError, OSError.
    """
    if not wire.is_cluster_name(cluster):
        text = f"{cluster!r} is no cluster name: 1 to 32 of a-z, 0-9 and dash, not 'default'"
        raise ValueError(text)
    user, folder = user_name(cluster, role), Folder(pki)

    async def enter(client: Client) -> None:
        await add_user(client, user, grants(cluster, role))

    with folder.locked():
        _as_root(folder, endpoints, enter)
        cert = f"{PLACE}/{user}"
        fields = ("trusted-ca-file", "cert-file", "key-file")
        return _made(folder, user, endpoints, cert, fields)


def processes_of(cluster: str, role: str, name: str) -> Sequence[EtcdUser]:
    """The users that go with a node, with a controller, or with a feed."""
    roles = (NODE, SPEAKER) if role == NODE else (FEED if role == FEED else CONTROLLER,)
    return [EtcdUser(cluster, one, name) for one in roles]


def issue(
    users: Sequence[EtcdUser],
    pki: Path,
    endpoints: Sequence[str],
    lifetime: timedelta = PROCESS_LIFETIME,
    *,
    into: Path | None = None,
) -> Sequence[MadeUser]:
    """Make these users in etcd, as root, and a certificate for each. They may be made again.

    ``into`` is a folder for the files, which no process renews meanwhile. Raises ValueError,
    OSError.
    """
    folder = Folder(pki)

    async def enter(client: Client) -> None:
        for user in users:
            await add_user(client, user.cn, user_grants(user, PREFIXES))
        await client.delete(_mark(users))

    with folder.locked():
        _as_root(folder, endpoints, enter)
        fields = ("ca", "cert", "key")
        made = [
            _made(folder, user.cn, endpoints, f"{OUR_PLACE}/{stem(user)}", fields, lifetime)
            for user in users
        ]
        for one in made if into else ():
            write_pair(into or Path(), one.user, one.pair)
        return made


def serve(user: EtcdUser, pki: Path, hosts: Sequence[str], into: Path) -> None:
    """Write a certificate for the server of a process, good for these names and addresses.

    Its files are called like the user's, with ``-server``. Raises OSError, ValueError.
    """
    authority = Folder(pki).authority
    write_pair(into, f"{user.cn}-server", authority.issue_server(hosts[0], hosts))


def revoke(users: Sequence[EtcdUser], pki: Path, endpoints: Sequence[str]) -> int:
    """Take these users away: certificates, then user and role. Return how many certificates.

    Connections that are open stay: ``end_connections``. Raises ValueError, OSError.
    """
    folder = Folder(pki)

    async def leave(client: Client) -> None:
        for user in users:
            await remove_user(client, user.cn)
        await client.put(_mark(users), revoked_value(datetime.now(UTC)))

    with folder.locked():
        number = folder.revoke(user.cn for user in users)
        _as_root(folder, endpoints, leave)
    return number


def _mark(users: Sequence[EtcdUser]) -> str:
    """The key that says that these users of one process' host were revoked."""
    first = users[0]
    return revoked_key(first.cluster, first.role, first.name)


def end_connections(endpoints: Sequence[str]) -> int | None:
    """End all connections to members of etcd on this host; how many, or None when it cannot.

    etcd judges a certificate when a connection is made, and a watch when that is made. So nothing
    less ends the watches of a user that was revoked (D64). Everybody else connects anew at once
    and misses nothing.
    """
    ports = " or ".join(f"sport = :{port}" for port in sorted({_port(one) for one in endpoints}))
    command = ["ss", "--kill", "--no-header", "--tcp", "state", "established", f"( {ports} )"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return len(done.stdout.splitlines()) or None


def _port(endpoint: str) -> str:
    return endpoint.rpartition(":")[2]


def stem(user: EtcdUser) -> str:
    """The names of a user's files begin with it."""
    return files_of(Path(), user.cn).cert.stem


def _as_root(
    folder: Folder, endpoints: Sequence[str], act: Callable[[Client], Coroutine[Any, Any, None]]
) -> None:
    root = files_of(folder.directory, ROOT)

    async def run() -> None:
        client = Client(EtcdAddress(endpoints, folder.ca, root.cert, root.key))
        try:
            await act(client)
        finally:
            await client.aclose()

    asyncio.run(run())


def _made(
    folder: Folder,
    user: str,
    endpoints: Sequence[str],
    place: str,
    fields: Sequence[str],
    lifetime: timedelta = LIFETIME,
) -> MadeUser:
    """A new certificate of the user, with its key and with a configuration that names both."""
    pair = folder.issue(user, lifetime)
    names = [f"{place}.{end}" for end in ("ca.crt", "crt", "key")]
    config = dict(zip(fields, names, strict=True))
    text = yaml.safe_dump({"endpoints": list(endpoints), **config}, sort_keys=False)
    texts = [part.decode() for part in (folder.ca.read_bytes(), pair.cert, pair.key)]
    files = {**dict(zip(names, texts, strict=True)), f"{place}.yaml": text}
    return MadeUser(user, files, pair)
