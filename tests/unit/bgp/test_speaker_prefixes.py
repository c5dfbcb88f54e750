"""Which prefixes a node announces: pure."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

from bgp.peer import BGPPeer
from bgp.speaker import unmatched
from gateway.policy import EgressPolicy
from gateway.speaker import EgressSpeaker
from mesh.core.feature import SpeakerFeature
from mesh.core.model import (
    Claim,
    ClaimKey,
    Finding,
    Network,
    Node,
    NodeKey,
    PodSelector,
    Requirement,
    Selector,
)
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.nodes.speaker import PodCIDRsSpeaker
from srv6.speaker import LocatorsSpeaker
from tests.fixtures.egress import claims_of, objects

GATEWAY = Selector((Requirement("role", "In", ("gateway",)),))
NODES = {
    NodeKey("east", name): Node("east", name, (ip_address(address),), labels=labels)
    for name, address, labels in (
        ("east-1", "10.99.0.11", ()),
        ("east-2", "10.99.0.12", (("role", "gateway"),)),
        ("east-3", "10.99.0.13", (("role", "gateway"),)),
    )
}
EAST1, EAST2, EAST3 = NODES.values()
ADDRESSES = (ip_address("198.51.100.10"), ip_address("2001:db8:100::10"))


def policy(name: str, gateways: Selector = GATEWAY, created: str = "") -> EgressPolicy:
    everything = (PodSelector(None, Selector()),)
    destinations = (ip_network("192.0.2.0/24"),)
    return EgressPolicy(name, everything, destinations, (), ADDRESSES, gateways, created=created)


def claim(noun: str, pool: str, number: int, owner: str) -> Claim:
    return Claim(noun, pool, number, owner, 7)


def own_prefixes(
    node: Node, claims: list[Claim], policies: list[EgressPolicy], nodes: dict[NodeKey, Node]
) -> tuple[dict[str, list[Network]], list[Finding]]:
    """What each feature of the speaker announces, and its findings."""
    tables = {noun: Table[ClaimKey, Claim](noun) for noun in ("podcidr", "locator")}
    for noun, table in tables.items():
        mine = [one for one in claims if one.noun == noun]
        table.replace({ClaimKey(one.noun, one.pool, one.number): one for one in mine})
    features: tuple[SpeakerFeature, ...] = (
        PodCIDRsSpeaker(tables.__getitem__),
        LocatorsSpeaker(tables.__getitem__),
        EgressSpeaker(objects(policies, nodes=nodes.values()), claims_of),
    )
    loop = Loop()
    for feature in features:
        feature.derive(loop)
    loop.derive_all()
    own = {one.kind: [offer.prefix for offer in one.offers(node)] for one in features}
    return own, [finding for feature in features for finding in feature.findings()]


def test_claims_of_the_node_become_prefixes_and_those_of_others_do_not() -> None:
    own, findings = own_prefixes(
        EAST1,
        [
            claim("podcidr", "10.1.0.0_16_24", 0, "east-1"),
            claim("podcidr", "fd01::_48_64", 3, "east-1"),
            claim("podcidr", "10.1.0.0_16_24", 1, "east-2"),
            claim("locator", "fcbb:bb01::_32_48", 1, "east-1"),
            claim("block", "198.51.100.10", 1, "east-1"),
        ],
        [],
        NODES,
    )
    assert not findings
    assert own["podCIDRs"] == [ip_network("10.1.0.0/24"), ip_network("fd01:0:0:3::/64")]
    assert own["srv6Locators"] == [ip_network("fcbb:bb01:1::/48")]
    assert own["egressIPs"] == []


def test_a_claim_that_is_no_subnet_is_a_finding_and_the_rest_stays() -> None:
    claims = [
        claim("podcidr", "nonsense", 0, "east-1"),
        claim("podcidr", "10.1.0.0_16_24", 0, "east-1"),
    ]
    own, findings = own_prefixes(EAST1, claims, [], NODES)
    assert own["podCIDRs"] == [ip_network("10.1.0.0/24")]
    assert [(f.code, f.object) for f in findings] == [("B212", "podcidr/nonsense/number/0")]


def test_every_gateway_has_the_egress_addresses_and_no_other_node() -> None:
    both = [ip_network("198.51.100.10/32"), ip_network("2001:db8:100::10/128")]
    assert own_prefixes(EAST2, [], [policy("erp")], NODES)[0]["egressIPs"] == both
    assert own_prefixes(EAST1, [], [policy("erp")], NODES)[0]["egressIPs"] == []
    assert own_prefixes(EAST3, [], [policy("erp")], NODES)[0]["egressIPs"] == both
    first = replace(policy("erp"), max_gateways=1)
    assert own_prefixes(EAST3, [], [first], NODES)[0]["egressIPs"] == []


def test_a_shared_address_belongs_to_the_oldest_policys_gateways() -> None:
    anywhere = policy("a", Selector(), created="2026-02-01T00:00:00Z")
    older = policy("b", created="2026-01-01T00:00:00Z")
    assert own_prefixes(EAST1, [], [anywhere, older], NODES)[0]["egressIPs"] == []
    assert len(own_prefixes(EAST2, [], [anywhere, older], NODES)[0]["egressIPs"]) == 2


def test_a_peer_that_selects_no_node_is_a_finding() -> None:
    address = ip_address("10.99.0.1")
    nowhere = Selector((Requirement("role", "In", ("router",)),))
    peers = [
        BGPPeer("good", GATEWAY, address, 65000, 65101, ()),
        BGPPeer("lost", nowhere, address, 65000, 65101, (), origin="peers.yaml"),
    ]
    assert [(f.code, f.object) for f in unmatched(peers, NODES.values())] == [
        ("B202", "peers.yaml")
    ]


def test_pod_cidrs_that_the_cluster_has_handed_out_come_before_claims() -> None:
    cidr = ip_network("10.244.3.0/24")
    claims = [claim("podcidr", "10.1.0.0_16_24", 3, "east-1")]
    found, findings = own_prefixes(replace(EAST1, given=(cidr,)), claims, [], NODES)
    assert (found["podCIDRs"], findings) == ([cidr], [])
