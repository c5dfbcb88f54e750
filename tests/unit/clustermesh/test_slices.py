"""Services in both forms of the wire: slices are packed, judged and counted as services are."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
import zstandard

from clustermesh import publish
from clustermesh.remote import slice_pb2 as pb
from clustermesh.remote import slices, wire
from clustermesh.remote.holdings import Ledger, OwnFacts
from clustermesh.remote.importer import Importer
from mesh.core.model import Backend, Node, Service, ServiceKey

OWN = OwnFacts("east", 1, (ip_network("10.1.0.0/16"),))
WEB = ServiceKey("west", "shop", "web")
CONFIG = wire.config_key("west")
CANARY = wire.canary_key("west", wire.SLICES)
NODE = Node("west", "w1", (ip_address("10.99.0.21"),), (ip_network("10.2.0.0/16"),))


def web(*texts: str, port: int = 8080) -> Service:
    backends = tuple(Backend(ip_address(t), port, "http", "TCP", "west") for t in texts)
    return Service("west", "shop", "web", (), (), is_global=True, backends=backends)


def config(mode: str) -> bytes:
    capabilities = {"syncedCanaries": True, "cached": True, "endpointSlicesExportMode": mode}
    return json.dumps({"id": 2, "capabilities": capabilities}).encode()


def importer(mode: str, *services: Service) -> Importer:
    it = Importer("west", Ledger(OWN))
    it.apply(keys(mode, *services))
    return it


def keys(mode: str, *services: Service) -> dict[str, bytes]:
    found = {CONFIG: config(mode), wire.node_key("west", "w1"): wire.node_value(NODE, 2)}
    for service in services:
        found |= publish.slice_keys(WEB, service, 2)
    return found


def found(it: Importer) -> list[str]:
    row = it.services.get(WEB)
    return sorted(str(backend.address) for backend in row.backends) if row else []


def wired(**fields: object) -> bytes:
    row = pb.ClusterEndpointSlice(
        cluster="west", clusterID=2, namespace="shop", name="web-a", addressType="IPv4",
        labels={"kubernetes.io/service-name": "web"},
        endpoints=[pb.Endpoint(addresses=["10.2.0.5"])],
        ports=[pb.EndpointPort(name="http", port=8080)],
    )  # fmt: skip
    row.MergeFrom(pb.ClusterEndpointSlice(**fields))  # type: ignore[arg-type]
    return packed(row.SerializeToString())


def packed(raw: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(raw)


SLICE = wire.slice_key("west", "shop", "web-a")


def test_both_forms_say_the_same() -> None:
    """What is published in slices is read as the service that was published."""
    service = web(*(f"10.2.{n // 200}.{n % 200}" for n in range(400)), "fd02::1")
    it = importer(wire.SLICES_ONLY, service)
    assert found(it) == []  # not all slices need be there before their canary
    changes = it.apply({CANARY: b"now"})
    assert it.services[WEB].backends != ()
    assert set(changes.services.upsert) == {WEB}
    assert len(found(it)) == 400
    assert it.findings == {
        key: finding for key, finding in it.findings.items() if finding.code == "M131"
    }  # fd02::1 is no address of the cluster


def test_one_backend_more_writes_one_slice() -> None:
    """A service of 1000 backends has about twenty slices; they do not all change."""
    before = slices.slice_values(web(*addresses(1000)), 2)
    after = slices.slice_values(web(*addresses(1001)), 2)
    assert len(before) == len(after) == 32
    assert sum(before[name] != after[name] for name in before) == 1
    assert max(map(len, after.values())) < 1000


def addresses(count: int) -> Iterable[str]:
    return (f"10.2.{n // 250}.{n % 250}" for n in range(count))


def test_of_a_cluster_that_publishes_both_the_first_form_is_read() -> None:
    """Slices are then not even judged: one fault would be found twice."""
    service = web("10.2.0.5")
    it = importer(wire.BOTH_FORMS, web("10.2.0.6", "192.0.2.1"))
    it.apply({CANARY: b"now", wire.service_key("west", "shop", "web"): value(service)})
    assert (found(it), it.findings) == (["10.2.0.5"], {})


def value(service: Service) -> bytes:
    return wire.service_value(service, 2)


def test_a_cluster_changes_its_form_without_losing_a_service() -> None:
    """The services stay until the slices are complete, and the slices until services are back."""
    old = {wire.service_key("west", "shop", "web"): value(web("10.2.0.5"))}
    it = importer("")
    it.apply(old)
    it.apply({CONFIG: config(wire.SLICES_ONLY), **publish.slice_keys(WEB, web("10.2.0.6"), 2)})
    assert found(it) == ["10.2.0.5"]
    changes = it.apply({CANARY: b"now"})
    assert (found(it), changes.services.delete) == (["10.2.0.6"], frozenset())
    it.apply({}, list(old))  # with its lease
    assert found(it) == ["10.2.0.6"]
    it.apply(old)
    it.apply({CONFIG: config("")})
    assert found(it) == ["10.2.0.6"]
    changes = it.apply({wire.canary_key("west", wire.SERVICES): b"now"})
    assert (found(it), changes.services.delete) == (["10.2.0.5"], frozenset())


def test_a_service_is_the_sum_of_its_slices() -> None:
    it = importer(wire.SLICES_ONLY)
    it.apply({CANARY: b"now", SLICE: wired()})
    other = wire.slice_key("west", "shop", "web-b")
    it.apply({other: wired(name="web-b", endpoints=[pb.Endpoint(addresses=["10.2.0.9"])])})
    assert found(it) == ["10.2.0.5", "10.2.0.9"]
    it.apply({}, [SLICE])
    assert found(it) == ["10.2.0.5", "10.2.0.9"]  # web-b has both
    changes = it.apply({}, [other])
    assert changes.services.delete == {WEB}


def test_only_ready_endpoints_count() -> None:
    """An endpoint that says nothing is ready; one that is not is left out."""
    no = pb.Endpoint(addresses=["10.2.0.7"], conditions=pb.Conditions(ready=False, serving=True))
    it = importer(wire.SLICES_ONLY)
    it.apply({CANARY: b"now", SLICE: wired(endpoints=[no])})
    assert found(it) == ["10.2.0.5"]


#: As Cilium 1.20.2's own code has packed it: three endpoints, the second one not ready.
GOLDEN = (
    "28b52ffd0400bd0300d4060a047765737410021a0473686f7022077765622d6162632a210a1a6b75"
    "6265726e657465732e696f2f736572766963652d6e616d6512037765623a044950763442120a0831"
    "302e322e312e351206080110011800361206080010011801420c3712004a090a046874747018903f02004b15a7ce9867e3b5e0a3"
)


def test_ciliums_own_value_is_read() -> None:
    row = slices.slice_row(slices.decode(bytes.fromhex(GOLDEN)))
    assert (row.of, row.name) == (WEB, "web-abc")
    assert [(str(b.address), b.port, b.port_name, b.protocol) for b in row.backends] == [
        ("10.2.1.5", 8080, "http", "TCP"),
        ("10.2.1.7", 8080, "http", "TCP"),
    ]


BAD = {
    "no zstd": (b"{}", "M133", ""),
    "no protobuf": (packed(b"\xff\xff"), "M133", ""),
    "a bomb (R15)": (packed(bytes(17 << 20)), "M133", ""),
    "of another cluster": (wired(cluster="north"), "M122", "cluster"),
    "with another id": (wired(clusterID=3), "M123", "clusterID"),
    "under another key": (wired(name="web-b"), "M130", "name"),
    "of no service": (wired(labels={"kubernetes.io/service-name": ""}), "M130",
        "labels.kubernetes.io/service-name"),
    "of names": (wired(addressType="FQDN"), "M133", "addressType"),
    "of the other family": (wired(addressType="IPv6"), "M133", "endpoints"),
    "with a port that is none": (wired(ports=[pb.EndpointPort(port=70000)]), "M133", "ports"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_slice_is_refused_alone(name: str) -> None:
    it = importer(wire.SLICES_ONLY, web("10.2.0.6"))
    it.apply({CANARY: b"now"})
    bad, code, field = BAD[name]
    it.apply({SLICE: bad})
    assert {key: (f.code, f.field) for key, f in it.findings.items()} == {SLICE: (code, field)}
    assert found(it) == ["10.2.0.6"]


def test_a_bomb_without_a_size_is_refused() -> None:
    """A frame need not say how much it unpacks to."""
    frame = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    bad = frame.compress(bytes(17 << 20)) + frame.flush()
    with pytest.raises(wire.WireError):
        slices.decode(bad)


def test_a_form_that_nobody_knows_is_a_finding() -> None:
    it = importer("grpc")
    [finding] = [f for f in it.findings.values() if f.code == "M121"]
    assert finding.field == "capabilities.endpointSlicesExportMode"
    assert "'grpc'" in finding.text


def test_complete_is_what_is_read() -> None:
    """A cluster that publishes slices only has no canary of services, and the reverse."""
    rest = {wire.canary_key("west", p): b"" for p in (wire.NODES, wire.IDENTITIES, wire.ADDRESSES)}
    only, first = importer(wire.SLICES_ONLY), importer("")
    for it, canary in ((only, wire.SLICES), (first, wire.SERVICES)):
        it.apply(rest)
        assert not it.is_complete
        it.apply({wire.canary_key("west", canary): b""})
        assert it.is_complete


def test_ports_of_pods_may_differ() -> None:
    """A named port has another number in each pod: such pods have slices of their own."""
    service = replace(
        web("10.2.0.5"), backends=(*web("10.2.0.5").backends, *web("10.2.0.6", port=9090).backends)
    )
    it = importer(wire.SLICES_ONLY, service)
    it.apply({CANARY: b"now"})
    pairs = {(str(b.address), b.port) for b in it.services[WEB].backends}
    assert pairs == {("10.2.0.5", 8080), ("10.2.0.6", 9090)}
