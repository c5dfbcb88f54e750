"""A right document of each kind that is read, to be made odd."""

from __future__ import annotations

from typing import Any

_OWN = "meshgate.io/v1alpha1"
_CLUSTER_SCOPED = ("Node", "Namespace", "BGPPeer", "EgressPolicy", "ClusterPeer", "ServiceCIDR")


def _document(kind: str, name: str, api: str = "v1", **parts: Any) -> dict[str, Any]:
    namespaced = kind not in _CLUSTER_SCOPED
    place = {"namespace": "shop"} if namespaced else {}
    meta = {"name": name, **place, **parts.pop("meta", {})}
    return {"apiVersion": api, "kind": kind, "metadata": meta, **parts}


DOCUMENTS: tuple[dict[str, Any], ...] = (
    _document(
        "Node", "n1", meta={"labels": {"role": "gateway"}},
        spec={"podCIDRs": ["10.1.0.0/24"], "taints": [{"key": "a", "effect": "NoSchedule"}]},
        status={"addresses": [{"type": "InternalIP", "address": "10.99.0.11"}]},
    ),
    _document("Namespace", "shop", meta={"labels": {"a": "b"}, "annotations": {"c": "d"}}),
    _document(
        "Pod", "web-1", meta={"labels": {"app": "web"}},
        spec={"nodeName": "n1", "serviceAccountName": "default", "hostNetwork": False,
              "containers": [{"name": "a", "ports": [{"name": "http", "containerPort": 80}]}]},
        status={"phase": "Running", "podIP": "10.1.0.2", "podIPs": [{"ip": "10.1.0.2"}],
                "conditions": [{"type": "Ready", "status": "True"}]},
    ),
    _document(
        "Service", "web", meta={"annotations": {"service.cilium.io/global": "true"}},
        spec={"clusterIP": "10.97.0.10", "clusterIPs": ["10.97.0.10"], "selector": {"app": "web"},
              "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
              "sessionAffinity": "None", "externalIPs": ["192.0.2.1"]},
    ),
    _document(
        "Endpoints", "web",
        subsets=[{"addresses": [{"ip": "10.1.0.2"}], "notReadyAddresses": [{"ip": "10.1.0.3"}],
                  "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}],
    ),
    _document(
        "EndpointSlice", "web-x", "discovery.k8s.io/v1",
        meta={"labels": {"kubernetes.io/service-name": "web"}}, addressType="IPv4",
        endpoints=[{"addresses": ["10.1.0.2"], "conditions": {"ready": True}, "nodeName": "n1"}],
        ports=[{"name": "http", "port": 80, "protocol": "TCP"}],
    ),
    _document(
        "EgressPolicy", "erp", _OWN,
        spec={"selectors": [{"podSelector": {"matchLabels": {"app": "client"},
              "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}}],
              "destinationCIDRs": ["192.0.2.0/24"], "excludedCIDRs": ["192.0.2.9/32"],
              "addresses": ["198.51.100.1"],
              "gateways": {"nodeSelector": {"matchLabels": {"role": "gateway"}}}},
    ),
    _document(
        "CiliumEgressGatewayPolicy", "erp2", "cilium.io/v2",
        spec={"selectors": [{"podSelector": {"matchLabels": {"app": "client"}}}],
              "destinationCIDRs": ["192.0.2.0/24"],
              "egressGateway": {"nodeSelector": {"matchLabels": {"role": "gateway"}},
                                "egressIP": "198.51.100.2"}},
    ),
    _document(
        "BGPPeer", "leaf", _OWN,
        spec={"address": "10.99.0.1", "asn": 65000, "localASN": 65001, "holdTimeSeconds": 9,
              "nodeSelector": {"matchLabels": {"role": "gateway"}},
              "advertise": ["podCIDRs", "egress"]},
    ),
    _document(
        "CiliumBGPClusterConfig", "racks", "cilium.io/v2",
        spec={"nodeSelector": {"matchLabels": {"rack": "a"}}, "bgpInstances": [
            {"name": "i", "localASN": 65101, "peers": [
                {"name": "tor", "peerAddress": "10.99.0.1", "peerASN": 65000,
                 "peerConfigRef": {"name": "tor"}}]}]},
    ),
    _document(
        "CiliumBGPPeerConfig", "tor", "cilium.io/v2",
        spec={"transport": {"peerPort": 179}, "timers": {"holdTimeSeconds": 9},
              "gracefulRestart": {"enabled": True, "restartTimeSeconds": 15},
              "families": [{"afi": "ipv4", "safi": "unicast",
                            "advertisements": {"matchLabels": {"a": "b"}}}]},
    ),
    _document(
        "CiliumBGPAdvertisement", "all", "cilium.io/v2",
        spec={"advertisements": [
            {"advertisementType": "Service", "selector": {"matchLabels": {"a": "b"}},
             "service": {"addresses": ["LoadBalancerIP"], "aggregationLengthIPv4": 24},
             "attributes": {"communities": {"standard": ["65101:1", "4259840099"],
                                            "wellKnown": ["no-export"]},
                            "localPreference": 5}}]},
    ),
    _document(
        "CiliumBGPNodeConfigOverride", "east-1", "cilium.io/v2",
        spec={"bgpInstances": [{"name": "i", "routerID": "10.9.9.9", "localASN": 65109,
                                "peers": [{"name": "tor", "localAddress": "10.99.0.99"}]}]},
    ),
    _document(
        "ClusterPeer", "west", _OWN,
        spec={"cluster": "west", "id": 2, "podCIDRs": ["10.2.0.0/16"], "hosts": True,
              "nodeCIDRs": ["10.99.0.0/24"], "serviceCIDRs": ["10.97.2.0/24"],
              "namespaces": ["shop"], "limits": {"nodes": 3, "addresses": 5}},
    ),
    _document(
        "ServiceCIDR", "kubernetes", "networking.k8s.io/v1",
        spec={"cidrs": ["10.97.0.0/24", "fd97::/112"]},
    ),
)  # fmt: skip
