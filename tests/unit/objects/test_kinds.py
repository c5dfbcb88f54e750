"""Documents of every kind: the row they make, and how a mistake is named."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from bgp.peer import (
    BFD,
    Advertise,
    BGPPeer,
    ImportRule,
    Override,
    Password,
    PrefixMatch,
)
from bgp.route import Family
from clustermesh.contract import Contract, Limits
from gateway.policy import EgressPolicy
from mesh.core.model import (
    ContainerPort,
    Namespace,
    Node,
    NodeKey,
    Pod,
    PodKey,
    PodSelector,
    Requirement,
    Selector,
    ServiceKey,
    ServicePort,
)
from mesh.core.strict import Wrong, parse_yaml
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import HOST_PODS
from mesh.objects.schema import KindHead, Parsed, Place, head, items
from mesh.services.cidrs import ServiceCIDR
from mesh.services.kinds import EndpointSlice, EndpointSliceKey, ServiceObject, ServicePortObject
from tests.fixtures.refusals import Refused, agrees


def parse(text: str) -> Parsed:
    [document] = parse_yaml(text)
    found = head(document)
    assert KINDS.known(found)
    return KINDS.parse(found, Place("east", "m.yaml", KINDS.key_of(found)), document)


def error_of(text: str) -> Wrong:
    with pytest.raises(Wrong) as caught:
        parse(text)
    return caught.value


NODE = """
apiVersion: v1
kind: Node
metadata: {name: east-1, labels: {role: gateway}, uid: x, creationTimestamp: null}
spec: {podCIDRs: [10.1.0.0/24], unknown: 1}
status:
  addresses:
  - {type: Hostname, address: east-1}
  - {type: InternalIP, address: 10.99.0.11}
  - {type: InternalIP, address: "fd99::11"}
"""


def test_a_node_has_its_internal_addresses_and_its_hostname_label() -> None:
    found = parse(NODE)
    assert found.key == NodeKey("east", "east-1")
    assert found.row == Node(
        "east",
        "east-1",
        (ip_address("10.99.0.11"), ip_address("fd99::11")),
        labels=(("kubernetes.io/hostname", "east-1"), ("role", "gateway")),
        given=(ip_network("10.1.0.0/24"),),
    )


@pytest.mark.parametrize(
    ("spec", "cidrs"),
    [
        ('{podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, "fd01::/64"]}', "10.1.0.0/24 fd01::/64"),
        ("{podCIDR: 10.1.0.0/24}", "10.1.0.0/24"),
        ("{podCIDR: null, podCIDRs: []}", ""),
        ("{}", ""),
    ],
)
def test_the_cluster_may_hand_out_pod_cidrs(spec: str, cidrs: str) -> None:
    row = parse(NODE.replace("{podCIDRs: [10.1.0.0/24], unknown: 1}", spec)).row
    assert " ".join(map(str, row.given)) == cidrs


def test_a_pod_cidr_that_is_none_is_named() -> None:
    error = error_of(NODE.replace("10.1.0.0/24", "10.1.0.0/33"))
    assert error.path == "spec.podCIDRs[0]"


def test_a_namespace_has_its_name_as_a_label() -> None:
    found = parse("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}")
    row = Namespace("east", "shop", (("kubernetes.io/metadata.name", "shop"),))
    assert (found.key, found.row) == ("shop", row)


POD = """
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {tier: front, app: web}}
spec:
  nodeName: east-1
  serviceAccountName: web
  containers:
  - name: a
    image: x
    ports:
    - {name: http, containerPort: 8080}
    - {containerPort: 9}
    - {protocol: UDP, containerPort: 161}
    - {name: dns, protocol: UDP, containerPort: 53}
"""


def test_a_pod() -> None:
    found = parse(POD)
    assert found.key == PodKey("east", "shop", "web-1")
    assert found.row == Pod(
        "east",
        "shop",
        "web-1",
        "east-1",
        labels=(("app", "web"), ("tier", "front")),
        service_account="web",
        ports=(ContainerPort("dns", "UDP", 53), ContainerPort("http", "TCP", 8080)),
        datagram_ports=(53, 161),
    )


def a_pod(more: str, metadata: str = "name: p") -> Parsed:
    return parse(f"apiVersion: v1\nkind: Pod\nmetadata: {{{metadata}}}\n{more}")


@pytest.mark.parametrize(
    "more",
    [
        "spec: {nodeName: n}\nstatus: {phase: Failed}",
        "spec: {nodeName: n, hostNetwork: true}\nstatus: {phase: Succeeded}",
        "spec: {}",
        'spec: {nodeName: ""}\nstatus: {phase: Pending}',
    ],
)
def test_pods_that_ended_and_pods_without_a_node_are_none_of_ours(more: str) -> None:
    found = a_pod(more)
    assert (found.key, found.row) == (PodKey("east", "default", "p"), None)
    assert (found.findings, found.unused) == ((), ())


def test_a_pod_of_the_host_is_another_noun_with_the_addresses_that_the_kubelet_wrote() -> None:
    found = a_pod("spec: {nodeName: n, hostNetwork: true}")
    assert (found.noun, found.row) == (HOST_PODS.name, Pod("east", "default", "p", "n"))
    status = 'status: {podIP: 10.99.0.12, podIPs: [{ip: 10.99.0.12}, {ip: "fd99::12"}]}'
    found = a_pod(f"spec: {{nodeName: n, hostNetwork: true}}\n{status}")
    assert found.row.addresses == (ip_address("10.99.0.12"), ip_address("fd99::12"))
    found = a_pod("spec: {nodeName: n, hostNetwork: true}\nstatus: {podIP: 10.99.0.12}")
    assert found.row.addresses == (ip_address("10.99.0.12"),)
    assert a_pod(f"spec: {{nodeName: n}}\n{status}").row.addresses == (), "agents give addresses"


@pytest.mark.parametrize(
    ("status", "serving"),
    [
        ("{}", True),
        ("{phase: Running}", True),
        ("{phase: Pending}", False),
        ("{phase: Unknown}", False),
        ('{phase: Running, conditions: [{type: Ready, status: "True"}]}', True),
        ('{phase: Running, conditions: [{type: Ready, status: "False"}]}', False),
        ("{phase: Running, conditions: [{type: Ready, status: Unknown}]}", False),
        ('{phase: Running, conditions: [{type: PodScheduled, status: "True"}]}', False),
    ],
)
def test_a_pod_serves_while_it_is_ready(status: str, *, serving: bool) -> None:
    """A manifest that says nothing about it does: nobody writes the status in a folder."""
    row = a_pod(f"spec: {{nodeName: n}}\nstatus: {status}").row
    assert (row.serving, row.terminating) == (serving, False)


def test_a_pod_that_was_deleted_is_terminating() -> None:
    row = a_pod("spec: {nodeName: n}", 'name: p, deletionTimestamp: "2026-11-29T11:00:00Z"').row
    assert (row.serving, row.terminating) == (True, True)


def test_sidecars_have_named_ports_and_other_init_containers_do_not() -> None:
    row = a_pod(
        """
