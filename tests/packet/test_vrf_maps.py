"""Rows of VRFs and SIDs in the layouts of the real objects, and back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, cast

import pytest

from bpf.build import HERE
from bpf.maps import cell, cells
from bpf.object import Object
from mesh.core.address import decode_address
from mesh.core.feature import Maps
from srv6.vrf import maps, pins, rows
from srv6.vrf.compared import Told
from srv6.vrf.rows import LocalSID, SRv6Source, VRFLink, VRFPath, VRFPod, VRFRoute

SID = IPv6Address("fcbb:bb01:1:e000::")


class Layouts:
    """Layouts of maps, and enums, of both objects."""

    def __init__(self, objects: list[Object]) -> None:
        self._objects = objects

    def spec(self, name: str) -> Any:
        return next(one.specs[name] for one in self._objects if name in one.specs)

    def enum(self, name: str) -> Mapping[str, int]:
        for one in self._objects:
            try:
                return one.btf.enum(name)
            except KeyError:
                continue
        raise KeyError(name)

    def through(self, name: str, codec: Any, key: Any, row: Any) -> tuple[Any, Any]:
        """A row as an entry of the map, and read back."""
        encode, decode = codec
        spec, (to, value) = self.spec(name), encode(key, row)
        found: tuple[Any, Any] = decode(cell(spec.key, to)[0], cell(spec.value, value)[0])
        return found


@pytest.fixture(scope="module")
def layouts() -> Iterator[Layouts]:
    with ExitStack() as stack:
        paths = [HERE / "obj" / f"{name}.o" for name in ("pod", "uplink")]
        yield Layouts([stack.enter_context(Object.open(path)) for path in paths])


def zoned(prefix: str) -> rows.ZonedPrefix:
    return rows.ZonedPrefix(7, ip_network(prefix))


POD = VRFPod(9, 65537, "0a:58:0a:01:00:02", "0e:58:0a:01:00:02", (("egress_class", 3), ("vrf", 7)))
PATHS = (
    VRFPath((SID,), IPv6Address("fd99::11"), 64),
    VRFPath((SID,), IPv6Address("fd99::11"), 0, 7),
    VRFPath(tuple(IPv6Address(f"fcbb:bb09::{n + 1}") for n in range(8)), IPv6Address("fd99::11")),
)


@pytest.mark.parametrize("address", ["10.50.0.7", "fd50::7"])
def test_pods_and_interfaces(layouts: Layouts, address: str) -> None:
    key = rows.ZonedAddress(7, ip_address(address))
    codec = maps.pods(("egress_class", "vrf"))
    assert layouts.through("mg_vrf_pod", codec, key, POD) == (key, POD)
    for tenant in (True, False):
        row = VRFLink(7, tenant)
        codec = maps.links(layouts.enum("vrf_link_flag"))
        assert layouts.through("mg_vrf_link", codec, 9, row) == (9, row)


@pytest.mark.parametrize("prefix", ["10.80.0.0/16", "fd80::/32", "0.0.0.0/0", "::/0"])
def test_destinations_and_prefixes(layouts: Layouts, prefix: str) -> None:
    key = zoned(prefix)
    codec = maps.encode_destination, maps.decode_destination
    assert layouts.through("mg_vrf_dest", codec, key, None) == (key, None)
    for name in ("mg_vrf_prefix", "mg_vrf_bgp"):
        for row in (VRFRoute((1, 2, 3, 4), 2), VRFRoute((), 70000, closed=True)):
            codec = maps.prefixes(layouts.enum("vrf_route_flag"))
            assert layouts.through(name, codec, key, row) == (key, row)


@pytest.mark.parametrize("prefix", ["10.80.0.9/32", "fd80::9/128"])
@pytest.mark.parametrize("name", ["mg_vrf_host", "mg_vrf_bgp_host"])
def test_hosts(layouts: Layouts, name: str, prefix: str) -> None:
    key, row = zoned(prefix), VRFRoute((5,), 65537)
    codec = maps.hosts(layouts.enum("vrf_route_flag"))
    assert layouts.through(name, codec, key, row) == (key, row)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["mg_vrf_via", "mg_vrf_bgp_via"])
def test_paths(layouts: Layouts, name: str, path: VRFPath) -> None:
    codec = maps.paths(layouts.enum("vrf_via_flag"))
    assert layouts.through(name, codec, path.number, path) == (path.number, path)


class Written:
    """Entries of the speaker's maps, each of which is asked for by its key."""

    def __init__(self, layouts: Layouts) -> None:
        self.enum = layouts.enum
        self.asked: list[str] = []
        self._layouts = layouts
        self._values: dict[tuple[str, bytes], Any] = {}

    def put(self, name: str, key: object, value: object) -> None:
        spec = self._layouts.spec(name)
        found = cell(spec.value, value).reshape(())
        self._values[name, cell(spec.key, key).tobytes()] = found

    def lookup(self, name: str, key: object) -> Any:
        self.asked.append(name)
        return self._values.get((name, cell(self._layouts.spec(name).key, key).tobytes()))


