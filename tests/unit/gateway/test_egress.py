"""Coverage, gateways, classes and block arithmetic of egress policies (egress.md 3 and 10.3)."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import pairwise

import pytest

from gateway.blocks import block_count, block_of, block_ports
from gateway.gateways import DRAINED
from gateway.plan import (
    CONFLICT,
    NO_ADDRESS,
    NO_GATEWAY,
    RETIRED_CLASSES,
    SHARED_ADDRESS,
    egress_classes,
    exclusions,
)
from gateway.policy import EgressPolicy, Fields
from mesh.core.model import (
    Namespace,
    Node,
    NodeKey,
    Pod,
    PodKey,
    PodSelector,
    Requirement,
    Selector,
)
from tests.fixtures.egress import Planned, gateways_of, plan


def choose(**labels: str) -> Selector:
    return Selector(tuple(Requirement(key, "In", (value,)) for key, value in labels.items()))


def policy(
    name: str,
    app: str = "client",
    *,
    to: tuple[str, ...] = ("192.0.2.0/24",),
    excluded: tuple[str, ...] = (),
    addresses: tuple[str, ...] = ("198.51.100.10",),
    gateways: Selector | None = None,
    created: str = "",
) -> EgressPolicy:
    return EgressPolicy(
        name,
        selectors=(PodSelector(None, choose(app=app)),),
        destinations=tuple(ip_network(one) for one in to),
        excluded=tuple(ip_network(one) for one in excluded),
        addresses=tuple(ip_address(one) for one in addresses),
        gateways=choose(role="gateway") if gateways is None else gateways,
        origin=f"{name}.yaml",
        created=created,
    )


def node(name: str, *addresses: str, **labels: str) -> Node:
    found = tuple(ip_address(one) for one in addresses or ("10.99.0.9",))
    return Node("east", name, found, labels=tuple(sorted(labels.items())))


def pod(name: str, on: str = "east-1", namespace: str = "shop", **labels: str) -> Pod:
    return Pod("east", namespace, name, on, labels=tuple(sorted(labels.items())))


NODES = {
    NodeKey("east", one.name): one
    for one in (
        node("east-1", "10.99.0.11"),
        node("east-2", "fd99::12", "10.99.0.12", role="gateway"),
        node("east-3", "10.99.0.13", role="gateway"),
    )
}
CLIENT = PodKey("east", "shop", "client-1")
CLIENTS = [pod("client-1", app="client"), pod("client-2", "east-2", app="client"), pod("web-1")]


def planned(*policies: EgressPolicy, pods: list[Pod] | None = None) -> Planned:
    return plan(policies, CLIENTS if pods is None else pods, {}, NODES)


def codes(found: Planned) -> list[tuple[str, str]]:
    return [(finding.code, finding.object) for finding in found.findings]


def test_a_policy_covers_the_pods_that_one_of_its_selectors_selects() -> None:
    found = planned(policy("erp"))
    assert found.covered == {CLIENT: ("erp",), PodKey("east", "shop", "client-2"): ("erp",)}
    assert codes(found) == []


def test_findings_name_the_fields_of_their_own_document() -> None:
    """A CiliumEgressGatewayPolicy has no ``gateways`` and no ``addresses``."""
    own = Fields("spec.egressGateway.nodeSelector", "spec.egressGateway.egressIP")
    theirs = replace(policy("erp", gateways=choose(role="none")), fields=own)
    assert [one.field for one in planned(theirs).findings] == ["spec.egressGateway.nodeSelector"]
    v6 = replace(policy("erp", to=("2001:db8::/32",)), fields=own)
    assert [one.field for one in planned(v6).findings] == ["spec.egressGateway.egressIP (IPv6)"]


def test_selectors_are_ored() -> None:
    both = EgressPolicy(
        "both",
        (PodSelector(None, choose(app="a")), PodSelector(None, choose(app="b"))),
        (ip_network("192.0.2.0/24"),),
        (),
        (ip_address("198.51.100.10"),),
        Selector(),
    )
    found = planned(both, pods=[pod("a", app="a"), pod("b", app="b"), pod("c", app="c")])
    assert sorted(key.name for key in found.covered) == ["a", "b"]


def test_a_namespace_is_selected_by_its_labels_even_without_an_object() -> None:
    chosen = Selector((Requirement("kubernetes.io/metadata.name", "In", ("shop",)),))
    teams = choose(team="billing")
    pods = [pod("p", namespace="shop"), pod("q", namespace="bank")]
    spaces = {"bank": Namespace("east", "bank", (("team", "billing"),))}
    for selector, names in ((chosen, ["p"]), (teams, ["q"]), (Selector(), ["p", "q"])):
        one = EgressPolicy("n", (PodSelector(selector, None),), (), (), (), Selector())
        assert sorted(key.name for key in plan([one], pods, spaces, NODES).covered) == names


def test_a_node_selector_looks_at_the_pods_node() -> None:
    one = EgressPolicy(
        "n", (PodSelector(None, Selector(), choose(role="gateway")),), (), (), (), Selector()
    )
    assert [key.name for key in planned(one).covered] == ["client-2"]


@pytest.mark.parametrize(
    ("selector", "most", "gateways"),
    [
        (choose(role="gateway"), 16, ["east-2", "east-3"]),
        (choose(role="gateway"), 1, ["east-2"]),
        (Selector(), 2, ["east-1", "east-2"]),
        (Selector(), 3, ["east-1", "east-2", "east-3"]),
        (choose(role="nobody"), 16, []),
        (Selector((Requirement("role", "In", ("gateway", "spare")),)), 16, ["east-2", "east-3"]),
        (Selector((Requirement("role", "NotIn", ("gateway",)),)), 16, ["east-1"]),
    ],
)
def test_s5_the_gateways_are_the_first_selected_nodes_by_name(
    selector: Selector, most: int, gateways: list[str]
) -> None:
    one = replace(policy("p", gateways=selector), max_gateways=most)
    assert gateways_of(one, reversed(NODES.values())) == gateways


def test_a_drained_node_is_no_gateway_unless_all_are_drained() -> None:
    one = policy("p", gateways=choose(role="gateway"))
    nodes = [node(name, f"10.99.0.{n}", role="gateway") for n, name in enumerate("abc", 1)]
    drained = [replace(each, labels=(*each.labels, DRAINED)) for each in nodes]
    assert gateways_of(one, [drained[0], *nodes[1:]]) == ["b", "c"]
    most_two = replace(one, max_gateways=2)
    assert gateways_of(most_two, [nodes[0], drained[1], nodes[2]]) == ["a", "c"]
    assert gateways_of(one, drained) == ["a", "b", "c"]


def test_a_node_without_ipv4_cannot_be_a_gateway() -> None:
    nodes = [node("a", "fd99::1"), node("b", "10.99.0.12")]
    assert gateways_of(policy("p", gateways=Selector()), nodes) == ["b"]


def test_s6_no_gateway_is_a_finding() -> None:
    found = planned(policy("p", gateways=choose(role="nobody")))
    assert found.gateways == {"p": ()}
    assert codes(found) == [(NO_GATEWAY, "p.yaml")]


def test_s4_a_family_without_an_address_is_a_finding() -> None:
    found = planned(policy("p", to=("192.0.2.0/24", "2001:db8:2::/64")))
    [finding] = found.findings
    assert (finding.code, finding.object) == (NO_ADDRESS, "p.yaml")
    assert "IPv6" in finding.text


def test_s7_only_exclusions_inside_a_destination_have_an_effect() -> None:
    one = policy(
        "p",
        to=("10.20.0.0/16", "2001:db8::/32"),
        excluded=("10.20.9.0/24", "10.0.0.0/8", "10.30.0.0/16", "10.20.0.0/16", "::/0"),
    )
    assert [str(n) for n in exclusions(one)] == ["10.20.9.0/24", "10.20.0.0/16"]


def test_s18_the_oldest_policy_comes_first_then_the_name_and_undated_ones_last() -> None:
    found = planned(
        policy("a"),
        policy("d", created="2026-01-02T00:00:00+00:00"),
        policy("c", created="2026-01-03T00:00:00+00:00"),
        policy("b", created="2026-01-02T00:00:00+00:00"),
    )
    assert list(found.policies) == ["b", "d", "c", "a"]
    assert found.covered[CLIENT] == ("b", "d", "c", "a")


def test_s18_the_loser_of_a_conflict_has_a_finding_that_names_both() -> None:
    older = policy("z", created="2026-01-01T00:00:00+00:00")
    found = planned(policy("a"), older)
    [finding] = [one for one in found.findings if one.code == CONFLICT]
    assert finding.object == "a.yaml"
    assert finding.text == (
        "Conflict: 192.0.2.0/24 of pod shop/client-1 (and 1 more) belongs to the older policy z"
        " (z.yaml)"
    )


@pytest.mark.parametrize(
    "other",
    [
        policy("b", to=("192.0.2.0/25",)),
        policy("b", app="other"),
        policy("b", to=("2001:db8::/32",), addresses=("2001:db8::1",)),
    ],
)
def test_s18_other_networks_or_other_pods_are_no_conflict(other: EgressPolicy) -> None:
    assert codes(planned(policy("a"), other)) == []


def test_an_exclusion_conflicts_with_the_same_destination_of_another_policy() -> None:
    wide = policy("a", to=("10.0.0.0/8",), excluded=("10.20.0.0/16",))
    assert codes(planned(wide, policy("b", to=("10.20.0.0/16",)))) == [(CONFLICT, "b.yaml")]


def test_an_address_has_the_gateways_of_one_policy() -> None:
    other = policy("b", to=("203.0.113.0/24",), gateways=Selector())
    found = planned(policy("a"), other)
    [finding] = found.findings
    assert (finding.code, finding.object) == (SHARED_ADDRESS, "b.yaml")
    assert "east-2" in finding.text
    assert "east-1" in finding.text


def test_a_policy_without_gateway_does_not_take_the_address_from_the_next() -> None:
    found = planned(
        policy("a", gateways=choose(role="nobody")),
        policy("b", to=("203.0.113.0/24",)),
    )
    assert codes(found) == [(NO_GATEWAY, "a.yaml")]


# Classes


def test_pods_of_the_same_policies_share_a_class_and_no_class_is_zero() -> None:
    classes = egress_classes([("a",), ("a", "b"), ("a",)])
    assert sorted(classes) == [("a",), ("a", "b")]
    assert len({0, *classes.values()}) == 3
    assert all(0 < number < 1 << 32 for number in classes.values())


def test_a_class_is_the_same_after_a_restart_and_whatever_else_there_is() -> None:
    alone = egress_classes([("a", "b")])
    among = egress_classes([("x",), ("a", "b"), ("y",)], {("z",): 5})
    assert among["a", "b"] == alone["a", "b"]


def test_a_number_that_another_set_had_is_not_given_again() -> None:
    number = egress_classes([("a",)])["a",]
    classes = egress_classes([("a",)], {("gone",): number})
    assert classes["a",] == number + 1
    assert egress_classes([("a",)], {("a",): 77}) == {("a",): 77}


def test_a_class_that_no_pod_has_any_more_stays_for_a_while() -> None:
    """Pods' entries change after the rows of their new class are in, so the old ones must be."""
    before = egress_classes([("a", "b")])
    after = egress_classes([("a",)], before)
    assert after["a", "b"] == before["a", "b"]
    assert set(after) == {("a",), ("a", "b")}
    for number in range(RETIRED_CLASSES):
        after = egress_classes([(f"p{number}",)], after)
    assert ("a", "b") not in after
    assert len(after) == RETIRED_CLASSES + 1


# Blocks


@pytest.mark.parametrize(
    ("size", "holders"), [(64, 1008), (128, 504), (256, 252), (512, 126), (1024, 63)]
)
def test_holders_per_address(size: int, holders: int) -> None:
    assert block_count(size) == holders


@pytest.mark.parametrize(
    ("port", "block"), [(1023, None), (1024, 0), (1279, 0), (1280, 1), (65535, 251), (0, None)]
)
def test_the_block_of_a_port(port: int, block: int | None) -> None:
    assert block_of(port, 256) == block


@pytest.mark.parametrize("size", [8, 64, 256, 1024])
def test_blocks_tile_the_ports_from_1024_without_a_gap(size: int) -> None:
    ports = [block_ports(number, size) for number in range(block_count(size))]
    assert ports[0][0] == 1024
    assert ports[-1][1] == 65535
    assert all(one[1] + 1 == other[0] for one, other in pairwise(ports))
    assert all(block_of(last, size) == number for number, (_, last) in enumerate(ports))