spec:
  nodeName: n
  initContainers:
  - {name: tls, restartPolicy: Always, ports: [{name: https, containerPort: 9443}]}
  - {name: also, restartPolicy: Always, ports: [{name: http, containerPort: 9445}]}
  - {name: once, ports: [{name: setup, containerPort: 9444}]}
  containers: [{name: app, ports: [{name: http, containerPort: 8000}]}]
"""
    ).row
    assert row.ports == (ContainerPort("http", "TCP", 8000), ContainerPort("https", "TCP", 9443))


SERVICE = """
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  annotations: {service.cilium.io/global: "true"}
spec:
  clusterIP: 10.97.1.1
  clusterIPs: [10.97.1.1, "fd97:1::1"]
  selector: {app: web}
  sessionAffinity: None
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: n, port: 81, targetPort: web}
  - {name: p, port: 82}
"""


def test_a_service() -> None:
    found = parse(SERVICE)
    assert found.key == ServiceKey("east", "shop", "web")
    assert found.row == ServiceObject(
        "east",
        "shop",
        "web",
        addresses=(ip_address("10.97.1.1"), ip_address("fd97:1::1")),
        ports=(
            ServicePortObject("http", "TCP", 80, 8080),
            ServicePortObject("n", "TCP", 81, "web"),
            ServicePortObject("p", "TCP", 82, 82),
        ),
        selector=(("app", "web"),),
        is_global=True,
        is_shared=True,
        origin="m.yaml Service/shop/web",
    )


@pytest.mark.parametrize(
    ("annotations", "is_global", "is_shared"),
    [
        ("{}", False, True),
        ('{service.cilium.io/global: "True", service.cilium.io/shared: "false"}', True, False),
        ('{io.cilium/global-service: "true"}', True, True),
        ('{service.cilium.io/global: "yes"}', False, True),
    ],
)
def test_global_and_shared(annotations: str, *, is_global: bool, is_shared: bool) -> None:
    text = SERVICE.replace('{service.cilium.io/global: "true"}', annotations)
    row = parse(text).row
    assert (row.is_global, row.is_shared) == (is_global, is_shared)


def test_services_without_an_address() -> None:
    start = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: "
    headless = parse(start + "{clusterIP: None, ports: [{port: 80}]}")
    assert (headless.row.addresses, headless.row.selector, headless.findings) == ((), None, ())
    assert parse(start + "{type: ExternalName, externalName: x.org}").row is None
    assert headless.unused == ()
    for field in ("", 'clusterIP: "", ', 'clusterIPs: [""], ', "clusterIP: null, "):
        found = parse(start + f"{{{field}ports: [{{port: 80}}]}}")
        assert (found.row.addresses, paths(found)) == ((), ["spec.clusterIP"]), field


def paths(found: Parsed) -> list[str]:
    assert found.findings == ()
    return [field.path for field in found.unused]


def test_a_port_of_another_protocol_is_left_out_with_a_finding() -> None:
    found = parse(SERVICE.replace("name: p, port: 82", "name: p, port: 82, protocol: SCTP"))
    assert len(found.row.ports) == 2
    assert paths(found) == ["spec.ports[].protocol"]
    assert found.unused[0].finding == "only TCP and UDP are supported; the port is left out"


def test_a_service_of_another_proxy_is_none_of_ours() -> None:
    label = "labels: {service.kubernetes.io/service-proxy-name: other}"
    assert parse(SERVICE.replace("  namespace: shop", f"  namespace: shop\n  {label}")).row is None


@pytest.mark.parametrize(
    ("annotations", "affinity"),
    [
        ("{}", ""),
        ("{service.cilium.io/affinity: local}", "local"),
        ("{io.cilium/service-affinity: Remote}", "remote"),
        ("{service.cilium.io/affinity: none, io.cilium/service-affinity: local}", ""),
    ],
)
def test_the_affinity_of_a_global_service(annotations: str, affinity: str) -> None:
    text = SERVICE.replace('{service.cilium.io/global: "true"}', annotations)
    assert parse(text).row.affinity == affinity


SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-x, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
- {addresses: [10.1.0.5], conditions: {ready: true}}
- {addresses: [10.1.0.6], conditions: {ready: false}}
- {addresses: [10.1.0.7]}
ports: [{name: http, port: 8080}]
"""


