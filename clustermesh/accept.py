"""What an operator accepts: another API server, a router's withdrawn routes, ended connections.

``meshgate cluster accept-apiserver``: another API server counts in place of the former one. The
answer is a key of the cluster's own subtree, put with the rights of a controller, as for
``meshgate cluster forget``. Each agent, controller and speaker reads it, takes the new API server
for its own, and lists everything anew. ``meshgate peer accept``: likewise a key, which speakers
read (``bgp/guard.py``). ``meshgate egress evict``: a key that names a drain, which agents read.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from clustermesh.etcd.client import Client
from clustermesh.etcd.names import key_text
from clustermesh.forget import Asked
from clustermesh.store.claims import number_key, record_of
from clustermesh.store.follow import entry_of
from clustermesh.store.own import ACCEPTED_PEER, API_SERVER, DRAINING, evicted_key
from mesh.core.model import IP, ClaimKey


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


def drains(asked: Asked, address: IP) -> bool:
    """Whether the egress address drains in this cluster. Raises OSError."""
    return asyncio.run(_drain(asked, address)) is not None


def evict(asked: Asked, address: IP) -> None:
    """Let the connections of the drain end that the address is in now. Raises OSError."""
    asyncio.run(_evict(asked, address))


async def _drain(asked: Asked, address: IP) -> int | None:
    """The epoch of the drain of an address; None: it does not drain."""
    client = Client(asked.etcd)
    try:
        kv = await client.get(number_key(asked.cluster, ClaimKey(DRAINING, str(address), 0)))
    finally:
        await client.aclose()
    if kv is None:
        return None
    record = record_of(asked.cluster, (DRAINING,), entry_of(kv))
    return record.epoch if record and not record.released else None


async def _evict(asked: Asked, address: IP) -> None:
    epoch = await _drain(asked, address)
    if epoch is None:
        raise OSError(f"{address} does not drain any more")
    client = Client(asked.etcd)
    try:
        await client.put(evicted_key(asked.cluster, address, epoch), b"{}")
    finally:
        await client.aclose()


class _AcceptedValue(msgspec.Struct, frozen=True):
    at: datetime


def accept_peer(asked: Asked, router: str) -> None:
    """Let go what speakers hold of the sessions with this router. Raises OSError."""
    asyncio.run(_accept_peer(asked, router))


async def _accept_peer(asked: Asked, router: str) -> None:
    client = Client(asked.etcd)
    try:
        value = msgspec.json.encode(_AcceptedValue(datetime.now(UTC)))
        await client.put(f"meshgate/v1/{asked.cluster}/{ACCEPTED_PEER}{router}", value)
    finally:
        await client.aclose()


def accepted_at(value: bytes) -> datetime:
    """When an operator has accepted it. Raises ValueError."""
    try:
        at = msgspec.json.decode(value, type=_AcceptedValue).at
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def get(asked: Asked, key: str) -> bytes | None:
    """The value of a key of the cluster. Raises OSError."""
    return asyncio.run(_get(asked, key))


def put(asked: Asked, key: str, value: bytes) -> None:
    """Put a request of an operator. Raises OSError."""
    asyncio.run(_put(asked, key, value))


async def _get(asked: Asked, key: str) -> bytes | None:
    client = Client(asked.etcd)
    try:
        found = await client.get(key)
        return found.value if found else None
    finally:
        await client.aclose()


async def _put(asked: Asked, key: str, value: bytes) -> None:
    client = Client(asked.etcd)
    try:
        await client.put(key, value)
    finally:
        await client.aclose()
