"""``meshgate cluster forget NAME``: no agent of our cluster waits for another one any more.

The request is a key of our own subtree, put with the rights of a controller of the cluster; its
leader writes it down for all agents (``store/forgetting.py``). So it works from any machine that
has a controller's configuration, also while no controller runs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from clustermesh.etcd.client import Client, EtcdAddress
from clustermesh.remote import wire
from clustermesh.store.own import TO_FORGET


@dataclass(frozen=True, slots=True)
class Asked:
    """A controller's cluster and how it reaches the store."""

    cluster: str
    etcd: EtcdAddress


class _Cluster(msgspec.Struct):
    name: str


class _Etcd(msgspec.Struct):
    endpoints: list[str]
    ca: str | None = None
    cert: str | None = None
    key: str | None = None


class _Controller(msgspec.Struct):
    """The fields of a controller's configuration that name its cluster and store."""

    cluster: _Cluster
    etcd: _Etcd


def read(path: Path) -> Asked:
    """The fields of a controller's configuration. Raises OSError, ValueError naming the file."""
    try:
        config = msgspec.yaml.decode(path.read_bytes(), type=_Controller)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: {error}") from error
    etcd = config.etcd
    return Asked(config.cluster.name, EtcdAddress(etcd.endpoints, etcd.ca, etcd.cert, etcd.key))


def configurations(given: Sequence[Path] | None) -> list[Path]:
    """The files that a command names, else those of the controllers of the run directory."""
    run = run_directory()
    return list(given or sorted([*run.glob("controller.yaml"), *run.glob("*/controller.yaml")]))


def of_controllers(given: Sequence[Path] | None) -> dict[str, Asked]:
    """The clusters of ``configurations``, with the way to their store.

    Raises FileNotFoundError when there is none, OSError and ValueError naming the file.
    """
    asked = {one.cluster: one for one in map(read, configurations(given))}
    if not asked:
        raise FileNotFoundError(f"no controller.yaml under {run_directory()}; say --config FILE")
    return asked


def run_directory() -> Path:
    """Where the processes of this host have their files."""
    return Path(os.environ.get("MESHGATE_RUN") or "/run/meshgate")


def is_there(asked: Asked, name: str) -> bool:
    """Whether the other cluster's config stands in the store. Raises OSError."""
    return asyncio.run(_get(asked, wire.config_key(name)))


def ask(asked: Asked, name: str) -> None:
    """Put the request. Raises OSError."""
    asyncio.run(_put(asked, f"meshgate/v1/{asked.cluster}/{TO_FORGET}{name}"))


async def _get(asked: Asked, key: str) -> bool:
    client = Client(asked.etcd)
    try:
        return await client.get(key) is not None
    finally:
        await client.aclose()


async def _put(asked: Asked, key: str) -> None:
    client = Client(asked.etcd)
    try:
        await client.put(key, b"{}")
    finally:
        await client.aclose()