def test_a_slice_has_the_ready_addresses() -> None:
    found = parse(SLICE)
    assert found.key == EndpointSliceKey("east", "shop", "web-x")
    assert found.row == EndpointSlice(
        "east",
        "shop",
        "web-x",
        "web",
        addresses=(ip_address("10.1.0.5"), ip_address("10.1.0.7")),
        ports=(ServicePort("http", "TCP", 8080),),
        origin="m.yaml EndpointSlice/shop/web-x",
    )
    assert parse(SLICE.replace("IPv4", "FQDN")).row is None


@pytest.mark.parametrize(
    ("conditions", "ready", "leaving"),
    [
        ("{}", True, False),
        ("{ready: null}", True, False),
        ("{ready: false}", False, False),
        ("{ready: false, serving: true}", False, False),
        ("{ready: false, serving: true, terminating: true}", False, True),
        ("{ready: false, serving: false, terminating: true}", False, False),
        ("{ready: false, terminating: true}", False, False),
        ("{ready: true, serving: true, terminating: true}", True, False),
    ],
)
def test_conditions_of_an_endpoint(conditions: str, *, ready: bool, leaving: bool) -> None:
    """Without serving it is as ready says; what serves while it terminates is the last resort."""
    row = parse(SLICE.replace("{ready: false}", conditions)).row
    address = ip_address("10.1.0.6")
    assert (address in row.addresses, address in row.leaving) == (ready, leaving)


def test_slices_about_another_cluster_are_left_out() -> None:
    label = "{multicluster.kubernetes.io/source-cluster: west, "
    assert parse(SLICE.replace("labels: {", f"labels: {label}")).row is None
    label = label.replace("west", "east")
    assert parse(SLICE.replace("labels: {", f"labels: {label}")).row is not None


@pytest.mark.parametrize(
    "label", ["endpointslice.kubernetes.io/managed-by", "multicluster.kubernetes.io/service-name"]
)
def test_a_slice_that_serves_no_service_is_left_out(label: str) -> None:
    """Controllers of other projects keep slices of what is no Service."""
    found = parse(SLICE.replace("kubernetes.io/service-name: web", f"{label}: lighthouse"))
    assert (found.row, found.findings) == (None, ())


def test_a_node_that_its_cloud_has_yet_to_describe_is_none() -> None:
    """Its taint says so. One that has addresses already counts."""
    taint = "spec: {taints: [{key: node.cloudprovider.kubernetes.io/uninitialized}]}"
    tainted = NODE.replace("spec: {", f"{taint[:-1]}, ")
    bare = tainted.partition("status:")[0]
    for text in (bare, bare + "status: {addresses: [{type: Hostname, address: east-1}]}"):
        found = parse(text)
        assert (found.key, found.row) == (NodeKey("east", "east-1"), None)
    assert parse(tainted).row == parse(NODE).row


def test_an_address_that_is_listed_twice_counts_once() -> None:
    twice = "{type: InternalIP, address: 10.99.0.11}"
    assert parse(NODE.replace(twice, f"{twice}\n  - {twice}")).row == parse(NODE).row
    listed = SERVICE.replace('"fd97:1::1"', '"fd97:1::1", "fd97:1::1"')
    assert parse(listed).row == parse(SERVICE).row


ENDPOINTS = """
apiVersion: v1
kind: Endpoints
metadata: {name: old, namespace: shop, annotations: {a: b}, labels: {a: b}}
subsets:
- {addresses: [{ip: 192.0.2.10}, {ip: "2001:db8::10"}], ports: [{port: 7007}]}
- {addresses: [{ip: 192.0.2.11}], notReadyAddresses: [{ip: 192.0.2.12}],
   ports: [{name: x, port: 7}]}
"""


