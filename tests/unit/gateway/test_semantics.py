"""S1 to S19 of ``reference/egress.md`` 3, each by itself.

What is a matter of rows is tested here. What is a matter of packets is tested on the wire, and here
it is only looked whether the test is there (``ON_THE_WIRE``).
"""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from gateway.findings import CONFLICT, NO_GATEWAY
from gateway.policy import EgressPolicy
from gateway.rows import Action, EgressRow
from mesh.core.model import Namespace, Node, NodeKey, Pod, Selector
from mesh.core.strict import Wrong, parse_yaml
from mesh.objects.kinds import KINDS
from mesh.objects.schema import Parsed, Place, head
from tests.fixtures.egress import egress_rows, gateway_rows, gateways_of, plan

TESTS = Path(__file__).parent.parent.parent
CLUSTER = """
apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata: {name: %s, creationTimestamp: "%s"}
spec:
  selectors: [{podSelector: {matchLabels: {app: client}}}]
  destinationCIDRs: [%s]
  excludedCIDRs: [%s]
  %s
"""
ONE = "egressGateway: {nodeSelector: {matchLabels: {role: gw}}, egressIP: 198.51.100.10}"
NODES = [
    Node("east", name, (ip_address(address),), labels=(("role", role),))
    for name, address, role in (
        ("c", "10.99.0.13", "gw"),
        ("a", "10.99.0.11", "none"),
        ("b", "10.99.0.12", "gw"),
        ("d", "10.99.0.14", "other"),
    )
]
PODS = [Pod("east", "shop", "client", "a", labels=(("app", "client"),))]


def read(text: str) -> Parsed:
    (document,) = parse_yaml(text)
    found = head(document)
    return KINDS.parse(found, Place("east", "m.yaml", KINDS.key_of(found)), document)


def parsed(
    gateways: str = ONE, to: str = "10.20.0.0/16", *, excluded: str = "", name: str = "erp",
    created: str = "2026-01-01T00:00:00Z",
) -> Parsed:  # fmt: skip
    return read(CLUSTER % (name, created, to, excluded, gateways))


def row(*arguments: str, **more: str) -> EgressPolicy:
    made = parsed(*arguments, **more).row
    assert isinstance(made, EgressPolicy)
    return made


def rows(*policies: EgressPolicy) -> dict[str, EgressRow]:
    found = plan(policies, PODS, {}, {NodeKey("east", one.name): one for one in NODES})
    made = egress_rows(found, dict.fromkeys(found.covered.values(), 1))
    return {str(key.network): value for key, value in made.items()}


TRANSLATED = EgressRow(Action.TRANSLATE, ip_address("198.51.100.10"))


def test_s1_interface_and_egress_ip_together_refuse_the_policy() -> None:
    both = ONE.replace("egressIP", "interface: eth1, egressIP")
    with pytest.raises(Wrong, match=r"spec\.egressGateway: interface and egressIP exclude"):
        parsed(both)


@pytest.mark.parametrize("more", ["", ", interface: eth1"])
def test_s2_the_address_of_an_interface_is_not_used_and_nothing_leaves(more: str) -> None:
    """Ours differs: a node's own address would share its ports with the host (section 8)."""
    found = parsed(ONE.replace(", egressIP: 198.51.100.10", more))
    assert [one.code for one in found.findings] == ["M106"]
    assert rows(found.row) == {"10.20.0.0/16": EgressRow(Action.NO_ADDRESS)}


def test_s3_the_address_need_not_be_on_a_device_of_the_gateway() -> None:
    assert rows(row()) == {"10.20.0.0/16": TRANSLATED}


@pytest.mark.parametrize("to", ['"2001:db8::/32"', '10.20.0.0/16, "2001:db8::/32"'])
def test_s4_an_address_and_a_destination_of_another_family_refuse_the_policy(to: str) -> None:
    with pytest.raises(Wrong, match=r"egressGateway\.egressIP: .* differ in family"):
        parsed(ONE, to)


def test_s5_the_gateway_is_the_first_selected_node_by_name() -> None:
    assert gateways_of(row(), NODES) == ["b"]


def test_s6_without_a_gateway_the_source_node_drops() -> None:
    nowhere = row(ONE.replace("gw", "nobody"))
    assert rows(nowhere) == {"10.20.0.0/16": EgressRow(Action.NO_GATEWAY)}
    found = plan([nowhere], PODS, {}, {NodeKey("east", one.name): one for one in NODES})
    assert [one.code for one in found.findings] == [NO_GATEWAY]


def test_s7_an_exclusion_falls_through_and_a_longer_destination_inside_it_does_not() -> None:
    one = row(ONE, "10.20.0.0/16, 10.20.9.8/32", excluded="10.20.9.0/24, 10.30.0.0/16")
    assert rows(one) == {
        "10.20.0.0/16": TRANSLATED,
        "10.20.9.0/24": EgressRow(Action.EXCLUDED),
        "10.20.9.8/32": TRANSLATED,
    }


def test_s8_every_entry_gives_a_gateway_and_any_of_them_carries_any_address() -> None:
    several = """egressGateways:
  - {nodeSelector: {matchLabels: {role: gw}}, egressIP: 198.51.100.10}
  - {nodeSelector: {matchLabels: {role: other}}, egressIP: 198.51.100.11}"""
    one = row(f"{ONE}\n  {several}")
    assert gateways_of(one, NODES) == ["b", "d"]
    found = plan([one], PODS, {}, {NodeKey("east", node.name): node for node in NODES})
    both = tuple(map(ip_address, ("10.99.0.12", "10.99.0.14")))
    assert gateway_rows(found) == dict.fromkeys(one.addresses, both)
    assert len(one.addresses) == 2


