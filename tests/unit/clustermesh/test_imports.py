"""The import firewall as a dialogue: keys in, accepted rows and findings out.

We are east (id 1: 10.1.0.0/16, fd01::/48, nodes 10.99.0.11 and .12); the peer is west (id 2).
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from typing import Any

import pytest

from clustermesh.contract import Contract
from clustermesh.remote import wire
from clustermesh.remote.changes import ImportChanges
from clustermesh.remote.holdings import Ledger, OwnChange, OwnFacts
from clustermesh.remote.importer import Importer, Imports, Limits
from clustermesh.remote.shared import ADDRESS as ADDRESSES
from mesh.core import address
from mesh.core.model import Address, Backend, Node, NodeKey, PodKey, Service, ServiceKey
from mesh.identity.addresses import VALUE
from mesh.observe.tables import encode
from mesh.process import Since

OWN = OwnFacts(
    "east",
    1,
    (ip_network("10.1.0.0/16"), ip_network("fd01::/48"), ip_network("fcbb:bb01::/32")),
    frozenset({ip_address("10.99.0.11"), ip_address("fd99::11"), ip_address("10.99.0.12")}),
)
LABELS = "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=west;k8s:io.kubernetes.pod.namespace=shop;"
WEB = 2 << 16 | 7
CONFIG = wire.config_key("west")
NODE = wire.node_key("west", "west-1")
IDENTITY = wire.identity_key("west", WEB)
ADDRESS = wire.address_key("west", ip_address("10.2.1.5"))
SERVICE = wire.service_key("west", "shop", "web")


def west_node(number: int = 1, **fields: object) -> Node:
    """west-<n> with 10.2.<n>.0/24 and fd02:0:0:<n>::/64."""
    node = Node(
        "west",
        f"west-{number}",
        (ip_address(f"10.99.0.2{number}"), ip_address(f"fd99::2{number}")),
        (ip_network(f"10.2.{number}.0/24"), ip_network(f"fd02:0:0:{number}::/64")),
        ip_network(f"fcbb:bb02:{number}::/48"),
    )
    return replace(node, **fields)


def pair(address: str, identity: int = WEB, host: str = "10.99.0.21") -> tuple[str, bytes]:
    row = Address(ip_address(address), identity, "west", IPv4Address(host))
    value = wire.address_value(row, PodKey("west", "shop", "web-1"), LABELS)
    return wire.address_key("west", row.address), value


def west_service(*backends: str) -> bytes:
    rows = tuple(Backend(ip_address(b), 8080, "http", "TCP", "west") for b in backends)
    return wire.service_value(Service("west", "shop", "web", (), (), backends=rows), 2)


def west(**more: bytes) -> dict[str, bytes]:
    """A small complete peer."""
    return {
        CONFIG: wire.cluster_config(2),
        NODE: wire.node_value(west_node(), 2),
        IDENTITY: LABELS.encode(),
        **dict([pair("10.2.1.5"), pair("fd02:0:0:1::5")]),
        SERVICE: west_service("10.2.1.5"),
        **more,
    }


def importer(keys: Mapping[str, bytes] | None = None) -> Importer:
    it = Importer("west", Ledger(OWN))
    it.apply(west() if keys is None else keys)
    return it


def addresses(changes: ImportChanges) -> dict[str, tuple[int, str, int]]:
    rows = zip(changes.addresses.keys.tolist(), changes.addresses.values.tolist(), strict=True)
    return {text(key): (who, str(IPv4Address(node)), of) for key, (who, node, _, of, _) in rows}


def text(key: bytes) -> str:
    address = ip_address(key)
    return str(getattr(address, "ipv4_mapped", None) or address)


def edited(value: bytes, **fields: object) -> bytes:
    return json.dumps(json.loads(value) | fields).encode()


def refused(it: Importer | Imports) -> dict[str, tuple[str, str]]:
    return {key: (f.code, f.field) for key, f in it.findings.items()}


# --- Accepting --------------------------------------------------------------------------------


def test_a_good_peer_is_accepted_whole() -> None:
    """Every row arrives, addresses as columns with the tunnel endpoint; nothing is found."""
    it = Importer("west", Ledger(OWN))
    changes = it.apply(west())
    assert changes.nodes.upsert == {NodeKey("west", "west-1"): west_node()}
    assert changes.identities.upsert[WEB].labels == LABELS
    assert list(changes.services.upsert) == [ServiceKey("west", "shop", "web")]
    assert addresses(changes) == {
        "10.2.1.5": (WEB, "10.99.0.21", 2),
        "fd02:0:0:1::5": (WEB, "10.99.0.21", 2),
    }
    assert changes.addresses.keys.dtype == address.ADDRESS
    assert changes.addresses.values.dtype == VALUE
    assert it.findings == {}
    assert addresses(ImportChanges({}, it.addresses)) == addresses(changes)


def test_the_same_keys_again_change_nothing() -> None:
    """A peer that puts its keys on another lease costs no map write."""
    changes = importer().apply(west())
    assert not changes.nodes.upsert
    assert not changes.services.upsert
    assert not len(changes.addresses.keys)


def test_deleted_keys_take_their_rows_with_them() -> None:
    """A pod that is gone, then the node under the rest."""
    it = importer()
    gone = it.apply({}, [ADDRESS])
    assert [text(key) for key in gone.addresses.deleted.tolist()] == ["10.2.1.5"]
    gone = it.apply({}, [NODE])
    assert gone.nodes.delete == {NodeKey("west", "west-1")}
    assert [text(key) for key in gone.addresses.deleted.tolist()] == ["fd02:0:0:1::5"]
    assert gone.services.delete == {ServiceKey("west", "shop", "web")}


def test_addresses_wait_for_their_node() -> None:
    """What came before the node's pod CIDRs is judged again when they come."""
    keys = west()
    node = keys.pop(NODE)
    it = importer(keys)
    assert set(refused(it)) == {ADDRESS, pair("fd02:0:0:1::5")[0], SERVICE}
    changes = it.apply({NODE: node})
    assert len(addresses(changes)) == 2
    assert list(changes.services.upsert) == [ServiceKey("west", "shop", "web")]
    assert it.findings == {}