def test_endpoints_are_a_slice_for_each_subset() -> None:
    found = parse(ENDPOINTS)
    assert found.key == ServiceKey("east", "shop", "old")
    assert [(str(part.addresses[0]), part.ports) for part in found.row.slices] == [
        ("192.0.2.10", (ServicePort("", "TCP", 7007),)),
        ("192.0.2.11", (ServicePort("x", "TCP", 7),)),
    ]
    assert [len(part.addresses) for part in found.row.slices] == [2, 1]
    leader = "annotations: {control-plane.alpha.kubernetes.io/leader: x"
    assert parse(ENDPOINTS.replace("annotations: {a: b", leader)).row is None
    skip = 'labels: {endpointslice.kubernetes.io/skip-mirror: "true"'
    assert parse(ENDPOINTS.replace("labels: {a: b", skip)).row is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (NODE.replace("10.99.0.11", "10.99.0"), "status.addresses[1].address: expected an IP"),
        (NODE.replace("InternalIP", "ExternalIP"), "status.addresses: no address of type Int"),
        (NODE.replace("role: gateway", "role: 1"), Refused("metadata.labels.role", 1)),
        (NODE.replace("gateway", "a;b"), "metadata.labels.role: not a label value: 'a;b'"),
        (NODE.replace("role:", "a=b:"), "metadata.labels.a=b: not a label key"),
        (NODE.replace("name: east-1,", "name: ../x,"), "metadata.name: expected a name of"),
        (NODE.replace("status:", "stat:"), "status: required"),
        (POD.replace("nodeName: east-1", "nodeName: [a]"), Refused("spec.nodeName", ["a"])),
        (POD.replace("namespace: shop", "namespace: a/b"), "metadata.namespace: expected a name"),
        (POD.replace("8080", "0"), Refused("spec.containers[0].ports[0].containerPort", 0)),
        (
            SERVICE.replace('"fd97:1::1"', "x"),
            "spec.clusterIPs[1]: expected an IP address, got 'x'",
        ),
        (SERVICE.replace("name: p,", "name: p_q,"), "spec.ports[2].name: expected a name of"),
        (SERVICE.replace("port: 82", "port: 65536"), Refused("spec.ports[2].port", 65536)),
        (SLICE.replace("10.1.0.5", '"fd01::5"'), "endpoints[0].addresses[0]: expected an IPv4"),
        (SLICE.replace("kubernetes.io/service-name", "x"), "metadata.labels.kubernetes.io/ser"),
        # What each host takes for itself, or several hosts have, is nobody's address.
        (NODE.replace("10.99.0.11", "127.0.0.1"), "status.addresses[1].address: 127.0.0.1 means"),
        (SERVICE.replace("fd97:1::1", "::1"), "spec.clusterIPs[1]: ::1 means each host"),
        (SERVICE.replace("fd97:1::1", "ff02::1"), "spec.clusterIPs[1]: ff02::1 is the address of"),
        (SLICE.replace("10.1.0.5", "127.0.0.1"), "endpoints[0].addresses[0]: 127.0.0.1 means"),
        (SERVICE.replace("fd97:1::1", "::"), "spec.clusterIPs[1]: :: means each host itself"),
        (SLICE.replace("10.1.0.5", "255.255.255.255"), "endpoints[0].addresses[0]: 255.255"),
        (SLICE.replace("10.1.0.5", "169.254.0.2"), "endpoints[0].addresses[0]: 169.254.0.2 is a"),
        (ENDPOINTS.replace("192.0.2.11", "127.0.0.1"), "subsets[1].addresses[0].ip: 127.0.0.1"),
        # Ports that cannot be told apart by name would get each other's backends.
        (SERVICE.replace("port: 82", "port: 82, targetPort: 70000"), "spec.ports[2].targetPort: "),
        (SERVICE.replace("port: 82", 'port: 82, targetPort: "70000"'), "spec.ports[2].targetPort"),
        (SERVICE.replace("name: p,", ""), "spec.ports[2].name: required"),
        (SERVICE.replace("name: p,", "name: http,"), "spec.ports[2].name: 'http' is the name of"),
        (SERVICE.replace("port: 82", "port: 80"), "spec.ports[2].port: port 80/TCP is that of"),
    ],
)
def test_a_mistake_in_a_kubernetes_kind_is_named_by_its_path(
    text: str, expected: str | Refused
) -> None:
    error = error_of(text)
    assert agrees(error, expected), repr(error)


EGRESS = """
apiVersion: meshgate.io/v1alpha1
kind: EgressPolicy
metadata: {name: erp, creationTimestamp: "2026-01-01T01:00:00+01:00"}
spec:
  selectors:
  - namespaceSelector: {matchLabels: {team: a}}
    podSelector: {matchExpressions: [{key: app, operator: In, values: [b, a]}]}
  - podSelector: {}
  destinationCIDRs: [192.0.2.0/24, "2001:db8:2::/64"]
  excludedCIDRs: [192.0.2.8/29]
  addresses: ["2001:db8:100::10", 198.51.100.10]
  gateways: {nodeSelector: {matchLabels: {role: gateway}}}
"""
CHOICE = "podSelector: {}"


def one(key: str, operator: str, *values: str) -> Selector:
    return Selector((Requirement(key, operator, values),))


def test_an_egress_policy() -> None:
    found = parse(EGRESS)
    assert (found.noun, found.key) == ("egress", "erp")
    assert found.row == EgressPolicy(
        "erp",
        selectors=(
            PodSelector(one("team", "In", "a"), one("app", "In", "a", "b")),
            PodSelector(None, Selector()),
        ),
        destinations=(ip_network("192.0.2.0/24"), ip_network("2001:db8:2::/64")),
        excluded=(ip_network("192.0.2.8/29"),),
        addresses=(ip_address("198.51.100.10"), ip_address("2001:db8:100::10")),
        gateways=one("role", "In", "gateway"),
        origin="m.yaml EgressPolicy/erp",
        created="2026-01-01T00:00:00+00:00",
    )


def test_a_service_cidr_has_the_networks_of_a_clusters_services() -> None:
    text = """
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/12, "fd96::/108"]}
status: {conditions: [{type: Ready, status: "True"}]}
"""
    networks = ip_network("10.96.0.0/12"), ip_network("fd96::/108")
    assert (parse(text).key, parse(text).row) == ("kubernetes", ServiceCIDR(networks))
    assert error_of(text.replace("10.96.0.0/12", "10.96.0.1/12")).path == "spec.cidrs[0]"


PEER = """
apiVersion: meshgate.io/v1alpha1
kind: BGPPeer
metadata: {name: router}
spec:
  nodeSelector: {}
  address: 10.99.0.1
  asn: 65000
  localASN: 65101
  advertise: [podCIDRs, egressIPs, srv6Locators]
  holdSeconds: 30
"""