def test_s11_a_destination_beats_whatever_comes_after_egress_policies() -> None:
    """A policy for everything covers what native routing and masquerade would leave alone."""
    assert rows(row(ONE, "0.0.0.0/0")) == {"0.0.0.0/0": TRANSLATED}


def test_s14_rows_are_networks_of_a_class_whatever_the_number_of_pods() -> None:
    pods = [Pod("east", "shop", f"p{n}", "a", labels=(("app", "client"),)) for n in range(50)]
    found = plan([row()], pods, {}, {NodeKey("east", one.name): one for one in NODES})
    assert len(found.covered) == 50
    assert len(egress_rows(found, dict.fromkeys(found.covered.values(), 1))) == 1


def test_s17_a_pod_of_any_cluster_that_shares_the_mesh_may_have_the_address_as_destination() -> (
    None
):
    """A namespace is matched by its labels, as everywhere, with no object of Cilium's."""
    selector = "podSelector: {matchLabels: {app: client}}"
    by_space = CLUSTER.replace(selector, "namespaceSelector: {matchLabels: {team: a}}")
    found = read(by_space % ("erp", "2026-01-01T00:00:00Z", "10.0.0.0/8", "", ONE))
    spaces = {"shop": Namespace("east", "shop", (("team", "a"),))}
    assert len(plan([found.row], PODS, spaces, {}).covered) == 1


def test_s18_the_oldest_of_two_policies_has_the_network_and_the_other_a_finding() -> None:
    other = ONE.replace("198.51.100.10", "198.51.100.11")
    younger = row(other, name="a", created="2026-01-02T00:00:00Z")
    assert rows(younger, row()) == {"10.20.0.0/16": TRANSLATED}
    found = plan([younger, row()], PODS, {}, {NodeKey("east", n.name): n for n in NODES})
    assert [(one.code, one.object) for one in found.findings] == [
        (CONFLICT, "m.yaml CiliumEgressGatewayPolicy/a")
    ]


#: What only packets show: where it is shown.
ON_THE_WIRE = {
    "S3": ("packet/test_drops.py", "NO_EGRESS_IP"),
    "S6": ("packet/test_gateways.py", "test_no_gateway_at_all"),
    "S8": ("packet/test_gateways.py", "test_connections_are_spread_and_each_stays"),
    "S9": ("packet/test_walk_egress.py", "test_the_mesh_is_never_translated"),
    "S10": ("packet/test_walk_egress.py", "test_what_legacy_opened_is_answered_with_the_pods_own_"),
    "S12": ("packet/test_walk_egress.py", "test_legacy_sees_the_egress_address_and_a_port_of_the_"),
    "S13": ("packet/test_walk_egress.py", "test_a_mapping_outlives_its_policy"),
    "S15": ("lab/test_no_leak.py", "test_a_policy_that_changes_while_the_agent_is_dead_uncovers_"),
    "S16": ("lab/test_changes.py", "test_live_connections_keep_an_egress_address_that_the_policy_"),
    "S19": ("packet/test_drops.py", "NAT_UNSUPPORTED_PROTOCOL"),
}


@pytest.mark.parametrize("number", ON_THE_WIRE)
def test_what_packets_show_is_tested_on_the_wire(number: str) -> None:
    file, text = ON_THE_WIRE[number]
    assert text in (TESTS / file).read_text()


def test_every_semantic_has_a_test() -> None:
    here = {f"S{n}" for n in re.findall(r"def test_s(\d+)_", Path(__file__).read_text())}
    assert here | set(ON_THE_WIRE) == {f"S{n}" for n in range(1, 20)}


# IsovalentEgressGatewayPolicy

ISOVALENT = """
apiVersion: isovalent.com/v1
kind: IsovalentEgressGatewayPolicy
metadata: {name: erp}
spec:
  selectors: [{podSelector: {matchLabels: {app: client}}}]
  destinationCIDRs: [10.20.0.0/16]
  egressGroups:
  - {nodeSelector: {matchLabels: {role: gw}}, egressIP: 198.51.100.10, maxGatewayNodes: 2}
  - {nodeSelector: {matchLabels: {role: other}}, egressIP: 198.51.100.10}
"""


def test_groups_of_gateways_each_have_their_own_maximum() -> None:
    found = read(ISOVALENT)
    assert found.findings == ()
    assert gateways_of(found.row, NODES) == ["b", "c", "d"]
    assert found.row.addresses == (ip_address("198.51.100.10"),)


@pytest.mark.parametrize(
    "line", ["egressCIDRs: [198.51.100.0/28]", "azAffinity: localOnly", "bgpEnabled: true"]
)
def test_what_has_no_meaning_here_is_a_finding_that_names_the_field(line: str) -> None:
    found = read(f"{ISOVALENT}  {line}\n")
    assert [(one.code, one.field) for one in found.findings] == [
        ("M106", f"spec.{line.partition(':')[0]}")
    ]
    assert found.row == replace(read(ISOVALENT).row)


def test_a_group_without_an_address_takes_those_of_the_others() -> None:
    found = read(ISOVALENT.replace("other}}, egressIP: 198.51.100.10", "other}}"))
    assert [one.field for one in found.findings] == ["spec.egressGroups[1].egressIP"]
    assert found.row.destinations == (ip_network("10.20.0.0/16"),)
    assert Selector() not in [selector for selector, _ in found.row.choices]
