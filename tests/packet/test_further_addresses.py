"""Addresses that a pod has beside its own, in the kernel: they come, change and go."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from bpf import netns
from mesh.core.model import FurtherAddresses, PodKey
from mesh.core.table import Table
from mesh.kernel import Kernel
from mesh.pods.links import PodLink, PodLinks, device_name

OWN = (IPv4Address("10.1.0.2"), IPv6Address("fd01::2"))
TENANT = FurtherAddresses(
    (ip_address("10.50.0.7"), ip_address("fd50::7")),
    (ip_network("10.80.0.0/16"), ip_network("fd80::/32"), ip_network("0.0.0.0/0")),
)


class Attached:
    """Programs of pods: none here."""

    def pod(self, device: str) -> None:
        """It is attached."""

    def forget(self, device: str) -> None:
        """It is gone."""


def asked(space: Path, *words: str) -> list[dict[str, Any]]:
    command = ["ip", "-j", "-n", space.name, *words]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    rows: list[dict[str, Any]] = json.loads(found.stdout or "[]")
    return rows


def addresses(space: Path) -> set[str]:
    [device] = asked(space, "addr", "show", "dev", "eth0", "scope", "global")
    return {one["local"] for one in device["addr_info"] if one}  # iproute2 leaves gaps


def routes(space: Path) -> dict[str, str]:
    """Source by destination."""
    found = [*asked(space, "-4", "route"), *asked(space, "-6", "route")]
    return {one["dst"]: one["prefsrc"] for one in found if one.get("prefsrc")}


def play(host: Path, story: Callable[[Kernel], Any]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20), Kernel.open_in(str(host)) as kernel:
            await story(kernel)

    with netns.enter(host):
        asyncio.run(run())


def test_further_addresses_come_change_and_go(
    namespace: Path, namespaces: Callable[[], Path]
) -> None:
    """A whole family is two halves, so the pod's default route stays; the host has no route."""
    space, key = namespaces(), PodKey("east", "blue", "app-1")
    link = PodLink(str(space), 1, device_name(key), OWN, 1450, further=TENANT)
    own = {str(address) for address in OWN}
    other = FurtherAddresses(TENANT.addresses[:1], TENANT.destinations[:1])

    async def story(kernel: Kernel) -> None:
        links = PodLinks(kernel, Attached(), Table("device"))
        assert await links.upsert({key: link}) == {}
        assert addresses(space) == {*own, "10.50.0.7", "fd50::7"}
        assert routes(space) == {
            "10.80.0.0/16": "10.50.0.7",
            "0.0.0.0/1": "10.50.0.7",
            "128.0.0.0/1": "10.50.0.7",
            "fd80::/32": "fd50::7",
        }
        assert (await links.read())[key] == link
        for elsewhere in ("2001:db8::1", "fd5f::1", "fd97:1::a"):
            [way] = asked(space, "route", "get", elsewhere)
            assert way["prefsrc"] in own, "what is not for its VRF has the pod's own source"
        hosts = [a for found in (await kernel.host_routes()).values() for a in found]
        assert set(map(str, hosts)) == own
        assert await links.upsert({key: replace(link, further=other)}) == {}
        assert addresses(space) == {*own, "10.50.0.7"}
        assert routes(space) == {"10.80.0.0/16": "10.50.0.7"}
        assert await links.upsert({key: replace(link, further=None)}) == {}
        assert addresses(space) == own
        assert routes(space) == {}
        defaults = [one for one in asked(space, "-4", "route") if one["dst"] == "default"]
        assert len(defaults) == 1

    play(namespace, story)


def test_the_next_agent_finds_them_and_leaves_them_as_they_are(
    namespace: Path, namespaces: Callable[[], Path]
) -> None:
    """It wires the pod anew, and knows the addresses from its file."""
    space, key = namespaces(), PodKey("east", "blue", "app-1")
    link = PodLink(str(space), 1, device_name(key), OWN, 1450, further=TENANT)

    async def story(kernel: Kernel) -> None:
        assert await PodLinks(kernel, Attached(), Table("device")).upsert({key: link}) == {}
        before = addresses(space), routes(space)
        later = PodLinks(kernel, Attached(), Table("device"))
        assert await later.held() == {key: OWN}
        assert (await later.read())[key].further is None
        assert await later.upsert({key: link}) == {}
        assert (addresses(space), routes(space)) == before

    play(namespace, story)


def test_the_next_agent_takes_away_what_nobody_wants_any_more(
    namespace: Path, namespaces: Callable[[], Path]
) -> None:
    """The VRF has changed, or has gone, while no agent was there."""
    space, key = namespaces(), PodKey("east", "blue", "app-1")
    link = PodLink(str(space), 1, device_name(key), OWN, 1450, further=TENANT)
    other = FurtherAddresses((ip_address("10.50.0.9"),), (ip_network("10.80.0.0/16"),))
    own = {str(address) for address in OWN}

    async def story(kernel: Kernel) -> None:
        def agent() -> PodLinks:
            return PodLinks(kernel, Attached(), Table("device"))

        assert await agent().upsert({key: link}) == {}
        assert await agent().upsert({key: replace(link, further=other)}) == {}
        assert addresses(space) == {*own, "10.50.0.9"}
        assert routes(space) == {"10.80.0.0/16": "10.50.0.9"}
        assert not asked(space, "-6", "route", "show", "fd80::/32")
        assert await agent().upsert({key: replace(link, further=None)}) == {}
        assert addresses(space) == own
        assert routes(space) == {}

    play(namespace, story)
