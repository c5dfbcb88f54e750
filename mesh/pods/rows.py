"""Rows of this node's pods on their way into ``mg_pod_addr``.

An address that changes hands takes no connection along: an answer to what others opened to its
last pod would leave untranslated, a translation would carry the new pod's packets. So its
connections are forgotten while no pod has the address: nothing can open one then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass

from mesh.core.model import IP
from mesh.core.reconcile import Errors, Target

Forget = Callable[[Collection[IP]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class LocalPod:
    """Value of ``mg_pod_addr``: a pod of this node; ``egress`` is its egress class, 0 for none."""

    ifindex: int
    identity: int
    egress: int
    mac: str
    host_mac: str


class PodRows:
    """Target: ``rows``, with ``forget`` in between when another device has an address."""

    def __init__(self, rows: Target[IP, LocalPod], forget: Forget) -> None:
        self._rows = rows
        self._forget = forget

    async def read(self) -> Mapping[IP, LocalPod]:
        return await self._rows.read()

    async def upsert(self, rows: Mapping[IP, LocalPod]) -> Errors[IP]:
        there = await self._rows.read()
        new = [ip for ip, row in rows.items() if ip not in there or _moved(there[ip], row)]
        refused = await self._clear(new)
        written = await self._rows.upsert({ip: rows[ip] for ip in rows if ip not in refused})
        return {**refused, **written}

    async def delete(self, keys: Collection[IP]) -> Errors[IP]:
        return await self._clear(keys)

    async def _clear(self, keys: Collection[IP]) -> Errors[IP]:
        failed = await self._rows.delete(keys)
        await self._forget([ip for ip in keys if ip not in failed])
        return failed


def _moved(there: LocalPod, row: LocalPod) -> bool:
    return there.ifindex != row.ifindex
