"""What a host loses when it begins to forward, on a kernel of its own."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from bpf.netns import enter
from mesh.core.model import Finding
from mesh.host.agent import Host
from mesh.host.restore import removed, unpinned
from mesh.host.settings import FORWARD_ALL_6
from mesh.kernel import Kernel
from tests.packet.nodes import ip
from tests.patience import wait

#: Router lifetime in seconds, and what else stands in an advertisement (RFC 4861 4.2).
ADVERTISEMENT = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
ALL_NODES = "ff02::1"


@pytest.fixture
def host(namespaces: Callable[[], Path]) -> Path:
    """A host whose devices have learned default routes from routers."""
    space, router = namespaces(), namespaces()
    for key in ("disable_ipv6=0", "accept_dad=0", "accept_ra=1", "router_solicitations=0"):
        sysctl(space, f"net.ipv6.conf.default.{key}")
        sysctl(router, f"net.ipv6.conf.default.{key}")
    for device in ("uplink", "other"):
        ip(
            space.name, "link", "add", device, "type", "veth",
            "peer", "name", device, "netns", router.name,
        )  # fmt: skip
        ip(space.name, "link", "set", device, "up")
        ip(router.name, "link", "set", device, "up")
    for device in ("uplink", "other"):
        wait(partial(advertised, space, router, device), 10)
    return space


def sysctl(space: Path, setting: str) -> None:
    subprocess.run(["nsenter", f"--net={space}", "sysctl", "-qw", setting], check=True)


def advertised(space: Path, router: Path, device: str) -> bool:
    with enter(router), socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58) as sock:
        index = socket.if_nametoindex(device)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        with suppress(OSError):  # the link is about to come up
            sock.sendto(ADVERTISEMENT, (ALL_NODES, 0, 0, index))
    return device in learned(space)


def learned(space: Path) -> set[str]:
    """Devices of the default routes that routers have advertised."""
    command = ["ip", "-6", "-n", space.name, "route", "show", "default", "proto", "ra"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return {said[at + 1] for at, word in enumerate(said) if word == "dev"}


def test_forwarding_alone_loses_what_routers_have_advertised(host: Path) -> None:
    """What the kernel does, so that the test below says something."""
    sysctl(host, "net.ipv6.conf.all.forwarding=1")
    assert learned(host) == set()


def test_a_host_that_begins_to_forward_keeps_its_default_routes(host: Path, tmp_path: Path) -> None:
    """Of the uplink and of a device of others; and everything is put back."""

    async def story() -> None:
        async with Kernel.open_in(str(host)) as kernel:
            agent = Host("a", tmp_path, kernel, "uplink", "mgp", 8472)
            with enter(host):
                before = values(agent)
            await prepared(agent, host)
            assert learned(host) == {"uplink", "other"}
            with enter(host):
                assert list(agent.findings()) == []
                changed = {name for name, value in values(agent).items() if value != before[name]}
                rows = {row["setting"]: row for row in agent.rows()}
                agent.ledger.restore()
                assert values(agent) == before
            assert changed == {
                FORWARD_ALL_6,
                "net/ipv6/conf/uplink/forwarding",
                "net/ipv6/conf/uplink/accept_ra",
                "net/ipv4/conf/uplink/forwarding",
            }
            row = rows["net.ipv6.conf.uplink.accept_ra"]
            assert row.keys() == {"node", "setting", "was", "now", "why"}
            assert (row["node"], row["was"], row["now"]) == ("a", "1", "2")

    asyncio.run(story())


async def prepared(agent: Host, host: Path, reserved: range = range(0)) -> None:
    """``prepare`` as in a process of that namespace: what it awaits is asked beforehand."""
    routes = await agent.default_routes()
    with enter(host):
        agent.prepare(("uplink",), routes, reserved)


@pytest.mark.parametrize(
    ("before", "now"), [("", "61000-65535"), ("8080,62000", "8080,61000-65535")]
)
def test_ports_that_stand_for_pods_are_no_sockets(
    host: Path, tmp_path: Path, before: str, now: str
) -> None:
    """In the kernel's own form, and put back; what others have reserved stays."""
    name = "net/ipv4/ip_local_reserved_ports"

    async def story() -> None:
        async with Kernel.open_in(str(host)) as kernel:
            agent = Host("a", tmp_path, kernel, "uplink", "mgp", 8472)
            if before:
                sysctl(host, f"{name.replace('/', '.')}={before}")
            await prepared(agent, host, range(61000, 65536))
            await prepared(agent, host, range(61000, 65536))  # a second agent
            with enter(host):
                assert agent.ledger.sysctls.read(name) == now
                assert list(agent.findings()) == []
                rows = {row["setting"]: row for row in agent.rows()}
                row = rows["net.ipv4.ip_local_reserved_ports"]
                assert (row["was"], row["now"]) == (before, now)
                agent.ledger.restore()
                assert agent.ledger.sysctls.read(name) == before

    asyncio.run(story())


def values(agent: Host) -> dict[str, str | None]:
    names = [
        f"net/{family}/conf/{device}/{key}"
        for device in ("all", "default", "uplink", "other", "lo")
        for family, key in (("ipv4", "forwarding"), ("ipv6", "forwarding"), ("ipv6", "accept_ra"))
    ]
    return {name: agent.ledger.sysctls.read(name) for name in names}


def test_a_default_route_that_goes_is_told(host: Path, tmp_path: Path) -> None:
    async def story() -> None:
        async with Kernel.open_in(str(host)) as kernel:
            agent = Host("a", tmp_path, kernel, "uplink", "mgp", 8472)
            await prepared(agent, host)

            def told() -> list[Finding]:
                with enter(host):
                    return list(agent.findings())

            await agent.look_at_routes()
            assert told() == []
            for _ in learned(host):
                ip(host.name, "-6", "route", "del", "default")
            await agent.look_at_routes()
            (one,) = told()
            assert (one.code, one.object, one.field) == ("D642", "a/agent", "default IPv6")
            ip(host.name, "-6", "route", "add", "default", "dev", "uplink")
            await agent.look_at_routes()
            assert told() == []

    asyncio.run(story())


def test_devices_and_routes_of_ours_are_removed_and_no_others(host: Path) -> None:
    """``meshgate host restore``: what carries our names and our protocol number."""
    for name in ("mgp0", "mg_vxlan", "mgx"):
        ip(host.name, "link", "add", name, "type", "veth", "peer", "name", f"of_{name}")
    for prefix, protocol in (("198.51.100.10/32", "77"), ("198.51.100.11/32", "78")):
        ip(host.name, "route", "add", "unreachable", prefix, "proto", protocol)

    async def story() -> None:
        async with Kernel.open_in(str(host)) as kernel:
            told = await removed(kernel, "mgp", ["mg_vxlan"])
            assert told[0].startswith("links: 2 removed")
            assert told[1].startswith("routes proto 77: 1 ")
            assert {"uplink", "other", "mgx"} <= (await kernel.links()).keys()
            assert not {"mgp0", "mg_vxlan"} & (await kernel.links()).keys()

    asyncio.run(story())
    command = ["ip", "-n", host.name, "route", "show", "type", "unreachable"]
    left = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert left.split()[:2] == ["unreachable", "198.51.100.11"]


def test_pins_are_removed_with_their_folder(pins: Path) -> None:
    folder = pins / "node"
    (folder / "links").mkdir(parents=True)
    (line,) = unpinned(folder)
    assert "0 removed" in line
    assert not folder.exists()
    assert list(unpinned(folder)) == []