CONTRACT = """
apiVersion: meshgate.io/v1alpha1
kind: ClusterPeer
metadata: {name: to-west}
spec:
  cluster: west
  id: 2
  podCIDRs: [10.2.0.0/16, "fd02::/48"]
  nodeCIDRs: [10.99.0.0/24]
  serviceCIDRs: [10.97.2.0/24]
  namespaces: [shop, bank]
  hosts: true
  limits: {nodes: 10}
"""


def test_a_contract_with_another_cluster() -> None:
    assert parse(CONTRACT).row == Contract(
        "to-west",
        "west",
        2,
        (ip_network("10.2.0.0/16"), ip_network("fd02::/48")),
        (ip_network("10.99.0.0/24"),),
        (ip_network("10.97.2.0/24"),),
        ("bank", "shop"),
        hosts=True,
        limits=Limits(nodes=10),
    )
    least = parse(CONTRACT[: CONTRACT.index("  serviceCIDRs")]).row
    assert (least.service_cidrs, least.namespaces, least.hosts) == ((), (), False)
    assert least.limits == Limits()
    assert least.origin == "m.yaml ClusterPeer/to-west"


def test_a_namespace_on_a_cluster_scoped_object_is_cleared() -> None:
    """As Kubernetes does: kustomize and Argo CD set it on everything."""
    for text in (EGRESS, CILIUM, PEER, CONTRACT):
        found = parse(text.replace("metadata: {", "metadata: {namespace: kube-system, "))
        assert (found.key, found.row) == (parse(text).key, parse(text).row)


def test_a_bgp_peer() -> None:
    assert parse(PEER).row == BGPPeer(
        "router",
        Selector(),
        ip_address("10.99.0.1"),
        65000,
        65101,
        (Advertise("egressIPs"), Advertise("podCIDRs"), Advertise("srv6Locators")),
        hold_s=30,
        graceful_restart_s=120,
        origin="m.yaml BGPPeer/router",
    )


FULL = """
apiVersion: meshgate.io/v1alpha1
kind: BGPPeer
metadata: {name: leaf}
spec:
  nodeSelector: {matchLabels: {rack: a}}
  address: fd99::1
  asn: 65101
  localASN: 65101
  port: 1790
  families: [vpnv6, ipv4Unicast, ipv6Unicast, vpnv4]
  advertise: [podCIDRs]
  advertisements:
  - type: egressIPs
    selector: {matchLabels: {tier: edge}}
    communities:
      standard: ["65101:100"]
      large: ["65101:1:2"]
      extended: ["target:65101:7", "origin:10.0.0.1:5"]
      wellKnown: [no-export]
    med: 50
    localPreference: 200
    prepend: 2
    aggregate: [198.51.100.0/24]
  - {type: prefixes, prefixes: [192.0.2.0/24, 0.0.0.0/0]}
  import:
  - accept: false
    prefixes: [{prefix: 10.0.0.0/8, le: 24}]
  - prefixes: [{prefix: 192.0.2.0/24}, {prefix: 203.0.113.0/24, ge: 25}]
    communities: ["65101:9"]
    labels: [{community: "65101:9", key: legacy, value: erp}]
  maximumPrefixes: 1000
  password: {secret: {name: leaf}}
  ttlSecurity: true
  localAddress: fd99::11
  gracefulRestartSeconds: 0
  gracefulRestartVPN: true
  bfd: {interval: 50, multiplier: 5}
  acceptSIDs: true
  overrides: [{node: east-2, localASN: 65102, localAddress: fd99::99, routerID: 10.0.0.2}]
"""


def test_a_bgp_peer_with_every_field() -> None:
    row = parse(FULL).row
    assert isinstance(row, BGPPeer)
    assert (row.port, row.families, row.passive) == (1790, tuple(Family), False)
    egress = Advertise(
        "egressIPs",
        Selector((Requirement("tier", "In", ("edge",)),)),
        ("65101:100", "no-export"),
        ("65101:1:2",),
        ("origin:10.0.0.1:5", "target:65101:7"),
        50,
        200,
        2,
        aggregates=(ip_network("198.51.100.0/24"),),
    )
    named = Advertise("prefixes", prefixes=(ip_network("192.0.2.0/24"), ip_network("0.0.0.0/0")))
    assert row.advertise == (Advertise("podCIDRs"), egress, named)
    assert row.kinds == ("podCIDRs", "egressIPs", "prefixes")
    assert row.imports == (
        ImportRule(accept=False, prefixes=(PrefixMatch(ip_network("10.0.0.0/8"), 8, 24),)),
        ImportRule(
            accept=True,
            prefixes=(
                PrefixMatch(ip_network("192.0.2.0/24"), 24, 24),
                PrefixMatch(ip_network("203.0.113.0/24"), 25, 32),
            ),
            communities=("65101:9",),
            labels=(("65101:9", "legacy", "erp"),),
        ),
    )
    assert (row.max_prefixes, row.ttl_security, row.accept_sids) == (1000, True, True)
    assert row.password == Password(secret="leaf")  # noqa: S106 - where it stands
    assert (row.graceful_restart_s, row.graceful_vpn, row.bfd) == (0, True, BFD(50, 5))
    ten = ip_address("10.0.0.2")
    assert row.overrides == (Override("east-2", 65102, ip_address("fd99::99"), ten),)


