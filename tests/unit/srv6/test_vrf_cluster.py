"""VRFs from objects to claims, and from claims to the rows of a node."""

from asyncio import run
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path

import pytest

from mesh.core.feature import Want
from mesh.core.model import (
    FurtherAddresses,
    Node,
    NodeKey,
    PodEntry,
    PodKey,
    PodRef,
    Requirement,
    Selector,
)
from srv6.vrf import claims
from srv6.vrf.rows import CLOSED, LocalSID, SRv6Source, VRFLink, ZonedAddress, ZonedPrefix
from tests.fixtures.vrfs import BLOCK, IDENTITY, SOURCE, Cluster, vrf

ADDRESSES = (ip_network("10.50.0.0/24"), ip_network("fd50::/64"))


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def codes(cluster: Cluster) -> list[str]:
    return sorted(f.code for feature in cluster.features for f in feature.findings())


def hosts(cluster: Cluster) -> dict[str, tuple[list[str], int]]:
    """Segments and identity of each destination of the node, as ``zone address``."""
    paths = cluster.agent.path.rows
    return {
        f"{key.zone} {key.prefix.network_address}": (
            [str(one) for number in row.via for one in paths[number].segments],
            row.identity,
        )
        for key, row in cluster.agent.host.rows.items()
    }


# --- Claims -----------------------------------------------------------------------------------


def test_a_vrf_wants_a_number_and_a_sid_on_each_node_with_pods(cluster: Cluster) -> None:
    cluster.put(vrf("blue"), vrf("green"))
    cluster.put_pod("app-1", "blue", 1)
    cluster.sync()
    assert cluster.wants("vrf") == {Want("vrf", "all", "blue"), Want("vrf", "all", "green")}
    assert cluster.wants("sid") == {Want("sid", "fcbb:bb01:1::_48_64", "blue/End.DT46")}
    assert cluster.wants("tenant") == set()


def test_a_sid_for_each_family_and_one_that_the_object_names(cluster: Cluster) -> None:
    """A named SID counts on the node whose locator it lies in; others get an allocated one."""
    named = IPv6Address("fcbb:bb01:2:100::")
    cluster.put(vrf("blue", behaviour="DT4AndDT6"), vrf("green", sid=named, behaviour="uDT46"))
    for number in (1, 2):
        cluster.put_pod(f"app-{number}", "green", number)
    cluster.put_pod("app-1", "blue", 1)
    cluster.settle()
    rows = cluster.controller.listings()["sid"]()
    assert [(r["node"], r["vrf"], r["behaviour"], r["sid"], r["state"]) for r in rows] == [
        ("east-1", "blue", "End.DT4", "fcbb:bb01:1:e000::", "active"),
        ("east-1", "blue", "End.DT6", "fcbb:bb01:1:e001::", "active"),
        ("east-1", "green", "uDT46", "fcbb:bb01:1:e002::", "active"),
        ("east-2", "green", "uDT46", "fcbb:bb01:2:100::", "active"),
    ]
    assert codes(cluster) == []


def test_each_pod_gets_an_address_of_each_family_and_one_that_it_names(cluster: Cluster) -> None:
    cluster.put(vrf("blue", addresses=ADDRESSES), vrf("green", addresses=ADDRESSES))
    one = cluster.put_pod("app-1", "blue", 1)
    two = cluster.put_pod("app-2", "blue", 1, "10.50.0.200")
    other = cluster.put_pod("app-1", "green", 1, "10.50.0.200", "fd51::9")
    cluster.settle()
    further = cluster.agent.further.rows
    texts = {key: [str(a) for a in row.addresses] for key, row in further.items()}
    assert texts == {
        one: ["10.50.0.1", "fd50::1"],
        two: ["10.50.0.200", "fd50::2"],
        other: ["10.50.0.200", "fd51::9"],
    }
    assert further[one].destinations == vrf("blue").destinations
    assert codes(cluster) == []


def test_two_pods_of_a_vrf_that_name_one_address(cluster: Cluster) -> None:
    """The first keeps it; the other one has none and a finding."""
    cluster.put(vrf("blue", addresses=ADDRESSES[:1]))
    cluster.put_pod("app-1", "blue", 1, "10.50.0.7")
    two = cluster.put_pod("app-2", "blue", 1, "10.50.0.7")
    cluster.settle()
    assert two not in cluster.agent.further.rows
    assert codes(cluster) == ["V527"]


