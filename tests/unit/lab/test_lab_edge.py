"""The provider edge and the second router: options of the topology."""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Address, ip_network
from pathlib import Path

import pytest

from mesh.lab import edge, fabric, fake_pe, network, places, settings, tenants, topology
from mesh.lab.places import Lab
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import PODS
from mesh.objects.manifests import Manifests, Objects
from srv6.vrf.kind import VRFS

SHAPE = topology.load(places.TOPOLOGY)
assert SHAPE.pe
EDGE = SHAPE.pe
LAB = Lab("unit", Path("/run/unit"), Path("/sys/fs/cgroup"))
SIDS = """locator_name: meshgate
locator_chunks:
- fcbb:bbfe:0:5::/64
functions:
- sid: fcbb:bbfe:0:5:100::
  locator: meshgate
bgps:
- name: VRF default
  vpn_policy[AFI_IP].tovpn_sid: none
  vpn_policy[AFI_IP6].tovpn_sid: none
- name: VRF blue
  vpn_policy[AFI_IP].tovpn_sid: fcbb:bbfe:0:5:100::
  vpn_policy[AFI_IP6].tovpn_sid: fcbb:bbfe:0:5:200::
"""


@pytest.mark.parametrize("name", ["topology-overlay.yaml", "topology-beside.yaml"])
def test_other_topologies_stay_without_an_edge(name: str) -> None:
    shape = topology.load(places.TOPOLOGY.with_name(name))
    assert shape.pe is None
    assert network.hosts(shape) == network.hosts(shape)[:8]
    assert tenants.shown(LAB, shape) == {}
    assert "vpn" not in settings.frr_configs(shape)["bgpd"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("fcbb:bbfe:0:5::/64", "fcbb:bbfe:5::/48", "pe.locator: fcbb:bbfe:5::/48 is no IPv6"),
        ("10.50.0.10", "10.51.0.10", "pe.hosts.addresses: 10.51.0.10 is outside"),
        ("name: green", "name: blue", "blue is used twice"),
        ("10.99.0.5", "10.98.0.5", "host pe.addresses: 10.98.0.5 is outside"),
    ],
)
def test_a_wrong_edge_names_its_field(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = places.TOPOLOGY.read_text()
    assert old in text
    path = tmp_path / "changed.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(fabric.TopologyError) as caught:
        topology.load(path)
    assert words in str(caught.value)


def test_a_second_router_knows_the_nodes_and_the_way_to_the_legacy_network(tmp_path: Path) -> None:
    path = tmp_path / "changed.yaml"
    text = places.TOPOLOGY.read_text()
    path.write_text(f'{text}\nsecond: {{asn: 65003, addresses: [10.99.0.2, "fd99::2"]}}\n')
    shape = topology.load(path)
    assert shape.second
    assert "second" in network.hosts(shape)
    config = settings.bird_config(shape.second, shape)
    assert config.count("protocol bgp") == 6
    assert "route 192.0.2.0/24 via 10.99.0.1;" in config


def test_both_tenants_have_pods_with_the_same_addresses_on_each_node() -> None:
    by_tenant = {
        tenant.name: {
            pod.full_name.replace(tenant.name, "x"): pod.addresses
            for pod in tenants.pods(SHAPE)
            if pod.tenant == tenant
        }
        for tenant in EDGE.tenants
    }
    assert by_tenant["blue"] == by_tenant["green"]
    assert {str(one) for one in by_tenant["blue"]["east/x/app-2"]} == {"10.60.1.2", "fd60:0:0:1::2"}
    assert len({one for row in by_tenant["blue"].values() for one in row}) == 12


def test_links_of_tenants_have_addresses_of_their_own() -> None:
    found = [address for number in range(20) for end in edge.ends(number) for address in end]
    assert len(set(found)) == 80
    lines = edge.settings(EDGE)
    assert set(lines) == {"pe", "pe-blue", "pe-green", "blue", "green"}
    assert lines["blue"] == lines["green"]


def test_a_vrf_leads_nowhere_but_into_the_vpn() -> None:
    """It has a default route for what it has encapsulated, and none for what tenants send."""
    for line in edge.settings(EDGE)["pe-blue"]:
        if "default" in line:
            assert line.endswith(f"table {edge.OUTER_TABLE}")
    assert (
        f"-6 rule add pref 50 from fd99::5 lookup {edge.OUTER_TABLE}"
        in (edge.settings(EDGE)["pe-blue"])
    )


def test_the_fake_hands_packets_for_bgpds_sids_to_the_vrf() -> None:
    sids = fake_pe.own_sids(SIDS)
    assert sids == {
        ("blue", 4): IPv6Address("fcbb:bbfe:0:5:100::"),
        ("blue", 6): IPv6Address("fcbb:bbfe:0:5:200::"),
    }
    v4, v6 = fake_pe.own_entries(EDGE, sids)
    assert v4.way == "encap seg6local action End.DX4 nh4 169.254.65.1 dev blue"
    assert v6.way == "encap seg6local action End.DX6 nh6 fdfe::2 dev blue"


def test_the_fake_installs_best_paths_with_a_sid_and_no_others() -> None:
    sid = "fcbb:bb01:1:e000::"
    best, worse = {"bestpath": {"overall": True}}, {"remoteSid": "fcbb:bb01:2:e000::"}
    tree = {
        "routes": {
            "10.60.1.1/32": [worse, {**best, "remoteSid": sid}],
            "10.60.1.2/32": [worse],
            "10.50.0.0/24": [best],
        }
    }
    routes = fake_pe.vpn_routes(tree)
    assert routes == {ip_network("10.60.1.1/32"): IPv6Address(sid)}
    (entry,) = fake_pe.encap_entries("blue", routes)
    assert (entry.host, entry.way) == ("pe-blue", f"encap seg6 mode encap segs {sid} dev pe")


def test_daemons_of_the_edge_see_the_tenants_vrfs_alone() -> None:
    words = edge.with_vrfs(LAB, EDGE, ("zebra", "-n"))
    assert words[:4] == ("unshare", "-m", "--propagation", "private")
    assert words[-7:] == (
        "/run/unit/pe/vrfs", "/run/netns/unit-pe-", "blue", "green", "--", "zebra", "-n",
    )  # fmt: skip


def test_the_tenants_objects_are_taken_without_a_finding(tmp_path: Path) -> None:
    lab = Lab("unit", tmp_path, tmp_path / "cgroup")
    settings.write_manifests(lab, SHAPE)
    folder = Manifests(lab.manifests("west"), "west", interval_s=0.01, kinds=KINDS)
    objects = asyncio.run(_read(folder))
    assert not objects.findings.rows
    assert set(objects[VRFS].rows) == {"blue", "green"}
    told = {(key.namespace, key.name): pod for key, pod in objects[PODS].rows.items()}
    one, other = told["blue", "app-2"], told["green", "app-2"]
    assert one.tenant_addresses == other.tenant_addresses
    assert list(map(str, one.tenant_addresses)) == ["10.60.2.2", "fd60:0:0:2::2"]


async def _read(folder: Manifests) -> Objects:
    task = asyncio.create_task(folder.run())
    async with asyncio.timeout(5):
        while not folder.objects[PODS].synced:
            await asyncio.sleep(0.01)
    task.cancel()
    return folder.objects
