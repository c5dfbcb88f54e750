"""The learned table and its rules in a real kernel, and a map that another process has pinned."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from bgp.learned.maps import identity_rows
from bpf.netns import enter
from bpf.sys import open_pinned, pin
from mesh.core.model import Network
from mesh.route_table import Hop, Routes, RouteTable, Rules, Way, remove_all
from tests.packet.conftest import ip
from tests.packet.nodes import LEGACY, Node

ONE4, TWO4 = ip_address("10.99.0.1"), ip_address("10.99.0.2")
ONE6, TWO6 = ip_address("fd99::1"), ip_address("fd99::2")
LINKS = {ip_network("10.99.0.0/24"), ip_network("fd99::/64")}
#: Seconds of processor time for 10,000 routes.
MANY, WITHIN_S = 10_000, 1.5


@pytest.fixture
def table(namespaces: Callable[[], Path]) -> Iterator[RouteTable]:
    """A host with one link, seen from inside."""
    path = namespaces()
    name = path.name
    ip("-n", name, "link", "add", "left", "type", "veth", "peer", "name", "right")
    for device in ("left", "right"):
        ip("-n", name, "link", "set", device, "up")
    ip("-n", name, "addr", "add", "10.99.0.11/24", "dev", "left")
    ip("-n", name, "-6", "addr", "add", "fd99::11/64", "dev", "left", "nodad")
    ip("-n", name, "route", "add", "default", "via", str(ONE4))
    with enter(path):
        it = RouteTable(4100)
        yield it
        it.close()


def main(version: int) -> str:
    words = ["ip", f"-{version}", "route", "show", "table", "main"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def hop(table: RouteTable, address: object) -> Hop:
    found = table.hop(ip_address(str(address)))
    assert isinstance(found, Hop)
    return found


def test_what_is_on_a_link_is_known(table: RouteTable) -> None:
    assert table.connected() == LINKS
    assert hop(table, ONE4).address == ONE4
    assert hop(table, ONE6).ifindex == hop(table, ONE4).ifindex
    assert table.hop(ip_address("10.99.0.11")) == "is an address of this node"
    far = table.hop(ip_address("203.0.113.1"))
    assert far == "is on no link of this node, but behind 10.99.0.1"
    assert table.hop(ip_address("2001:db8::1")) == "cannot be reached: Network is unreachable"


def test_routes_are_read_as_they_were_written(table: RouteTable) -> None:
    one4, two4, one6, two6 = (hop(table, one) for one in (ONE4, TWO4, ONE6, TWO6))
    rows: dict[Network, Way] = {
        ip_network("192.0.2.0/24"): (one4,),
        ip_network("198.51.100.0/24"): (one4, two4),
        ip_network("0.0.0.0/0"): (one4,),
        ip_network("2001:db8:1::/48"): (one6,),
        ip_network("2001:db8:2::/48"): (one6, two6),
        **dict.fromkeys(LINKS, ()),
    }
    before = main(4), main(6)
    target = Routes(table)

    async def run() -> None:
        assert await target.read() == {}
        assert await target.upsert(rows) == {}
        assert await target.read() == rows
        changed = {**rows, ip_network("192.0.2.0/24"): (one4, two4)}
        changed |= {ip_network("2001:db8:2::/48"): (two6,), ip_network("198.51.100.0/24"): ()}
        assert await target.upsert(changed) == {}
        assert await target.read() == changed
        assert await target.delete([*changed, ip_network("203.0.113.0/24")]) == {}
        assert await target.read() == {}

    asyncio.run(run())
    assert (main(4), main(6)) == before


def test_a_refused_route_stops_no_other(table: RouteTable) -> None:
    good, bad = ip_network("192.0.2.0/24"), ip_network("192.0.3.0/24")
    behind = Hop(ip_address("10.77.0.1"), hop(table, ONE4).ifindex)

    async def run() -> None:
        target = Routes(table)
        errors = await target.upsert({bad: (behind,), good: (hop(table, ONE4),)})
        assert {prefix: str(error) for prefix, error in errors.items()} == {
            bad: "[Errno 101] route 192.0.3.0/24: Network is unreachable"
        }
        assert set(await target.read()) == {good}

    asyncio.run(run())


def test_rules_lead_sources_to_the_table_and_are_made_once(table: RouteTable) -> None:
    sources = [ip_network("10.1.1.0/24"), ip_network("fd01:0:0:1::/64")]
    target = Rules(table)

    async def run() -> None:
        for _ in range(2):
            assert await target.upsert(dict.fromkeys(sources)) == {}
        assert set(await target.read()) == set(sources)
        for _ in range(2):
            assert await target.delete(sources[:1]) == {}
        assert set(await target.read()) == set(sources[1:])

    asyncio.run(run())
    shown = subprocess.run(["ip", "-6", "rule"], capture_output=True, text=True, check=True).stdout
    assert shown.count("4100") == 1


def test_a_pod_is_led_by_the_rule_and_the_host_is_not(table: RouteTable) -> None:
    """A network on a link stays there, although a shorter prefix is learned."""

    def way(*words: str) -> str:
        command = ["ip", "route", "get", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    async def run() -> None:
        rows: dict[Network, Way] = {ip_network("10.0.0.0/8"): (hop(table, TWO4),)}
        await table.put({**rows, ip_network("10.99.0.0/24"): ()})
        await table.put_rules([ip_network("10.1.1.0/24")])

    asyncio.run(run())
    ip("addr", "add", "10.1.1.7/32", "dev", "lo")
    assert "via 10.99.0.2" in way("10.5.0.1", "from", "10.1.1.7")
    assert "via 10.99.0.1" in way("10.5.0.1")
    assert "via" not in way("10.99.0.77", "from", "10.1.1.7")


def test_everything_of_ours_goes_from_all_tables(table: RouteTable) -> None:
    async def run() -> None:
        one = (hop(table, ONE4),)
        await table.put({ip_network("192.0.2.0/24"): one, ip_network("fd99::/64"): ()})
        await RouteTable(77).put({ip_network("192.0.2.0/24"): one})
        await table.put_rules([ip_network("10.1.1.0/24")])
        assert await remove_all() == (3, 1)
        assert await remove_all() == (0, 0)

    before = main(4), main(6)
    asyncio.run(run())
    assert (main(4), main(6)) == before


@pytest.mark.slow
def test_ten_thousand_routes_are_there_soon(table: RouteTable) -> None:
    by = {4: (hop(table, ONE4),), 6: (hop(table, ONE6),)}
    base = {4: (0x0B000000, 8, 24), 6: (0x20010DB8 << 96, 64, 64)}

    async def run() -> None:
        for version, (first, behind, bits) in base.items():
            rows: dict[Network, Way] = {
                ip_network((first + (number << behind), bits)): by[version]
                for number in range(MANY)
            }
            began = time.process_time()  # other lanes of tests have the processor, too
            assert await Routes(table).upsert(rows) == {}
            took = time.process_time() - began
            print(f"{MANY} IPv{version} routes: {took:.2f} s")  # noqa: T201 - a figure
            assert took < WITHIN_S
            assert len(await Routes(table).read()) == MANY
            await Routes(table).delete(rows)

    asyncio.run(run())


# The map of identities


def test_a_map_that_another_process_has_pinned_is_written_and_read(nodes: dict[str, Node]) -> None:
    node = nodes["a"]
    target = identity_rows(node.directory)
    rows: dict[Network, int] = {
        ip_network("192.0.2.0/24"): 65800, ip_network("2001:db8:2::/48"): 65801
    }  # fmt: skip

    async def run() -> None:
        assert await target.read() == {}
        assert await target.upsert(rows) == {}
        assert await target.read() == rows
        assert not target.is_replaced
        assert await target.delete([ip_network("192.0.2.0/24")]) == {}
        assert await target.read() == {ip_network("2001:db8:2::/48"): 65801}
        await target.delete(list(rows))

    asyncio.run(run())
    target.close()
    assert LEGACY[4].startswith("192.0.2.")


def test_another_map_in_its_place_is_noticed(nodes: dict[str, Node], pins: Path) -> None:
    """The agent migrates a layout: what was written has to be compared with the new map."""
    target = identity_rows(pins)

    async def run() -> None:
        with pytest.raises(FileNotFoundError):
            await target.read()
        again(nodes["a"], pins)
        assert await target.read() == {}
        (pins / "mg_learned").unlink()
        assert target.is_replaced
        again(nodes["g"], pins)
        assert target.is_replaced
        with pytest.raises(OSError, match="another map is pinned"):
            await target.upsert({ip_network("192.0.2.0/24"): 65800})
        await target.read()
        assert not target.is_replaced

    asyncio.run(run())
    target.close()


def again(node: Node, pins: Path) -> None:
    """Pin the node's map there, too."""
    fd = open_pinned(node.directory / "mg_learned")
    pin(fd, pins / "mg_learned")
    os.close(fd)