def test_what_goes_is_released_and_an_old_sid_goes_on_decapsulating(cluster: Cluster) -> None:
    cluster.put(vrf("blue"))
    key = cluster.put_pod("app-1", "blue", 1)
    cluster.settle()
    sid = IPv6Address("fcbb:bb01:1:e000::")
    number = cluster.agent.known.number.rows["blue"]
    cluster.delete_pod(key)
    cluster.settle()
    assert cluster.wants("sid") == set()
    assert [r["state"] for r in cluster.controller.listings()["sid"]()] == ["resting"]
    assert cluster.agent.sid.rows[sid] == LocalSID("End.DT46", number, 32, 16, identity=True)
    assert {one.noun: one.rest_s for one in cluster.controller.claims} == {
        "vrf": 600,
        "sid": 600,
        "tenant": None,
    }


# --- Wrong input ------------------------------------------------------------------------------


def test_a_shared_distinguisher_or_target_refuses_the_younger(cluster: Cluster) -> None:
    """Its pods send nothing to its destinations; the older one is as it was."""
    old = vrf("blue", rd="65001:1", created="2026-01-01T00:00:00")
    cluster.put(old)
    cluster.put_pod("app-1", "blue", 1)
    cluster.settle()
    before = dict(cluster.agent.mark.numbers.rows)
    young = cluster.put_pod("app-2", "aqua", 1)
    cluster.put(vrf("aqua", rd="65001:1", created="2026-02-01T00:00:00"))
    cluster.settle()
    assert codes(cluster) == ["V520"]
    assert cluster.agent.mark.numbers.rows == before | {young: CLOSED}
    assert ZonedPrefix(CLOSED, ip_network("10.80.0.0/16")) in cluster.agent.destination.rows
    cluster.put(vrf("aqua", imports=old.imports, created="2026-02-01T00:00:00"))
    cluster.settle()
    [finding] = cluster.controller.vrfs.findings()
    assert finding.code == "V521"
    assert "VRF blue (vrfs.yaml VRF/blue)" in finding.text
    assert finding.about == ("vrf/aqua", "vrf/blue")


def test_a_pod_of_two_vrfs_stays_with_the_older(cluster: Cluster) -> None:
    cluster.put(vrf("blue", created="2026-01-01T00:00:00"), vrf("other", "blue"))
    key = cluster.put_pod("app-1", "blue", 1)
    cluster.settle()
    assert cluster.agent.vrf_of_pod.rows == {key: "blue"}
    [finding] = cluster.controller.members.findings()
    assert (finding.code, finding.object) == ("V522", "vrfs.yaml VRF/other")
    assert "blue/app-1" in finding.text
    assert "VRF blue" in finding.text


@pytest.mark.parametrize(
    ("sid", "code"),
    [
        ("fcbb:bb09:1:100::", "V524"),
        ("fcbb:bb01:1:100::1", "V524"),
        ("fcbb:bb01:1::", "V524"),
    ],
)
def test_a_named_sid_that_is_no_function_of_a_locator(
    cluster: Cluster, sid: str, code: str
) -> None:
    cluster.put(vrf("blue", sid=IPv6Address(sid)))
    cluster.put_pod("app-1", "blue", 1)
    cluster.settle()
    assert codes(cluster) == [code]
    assert [r["sid"] for r in cluster.controller.listings()["sid"]()] == ["fcbb:bb01:1:e000::"]


def test_a_named_sid_of_another_vrf(cluster: Cluster) -> None:
    named = IPv6Address("fcbb:bb01:1:100::")
    cluster.put(vrf("blue", sid=named))
    cluster.put_pod("app-1", "blue", 1)
    cluster.settle()
    cluster.put(vrf("green", sid=named))
    cluster.put_pod("app-1", "green", 1)
    cluster.settle()
    assert codes(cluster) == ["V526"]


def test_a_pool_that_is_not_there(cluster: Cluster) -> None:
    cluster.put(vrf("blue", locator_pool="fcbb:bb09::/32"))
    cluster.put_pod("app-1", "blue", 1)
    cluster.settle()
    assert codes(cluster) == ["V525"]
    assert cluster.wants("sid") == set()


def test_peers_that_nobody_is(cluster: Cluster) -> None:
    fabric = Selector((Requirement("fabric", "In", ("dc1",)),))
    cluster.put(vrf("blue", peers=fabric))
    cluster.settle()
    assert codes(cluster) == ["V523"]
    cluster.carriers.upsert({"router": (("fabric", "dc1"),)})
    assert codes(cluster) == []


# --- Rows of a node ---------------------------------------------------------------------------


