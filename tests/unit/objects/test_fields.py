"""Fields of the kinds that are read: each is used, or a finding, or of no concern."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mesh.core.strict import parse_yaml
from mesh.objects.fields import Field, FieldServer, UnusedFields, Use, unused
from mesh.objects.kinds import KINDS, page
from mesh.objects.schema import Place, head

ROOT = Path(__file__).parents[3]

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: s, annotations: %s}
spec: {clusterIP: 10.97.1.1, ports: [{port: 80}], %s}
status: {loadBalancer: {ingress: %s}}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: p, annotations: %s}
spec: {nodeName: n, %s}
"""


def fields_of(text: str) -> tuple[Field, ...]:
    """The fields of a document that are findings."""
    [document] = parse_yaml(text)
    found = head(document)
    parsed = KINDS.parse(found, Place("east", "m.yaml", KINDS.key_of(found)), document)
    assert parsed.row is not None
    return parsed.unused


def paths(text: str) -> list[str]:
    return [field.path for field in fields_of(text)]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("type: ClusterIP", []),
        ("type: NodePort", ["spec.type"]),
        ("type: LoadBalancer", ["spec.type"]),
        ("externalIPs: []", []),
        ("externalIPs: [203.0.113.9]", ["spec.externalIPs[]"]),
        ("sessionAffinity: None", []),
        ("sessionAffinity: ClientIP", ["spec.sessionAffinity"]),
        ("internalTrafficPolicy: Cluster", []),
        ("internalTrafficPolicy: Local", ["spec.internalTrafficPolicy"]),
        ("externalTrafficPolicy: Cluster", []),
        ("externalTrafficPolicy: Local", ["spec.externalTrafficPolicy"]),
        ("healthCheckNodePort: 0", []),
        ("healthCheckNodePort: 30000", ["spec.healthCheckNodePort"]),
        ("trafficDistribution: PreferSameZone", ["spec.trafficDistribution"]),
        ("publishNotReadyAddresses: true", []),
        ("selector: {a: b}", []),
        ("externalIPs: 5, sessionAffinity: [x], trafficDistribution: {}", ["spec.sessionAffinity"]),
    ],
)
def test_fields_of_a_service(spec: str, expected: list[str]) -> None:
    """A value that means what an absent field means is none; a wrong type harms nobody."""
    assert paths(SERVICE % ("{}", spec, "[]")) == expected


def test_node_ports_and_external_addresses() -> None:
    text = (SERVICE % ("{}", "a: b", "[]")).replace("{port: 80}", "{port: 80, nodePort: 30080}")
    assert paths(text) == ["spec.ports[].nodePort"]
    assert paths(SERVICE % ("{}", "a: b", "[{hostname: x}]")) == []
    ingress = "status.loadBalancer.ingress[].ip"
    assert paths(SERVICE % ("{}", "a: b", "[5, {ip: 203.0.113.1}]")) == [ingress]
    assert paths(SERVICE % ("{}", "a: b", "[{ip: 203.0.113.1, ipMode: VIP}]")) == [ingress]
    assert paths(SERVICE % ("{}", "a: b", "[{ip: 203.0.113.1, ipMode: Proxy}]")) == [], (
        "the packets are meant to go out to the load balancer (KEP-1860)"
    )


def test_a_headless_service_has_names_only() -> None:
    """Nothing of it is translated, so these fields change nothing."""
    spec = "sessionAffinity: ClientIP, internalTrafficPolicy: Local, trafficDistribution: x"
    text = SERVICE % ("{}", spec, "[]")
    assert len(paths(text)) == 3
    assert paths(text.replace("10.97.1.1", "None")) == []
    assert paths(text.replace("clusterIP: 10.97.1.1", "clusterIPs: [None]")) == []


@pytest.mark.parametrize(
    ("annotations", "server"),
    [
        ("{}", FieldServer.PROXY),
        ("{service.cilium.io/global: 'true'}", None),
        ("{io.cilium/global-service: 'true'}", None),
        ("{service.cilium.io/global: 'false'}", FieldServer.PROXY),
    ],
)
def test_a_kube_proxy_does_not_serve_a_global_service(
    annotations: str, server: FieldServer | None
) -> None:
    """Meshgate translates it, so no proxy honours its trafficDistribution."""
    found = fields_of(SERVICE % (annotations, "trafficDistribution: PreferSameZone", "[]"))
    assert [(one.path, one.server) for one in found] == [("spec.trafficDistribution", server)]


