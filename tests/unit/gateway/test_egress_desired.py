"""Rows of the egress maps, and what `meshgate egress list` shows."""

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest

from gateway.blocks import (
    OWN_BLOCKS,
    Block,
    BlockOwner,
)
from gateway.blocks import block_rows as listed_blocks
from gateway.nouns import egress_rows as listed
from gateway.nouns import gateway_view
from gateway.plan import EgressPlan, egress_classes
from gateway.policy import EgressPolicy
from gateway.rows import (
    Action,
    Binding,
    EgressKey,
    EgressRow,
    pods_of_addresses,
)
from mesh.core.model import Claim, ClaimKey, Node, NodeKey, Pod, PodKey, Selector
from mesh.pods.links import Device
from mesh.pods.rows import LocalPod, PodIdentity, pod_rows
from tests.fixtures.egress import (
    block_owners,
    block_rows,
    egress_rows,
    gateway_rows,
    own_blocks,
)

V4, V6 = ip_address("198.51.100.10"), ip_address("2001:db8:100::10")
GATEWAY = Node("east", "east-2", (ip_address("fd99::12"), ip_address("10.99.0.12")))
ENDPOINT = IPv4Address("10.99.0.12")
CLIENT = PodKey("east", "shop", "client-1")


def policy(name: str, to: tuple[str, ...], excluded: tuple[str, ...] = ()) -> EgressPolicy:
    networks = tuple(ip_network(one) for one in to)
    out = tuple(ip_network(one) for one in excluded)
    return EgressPolicy(name, (), networks, out, (V4,), Selector())


def plan(*policies: EgressPolicy, gateways: tuple[Node, ...] = (GATEWAY,)) -> EgressPlan:
    names = tuple(one.name for one in policies)
    return EgressPlan(
        {one.name: one for one in policies}, {CLIENT: names}, dict.fromkeys(names, gateways)
    )


def rows(found: EgressPlan) -> dict[str, EgressRow]:
    classes = dict.fromkeys(found.covered.values(), 1)
    made = egress_rows(found, classes)
    assert {key.egress_class for key in made} <= {1}
    return {str(key.network): row for key, row in made.items()}


def test_a_destination_is_translated_and_an_exclusion_inside_it_is_not() -> None:
    found = rows(plan(policy("erp", ("10.20.0.0/16",), ("10.20.9.0/24", "10.99.0.0/16"))))
    assert found == {
        "10.20.0.0/16": EgressRow(Action.TRANSLATE, V4),
        "10.20.9.0/24": EgressRow(Action.EXCLUDED),
    }


def test_s7_a_destination_inside_an_exclusion_still_matches() -> None:
    found = rows(plan(policy("erp", ("10.20.0.0/16", "10.20.9.8/32"), ("10.20.9.0/24",))))
    assert found["10.20.9.8/32"] == EgressRow(Action.TRANSLATE, V4)
    assert found["10.20.9.0/24"] == EgressRow(Action.EXCLUDED)


def test_s6_without_a_gateway_the_source_node_drops() -> None:
    found = plan(policy("erp", ("10.20.0.0/16",), ("10.20.9.0/24",)), gateways=())
    assert rows(found) == {
        "10.20.0.0/16": EgressRow(Action.NO_GATEWAY),
        "10.20.9.0/24": EgressRow(Action.EXCLUDED),
    }
    assert gateway_rows(found) == {}


def test_a_family_without_an_address_is_dropped_and_never_leaks() -> None:
    found = rows(plan(policy("erp", ("10.20.0.0/16", "2001:db8:2::/64"))))
    assert found["2001:db8:2::/64"] == EgressRow(Action.NO_ADDRESS)


def test_s3_a_policy_without_any_address_drops_what_it_covers() -> None:
    one = EgressPolicy("p", (), (ip_network("0.0.0.0/0"),), (), (), Selector())
    assert rows(plan(one)) == {"0.0.0.0/0": EgressRow(Action.NO_ADDRESS)}


def test_s18_of_two_policies_with_the_same_network_the_first_wins() -> None:
    other = EgressPolicy("b", (), (ip_network("10.20.0.0/16"),), (), (V6,), Selector())
    found = rows(plan(policy("a", ("10.20.0.0/16",)), other))
    assert found == {"10.20.0.0/16": EgressRow(Action.TRANSLATE, V4)}
    wide = policy("a", ("10.0.0.0/8",), ("10.20.0.0/16",))
    assert rows(plan(wide, other))["10.20.0.0/16"] == EgressRow(Action.EXCLUDED)


def test_a_class_keeps_the_rows_of_its_remaining_policies() -> None:
    """A pod's entry may still carry the class of a set that lost a policy."""
    found = plan(policy("a", ("10.20.0.0/16",)))
    made = egress_rows(found, {("a", "gone"): 7, ("a",): 8})
    network = ip_network("10.20.0.0/16")
    assert made[EgressKey(7, network)] == made[EgressKey(8, network)]