def test_pods_of_other_nodes_are_reached_by_the_sid_of_their_node(cluster: Cluster) -> None:
    """Two tenants with equal addresses stay apart by their numbers."""
    cluster.put(vrf("blue", addresses=ADDRESSES), vrf("green", addresses=ADDRESSES))
    for tenant in ("blue", "green"):
        cluster.put_pod("app-1", tenant, 1)
        cluster.put_pod("app-2", tenant, 2, "10.50.0.77")
    cluster.settle()
    numbers = cluster.agent.known.number.rows
    sid = {"blue": "fcbb:bb01:2:e000::", "green": "fcbb:bb01:2:e001::"}
    assert hosts(cluster) == {
        f"{numbers[tenant]} {address}": ([sid[tenant]], IDENTITY)
        for tenant in ("blue", "green")
        for address in ("10.50.0.77", "fd50::2")
    }
    path = next(iter(cluster.agent.path.rows.values()))
    assert (path.source, path.argument) == (SOURCE, 64)


def test_a_node_says_in_vain_that_it_has_the_pod_of_another(cluster: Cluster) -> None:
    """A node writes what it likes below its own name; no controller has confirmed this entry."""
    cluster.put(vrf("blue", addresses=ADDRESSES))
    key = cluster.put_pod("app-2", "blue", 2)
    cluster.settle()
    before = hosts(cluster)
    assert len(before) == 2
    said = PodEntry((), "k8s:tenant=blue;", 0, "blue")
    ref = PodRef("east-9", key.namespace, key.name)
    cluster.counted.upsert({ref: said})
    cluster.settle()
    assert hosts(cluster) == before
    cluster.counted.upsert({ref: replace(said, addresses=(ip_address("10.1.9.9"),))})
    cluster.settle()
    assert hosts(cluster) == before
    cluster.counted.delete([ref])
    cluster.settle()
    assert hosts(cluster) == before


def test_a_node_without_an_ipv6_address_says_so(cluster: Cluster) -> None:
    cluster.put(vrf("blue", addresses=ADDRESSES))
    cluster.put_pod("app-1", "blue", 1)
    cluster.settle()
    assert "V536" not in codes(cluster)
    own = NodeKey("east", "east-1")
    cluster.node.upsert({own: Node("east", "east-1", (ip_address("10.99.0.11"),))})
    cluster.settle()
    assert "V536" in codes(cluster)


def test_without_addresses_the_cluster_addresses_are_those_in_the_vrf(cluster: Cluster) -> None:
    cluster.put(vrf("blue", segments=(IPv6Address("fcbb:bb09::1"),), behaviour="uDT46"))
    one = cluster.put_pod("app-1", "blue", 1)
    cluster.put_pod("app-2", "blue", 2)
    cluster.settle()
    number = cluster.agent.known.number.rows["blue"]
    assert hosts(cluster) == {
        f"{number} 10.1.2.12": (["fcbb:bb09::1", "fcbb:bb01:2:e000::"], IDENTITY)
    }
    device = cluster.devices.rows[one]
    assert list(cluster.links.pod.rows) == [ZonedAddress(number, device.addresses[0])]
    assert cluster.links.link.rows == {device.ifindex: VRFLink(number, tenant=False)}
    assert cluster.agent.further.rows == {}
    own = cluster.agent.sid.rows[IPv6Address("fcbb:bb01:1::")]
    assert own == LocalSID("uN", 0, 32, 16, next_csid=True)


def test_a_tenant_pods_interface_and_addresses(cluster: Cluster) -> None:
    cluster.put(vrf("blue", addresses=ADDRESSES))
    key = cluster.put_pod("app-1", "blue", 1)
    cluster.settle()
    number = cluster.agent.known.number.rows["blue"]
    device = cluster.devices.rows[key]
    assert cluster.links.link.rows == {device.ifindex: VRFLink(number, tenant=True)}
    assert set(cluster.links.pod.rows) == {
        ZonedAddress(number, ip_address(text)) for text in ("10.50.0.1", "fd50::1")
    }
    assert {dict(row.marks)["vrf"] for row in cluster.links.pod.rows.values()} == {number}
    assert cluster.agent.lengths.rows == {IPv6Network("fcbb:bb01:1::/48"): (32, 16, 16, 24)}


def test_a_node_whose_sid_is_not_claimed_yet_is_nowhere(cluster: Cluster) -> None:
    """A row without a path drops what is for the pod: another route would be wrong."""
    cluster.put(vrf("blue"))
    cluster.put_pod("app-2", "blue", 2)
    cluster.settle()
    cluster.store.claims_of("sid").held.replace({})
    cluster.loop.derive_all()
    assert [row.via for row in cluster.agent.host.rows.values()] == [()]
    assert cluster.agent.path.rows == {}


def test_a_runtime_waits_for_the_addresses_of_a_tenant(cluster: Cluster) -> None:
    cluster.put(vrf("blue", addresses=ADDRESSES), vrf("green"))
    keys = [cluster.put_pod("app-1", tenant, 1) for tenant in ("blue", "green", "other")]
    cluster.sync()
    assert [cluster.agent.lacks(key) for key in keys] == ["an address of VRF blue", "", ""]
    cluster.settle()
    assert [cluster.agent.lacks(key) for key in keys] == ["", "", ""]


