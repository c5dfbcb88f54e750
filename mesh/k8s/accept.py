"""``meshgate cluster accept-apiserver``: another API server counts in place of the former one.

The answer is a key of the cluster's own subtree, put with the rights of a controller, as for
``meshgate cluster forget``. Each agent, controller and speaker reads it, takes the new API server
for its own, and lists everything anew.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import yaml

from clustermesh import forget
from clustermesh.etcd.client import Client
from clustermesh.etcd.names import key_text
from clustermesh.store.own import API_SERVER
from mesh.core.strict import Wrong, convert
from mesh.k8s.access import Access
from mesh.k8s.api import Api, ApiError
from mesh.k8s.identity import who
from mesh.k8s.settings import Kubernetes


@dataclass(frozen=True, slots=True)
class Asked:
    """The store of a controller's cluster, and its API server."""

    store: forget.Asked
    kubernetes: Kubernetes

    @property
    def cluster(self) -> str:
        """The cluster's name."""
        return self.store.cluster


def read(path: Path) -> Asked | None:
    """What a controller's configuration says; None: it names no API server.

    Raises OSError, ValueError naming the file.
    """
    store = forget.read(path)
    section = yaml.safe_load(path.read_text(encoding="utf-8")).get("kubernetes")
    try:
        return None if section is None else Asked(store, convert(section, Kubernetes))
    except Wrong as error:
        raise ValueError(f"{path}: kubernetes: {error}") from error


def uid_of(asked: Asked) -> str:
    """The UID of the API server that answers now. Raises OSError."""
    return asyncio.run(_uid(asked))


def accept(asked: Asked, uid: str) -> None:
    """Let this API server count, and no other that was accepted before. Raises OSError."""
    asyncio.run(_accept(asked, uid))


async def _uid(asked: Asked) -> str:
    api = Api(Access(asked.kubernetes))
    try:
        return (await who(api))[0]
    except ApiError as error:
        raise OSError(f"{api.access.name}: {error}") from error
    finally:
        await api.aclose()


async def _accept(asked: Asked, uid: str) -> None:
    prefix = f"meshgate/v1/{asked.cluster}/{API_SERVER}"
    client = Client(asked.store.etcd)
    try:
        await client.put(f"{prefix}{uid}", b"{}")
        for kv in (await client.list(prefix)).kvs:
            if key_text(kv.key) != f"{prefix}{uid}":
                await client.delete(key_text(kv.key))
    finally:
        await client.aclose()
