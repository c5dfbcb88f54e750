"""Rows of this node's pods on their way into ``mg_pod_addr``.

An address that changes hands takes no connection along: an answer to what others opened to its
last pod would leave untranslated, a translation would carry the new pod's packets. So its
connections are forgotten while no pod has the address: nothing can open one then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bpf.testrun import call
from mesh.core.address import packed
from mesh.core.feature import Tokens
from mesh.core.model import IP, LinkKey, Pod
from mesh.core.reconcile import Errors, Target
from mesh.pods.links import Device

Forget = Callable[[Collection[IP]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class LocalPod:
    """Value of ``mg_pod_addr``: a pod of this node, with the number that each feature gives it."""

    ifindex: int
    identity: int
    mac: str
    host_mac: str
    marks: tuple[tuple[str, int], ...] = ()
    since: int = 0
    """Of a pod that ran before it got its marks: when it did (``second``)."""


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """The identity of a pod while it is wired through ``ifindex``."""

    ifindex: int
    identity: int


def pod_rows(
    _: LinkKey,
    pod: Pod | None,
    device: Device | None,
    identity: PodIdentity | None,
    *numbers: int | None,
    names: Sequence[str],
) -> dict[IP, LocalPod]:
    """Rows of a pod that is wired and has an identity; ``names`` are those of the marks."""
    if pod is None or device is None or identity is None or identity.ifindex != device.ifindex:
        return {}
    marks = tuple((name, number or 0) for name, number in zip(names, numbers, strict=True))
    row = LocalPod(device.ifindex, identity.identity, device.mac, device.host_mac, marks)
    return dict.fromkeys(pod.addresses, row)


def second() -> int:
    """Now, as ``now_s`` of the datapath counts: CLOCK_MONOTONIC in 2^30 ns."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) >> 30


def marked_since(
    rows: Mapping[IP, LocalPod], before: Mapping[IP, LocalPod], now: int, *, adopted: bool
) -> dict[IP, LocalPod]:
    """The rows with the time when they got their marks, if their pod ran before.

    ``before`` are the rows as they are; ``adopted``: the pod ran when the agent saw it first.
    """
    return {ip: _since(row, before.get(ip), now, adopted=adopted) for ip, row in rows.items()}


def _since(row: LocalPod, before: LocalPod | None, now: int, *, adopted: bool) -> LocalPod:
    if not any(number for _, number in row.marks):
        return row
    if before is None or before.ifindex != row.ifindex:
        return replace(row, since=now if adopted else 0)
    return replace(row, since=before.since if before.marks == row.marks else now)


def macs_of(ifindex: int, devices: Mapping[LinkKey, Device]) -> dict[int, str]:
    """MAC address of the pod behind a device."""
    macs = [device.mac for device in devices.values()]
    return {ifindex: macs[-1]} if macs else {}


def tokens_of_mark(name: str, tokens: Tokens, _: IP, row: LocalPod) -> Iterable[Hashable]:
    """The tokens of the rows to which a mark in a pod's row leads."""
    return tokens(dict(row.marks)[name])


class PodRows:
    """Target: ``rows``, with ``forget`` in between when another device has an address."""

    def __init__(self, rows: Target[IP, LocalPod], forget: Forget) -> None:
        self.name = rows.name
        self._rows = rows
        self._forget = forget
        self._devices: dict[IP, int] | None = None  # of the rows that are there for certain

    async def read(self) -> Mapping[IP, LocalPod]:
        rows = await self._rows.read()
        self._devices = {address: row.ifindex for address, row in rows.items()}
        return rows

    async def upsert(self, rows: Mapping[IP, LocalPod]) -> Errors[IP]:
        if self._devices is None:
            await self.read()
        there = self._devices or {}
        new = [ip for ip, row in rows.items() if there.get(ip) != row.ifindex]
        refused = await self._clear(new)
        asked = {ip: row for ip, row in rows.items() if ip not in refused}
        written = await self._rows.upsert(asked)
        self._note({ip: row.ifindex for ip, row in asked.items() if ip not in written})
        return {**refused, **written}

    async def delete(self, keys: Collection[IP]) -> Errors[IP]:
        return await self._clear(keys)

    async def _clear(self, keys: Collection[IP]) -> Errors[IP]:
        if not keys:
            return {}
        for address in keys:
            (self._devices or {}).pop(address, None)
        failed = await self._rows.delete(keys)
        await self._forget([ip for ip in keys if ip not in failed])
        return failed

    def _note(self, devices: Mapping[IP, int]) -> None:
        if self._devices is not None:
            self._devices.update(devices)


async def forget(program: int, argument: np.dtype[Any], addresses: Collection[IP]) -> None:
    """Run ``program`` for each address; ``argument`` is the dtype of ``struct forget``."""
    await asyncio.to_thread(_forget_each, program, argument, addresses)


def _forget_each(program: int, argument: np.dtype[Any], addresses: Collection[IP]) -> None:
    for address in addresses:
        one: npt.NDArray[Any] = np.zeros((), argument)
        one["address"]["w"] = np.frombuffer(packed(address), ">u4")
        call(program, one)
