"""Cilium's BGP objects: what becomes of each, as BGPPeers, and which findings name what is not."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest

from bgp.cilium import rows
from bgp.cilium.derived import CiliumObjects, DerivedPeers, derived
from bgp.cilium.peers import Peers
from bgp.desired import Peering, peerings, routes
from bgp.exabgp import plain
from bgp.peer import EVERYTHING, PEERS, Advertise, BGPPeer, Override, Password
from bgp.route import Family, Route, RouteKey
from mesh.core.feature import Offer
from mesh.core.model import Node, Requirement, Selector
from mesh.core.reconcile import Loop
from mesh.core.strict import Wrong, parse_yaml
from mesh.objects.kinds import CILIUM_WORDS, KINDS
from mesh.objects.schema import Place, head
from mesh.objects.tables import Objects

CLUSTER = """
apiVersion: cilium.io/v2
kind: CiliumBGPClusterConfig
metadata: {name: racks}
spec:
  nodeSelector: {matchLabels: {rack: a}}
  bgpInstances:
  - name: instance-65101
    localASN: 65101
    localPort: 179
    peers:
    - {name: tor, peerAddress: 10.99.0.1, peerASN: 65000, peerConfigRef: {name: tor}}
"""
CONFIG = """
apiVersion: cilium.io/v2
kind: CiliumBGPPeerConfig
metadata: {name: tor}
spec:
  transport: {peerPort: 1790}
  timers: {connectRetryTimeSeconds: 5, holdTimeSeconds: 30, keepAliveTimeSeconds: 10}
  authSecretRef: bgp-auth
  gracefulRestart: {enabled: true, restartTimeSeconds: 15}
  ebgpMultihop: 4
  families:
  - {afi: ipv4, safi: unicast, advertisements: {matchLabels: {advertise: bgp}}}
  - {afi: ipv6, safi: unicast}
"""
ADVERTISEMENT = """
apiVersion: cilium.io/v2
kind: CiliumBGPAdvertisement
metadata: {name: all, labels: {advertise: bgp}}
spec:
  advertisements:
  - advertisementType: PodCIDR
    attributes:
      communities: {standard: ["65101:99", "4259840099"], wellKnown: [no-export, internet]}
      localPreference: 99
  - advertisementType: Service
    service: {addresses: [LoadBalancerIP, ExternalIP], aggregationLengthIPv4: 24}
    selector: {matchExpressions: [{key: app, operator: NotIn, values: [never]}]}
    attributes: {communities: {large: ["65101:1:2"]}}
"""
OVERRIDE = """
apiVersion: cilium.io/v2
kind: CiliumBGPNodeConfigOverride
metadata: {name: east-1}
spec:
  bgpInstances:
  - name: instance-65101
    routerID: 10.9.9.9
    localASN: 65109
    peers: [{name: tor, localAddress: 10.99.0.99}]
