"""``meshgate cluster accept-apiserver``: another API server counts in place of the former one.

The answer is a key of the cluster's own subtree, put with the rights of a controller, as for
``meshgate cluster forget``. Each agent, controller and speaker reads it, takes the new API server
for its own, and lists everything anew.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from clustermesh.etcd.client import Client
from clustermesh.etcd.names import key_text
from clustermesh.forget import Asked
from clustermesh.store.own import API_SERVER


class _Sources(msgspec.Struct):
    """The field of a controller's configuration that says where its API server is."""

    kubernetes: dict[str, str] | None = None


def section(path: Path) -> dict[str, str] | None:
    """Section ``kubernetes`` of a controller's configuration. Raises OSError, ValueError."""
    try:
        return msgspec.yaml.decode(path.read_bytes(), type=_Sources).kubernetes
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: {error}") from error


def accept(asked: Asked, uid: str) -> None:
    """Let this API server count, and no other that was accepted before. Raises OSError."""
    asyncio.run(_accept(asked, uid))


async def _accept(asked: Asked, uid: str) -> None:
    prefix = f"meshgate/v1/{asked.cluster}/{API_SERVER}"
    client = Client(asked.etcd)
    try:
        await client.put(f"{prefix}{uid}", b"{}")
        for kv in (await client.list(prefix)).kvs:
            if key_text(kv.key) != f"{prefix}{uid}":
                await client.delete(key_text(kv.key))
    finally:
        await client.aclose()