def test_a_range_of_bgp_peers_waits_for_them() -> None:
    row = parse(PEER.replace("address: 10.99.0.1", "prefix: 10.99.0.0/24")).row
    assert (row.address, row.passive) == (ip_network("10.99.0.0/24"), True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (EGRESS + "  gateway: x\n", "spec.gateway: unknown field"),
        (EGRESS.replace("metadata: {", "metadata: {lables: {}, "), "metadata.lables: unknown"),
        (EGRESS + "extra: 1\n", "extra: unknown field"),
        (EGRESS.replace(CHOICE, "podSelectr: {}"), "spec.selectors[1].podSelectr: unknown field"),
        (
            EGRESS.replace(CHOICE, "podSelector: x"),
            Refused("spec.selectors[1].podSelector", "x"),
        ),
        (
            EGRESS.replace(CHOICE, "podSelector:"),
            Refused("spec.selectors[1].podSelector", None),
        ),
        (EGRESS.replace("- podSelector: {}", "- {}"), "spec.selectors[1]: podSelector or name"),
        (EGRESS.replace("[192.0.2.8/29]", ""), Refused("spec.excludedCIDRs", None)),
        (
            EGRESS.replace("{matchLabels: {team: a}}", "{matchLabels: }"),
            Refused("spec.selectors[0].namespaceSelector.matchLabels", None),
        ),
        (EGRESS.replace(CHOICE, "nodeSelector: {}"), "spec.selectors[1]: podSelector or"),
        (
            EGRESS.replace(CHOICE, "{namespaceSelector: {}, nodeSelector: {}}"),
            "spec.selectors[1].nodeSelector: not alone",
        ),
        (EGRESS + "  pool: legacy\n", "spec.addresses: expected addresses or a pool"),
        (
            EGRESS.replace("In,", "Like,"),
            Refused("spec.selectors[0].podSelector.matchExpressions[0].operator", "Like"),
        ),
        (
            EGRESS.replace("values: [b, a]", "values: []"),
            "spec.selectors[0].podSelector.matchExpressions[0].values: required with operator In",
        ),
        (
            EGRESS.replace("operator: In", "operator: Exists"),
            "spec.selectors[0].podSelector.matchExpressions[0].values: must be empty",
        ),
        (
            EGRESS.replace("team: a", "team: 5"),
            Refused("spec.selectors[0].namespaceSelector.matchLabels.team", 5),
        ),
        (
            EGRESS.replace("192.0.2.0/24", "192.0.2.1/24"),
            "spec.destinationCIDRs[0]: expected a CIDR, got '192.0.2.1/24'; did you mean 192.0.2.0",
        ),
        (EGRESS.replace("192.0.2.8/29", "192.0.2.8"), "spec.excludedCIDRs[0]: expected a CIDR"),
        (EGRESS.replace("192.0.2.8/29", "5"), "spec.excludedCIDRs[0]: expected a CIDR, got int"),
        (EGRESS.replace("198.51.100.10", "198.51.100.300"), "spec.addresses[1]: expected an IP"),
        (
            EGRESS.replace("192.0.2.8/29", '"::ffff:0:0/96"'),
            "spec.excludedCIDRs[0]: expected a CIDR",
        ),
        (EGRESS.replace("198.51.100.10", '"::ffff:1.2.3.4"'), "spec.addresses[1]: expected an IP"),
        (EGRESS.replace("198.51.100.10", "224.0.0.1"), "spec.addresses[1]: 224.0.0.1 cannot be"),
        (EGRESS.replace("{nodeSelector: {matchLabels: {role: gateway}}}", "{}"), "spec.gateways.n"),
        (EGRESS.replace("role: gateway}}", "role: gateway}}, max: 0"), "spec.gateways.max"),
        (EGRESS.replace("role: gateway}}", "role: gateway}}, max: 17"), "spec.gateways.max"),
        (EGRESS.replace("2026-01-01T", "yesterday"), "metadata.creationTimestamp: expected a time"),
        (
            EGRESS.replace("2026-01-01T01", "0001-01-01T00"),
            "metadata.creationTimestamp: expected a time",
        ),
        (CONTRACT + "  podCIDR: []\n", "spec.podCIDR: unknown field"),
        (CONTRACT.replace("cluster: west", "cluster: default"), "spec.cluster: 'default' is no"),
        (CONTRACT.replace("cluster: west", "cluster: east"), "spec.cluster: east is our own"),
        (CONTRACT.replace("id: 2", "id: 256"), Refused("spec.id", 256)),
        (CONTRACT.replace("id: 2", "id: 0"), Refused("spec.id", 0)),
        (CONTRACT.replace("10.2.0.0/16", "10.2.0.1/16"), "spec.podCIDRs[0]: expected a CIDR"),
        (CONTRACT.replace("[10.99.0.0/24]", "[]"), Refused("spec.nodeCIDRs", [])),
        (CONTRACT.replace("10.97.2.0/24", "10.97.2.0/33"), "spec.serviceCIDRs[0]: expected a CI"),
        (CONTRACT.replace("bank]", "Bank]"), "spec.namespaces[1]: expected a namespace, or '*'"),
        (CONTRACT.replace("true", "yes"), Refused("spec.hosts", "yes")),
        (CONTRACT.replace("nodes: 10", "pods: 10"), "spec.limits.pods: unknown field"),
        (CONTRACT.replace("nodes: 10", "nodes: -1"), Refused("spec.limits.nodes", -1)),
        (PEER.replace("podCIDRs,", "podCIDR,"), Refused("spec.advertise[0]", "podCIDR")),
        (PEER.replace("65000", "0"), Refused("spec.asn", 0)),
        (PEER.replace("65000", "65000.5"), Refused("spec.asn", 65000.5)),
        (PEER.replace("30", "2"), Refused("spec.holdSeconds", 2)),
        (PEER.replace("10.99.0.1", "fe80::1%eth0"), "spec.address: expected an IP address"),
        (PEER + "  prefix: 10.0.0.0/8\n", "spec: expected either address or prefix"),
        (PEER.replace("address: 10.99.0.1", "prefix: 10.9.0.1/32"), "spec.prefix: 10.9.0.1/32 is"),
        (PEER + "  families: [vpn]\n", Refused("spec.families[0]", "vpn")),
        (PEER + "  families: []\n", Refused("spec.families", [])),
        (PEER + "  port: 0\n", Refused("spec.port", 0)),
        (PEER + "  bfd: {interval: 49}\n", Refused("spec.bfd.interval", 49)),
        (PEER + "  bfd: {interval: 60001}\n", Refused("spec.bfd.interval", 60001)),
        (PEER + "  password: {}\n", "spec.password: expected either file or secret"),
        (PEER + "  multihop: 2\n  ttlSecurity: true\n", "spec.multihop: not together with"),
        (PEER + "  localAddress: fd99::1\n", "spec.localAddress: fd99::1 is not of the family"),
        (
            PEER + "  overrides: [{node: a, localAddress: fd99::1}]\n",
            "spec.overrides[0].localAddress: fd99::1 is not of the family",
        ),
        (
            PEER + "  advertisements: [{type: prefixes}]\n",
            "spec.advertisements[0].prefixes: required with type prefixes",
        ),
        (PEER + "  advertisements: [{type: x}]\n", Refused("spec.advertisements[0].type", "x")),
        (
            PEER + "  advertisements: [{type: podCIDRs, localPreference: 5}]\n",
            "spec.advertisements[0].localPreference: is for a peer of our own AS only",
        ),
        (
            PEER + "  advertisements: [{type: podCIDRs, communities: {standard: ['65536:1']}}]\n",
            Refused("spec.advertisements[0].communities.standard[0]", "65536:1"),
        ),
        (
            PEER + "  import: [{prefixes: [{prefix: 10.0.0.0/8, ge: 7}]}]\n",
            "spec.import[0].prefixes[0]: expected 8 <= ge <= le <= 32, got ge 7, le 32",
        ),
        (
            PEER + "  import: [{prefixes: [{prefix: 10.0.0.0/8, ge: 20, le: 16}]}]\n",
            "spec.import[0].prefixes[0]: expected 8 <= ge <= le <= 32, got ge 20, le 16",
        ),
    ],
)
def test_a_mistake_in_an_own_kind_is_named_by_its_path(text: str, expected: str | Refused) -> None:
    error = error_of(text)
    assert agrees(error, expected), repr(error)


