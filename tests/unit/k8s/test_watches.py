"""Which kinds a process reads from an API server, by which path and selector."""

from mesh.k8s import watches
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NODES


def test_a_controller_reads_every_kind_of_the_whole_cluster() -> None:
    found = {watch.path: watch for watch in watches.of_controller(KINDS)}
    assert list(found) == [
        "/api/v1/nodes",
        "/api/v1/namespaces",
        "/api/v1/pods",
        "/api/v1/services",
        "/apis/discovery.k8s.io/v1/endpointslices",
        "/apis/networking.k8s.io/v1/servicecidrs",
        "/apis/meshgate.io/v1alpha1/egresspolicies",
        "/apis/cilium.io/v2/ciliumegressgatewaypolicies",
        "/apis/isovalent.com/v1/isovalentegressgatewaypolicies",
        "/apis/meshgate.io/v1alpha1/egresspools",
        "/apis/meshgate.io/v1alpha1/bgppeers",
        "/apis/cilium.io/v2/ciliumbgpclusterconfigs",
        "/apis/cilium.io/v2/ciliumbgppeerconfigs",
        "/apis/cilium.io/v2/ciliumbgpadvertisements",
        "/apis/cilium.io/v2/ciliumbgpnodeconfigoverrides",
        "/apis/meshgate.io/v1alpha1/vrfs",
        "/apis/cilium.io/v2alpha1/ciliumsrv6vrfs",
        "/apis/meshgate.io/v1alpha1/clusterpeers",
    ]
    assert not any(watch.fields for watch in found.values())
    optional = [watch.resource for watch in found.values() if watch.kind.optional]
    assert optional == [
        "servicecidrs.networking.k8s.io",
        "ciliumegressgatewaypolicies.cilium.io",
        "isovalentegressgatewaypolicies.isovalent.com",
        "egresspools.meshgate.io",
        "ciliumbgpclusterconfigs.cilium.io",
        "ciliumbgppeerconfigs.cilium.io",
        "ciliumbgpadvertisements.cilium.io",
        "ciliumbgpnodeconfigoverrides.cilium.io",
        "ciliumsrv6vrfs.cilium.io",
    ]


def test_an_agent_reads_the_pods_of_its_own_node() -> None:
    fields = {watch.path: watch.fields for watch in watches.of_agent(KINDS, "east-1")}
    assert {path: text for path, text in fields.items() if text} == {
        "/api/v1/pods": "spec.nodeName=east-1"
    }
    assert list(fields) == [watch.path for watch in watches.of_controller(KINDS)]


def test_a_process_may_read_the_kinds_of_some_nouns() -> None:
    assert [watch.resource for watch in watches.of_nouns(KINDS, [NODES])] == ["nodes"]
