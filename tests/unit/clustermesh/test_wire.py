"""The codec against the golden values of the clustermesh wire reference, section 3."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network

import msgspec
import pytest

from clustermesh.remote import wire
from mesh.core.model import Address, Backend, Node, PodKey, Service, ServicePort

CONFIG = b"""{"id":7,"capabilities":{"syncedCanaries":true,"cached":false,
"maxConnectedClusters":255,"serviceExportsEnabled":true,
"endpointSlicesExportMode":"services-and-endpointslices"}}"""
NODE = b"""{"Name":"w1","Cluster":"berlin","IPAddresses":[{"Type":"InternalIP","IP":"192.0.2.11"},
{"Type":"CiliumInternalIP","IP":"10.7.1.1"}],"IPv4AllocCIDR":{"IP":"10.7.1.0","Mask":"////AA=="},
"IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":null,"IPv6SecondaryAllocCIDRs":null,
"IPv4HealthIP":"10.7.1.9","IPv6HealthIP":"","IPv4IngressIP":"","IPv6IngressIP":"","ClusterID":7,
"Source":"custom-resource","EncryptionKey":0,"Labels":{"kubernetes.io/hostname":"w1"},
"Annotations":null,"WireguardPubKey":"","BootID":""}"""
SERVICE = b"""{"cluster":"berlin","namespace":"shop","name":"cart",
"frontends":{"10.97.3.4":{"http":{"Protocol":"TCP","Port":80}}},
"backends":{"10.7.1.20":{"http":{"Protocol":"TCP","Port":8080}}},
"hostnames":{"10.7.1.20":"cart-0"},
"zones":{"10.7.1.20":{"zone":"eu-1a","forZones":[{"name":"eu-1a"}]}},
"labels":{},"selector":{"app":"cart"},"includeExternal":true,"shared":true,"clusterID":7}"""
PAIR = b"""{"IP":"10.7.1.20","Mask":null,"HostIP":"192.0.2.11","ID":458853,"Key":0,"Metadata":"",
"K8sNamespace":"shop","K8sPodName":"cart-0","K8sServiceAccount":"default",
"NamedPorts":[{"Name":"http","Port":8080,"Protocol":"TCP"}]}"""
LABELS = (
    "k8s:app=cart;k8s:io.cilium.k8s.policy.cluster=berlin;"
    "k8s:io.cilium.k8s.policy.serviceaccount=default;k8s:io.kubernetes.pod.namespace=shop;"
)


@pytest.mark.parametrize(
    ("kind", "golden"),
    [
        (wire.ClusterConfig, CONFIG),
        (wire.WireNode, NODE),
        (wire.WireService, SERVICE),
        (wire.WirePair, PAIR),
    ],
)
def test_golden_value_survives_a_round_trip(kind: type[msgspec.Struct], golden: bytes) -> None:
    """Every field of a golden value is read and written again under the same name."""
    assert json.loads(wire.encode(wire.decode(kind, golden))) == json.loads(golden)


def test_equal_rows_give_equal_bytes() -> None:
    """The order in which backends were found does not change the value."""
    one, two = (Backend(ip_address(f"10.1.0.{n}"), 8080, "http", "TCP", "east") for n in (10, 9))
    values = {
        wire.service_value(Service("east", "shop", "web", (), (), backends=backends), 1)
        for backends in ((one, two), (two, one))
    }
    assert len(values) == 1


def test_golden_node_row() -> None:
    """The tunnel endpoint is the InternalIP; Cilium's own interface is no node address."""
    node = wire.decode(wire.WireNode, NODE)
    assert wire.node_row(node) == Node(
        "berlin",
        "w1",
        (ip_address("192.0.2.11"),),
        (ip_network("10.7.1.0/24"),),
        labels=(("kubernetes.io/hostname", "w1"),),
    )
    assert wire.router_addresses(node) == [ip_address("10.7.1.1")]


def test_node_row_survives_the_wire() -> None:
    """Pod CIDRs of both families, further ones and the locator fit Cilium's node."""
    node = Node(
        "east",
        "east-1",
        (ip_address("10.99.0.11"), ip_address("fd99::11")),
        (ip_network("10.1.0.0/24"), ip_network("10.1.9.0/25"), ip_network("fd01::/64")),
        ip_network("fcbb:bb01:1::/48"),
        (("role", "gateway"),),
    )
    value = wire.node_value(node, 1)
    assert wire.node_row(wire.decode(wire.WireNode, value)) == node
    raw = json.loads(value)
    assert raw["IPv4AllocCIDR"] == {"IP": "10.1.0.0", "Mask": "////AA=="}
    assert raw["Annotations"] == {"meshgate.io/locator": "fcbb:bb01:1::/48"}


def test_minimal_values_are_accepted() -> None:
    """Absent maps and unknown fields are no error (G8, G9, G10)."""
    service = wire.decode(
        wire.WireService,
        b'{"cluster":"c1","namespace":"shop","name":"minimal","shared":true,"clusterID":1,'
        b'"frobnicate":{"a":1}}',
    )
    assert wire.service_row(service).backends == ()
    node = wire.decode(wire.WireNode, b'{"Name":"minimal","Cluster":"c1","ClusterID":1}')
    assert wire.node_row(node).addresses == ()


def test_service_row_survives_the_wire() -> None:
    """Ports by name, backends and the shared flag come back as they went."""
    service = Service(
        "east",
        "shop",
        "web",
        (ip_address("10.97.1.10"), ip_address("fd97:1::10")),
        (ServicePort("http", "TCP", 80),),
        is_global=True,
        backends=(Backend(ip_address("10.1.0.5"), 8080, "http", "TCP", "east"),),
    )
    value = wire.service_value(service, 1)
    assert wire.service_row(wire.decode(wire.WireService, value)) == service