def test_annotations() -> None:
    used = "{service.cilium.io/affinity: local, service.cilium.io/global: 'true'}"
    assert paths(SERVICE % (used, "a: b", "[]")) == []
    kind = "{service.cilium.io/type: NodePort}"
    assert paths(SERVICE % (kind, "a: b", "[]")) == ["metadata.annotations[service.cilium.io/type]"]
    space = "apiVersion: v1\nkind: Namespace\nmetadata: {name: n, annotations: {%s: 'false'}}"
    annotation = "clustermesh.cilium.io/global"
    assert paths(space % annotation) == [f"metadata.annotations[{annotation}]"]
    assert paths((space % annotation).replace("false", "true")) == []
    pool = "{ipam.cilium.io/ip-pool: blue}"
    assert paths(POD % (pool, "a: b")) == ["metadata.annotations[ipam.cilium.io/ip-pool]"]


def test_a_host_port_is_a_finding_but_for_a_pod_in_its_nodes_network() -> None:
    port = "containers: [{name: a}, {ports: [{containerPort: 81, hostPort: 8}]}]"
    assert paths(POD % ("{}", port)) == ["spec.containers[].ports[].hostPort"]
    assert paths(POD % ("{}", f"hostNetwork: true, {port}")) == []


def test_hints_of_a_slice() -> None:
    text = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.1], hints: {forZones: [{name: a}]}}, {addresses: [10.1.0.2]}]
"""
    assert paths(text) == ["endpoints[].hints.forZones[]"]
    headless = "labels: {service.kubernetes.io/headless: '', "
    assert paths(text.replace("labels: {", headless)) == []


@pytest.mark.parametrize("kind", [k for k in KINDS if k.fields], ids=lambda kind: kind.kind)
def test_a_list_names_each_field_and_server_once_and_says_what_follows(kind: Any) -> None:
    named = [(field.path, field.server) for field in kind.fields]
    assert len(set(named)) == len(named)
    for field in kind.fields:
        assert field.text
        assert not field.text.endswith(".")
        assert field.use is Use.FINDING or not field.found({})


def test_every_kind_of_others_has_a_list() -> None:
    """Our own kinds refuse unknown fields."""
    assert list(dict.fromkeys(kind.kind for kind in KINDS if kind.fields)) == [
        "Node", "Namespace", "Pod", "Service", "EndpointSlice", "Endpoints", "ServiceCIDR",
        "CiliumEgressGatewayPolicy", "IsovalentEgressGatewayPolicy", "CiliumBGPClusterConfig",
        "CiliumBGPPeerConfig", "CiliumBGPAdvertisement", "CiliumBGPNodeConfigOverride",
        "CiliumSRv6VRF",
    ]  # fmt: skip
    assert {kind.group for kind in KINDS if not kind.fields} == {"meshgate.io"}


def test_the_page_is_what_the_rooms_declare() -> None:
    """After a change of a list: make docs."""
    assert (ROOT / "docs/objects.md").read_text() == page()


FIELD = unused("spec.x", "nothing follows")


def counts(fields: UnusedFields) -> list[str]:
    return [one.text.partition(" ")[0] if one else "0" for one in fields.changes().values()]


def test_only_fields_that_changed_are_counted_again() -> None:
    fields, other = UnusedFields("f"), unused("spec.y", "nothing follows")
    for number in range(200):
        fields.note(number, "Pod", f"p{number:03}", (FIELD, other) if number % 2 else (FIELD,))
    assert counts(fields) == ["200", "100"]
    assert counts(fields) == []
    fields.note(7, "Pod", "p007", (FIELD,))
    assert counts(fields) == ["99"]
    fields.note(7, "Pod", "p007", (FIELD,))
    assert counts(fields) == []
    for number in range(3, 200):
        fields.note(number, "", "", ())
    [finding, one] = fields.changes().values()
    assert finding
    assert one
    assert finding.text == "3 objects (p000, p001, p002): nothing follows"
    assert one.text == "1 object (p001): nothing follows"
    for number in range(3):
        fields.note(number, "", "", ())
    assert counts(fields) == ["0", "0"]


def test_two_objects_may_have_one_name() -> None:
    """Rows of two tables, as those of pods and of pods in their node's network."""
    fields = UnusedFields("f")
    fields.note(1, "Pod", "p", (FIELD,))
    fields.note(2, "Pod", "p", (FIELD,))
    assert counts(fields) == ["2"]
    fields.note(1, "", "", ())
    assert counts(fields) == ["1"]