def test_only_hosts_of_etcd_are_looked_up_in_the_speakers_maps(layouts: Layouts) -> None:
    """It may have written 100,000 others."""
    written, path = Written(layouts), PATHS[0]
    vias, routes = layouts.enum("vrf_via_flag"), layouts.enum("vrf_route_flag")
    written.put("mg_vrf_bgp_via", *maps.encode_path(path.number, path, vias))
    for number in range(9):
        key = zoned(f"10.80.0.{number}/32")
        row = VRFRoute((path.number,), 2)
        written.put("mg_vrf_bgp_host", *maps.encode_host(key, row, routes))
    told, wanted = Told(cast("Maps", written)), zoned("10.80.0.5/32")
    found = asyncio.run(told.ends([wanted, zoned("10.80.1.1/32")]))
    assert found == {wanted: frozenset({SID})}
    assert written.asked == ["mg_vrf_bgp_host"] * 2 + ["mg_vrf_bgp_via"]


def test_many_rows_at_once(layouts: Layouts) -> None:
    """Entries of one batch are made column by column."""
    encode, decode = maps.paths(layouts.enum("vrf_via_flag"))
    spec, paths = layouts.spec("mg_vrf_via"), [*PATHS] * 8
    entries = [encode(path.number, path) for path in paths]
    keys = cells(spec.key, [key for key, _ in entries])
    values = cells(spec.value, [value for _, value in entries])
    assert [decode(*pair)[1] for pair in zip(keys, values, strict=True)] == paths


def test_a_path_of_nine_segments_is_refused(layouts: Layouts) -> None:
    path = VRFPath((SID,) * 9, SID)
    with pytest.raises(ValueError, match="9 segments, a path has at most 8"):
        layouts.through("mg_vrf_via", maps.paths(layouts.enum("vrf_via_flag")), 1, path)
    assert layouts.enum("srv6_limit")["SRV6_SEGMENTS"] == rows.MOST_SEGMENTS
    assert layouts.enum("vrf_limit")["VRF_PATHS"] == rows.MOST_PATHS


@pytest.mark.parametrize(
    "row",
    [
        LocalSID("End", 0, 32, 16),
        LocalSID("uN", 0, 32, 16, next_csid=True),
        LocalSID("End.DT4", 7, 32, 16, identity=True),
        LocalSID("End.DT6", 7, 32, 16, identity=True),
        LocalSID("End.DT46", 7, 32, 16, identity=True),
        LocalSID("uDT46", 7, 32, 16, next_csid=True),
        LocalSID("uDT4", 7, 32, 16, next_csid=True),
        LocalSID("uDT6", 7, 32, 16, next_csid=True),
    ],
)
def test_sids(layouts: Layouts, row: LocalSID) -> None:
    codec = maps.sids(layouts.enum("sid_behaviour"), layouts.enum("sid_flavour"))
    assert layouts.through("mg_sid", codec, SID, row) == (SID, row)


def test_locators_and_the_domain(layouts: Layouts) -> None:
    locator = IPv6Network("fcbb:bb01:1::/48")
    codec: Any = (maps.encode_locator, maps.decode_locator)
    lengths = (32, 16, 16, 24)
    assert layouts.through("mg_sid_locator", codec, locator, lengths) == (locator, lengths)
    codec = maps.sources(layouts.enum("srv6_source_flag"))
    for key, row in ((locator, SRv6Source()), (IPv6Network("fd99::12/128"), SRv6Source(1))):
        assert layouts.through("mg_srv6_domain", codec, key, row) == (key, row)


def test_the_speaker_takes_the_layouts_from_the_same_objects(layouts: Layouts) -> None:
    """The kernel tells types only to CAP_SYS_ADMIN."""
    assert pins.enum("vrf_route_flag") == layouts.enum("vrf_route_flag")
    assert pins.enum("vrf_via_flag") == layouts.enum("vrf_via_flag")
    entry = maps.encode_pod(rows.ZonedAddress(7, ip_address("10.50.0.7")), POD)
    key = cell(layouts.spec("mg_vrf_pod").key, entry[0])[0]
    assert decode_address(key["w"]) == ip_address("10.50.0.7")