def test_address_value() -> None:
    """An address carries its node, identity, pod and the account named in the labels."""
    row = Address(ip_address("10.7.1.20"), 458853, "berlin", ip_address("192.0.2.11"))
    raw = json.loads(wire.address_value(row, PodKey("berlin", "shop", "cart-0"), LABELS))
    golden = json.loads(PAIR)
    del golden["NamedPorts"]
    assert raw == golden


def test_own_cluster_config() -> None:
    """The cached layout with canaries; kinds that are not published are absent."""
    assert json.loads(wire.cluster_config(1)) == {
        "id": 1,
        "capabilities": {
            "syncedCanaries": True,
            "cached": True,
            "maxConnectedClusters": 255,
            "endpointSlicesExportMode": "services-and-endpointslices",
        },
    }


@pytest.mark.parametrize(
    ("kind", "value", "field"),
    [
        (wire.WireNode, b'{"Name":"n"}', ""),
        (wire.WireNode, b'{"Name":"n","Cluster":7}', "Cluster"),
        (wire.WireNode, b'{"Name":"n","Cluster":"\xff"}', ""),
        (wire.WireService, b"[" * 100_000, ""),
        (wire.ClusterConfig, b'{"id":"seven"}', "id"),
        (wire.ClusterConfig, b'{"id":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", ""),
        (wire.PairHead, b"", ""),
        (wire.PairHead, b'{"IP":"10.1.0.1","ID":1e99}', "ID"),
    ],
)
def test_unreadable_value_names_its_field(
    kind: type[msgspec.Struct], value: bytes, field: str
) -> None:
    """Wrong JSON, wrong UTF-8, wrong type, depth without end: one error class."""
    with pytest.raises(wire.WireError) as error:
        wire.decode(kind, value)
    assert error.value.field == field


@pytest.mark.parametrize("text", ["10.1.0.300", "fe80::1%eth0", "::ffff:10.1.0.1", "", "10.1"])
def test_not_an_address(text: str) -> None:
    """Addresses with a zone, mapped ones and other text are refused (R5, R16)."""
    with pytest.raises(wire.WireError):
        wire.parse_ip(text, "backends")


@pytest.mark.parametrize("mask", ["/wD/AA==", "////", ""])
def test_not_a_netmask(mask: str) -> None:
    """A mask with holes or of another length is refused."""
    raw = json.loads(NODE) | {"IPv4AllocCIDR": {"IP": "10.7.0.0", "Mask": mask}}
    with pytest.raises(wire.WireError, match="IPv4AllocCIDR"):
        wire.node_row(wire.decode(wire.WireNode, json.dumps(raw).encode()))


@pytest.mark.parametrize(
    "change",
    [
        {"IPv4AllocCIDR": {"IP": "10.7.1.1", "Mask": "////AA=="}},
        {"IPv6AllocCIDR": {"IP": "10.7.1.0", "Mask": "////AA=="}},
        {"Annotations": {wire.LOCATOR: "10.0.0.0/8"}},
        {"IPAddresses": [{"Type": "InternalIP", "IP": "w1"}]},
    ],
)
def test_node_with_a_wrong_address_or_prefix(change: dict[str, object]) -> None:
    """Host bits, the wrong family and plain text name the field."""
    raw = json.dumps(json.loads(NODE) | change).encode()
    with pytest.raises(wire.WireError, match=next(iter(change))):
        wire.node_row(wire.decode(wire.WireNode, raw))


def test_keys_of_the_cached_layout() -> None:
    """Each key stands where a Cilium agent looks for it."""
    assert wire.config_key("east") == "cilium/cluster-config/east"
    assert wire.node_key("east", "n") == "cilium/cache/nodes/v1/east/n"
    assert wire.service_key("east", "shop", "web") == "cilium/cache/services/v1/east/shop/web"
    assert wire.identity_key("east", 65537) == "cilium/cache/identities/v1/east/id/65537"
    assert wire.address_key("east", ip_address("fd01::5")) == "cilium/cache/ip/v1/east/fd01::5"
    canary = wire.canary_key("east", wire.NODES)
    assert canary == "cilium/synced/east/cilium/cache/nodes/v1"


@pytest.mark.parametrize(
    ("key", "cluster"),
    [
        ("cilium/cache/nodes/v1/east/n", "east"),
        ("cilium/cache/ip/v1/east/10.9.0.0/16", "east"),
        ("cilium/cluster-config/east2", "east2"),
        ("cilium/synced/east/cilium/cache/ip/v1", "east"),
        ("cilium/cache/pods/v1/east/n", ""),
        ("cilium/.heartbeat", ""),
    ],
)
def test_cluster_of_a_key(key: str, cluster: str) -> None:
    """The cluster's name stands in every key of the layout."""
    assert wire.cluster_of(key) == cluster


@pytest.mark.parametrize("name", ["default", "East", "-a", "a-", "", "a" * 33, "a/b"])
def test_wrong_cluster_name(name: str) -> None:
    """R14."""
    assert not wire.is_cluster_name(name)


@pytest.mark.parametrize("name", ["east", "a-1", "a" * 32, "7"])
def test_good_cluster_name(name: str) -> None:
    """Lower case, digits and dashes, at most 32."""
    assert wire.is_cluster_name(name)


def test_ports_that_cannot_be_translated_are_left_out() -> None:
    """SCTP is no error: the service's other ports are used."""
    value = json.loads(SERVICE)
    value["backends"]["10.7.1.20"]["gtp"] = {"Protocol": "SCTP", "Port": 38412}
    row = wire.service_row(wire.decode(wire.WireService, json.dumps(value).encode()))
    assert [backend.port for backend in row.backends] == [8080]