def test_a_node_that_changes_its_tunnel_endpoint_moves_its_addresses() -> None:
    """The address rows follow the node row, whoever is written first."""
    it = importer()
    node = west_node(addresses=(ip_address("10.99.0.29"), ip_address("10.99.0.21")))
    changes = it.apply({NODE: wire.node_value(node, 2)})
    assert addresses(changes)["10.2.1.5"] == (WEB, "10.99.0.29", 2)


def test_a_pod_cidr_moves_between_nodes_in_either_order() -> None:
    """A replaced node: the new one is accepted as soon as the old one is gone."""
    it = importer()
    new = wire.node_value(
        replace(west_node(), name="new", addresses=(ip_address("10.99.0.28"),)), 2
    )
    key = wire.node_key("west", "new")
    it.apply({key: new})
    assert refused(it) == {key: ("M129", "IPv4AllocCIDR")}
    changes = it.apply({}, [NODE])
    assert list(changes.nodes.upsert) == [NodeKey("west", "new")]
    assert "10.2.1.5" in {text(k) for k in changes.addresses.deleted.tolist()}  # its host is gone


def test_nothing_is_used_without_a_cluster_config() -> None:
    """Rows wait for the config, which says what the identities mean; a finding says so."""
    keys = west()
    config = keys.pop(CONFIG)
    it = importer(keys)
    assert (it.nodes, it.services, refused(it)) == ({}, {}, {CONFIG: ("M137", "")})
    assert len(addresses(it.apply({CONFIG: config}))) == 2


def test_canaries_say_what_is_complete() -> None:
    """Which prefixes the peer says to be complete; the end of a canary takes no row away."""
    it = importer()
    canary = wire.canary_key("west", wire.NODES)
    it.apply({canary: b"now"})
    assert it.canaries == {wire.NODES}
    gone = it.apply({}, [canary])
    assert (it.canaries, len(it.nodes), gone.nodes.delete) == (set(), 1, frozenset())


def test_host_identity_of_a_node_address() -> None:
    """Identity 1 means 6 for the peer's own nodes (G12), and is refused for a pod."""
    node = edited(
        wire.node_value(west_node(), 2),
        IPAddresses=[
            {"Type": "InternalIP", "IP": "10.99.0.21"},
            {"Type": "CiliumInternalIP", "IP": "10.2.1.1"},
        ],
    )
    it = importer(west(**{NODE: node}))
    changes = it.apply(dict([pair("10.99.0.21", 1), pair("10.2.1.1", 1), pair("10.2.1.9", 1)]))
    assert addresses(changes) == {"10.2.1.1": (6, "10.99.0.21", 2)}
    assert refused(it) == {pair("10.2.1.9")[0]: ("M126", "ID")}


def test_prefix_entries_are_checked_and_not_used() -> None:
    """Older clusters write CIDR entries with a mask (G11): no row comes of them."""
    inside = edited(pair("10.2.1.0")[1], Mask="////AA==")
    outside = edited(pair("10.9.0.0")[1], Mask="//8AAA==")
    it = importer()
    changes = it.apply(
        {
            "cilium/cache/ip/v1/west/10.2.1.0/24": inside,
            "cilium/cache/ip/v1/west/10.9.0.0/16": outside,
            "cilium/cache/ip/v1/west/0.0.0.0/0": inside,
        }
    )
    assert not len(changes.addresses.keys)
    assert refused(it) == {
        "cilium/cache/ip/v1/west/10.9.0.0/16": ("M127", "IP"),
        "cilium/cache/ip/v1/west/0.0.0.0/0": ("M130", "IP"),
    }


# --- Refusing ---------------------------------------------------------------------------------

GOOD_NODE = wire.node_value(west_node(), 2)
NEW_NODE = wire.node_key("west", "west-2")
NEW_ADDRESS = wire.address_key("west", ip_address("10.2.1.9"))


def new_node(**fields: object) -> bytes:
    return wire.node_value(west_node(2, **fields), 2)