def test_a_vrf_without_a_number_is_closed(cluster: Cluster) -> None:
    """Before the claims are known, pods of a VRF send nothing to its destinations."""
    cluster.put(vrf("blue"))
    key = cluster.put_pod("app-1", "blue", 1)
    for table in cluster.objects.tables().values():
        table.mark_synced()
    cluster.mine.mark_synced()
    cluster.loop.derive_all()
    assert cluster.agent.mark.numbers.rows == {key: CLOSED}
    assert {one.zone for one in cluster.agent.destination.rows} == {CLOSED}


async def _recovered(tmp_path: Path) -> Cluster:
    later = Cluster(tmp_path)
    await later.agent.recover(None)  # type: ignore[arg-type]  # from a file
    return later


def test_a_new_agent_without_its_store_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    """Numbers and addresses of its pods are in a file."""
    cluster.put(vrf("blue", addresses=ADDRESSES))
    key = cluster.put_pod("app-1", "blue", 1)
    cluster.settle()
    later = run(_recovered(tmp_path))
    later.put(vrf("blue", addresses=ADDRESSES))
    later.put_pod("app-1", "blue", 1)
    for table in later.objects.tables().values():
        table.mark_synced()
    later.mine.mark_synced()
    later.loop.derive_all()
    number = cluster.agent.known.number.rows["blue"]
    assert later.agent.mark.numbers.rows == {key: number}
    assert later.agent.further.rows == {
        key: FurtherAddresses(
            (ip_address("10.50.0.1"), ip_address("fd50::1")), vrf("blue").destinations
        )
    }


def test_a_damaged_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "vrfs.json").write_bytes(b'{"numbers": {"blue": "x"}}')
    assert run(_recovered(tmp_path)).agent.known.number.rows == {}


def test_from_where_packets_for_sids_may_come(cluster: Cluster) -> None:
    """An identity in a SID's argument counts from a node's own address only (RFC 8754 5.1)."""
    cluster.settle()
    assert cluster.domain.table.rows == {
        IPv6Network("fd99::12/128"): SRv6Source(1),
        BLOCK: SRv6Source(),
        IPv6Network("fd99::1/128"): SRv6Source(),
        IPv6Network("fd77::/64"): SRv6Source(),
    }


def test_what_the_list_of_vrfs_says(cluster: Cluster) -> None:
    cluster.put(vrf("blue"))
    cluster.put_pod("app-1", "blue", 1)
    cluster.settle()
    [row] = cluster.controller.listings()["vrf"]()
    assert row == {
        "cluster": "east",
        "name": "blue",
        "number": 1,
        "rd": "auto",
        "import": list(vrf("blue").imports),
        "export": list(vrf("blue").exports),
        "pods": 1,
        "sids": [
            {
                "node": "east-1",
                "sid": "fcbb:bb01:1:e000::",
                "behaviour": "End.DT46",
                "state": "active",
            }
        ],
    }


# --- Pure parts -------------------------------------------------------------------------------


def test_places_of_tenant_addresses() -> None:
    """Not the first address, nor IPv4's broadcast; one address of each family."""
    key = PodKey("east", "shop", "app-1")
    one = vrf("blue", addresses=ADDRESSES)
    small = replace(one, addresses=(ip_network("10.50.0.4/30"), ip_network("10.51.0.0/31")))
    [v4, v6] = claims.tenant_wants(key, one, ())
    assert v4 == Want("tenant", "blue@10.50.0.0_24_32", "shop/app-1")
    assert claims.tenant_candidates(v4) == range(1, 255)
    assert claims.tenant_candidates(v6) == range(1, 1 << 20)
    [only] = claims.tenant_wants(key, small, ())
    assert list(claims.tenant_candidates(only)) == [1, 2]
    assert claims.named_number(only) is None
    assert list(claims.tenant_candidates(Want("tenant", "nonsense", ""))) == []


def test_an_address_far_inside_a_network_is_a_pool_of_its_own() -> None:
    """Numbers of claims have 62 bits."""
    key, far = PodKey("east", "shop", "app-1"), ip_address("fd50:0:0:0:8000::1")
    wide = vrf("blue", addresses=(ip_network("fd50::/48"),))
    [want] = claims.tenant_wants(key, wide, [far])
    assert want == Want("tenant", f"blue@{far}_128_128", f"shop/app-1@{far}")
    assert claims.named_number(want) == 0
    near = ip_address("fd50::9")
    [want] = claims.tenant_wants(key, wide, [near])
    assert (want.pool, claims.named_number(want)) == ("blue@fd50::_48_128", 9)