CILIUM = """
apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata: {name: erp, uid: 1-2, resourceVersion: "5", generation: 1, managedFields: [{a: b}]}
spec:
  selectors:
  - podSelector: {matchLabels: {"k8s:app": invoice, io.kubernetes.pod.namespace: shop}}
  - namespaceSelector: {matchLabels: {team: billing}}
  destinationCIDRs: [10.20.1.0/16]
  excludedCIDRs: [10.20.9.0/24]
  egressGateway: {nodeSelector: {matchLabels: {role: gw}}, egressIP: 198.51.100.10}
"""
GATEWAY = "egressGateway: {nodeSelector: {matchLabels: {role: gw}}, egressIP: 198.51.100.10}"


def test_a_cilium_policy_is_read_as_it_is() -> None:
    found = parse(CILIUM)
    in_shop = Selector(
        (
            Requirement("io.kubernetes.pod.namespace", "In", ("shop",)),
            Requirement("app", "In", ("invoice",)),
        )
    )
    assert found.row == EgressPolicy(
        "erp",
        selectors=(
            PodSelector(None, in_shop),
            PodSelector(one("team", "In", "billing"), None),
        ),
        destinations=(ip_network("10.20.0.0/16"),),
        excluded=(ip_network("10.20.9.0/24"),),
        addresses=(ip_address("198.51.100.10"),),
        gateways=one("role", "In", "gw"),
        origin="m.yaml CiliumEgressGatewayPolicy/erp",
        max_gateways=1,
    )
    assert found.findings == ()
    assert found.row.fields.gateways == "spec.egressGateway.nodeSelector"
    assert found.row.fields.addresses == "spec.egressGateway.egressIP"


@pytest.mark.parametrize("more", ["", ", interface: eth1"])
def test_s2_without_an_egress_ip_the_covered_traffic_is_dropped_with_a_finding(more: str) -> None:
    found = parse(CILIUM.replace(", egressIP: 198.51.100.10", more))
    assert found.row.addresses == ()
    [finding] = found.findings
    assert finding.field == (
        "spec.egressGateway.interface" if more else "spec.egressGateway.egressIP"
    )
    assert finding.text.startswith("not supported yet: needs egressIP")


def test_s8_each_of_several_gateways_is_one() -> None:
    several = """egressGateways:
  - {nodeSelector: {matchLabels: {role: a}}, egressIP: 198.51.100.1}
  - {nodeSelector: {matchLabels: {role: b}}, egressIP: 198.51.100.2}"""
    found = parse(CILIUM.replace(GATEWAY, f"{GATEWAY}\n  {several}"))
    assert found.row.addresses == (ip_address("198.51.100.1"), ip_address("198.51.100.2"))
    assert found.row.choices == ((one("role", "In", "a"), 1), (one("role", "In", "b"), 1))
    assert found.findings == ()