VIOLATIONS: dict[str, tuple[str, bytes, str, str]] = {
    "node of another cluster": (
        NEW_NODE, edited(new_node(), Cluster="north"), "M122", "Cluster"),
    "node with another cluster's id": (
        NEW_NODE, edited(new_node(), ClusterID=1), "M123", "ClusterID"),
    "node with an id that cannot be (R7)": (
        NEW_NODE, edited(new_node(), ClusterID=300), "M123", "ClusterID"),
    "node without cluster (R6)": (NEW_NODE, b'{"Name":"west-2"}', "M133", ""),
    "node under another key": (NEW_NODE, GOOD_NODE, "M130", "Name"),
    "node under a deeper key": (
        NEW_NODE + "/x", edited(new_node(), Name="west-2/x"), "M130", "Name"),
    "our pod CIDR": (
        NEW_NODE, new_node(pod_cidrs=(ip_network("10.1.3.0/24"),)), "M129", "IPv4AllocCIDR"),
    "a pod CIDR around ours": (
        NEW_NODE, new_node(pod_cidrs=(ip_network("10.0.0.0/8"),)), "M129", "IPv4AllocCIDR"),
    "everything as pod CIDR": (
        NEW_NODE, new_node(pod_cidrs=(ip_network("::/0"),)), "M129", "IPv6AllocCIDR"),
    "our pod CIDR, version 6": (
        NEW_NODE, new_node(pod_cidrs=(ip_network("fd01:0:0:7::/64"),)), "M129", "IPv6AllocCIDR"),
    "a pod CIDR around our nodes": (
        NEW_NODE, new_node(pod_cidrs=(ip_network("10.99.0.0/24"),)), "M129", "IPv4AllocCIDR"),
    "a pod CIDR of its other node": (
        NEW_NODE, new_node(pod_cidrs=(ip_network("10.2.1.128/25"),)), "M129", "IPv4AllocCIDR"),
    "a pod CIDR twice": (
        NEW_NODE, new_node(pod_cidrs=(ip_network("10.2.4.0/23"), ip_network("10.2.5.0/24"))),
        "M129", "IPv4AllocCIDR"),
    "loopback as pod CIDR": (
        NEW_NODE, new_node(pod_cidrs=(ip_network("127.1.0.0/16"),)), "M129", "IPv4AllocCIDR"),
    "our locator": (
        NEW_NODE, new_node(locator=ip_network("fcbb:bb01:9::/48")),
        "M129", "Annotations.meshgate.io/locator"),
    "an address of our node": (
        NEW_NODE, new_node(addresses=(ip_address("10.99.0.12"),)), "M128", "IPAddresses"),
    "an IPv6 address of our node": (
        NEW_NODE, new_node(addresses=(ip_address("10.99.0.22"), ip_address("fd99::11"))),
        "M128", "IPAddresses"),
    "an address of its other node": (
        NEW_NODE, new_node(addresses=(ip_address("10.99.0.21"),)), "M128", "IPAddresses"),
    "one of our pods as node": (
        NEW_NODE, new_node(addresses=(ip_address("10.1.0.9"),)), "M128", "IPAddresses"),
    "multicast as node": (
        NEW_NODE, new_node(addresses=(ip_address("224.0.0.1"),)), "M128", "IPAddresses"),
    "a node too large": (
        NEW_NODE, edited(new_node(), Source="x" * (64 << 10)), "M132", ""),
    "no JSON": (NEW_NODE, b"{", "M133", ""),
    "no UTF-8": (NEW_NODE, edited(new_node()).replace(b"west-2", b"west\xff2"), "M133", ""),
    "depth": (NEW_NODE, b'{"x":' * 10_000, "M133", ""),
    "identity of another cluster (R8)": (
        wire.identity_key("west", 1 << 16 | 7), LABELS.encode(), "M125", "id"),
    "a label of the cluster twice": (
        IDENTITY, (LABELS + "k8s:io.cilium.k8s.policy.cluster=east;").encode(), "M136", "labels"),
    "a label twice, of two sources": (
        IDENTITY, (LABELS + "any:app=db;").encode(), "M136", "labels"),
    "reserved identity": (wire.identity_key("west", 2), LABELS.encode(), "M126", "id"),
    "identity with a number that is none": (
        "cilium/cache/identities/v1/west/id/007", LABELS.encode(), "M130", "id"),
    "identity with a number without end": (
        "cilium/cache/identities/v1/west/id/" + "9" * 5000, LABELS.encode(), "M130", "id"),
    "identity without its cluster (R9)": (
        wire.identity_key("west", WEB + 1), b"k8s:app=web;", "M136", "labels"),
    "identity of a longer cluster name": (
        wire.identity_key("west", WEB + 1), f"{wire.CLUSTER_LABEL}=west2;".encode(),
        "M136", "labels"),
    "identity without UTF-8": (wire.identity_key("west", WEB + 1), b"\xff;", "M133", "labels"),
    "address outside the pod CIDRs": (*pair("10.9.0.1"), "M127", "IP"),
    "address of our pod": (*pair("10.1.0.5"), "M127", "IP"),
    "address of our node": (*pair("10.99.0.11"), "M128", "IP"),
    "address under another key (R1)": (NEW_ADDRESS, pair("10.2.1.8")[1], "M130", "IP"),
    "address in another spelling": (
        "cilium/cache/ip/v1/west/FD02:0:0:1::9",
        edited(pair("fd02:0:0:1::9")[1], IP="FD02:0:0:1::9"), "M130", "IP"),
    "an IPv4 address in IPv6 clothes": (
        "cilium/cache/ip/v1/west/::ffff:10.2.1.9",
        edited(pair("10.2.1.9")[1], IP="::ffff:10.2.1.9"), "M130", "IP"),
    "address that is none": (
        "cilium/cache/ip/v1/west/10.2.1.300",
        edited(pair("10.2.1.9")[1], IP="10.2.1.300"), "M133", "IP"),
    "address with a reserved identity (G13)": (*pair("10.2.1.9", 2), "M126", "ID"),
    "address with an identity of ours (R10)": (*pair("10.2.1.9", 1 << 16 | 7), "M125", "ID"),
    "address with an identity of 32 bits": (*pair("10.2.1.9", 1 << 31), "M125", "ID"),
    "address behind our node": (*pair("10.2.1.9", host="10.99.0.11"), "M135", "HostIP"),
    "address behind nobody": (NEW_ADDRESS, b'{"IP":"10.2.1.9","ID":131079}', "M135", "HostIP"),
    "service of another cluster (R2)": (
        SERVICE, edited(west_service(), cluster="c9"), "M122", "cluster"),
    "service with another id (R3)": (
        SERVICE, edited(west_service(), clusterID=1), "M123", "clusterID"),
    "service under another key (R4)": (
        SERVICE, edited(west_service(), name="other"), "M130", "name"),
    "backend that is no address (R5)": (
        SERVICE, edited(west_service(), backends={"10.2.1.300": {}}), "M133", "backends"),
    "backend with a zone (R16)": (
        SERVICE, edited(west_service(), backends={"fe80::1%eth0": {}}), "M133", "backends"),
    "frontend that is no address": (
        SERVICE, edited(west_service(), frontends={"web": {}}), "M133", "frontends"),
    "backend outside the pod CIDRs": (
        SERVICE, west_service("10.2.1.5", "198.51.100.7"), "M131", "backends"),
    "our pod as backend": (SERVICE, west_service("10.1.0.5"), "M131", "backends"),
    "port that is none": (
        SERVICE, edited(west_service(), backends={"10.2.1.5": {"h": {"Protocol": "TCP",
        "Port": 70000}}}), "M133", "backends[...][...].Port"),
    "a port with a name that is none": (
        SERVICE, edited(west_service(), backends={"10.2.1.5": {"\x1b[2J": {"Protocol": "TCP",
        "Port": 7}}}), "M130", "backends"),
    "port 0": (
        SERVICE, edited(west_service(), backends={"10.2.1.5": {"h": {"Protocol": "TCP",
        "Port": 0}}}), "M133", "backends[...][...].Port"),
    "a service too large": (
        SERVICE, edited(west_service(), labels={"x": "y" * (1 << 20)}), "M132", ""),
    "config with our id": (CONFIG, wire.cluster_config(1), "M123", "id"),
    "config with id 0": (CONFIG, wire.cluster_config(0), "M123", "id"),
    "config with id 300": (CONFIG, wire.cluster_config(300), "M123", "id"),
    "config with another id": (CONFIG, wire.cluster_config(9), "M123", "id"),
    "config with an unknown mode (R11)": (
        CONFIG, b'{"id":2,"capabilities":{"endpointSlicesExportMode":"all"}}',
        "M121", "capabilities.endpointSlicesExportMode"),
    "config of a larger mesh (R12)": (
        CONFIG, b'{"id":2,"capabilities":{"maxConnectedClusters":511}}',
        "M121", "capabilities.maxConnectedClusters"),
    "config that is none": (CONFIG, b"[]", "M133", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violation_is_quarantined_alone(name: str) -> None:
    """One finding that names the key and the field; no accepted row changes, and it can heal."""
    key, value, code, field = VIOLATIONS[name]
    it = importer()
    changes = it.apply({key: value})
    assert refused(it) == {key: (code, field)}
    assert it.findings[key].text
    assert changes.nodes == changes.services == changes.identities
    assert not changes.nodes.upsert
    assert not changes.nodes.delete
    assert not len(changes.addresses.keys)
    assert not len(changes.addresses.deleted)
    good = west()
    changes = it.apply({key: good[key]}) if key in good else it.apply({}, [key])
    assert it.findings == {}
    assert not len(changes.addresses.deleted)


@pytest.mark.parametrize("cluster", ["default", "West", "a" * 33])
def test_wrong_cluster_name_is_refused_whole(cluster: str) -> None:
    """R14."""
    it = Imports(OWN)
    node = wire.node_value(west_node(cluster=cluster), 2)
    config = wire.config_key(cluster)
    it.apply({config: wire.cluster_config(2), wire.node_key(cluster, "west-1"): node})
    assert refused(it) == {config: ("M122", "name")}
    assert it.importers[cluster].nodes == {}


def test_kept_row_goes_when_its_node_goes() -> None:
    """The last accepted row of a refused key stays only while it may."""
    it = importer()
    it.apply({ADDRESS: pair("10.2.1.5", 2)[1]})
    assert len(it.addresses.keys) == 2
    it.apply({}, [NODE])
    assert len(it.addresses.keys) == 0


def test_too_many_keys_are_not_read() -> None:
    """A peer beyond its limit keeps what it has; one finding counts the rest."""
    it = Importer("west", Ledger(OWN), Limits({ADDRESSES: 3}))
    it.apply(west())
    it.apply(dict(pair(f"10.2.1.{n}") for n in range(10, 20)))
    assert len(it.addresses.keys) == 3
    assert refused(it) == {"cilium/cache/ip/v1/west/": ("M134", "keys")}
    it.apply({}, [pair(f"10.2.1.{n}")[0] for n in range(11, 20)])
    assert it.findings == {}


def test_findings_are_bounded() -> None:
    """A hundred bad keys are shown one by one, the rest as a number."""
    it = importer()
    it.apply(dict(pair(f"10.9.{n}.1") for n in range(150)))
    assert len(it.findings) == 101
    assert it.findings["cilium/cache/*/v1/west/"].text == "50 further keys are refused"


def test_findings_can_be_shown_whatever_the_key_is() -> None:
    """Bytes that are no UTF-8, terminal sequences and endless names stay out of the screen."""
    it = Imports(OWN)
    names = ("west-\udcff", "\x1b[2J", "x" * 100_000, "a/b")
    it.apply({CONFIG: wire.cluster_config(2)})
    it.apply({wire.node_key("west", name): new_node(name=name[:100]) for name in names[1:]})
    it.apply({wire.node_key("west", names[0]): GOOD_NODE, wire.config_key("\udcff"): b"{"})
    assert len(it.findings) == 5
    for finding in it.findings.values():
        shown = encode(finding).decode()
        assert shown.isprintable()
        assert len(shown) < 2000


def test_finding_keeps_its_time() -> None:
    """The same fault since its first sight, however often it is written."""
    now = iter(range(100, 200))
    it = Importer("west", Ledger(OWN))
    clock = Since(lambda: list(it.findings.values()), unix=lambda: float(next(now)))
    it.apply(west())
    key, value = pair("10.9.0.1")
    it.apply({key: value})
    [first] = clock.dated()
    assert first.since == 100
    it.apply({key: edited(value, Metadata="x")})
    assert clock.dated() == [first]
    it.apply({key: b"{"})
    [other] = clock.dated()
    assert (other.code, other.since) == ("M133", 102)


# --- Clusters whose pods have addresses of a cloud ------------------------------------------


def cloud(cluster: str, number: int, *pods: str, node: str = "10.99.0.41") -> dict[str, bytes]:
    """A cluster whose node has no pod CIDR; its pods have addresses out of the cloud's subnets."""
    name = f"{cluster}-1"
    row = Node(cluster, name, (ip_address(node),))
    keys = {wire.config_key(cluster): wire.cluster_config(number)}
    keys[wire.node_key(cluster, name)] = wire.node_value(row, number)
    for pod in pods:
        address = Address(ip_address(pod), number << 16 | 7, cluster, IPv4Address(node))
        value = wire.address_value(address, PodKey(cluster, "shop", "web"), "")
        keys[wire.address_key(cluster, address.address)] = value
    return keys


def held(it: Imports) -> dict[str, int]:
    rows: dict[str, int] = {}
    for one in it.importers.values():
        keys, values = one.addresses.keys.tolist(), one.addresses.values.tolist()
        rows |= {text(key): value[3] for key, value in zip(keys, values, strict=True)}
    return rows


def test_addresses_of_a_node_without_pod_cidrs_are_judged_one_by_one() -> None:
    """Each is the cluster's that is neither ours nor somebody else's nor impossible."""
    it = Imports(OWN)
    clouds = tuple(map(ip_network, ("172.31.0.0/16", "2600:1f::/32")))
    contract = Contract("north", "north", 3, clouds, (ip_network("10.99.0.0/24"),))
    it.change_own(OwnChange(contracts=(contract,)))
    it.apply(west())
    bad = {"10.1.0.7": "M128", "10.2.1.77": "M128", "10.99.0.12": "M128", "127.0.0.9": "M128"}
    bad |= {"10.99.0.21": "M128"}
    it.apply(cloud("north", 3, "172.31.5.6", "172.31.5.7", "2600:1f::7", *bad))
    mine = {address for address, cluster in held(it).items() if cluster == 3}
    assert mine == {"172.31.5.6", "172.31.5.7", "2600:1f::7"}
    found = {finding.object.rpartition("/")[2]: finding.code for finding in it.findings.values()}
    assert found == bad


def test_a_single_address_passes_from_cluster_to_cluster() -> None:
    """The first one keeps it; who was refused gets it when it is free, and no other key is read."""
    it = Imports(OWN)
    it.apply(cloud("north", 3, "172.31.5.6"))
    key = wire.address_key("south", ip_address("172.31.5.6"))
    it.apply(cloud("south", 4, "172.31.5.6", node="10.99.0.42"))
    assert refused(it) == {key: ("M128", "IP")}
    assert "a pod of cluster north has it" in it.findings[key].text
    changes = it.apply({}, [wire.address_key("north", ip_address("172.31.5.6"))])
    assert (held(it), it.findings) == ({"172.31.5.6": 4}, {})
    assert list(addresses(changes)) == ["172.31.5.6"]


def test_our_later_facts_win_over_a_single_address() -> None:
    """A service address or pool of ours takes the peer's address away, and gives it back."""
    it = Imports(OWN)
    it.apply(cloud("north", 3, "172.31.5.6", "172.31.9.9"))
    it.update_own(replace(OWN, networks=(*OWN.networks, ip_network("172.31.5.6/32"))))
    assert held(it) == {"172.31.9.9": 3}
    assert [finding.code for finding in it.findings.values()] == ["M128"]
    it.update_own(OWN)
    assert (held(it), it.findings) == ({"172.31.5.6": 3, "172.31.9.9": 3}, {})


def test_a_pod_cidr_around_somebody_elses_single_address_is_refused() -> None:
    it = Imports(OWN)
    it.apply(cloud("north", 3, "10.2.1.9"))
    it.apply(west())
    assert refused(it)[NODE] == ("M129", "IPv4AllocCIDR")
    assert "10.2.1.9, the address of a pod of cluster north" in it.findings[NODE].text
    it.apply({}, [wire.address_key("north", ip_address("10.2.1.9"))])
    assert NODE not in it.findings


def test_a_service_rests_on_its_single_addresses() -> None:
    """Its backends come and go with the addresses, also when they come after the service."""
    it = Imports(OWN)
    first, second = "172.31.5.6", "172.31.5.7"
    backends = tuple(Backend(ip_address(b), 80, "", "TCP", "north") for b in (first, second))
    row = Service("north", "shop", "web", (), (), backends=backends)
    key = wire.service_key("north", "shop", "web")
    it.apply({**cloud("north", 3), key: wire.service_value(row, 3)})
    assert refused(it) == {key: ("M131", "backends")}
    pods = cloud("north", 3, first, second)

    def backing() -> set[str]:
        rows = it.importers["north"].services.values()
        return {str(backend.address) for row in rows for backend in row.backends}

    for pod, there in ((first, {first}), (second, {first, second})):
        address = wire.address_key("north", ip_address(pod))
        it.apply({address: pods[address]})
        assert backing() == there
    assert it.findings == {}
    it.apply({}, [wire.address_key("north", ip_address(first))])
    assert (backing(), refused(it)) == ({second}, {key: ("M131", "backends")})


# --- One backend, reserved identities --------------------------------------------------------


def test_a_backend_that_cannot_be_used_costs_itself() -> None:
    """B6: a pod of the host network is a backend, one that is nobody's is left out."""
    it = importer()
    changes = it.apply({SERVICE: west_service("10.2.1.6", "10.99.0.21", "198.51.100.7")})
    [row] = changes.services.upsert.values()
    assert [str(backend.address) for backend in row.backends] == ["10.2.1.6", "10.99.0.21"]
    assert refused(it) == {SERVICE: ("M131", "backends")}
    assert "198.51.100.7" in it.findings[SERVICE].text
    it.apply({SERVICE: b"{"})
    assert [len(row.backends) for row in it.services.values()] == [2]  # the last accepted part
    it.apply({SERVICE: west_service("10.2.1.6")})
    assert it.findings == {}


@pytest.mark.parametrize(
    ("identity", "here"),
    [(4, 4), (5, 5), (100, 100), (112, 112), (115, 115), (6, 6), (7, 6), (8, 6), (128, None)],
)
def test_reserved_identities_are_taken_by_rule(identity: int, here: int | None) -> None:
    """B7: CoreDNS may have 112. A peer never has our API server's or ingress's identity."""
    it = importer()
    changes = it.apply(dict([pair("10.2.1.9", identity)]))
    rows = {address: row[0] for address, row in addresses(changes).items()}
    assert rows == ({"10.2.1.9": here} if here else {})
    assert it.findings == {}


def test_a_refused_node_is_judged_as_a_node() -> None:
    """A node whose address another cluster has is no service, whatever is judged again."""
    it = Imports(OWN)
    it.apply(west())
    taken = cloud("north", 3, node="10.99.0.21")
    it.apply(taken)
    key = wire.node_key("north", "north-1")
    for number in range(3):
        other = Node("north", f"n{number}", (ip_address(f"10.99.0.5{number}"),))
        it.apply({wire.node_key("north", other.name): wire.node_value(other, 3)})
        assert refused(it)[key] == ("M128", "IPAddresses")
    it.apply({}, [NODE])
    assert key not in it.findings


# --- Several clusters -------------------------------------------------------------------------


def north(cluster_id: int = 3, **fields: object) -> dict[str, bytes]:
    node = Node("north", "north-1", (ip_address("10.99.0.31"),), (ip_network("10.3.1.0/24"),), None)
    return {
        wire.config_key("north"): wire.cluster_config(cluster_id),
        wire.node_key("north", "north-1"): wire.node_value(replace(node, **fields), cluster_id),
    }


def test_second_peer_with_an_id_in_use_is_refused_until_it_is_free() -> None:
    """R13; the refused peer comes in when the first has left."""
    it = Imports(OWN)
    it.apply(west())
    it.apply(north(2))
    finding = it.findings[wire.config_key("north")]
    assert (finding.code, finding.field) == ("M124", "id")
    assert "north" in finding.text
    assert "west" in finding.text
    changes = it.apply({}, list(west()))
    assert list(changes.nodes.upsert) == [NodeKey("north", "north-1")]
    assert list(it.importers) == ["north"]
    assert it.findings == {}


def test_pod_cidr_of_another_peer_is_refused_until_it_is_free() -> None:
    """The first holder keeps it; both are named."""
    it = Imports(OWN)
    it.apply(west())
    key = wire.node_key("north", "north-1")
    it.apply(north(pod_cidrs=(ip_network("10.2.0.0/16"),)))
    assert refused(it) == {key: ("M129", "IPv4AllocCIDR")}
    assert "10.2.1.0/24 of node west-1 of cluster west" in it.findings[key].text
    changes = it.apply({}, [NODE])
    assert NodeKey("north", "north-1") in changes.nodes.upsert
    assert key not in it.findings


def test_our_own_keys_are_not_judged() -> None:
    """The store holds our cluster too."""
    it = Imports(OWN)
    it.apply({wire.config_key("east"): b"{", "cilium/.heartbeat": b"now"})
    assert it.importers == {}


def test_our_facts_win_over_accepted_ones() -> None:
    """A pool or node of ours that comes later throws out the peer's overlapping node."""
    it = Imports(OWN)
    it.apply(west())
    changes = it.update_own(replace(OWN, networks=(*OWN.networks, ip_network("10.2.1.0/28"))))
    assert changes.nodes.delete == {NodeKey("west", "west-1")}
    assert len(changes.addresses.deleted) == 2
    assert it.findings[NODE].code == "M129"
    changes = it.update_own(OWN)
    assert list(changes.nodes.upsert) == [NodeKey("west", "west-1")]
    assert len(changes.addresses.keys) == 2


def test_peer_that_returns_with_another_id_is_drained_first() -> None:
    """Its config key has gone in between: old rows go, rows with the new id come."""
    it = importer()
    it.apply({}, [CONFIG])
    assert len(it.addresses.keys) == 2
    changes = it.apply({CONFIG: wire.cluster_config(9), NODE: wire.node_value(west_node(), 9)})
    assert changes.identities.delete == {WEB}
    assert changes.services.delete
    assert len(changes.addresses.deleted) == 2
    assert it.nodes == {NodeKey("west", "west-1"): west_node()}
    assert it.cluster.id == 9


# --- Whatever happens -------------------------------------------------------------------------


class Mirror:
    """What a table would hold that is fed with the changes only."""

    def __init__(self) -> None:
        self.nodes: dict[NodeKey, Node] = {}
        self.services: dict[ServiceKey, Service] = {}
        self.identities: dict[int, object] = {}
        self.addresses: dict[bytes, object] = {}

    def take(self, changes: ImportChanges) -> None:
        pairs = (
            (self.nodes, changes.nodes),
            (self.services, changes.services),
            (self.identities, changes.identities),
        )
        rows: Any
        for rows, change in pairs:
            rows.update(change.upsert)
            for key in change.delete:
                rows.pop(key, None)
        columns = changes.addresses
        for key in columns.deleted.tolist():
            self.addresses.pop(key, None)
        self.addresses.update(zip(columns.keys.tolist(), columns.values.tolist(), strict=True))


def anything(chance: random.Random) -> tuple[str, bytes | None]:
    """A key of west or north, with a good, a wrong or no value."""
    cluster = chance.choice(("west", "north"))
    number = {"west": 2, "north": 3}[cluster] if chance.random() < 0.9 else chance.choice((2, 3))
    n, m = chance.randrange(4), chance.randrange(6)
    second = chance.choice((2, 2, 3, 3, 1))
    address, host = ip_address(f"10.{second}.{n}.{m}"), IPv4Address(f"10.99.0.{20 + m}")
    cidr = ip_network(f"{address}/{chance.choice((24, 24, 22))}", strict=False)
    backend_of = chance.choice((address, address, host))
    where = host if chance.random() < 0.8 else IPv4Address("10.99.0.11")
    node = Node(cluster, f"n{m}", (where,), (cidr,) if n else ())
    pod = Address(address, number << 16 | m, cluster, host)
    both = (address, backend_of) if m % 2 else (address,)
    backends = tuple(Backend(one, 80, "http", "TCP", cluster) for one in both)
    service = Service(cluster, "shop", f"s{m}", (), (), backends=backends)
    labels = f"k8s:a={m};{wire.CLUSTER_LABEL}={cluster};"
    nodes = (wire.node_key(cluster, node.name), wire.node_value(node, number))
    pods = (wire.address_key(cluster, address), wire.address_value(pod, PodKey("", "", ""), ""))
    key, value = chance.choice(
        (
            (wire.config_key(cluster), wire.cluster_config(number)),
            nodes,
            nodes,
            pods,
            pods,
            (wire.identity_key(cluster, pod.identity), labels.encode()),
            (wire.service_key(cluster, "shop", service.name), wire.service_value(service, number)),
        )
    )
    fate = chance.random()
    if fate < 0.3:
        return key, None
    return key, b"{" if fate < 0.35 else value


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_the_rules_hold_whatever_is_written(seed: int) -> None:
    """Changes add up to the accepted rows, and no accepted row breaks a rule."""
    chance, it, mirror = random.Random(seed), Imports(OWN), Mirror()
    networks = [*OWN.networks, ip_network("10.2.1.0/28")]
    for step in range(600):
        written = dict(anything(chance) for _ in range(chance.randrange(1, 6)))
        puts = {key: value for key, value in written.items() if value is not None}
        mirror.take(it.apply(puts, [key for key, value in written.items() if value is None]))
        if step % 50 == 49:
            known = tuple(networks[: chance.choice((3, 4))])
            mirror.take(it.update_own(replace(OWN, networks=known)))
        importers = list(it.importers.values())
        assert mirror.nodes == {k: row for one in importers for k, row in one.nodes.items()}
        assert mirror.services == {k: row for one in importers for k, row in one.services.items()}
        assert mirror.identities == {k: r for one in importers for k, r in one.identities.items()}
        held = [one.addresses for one in importers]
        assert mirror.addresses == {
            key: value
            for columns in held
            for key, value in zip(columns.keys.tolist(), columns.values.tolist(), strict=True)
        }
        check_rules(it, mirror)


def check_rules(it: Imports, mirror: Mirror) -> None:
    nodes = list(mirror.nodes.values())
    cidrs = [(cidr, node) for node in nodes for cidr in node.pod_cidrs]
    ours = [n for n in it.ledger.own.networks if isinstance(n, IPv4Network)]
    for at, (cidr, _) in enumerate(cidrs):
        assert not any(cidr.overlaps(other) for other, _ in cidrs[:at])
        assert not any(cidr.overlaps(own) for own in ours)
    where = [address for node in nodes for address in node.addresses]
    assert len(where) == len(set(where))
    assert not OWN.addresses.intersection(where)
    ids = {name: one.cluster.id for name, one in it.importers.items() if one.cluster.id}
    assert len(set(ids.values())) == len(ids)
    endpoints = {(int(address), ids[node.cluster]) for node in nodes for address in node.addresses}
    for key, (identity, endpoint, _, cluster, _) in mirror.addresses.items():
        assert identity >> 16 == cluster
        assert (endpoint, cluster) in endpoints
        address = ip_address(text(key))
        whose = [ids[node.cluster] for cidr, node in cidrs if address in cidr]
        assert whose in ([cluster], [])
        if not whose:  # it stands by itself
            assert address not in where
            assert not any(address in network for network in it.ledger.own.networks)
            free = [node for node in nodes if endpoint in map(int, node.addresses)]
            assert any(not node.pod_cidrs for node in free)
    for service in mirror.services.values():
        for backend in service.backends:
            assert any(
                node.cluster == service.cluster
                and (backend.address in node.addresses or backend.address in cidr)
                for node in nodes
                for cidr in node.pod_cidrs or (ip_network("192.0.2.0/32"),)
            ) or any(
                text(key) == str(backend.address) and row[3] == ids[service.cluster]
                for key, row in mirror.addresses.items()
            )


# --- Cost -------------------------------------------------------------------------------------


def many(count: int) -> dict[str, bytes]:
    nodes = {
        wire.node_key("west", f"n{at}"): wire.node_value(
            Node(
                "west",
                f"n{at}",
                (IPv4Address(f"10.99.4.{at}"),),
                (ip_network(f"10.{100 + at}.0.0/16"),),
            ),
            2,
        )
        for at in range(4)
    }
    each = count // 4
    rows = dict(
        pair(str(IPv4Address(f"10.{100 + at}.0.0") + n), host=f"10.99.4.{at}")
        for at in range(4)
        for n in range(each)
    )
    return {CONFIG: wire.cluster_config(2), **nodes, **rows}


@pytest.mark.slow
def test_one_address_among_65536_costs_under_a_millisecond() -> None:
    """The cost of a change does not grow with the peer."""
    it = importer(many(65_536))
    assert len(it.addresses.keys) == 65_536
    took = []
    for n in range(50):
        key, value = pair("10.100.0.9", WEB + n % 2 + 1, "10.99.4.0")
        started = time.perf_counter()
        changes = it.apply({key: value})
        took.append(time.perf_counter() - started)
        assert len(changes.addresses.keys) == 1
    assert sorted(took)[25] < 0.001


@pytest.mark.slow
def test_losing_one_node_touches_only_its_addresses() -> None:
    """A quarter of the addresses go with their node; the rest is not judged again."""
    it = importer(many(4096))
    gone = it.apply({}, [wire.node_key("west", "n1")])
    assert len(gone.addresses.deleted) == 1024
    assert len(it.addresses.keys) == 3072