def test_rows_are_classes_times_networks_whatever_the_number_of_pods() -> None:
    one = policy("erp", ("10.20.0.0/16", "10.30.0.0/16"))
    pods = {PodKey("east", "shop", f"p{n}"): ("erp",) for n in range(1000)}
    found = EgressPlan({"erp": one}, pods, {"erp": (GATEWAY,)})
    assert len(egress_rows(found, egress_classes(pods.values()))) == 2


def test_the_gateways_of_an_address_are_tunnel_endpoints() -> None:
    one = policy("erp", ("10.20.0.0/16",))
    assert gateway_rows(plan(one)) == {V4: (ENDPOINT,)}
    other = Node("east", "east-3", (ip_address("10.99.0.13"),))
    both = plan(one, gateways=(GATEWAY, other))
    assert gateway_rows(both) == {V4: (ENDPOINT, IPv4Address("10.99.0.13"))}
    assert [one["node"] for one in listed(both, "east")[0]["gateways"]] == ["east-2", "east-3"]


def test_covered_pods_have_a_class_at_every_address() -> None:
    addresses = (ip_address("10.1.0.7"), ip_address("fd01::7"))
    pod = Pod("east", "shop", "client-1", "east-1", addresses=addresses)
    device, identity = Device(7, "m", "h", addresses), PodIdentity(7, 65537)
    row = LocalPod(7, 65537, "m", "h", (("egress_class", 9),))
    assert pod_rows(CLIENT, pod, device, identity, 9, names=["egress_class"]) == dict.fromkeys(
        addresses, row
    )
    assert pod_rows(CLIENT, None, device, identity, 9, names=["egress_class"]) == {}


def claim(number: int, owner: str, pool: str = str(V4), epoch: int = 5) -> Claim:
    return Claim("block", pool, number, owner, epoch)


def test_blocks_come_from_claims() -> None:
    found = block_rows([claim(0, "east-1/0"), claim(251, "east-2/3", epoch=9)], "east", 256)
    assert found == [
        Block(V4, 0, 1024, 1279, "east", "east-1", 5),
        Block(V4, 251, 65280, 65535, "east", "east-2", 9),
    ]


def test_claims_that_are_no_blocks_are_left_out() -> None:
    wrong = [
        claim(252, "east-1/0"),
        claim(-1, "east-1/0"),
        claim(3, "east-1/0", pool="nonsense"),
        Claim("identity", "labels", 3, "k8s:a=b;", 5),
    ]
    assert block_rows(wrong, "east", 256) == []
    nodes = {NodeKey("east", "east-1"): GATEWAY}
    assert block_owners(wrong[:3], nodes, 256) == {}
    assert list(listed_blocks(wrong[:3], "east", 256)) == []


def test_only_blocks_of_known_nodes_have_an_owner() -> None:
    nodes = {NodeKey("east", "east-2"): GATEWAY}
    claims = [claim(0, "east-2/0"), claim(1, "east-9/0")]
    owner = BlockOwner(ENDPOINT, 5)
    assert block_owners(claims, nodes, 256) == {ClaimKey("block", str(V4), 0): owner}


def test_a_nodes_own_blocks_come_by_their_place_and_are_bounded() -> None:
    claims = [claim(n, f"east-1/{50 - n}") for n in range(1, 41)]
    claims += [claim(50, "east-2/0"), claim(4, "east-1/0", pool=str(V6))]
    found = own_blocks(claims, "east-1")
    assert found == {V4: tuple(range(40, 40 - OWN_BLOCKS, -1)), V6: (4,)}


def test_pods_that_share_an_address_are_counted_once_each() -> None:
    policies = {name: policy(name, ("192.0.2.0/24",)) for name in ("one", "two")}
    covered = {
        CLIENT: ("one", "two"),
        PodKey("east", "shop", "client-2"): ("two", "gone"),
        PodKey("east", "shop", "client-3"): ("gone",),
    }
    assert pods_of_addresses(covered, policies) == {V4: 2}
    assert pods_of_addresses({}, policies) == {}


def test_the_list_for_the_command_line() -> None:
    assert listed(plan(policy("erp", ("10.20.0.0/16",))), "east") == [
        {
            "cluster": "east",
            "policy": "erp",
            "addresses": ["198.51.100.10"],
            "gateway": "east-2",
            "gateways": [gateway_view("east-2", "")],
            "state": "active",
            "pods": ["shop/client-1"],
        }
    ]
    assert listed(plan(policy("erp", ()), gateways=()), "east")[0]["gateway"] is None


@pytest.mark.parametrize(
    ("mapping", "filtering", "binding"),
    [
        ("endpoint-dependent", "address-dependent", Binding.NONE),
        ("endpoint-independent", "address-dependent", Binding.FILTERED),
        ("endpoint-independent", "endpoint-independent", Binding.OPEN),
    ],
)
def test_mapping_and_filtering_are_in_the_row(
    mapping: Any, filtering: Any, binding: Binding
) -> None:
    one = replace(policy("a", ("192.0.2.0/24",)), mapping=mapping, filtering=filtering)
    assert rows(plan(one))["192.0.2.0/24"].binding is binding