def test_an_empty_list_of_gateways_leaves_the_single_one() -> None:
    found = parse(CILIUM.replace(GATEWAY, f"{GATEWAY}\n  egressGateways: []"))
    assert found.row.addresses == (ip_address("198.51.100.10"),)


def test_a_node_selector_restricts_a_pod_selector() -> None:
    found = parse(
        CILIUM.replace("- podSelector:", "- nodeSelector: {matchLabels: {a: b}}\n    podSelector:")
    )
    assert found.row.selectors[0].nodes == one("a", "In", "b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            CILIUM.replace("egressIP:", "interface: eth1, egressIP:"),
            "spec.egressGateway: interface and egressIP exclude each other: the policy is ignored",
        ),
        (
            CILIUM.replace("198.51.100.10", '"2001:db8::1"'),
            "spec.egressGateway.egressIP: 2001:db8::1 and spec.destinationCIDRs[0] (10.20.0.0/16)",
        ),
        (
            CILIUM.replace("10.20.1.0/16", '10.20.0.0/16, "2001:db8::/32"'),
            "spec.egressGateway.egressIP: 198.51.100.10 and spec.destinationCIDRs[1]",
        ),
        (
            CILIUM.replace("198.51.100.10", ""),
            "spec.egressGateway.egressIP: expected an IP address",
        ),
        (CILIUM.replace("egressIP", "egressIp"), "spec.egressGateway.egressIp: unknown field"),
        (CILIUM.replace(GATEWAY, ""), "spec.egressGateway: required"),
        (CILIUM.replace("destinationCIDRs: [10.20.1.0/16]", "a: 1"), "spec.a: unknown field"),
        (
            CILIUM.replace("namespaceSelector:", "nodeSelector:"),
            "spec.selectors[1]: podSelector or namespaceSelector is required",
        ),
    ],
)
def test_s1_s4_and_mistakes_refuse_the_whole_cilium_policy(
    text: str, expected: str | Refused
) -> None:
    error = error_of(text)
    assert agrees(error, expected), repr(error)


def test_a_list_as_kubectl_prints_it() -> None:
    [listed] = parse_yaml("apiVersion: v1\nkind: List\nitems: [{a: 1}, {b: 2}]")
    assert list(items(listed)) == [{"a": 1}, {"b": 2}]


def test_a_list_of_one_kind_says_the_kind_of_its_items() -> None:
    """The API server leaves apiVersion and kind out of them."""
    [listed] = parse_yaml("apiVersion: v1\nkind: ServiceList\nitems: [{a: 1}, {kind: X}, text]")
    service = {"apiVersion": "v1", "kind": "Service"}
    assert list(items(listed)) == [{**service, "a": 1}, {**service, "kind": "X"}, "text"]
    [listed] = parse_yaml("apiVersion: v1\nkind: PodList\nitems: null")
    assert list(items(listed)) == []
    for other in ("kind: PodList", "kind: PodList\nitems: x", "kind: [List]\nitems: []"):
        [document] = parse_yaml(other)
        assert list(items(document)) == [document]


@pytest.mark.parametrize(
    ("version", "kind", "meant"),
    [
        ("v1", "ConfigMap", False), ("v1", "Secret", False), ("v1", "ServiceAccount", False),
        ("v1", "PodTemplate", False), ("v1", "Event", False),
        ("v1", "ReplicationController", False), ("v1", "ResourceQuota", False),
        ("apps/v1", "Deployment", False), ("networking.istio.io/v1", "ServiceEntry", False),
        ("serving.knative.dev/v1", "Service", False), ("cilium.io/v2", "CiliumNode", False),
        ("cilium.io/v2", "CiliumNetworkPolicy", False), ("cilium.io/v2", "CiliumEndpoint", False),
        ("cilium.io/v2", "CiliumLocalRedirectPolicy", False),
        ("cilium.io/v2", "CiliumClusterwideNetworkPolicy", False),
        ("cilium.io/v2", "CiliumEnvoyConfig", False),
        ("v1", "Servic", True), ("v1", "service", True), ("v1", "Endpoint", True),
        ("v2", "Pod", True), ("discovery.k8s.io/v1beta1", "EndpointSlice", True),
        ("cilium.io/v2alpha1", "CiliumEgressGatewayPolicy", True),
        ("cilium.io/v2alpha1", "CiliumEgressNATPolicy", True),
        ("meshgate.io/v1", "EgressPolicy", True), ("meshgate.io/v1alpha1", "Gateway", True),
    ],
)  # fmt: skip
def test_a_kind_that_is_not_read_was_meant_to_be(version: str, kind: str, *, meant: bool) -> None:
    """Ours, another version of what is read, its former or nearly its name; no others."""
    assert KINDS.meant(KindHead(api_version=version, kind=kind)) == meant


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("text", Refused("", "text")),
        ({"kind": "Pod"}, "apiVersion: required"),
        ({"apiVersion": "v1", "kind": "Pod"}, "metadata: required"),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {}}, "metadata.name: required"),
        ({"apiVersion": "v1", "kind": 5, "metadata": {"name": "a"}}, Refused("kind", 5)),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": ""}}, "metadata.name: expected"),
    ],
)
def test_a_document_that_does_not_say_what_it_is(document: Any, expected: str | Refused) -> None:
    with pytest.raises(Wrong) as caught:
        head(document)
    assert agrees(caught.value, expected), repr(caught.value)