"""
RACK = Selector((Requirement("rack", "In", ("a",)),))
NOT_NEVER = Selector((Requirement("app", "NotIn", ("never",)),))
POD_CIDR, SERVICE = CILIUM_WORDS["PodCIDR"], CILIUM_WORDS["Service"]
NODE = Node("east", "east-1", (ip_address("10.99.0.11"),), labels=(("rack", "a"),))


def row(text: str) -> Any:
    (document,) = parse_yaml(text)
    said = head(document)
    return KINDS.parse(said, Place("east", "", KINDS.key_of(said)), document).row


def objects(*texts: str) -> CiliumObjects:
    found = [row(text) for text in texts]
    return CiliumObjects(
        {one.name: one for one in found if isinstance(one, rows.CiliumCluster)},
        {one.name: one for one in found if isinstance(one, rows.CiliumPeerConfig)},
        {one.name: one for one in found if isinstance(one, rows.CiliumAdvertisement)},
        {one.node: one for one in found if isinstance(one, rows.CiliumOverride)},
        CILIUM_WORDS,
    )


def of(*texts: str) -> DerivedPeers:
    return derived(objects(*texts))


def said(made: DerivedPeers) -> list[tuple[str, str, str]]:
    return [(one.code, one.object, one.field) for one in made.findings]


def test_a_whole_set_is_one_peer() -> None:
    made = of(CLUSTER, CONFIG, ADVERTISEMENT, OVERRIDE)
    peer = replace(made.rows["racks/instance-65101/tor"], fields=())
    assert made.findings == []
    assert peer == BGPPeer(
        "racks/instance-65101/tor",
        RACK,
        ip_address("10.99.0.1"),
        65000,
        65101,
        (
            Advertise(
                POD_CIDR,
                communities=("0:0", "65000:99", "65101:99", "no-export"),
                local_preference=99,
                families=(Family.IPV4,),
            ),
            Advertise(
                SERVICE,
                NOT_NEVER,
                large=("65101:1:2",),
                addresses=("LoadBalancer", "External"),
                lengths=(24, None),
                families=(Family.IPV4,),
            ),
        ),
        hold_s=30,
        graceful_restart_s=15,
        origin="CiliumBGPClusterConfig/racks",
        port=1790,
        password=Password("", "bgp-auth"),
        multihop=4,
        overrides=(Override("east-1", 65109, ip_address("10.99.0.99"), IPv4Address("10.9.9.9")),),
    )


def test_the_former_version_says_the_same() -> None:
    texts = CLUSTER, CONFIG, ADVERTISEMENT, OVERRIDE
    former = [text.replace("cilium.io/v2", "cilium.io/v2alpha1") for text in texts]
    assert of(*former) == of(*texts)


def test_without_a_reference_a_peer_has_the_defaults() -> None:
    made = of(CLUSTER.replace(", peerConfigRef: {name: tor}", ""))
    (peer,) = made.rows.values()
    assert (peer.port, peer.hold_s, peer.graceful_restart_s, peer.multihop) == (179, 90, 0, 0)
    assert (peer.families, peer.advertise) == ((Family.IPV4, Family.IPV6), ())
    assert peer.password is None


def test_without_a_selector_all_nodes_are_selected() -> None:
    made = of(CLUSTER.replace("  nodeSelector: {matchLabels: {rack: a}}\n", ""), CONFIG)
    assert [peer.nodes for peer in made.rows.values()] == [EVERYTHING]


PATH = "spec.bgpInstances[0]"


@pytest.mark.parametrize(
    ("old", "new", "code", "field"),
    [
        ("{name: tor}}", "{name: other}}", "B260", f"{PATH}.peers[0].peerConfigRef.name"),
        ("peerAddress: 10.99.0.1, ", "", "B261", f"{PATH}.peers[0].peerAddress"),
        (
            "peerAddress: 10.99.0.1",
            "autoDiscovery: {mode: DefaultGateway}",
            "B261",
            f"{PATH}.peers[0].autoDiscovery",
        ),
        ("peerASN: 65000", "peerASN: 0", "B262", f"{PATH}.peers[0].peerASN"),
        ("    localASN: 65101\n", "", "B262", f"{PATH}.localASN"),
    ],
)
def test_a_peer_that_cannot_be_is_a_finding_and_others_stay(
    old: str, new: str, code: str, field: str
) -> None:
    other = CLUSTER.replace("racks", "others").replace("10.99.0.1", "10.99.0.2")
    made = of(CLUSTER.replace(old, new), other, CONFIG, ADVERTISEMENT)
    assert [peer.address for peer in made.rows.values()] == [ip_address("10.99.0.2")]
    assert said(made) == [(code, "CiliumBGPClusterConfig/racks", field)]


def test_families_and_types_that_are_not_served_are_left_out() -> None:
    config = CONFIG.replace("afi: ipv6, safi: unicast", "afi: l2vpn, safi: evpn")
    entries = "  - {advertisementType: Interface, interface: {name: eth0}}\n"
    entries += "  - {advertisementType: CiliumPodIPPool, selector: {}}\n"
    entries += "  - {advertisementType: Service, service: {addresses: [ClusterIP]}}\n"
    made = of(CLUSTER, config, ADVERTISEMENT + entries)
    (peer,) = made.rows.values()
    assert (peer.families, len(peer.advertise)) == ((Family.IPV4,), 2)
    advertisement = "CiliumBGPAdvertisement/all"
    assert said(made) == [
        ("B263", "CiliumBGPPeerConfig/tor", "spec.families[1]"),
        ("B264", advertisement, "spec.advertisements[2].advertisementType"),
        ("B264", advertisement, "spec.advertisements[3].advertisementType"),
        ("B266", advertisement, "spec.advertisements[4].selector"),
    ]


def test_an_advertisement_that_no_family_asks_for() -> None:
    other = ADVERTISEMENT.replace("name: all", "name: alone").replace("advertise: bgp", "a: b")
    made = of(CLUSTER, CONFIG, ADVERTISEMENT, other)
    assert said(made) == [("B265", "CiliumBGPAdvertisement/alone", "metadata.labels")]


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("name: instance-65101", "name: x", f"{PATH}.name"),
        ("name: tor", "name: x", f"{PATH}.peers x"),
        ("10.99.0.99", "fd99::99", f"{PATH}.peers tor"),
    ],
)
def test_an_override_that_does_not_fit(old: str, new: str, field: str) -> None:
    made = of(CLUSTER, CONFIG, ADVERTISEMENT, OVERRIDE.replace(old, new))
    assert said(made) == [("B267", "CiliumBGPNodeConfigOverride/east-1", field)]
    (peer,) = made.rows.values()
    assert all(one.local_address is None for one in peer.overrides)


@pytest.mark.parametrize(
    ("text", "old", "new", "path"),
    [
        (CLUSTER, "peerAddress: 10.99.0.1", "peerAddress: tor.example", "peerAddress"),
        (CLUSTER, "peerASN: 65000", "peerASN: -1", "peerASN"),
        (CONFIG, "holdTimeSeconds: 30", "holdTimeSeconds: 2", "holdTimeSeconds"),
        (ADVERTISEMENT, '"65101:99"', '"65101:65536"', "standard[0]"),
        (ADVERTISEMENT, "no-export", "no-such", "wellKnown[0]"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(text: str, old: str, new: str, path: str) -> None:
    with pytest.raises(Wrong) as caught:
        row(text.replace(old, new))
    assert caught.value.path.endswith(path)


def test_overlapping_advertisements_are_united_in_a_route() -> None:
    """Communities of all, and the highest local preference, which stays within an AS."""
    second = ADVERTISEMENT.replace("name: all", "name: more").replace("localPreference: 99", "")
    second = second.replace("65101:99", "65101:7").replace("[no-export, internet]", "[no-peer]")
    made = of(CLUSTER.replace("peerASN: 65000", "peerASN: 65101"), CONFIG, ADVERTISEMENT, second)
    found, _ = peerings(NODE, made.rows.values(), {Password("", "bgp-auth"): "k"})
    offers = {POD_CIDR: [Offer(ip_network("10.1.2.0/24")), Offer(ip_network("fd01::/64"))]}
    sent, findings = routes(NODE, found.values(), offers)
    all_of_them = ("0:0", "65000:99", "65101:7", "65101:99", "no-export", "no-peer")
    assert sent == {
        RouteKey(ip_address("10.99.0.1"), ip_network("10.1.2.0/24")): Route(
            ip_network("10.1.2.0/24"), NODE.addresses[0], all_of_them, local_preference=99
        )
    }
    assert {(one.code, one.object, one.field) for one in findings} == {
        ("B223", "CiliumBGPPeerConfig/tor", f"spec.families {SERVICE} 1 east-1")
    }


def test_findings_of_a_session_name_the_field_of_ciliums_object() -> None:
    made = of(CLUSTER, CONFIG)
    found, findings = peerings(NODE, made.rows.values(), {})
    assert not found
    (finding,) = findings
    place = ("CiliumBGPPeerConfig/tor", "spec.authSecretRef east-1")
    assert (finding.code, finding.object, finding.field) == ("B220", *place)
    found, _ = peerings(NODE, made.rows.values(), {Password("", "bgp-auth"): "k"})
    _, findings = routes(NODE, found.values(), {})
    assert [(one.code, one.object, one.field) for one in findings] == [
        ("B203", "CiliumBGPPeerConfig/tor", "spec.families")
    ]


def test_rooms_read_both_sorts_as_one_table() -> None:
    tables = Objects(KINDS.nouns)
    own, loop = tables[PEERS], Loop()
    peers = Peers(tables, CILIUM_WORDS)
    peers.derive(loop)
    ours = BGPPeer("leaf", EVERYTHING, ip_address("10.99.0.7"), 1, 2, ())
    own.replace({"leaf": ours})
    loop.derive_all()
    assert (dict(tables[PEERS].rows), tables[PEERS].synced) == ({"leaf": ours}, False)
    tables[rows.CLUSTERS].replace({"racks": row(CLUSTER)})
    tables[rows.PEER_CONFIGS].replace({"tor": row(CONFIG)})
    tables[rows.ADVERTISEMENTS].replace({})
    tables[rows.OVERRIDES].replace({})
    loop.derive_all()
    assert set(tables[PEERS].rows) == {"leaf", "racks/instance-65101/tor"}
    assert tables[PEERS].synced
    tables[rows.CLUSTERS].delete(["racks"])
    loop.derive_all()
    assert set(tables[PEERS].rows) == {"leaf"}


def test_a_session_is_remembered_as_it_is() -> None:
    made = of(CLUSTER, CONFIG, ADVERTISEMENT, OVERRIDE)
    found, _ = peerings(NODE, made.rows.values(), {Password("", "bgp-auth"): "k"})
    (session,) = found.values()
    assert plain.made(Peering, json.loads(json.dumps(plain.plain(session)))) == session
