"""`meshgate egress explain`: the policy that decides, and why the others do not."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from gateway.explain import Explained, explain, path_of

POD = {"cluster": "east", "namespace": "shop", "name": "client-1", "node": "east-1"}
GATEWAYS = [{"node": "east-2", "healthy": True, "since": None}]
BLOCKS = [
    {"address": "198.51.100.10", "node": node, "first": first, "last": first + 255}
    for node, first in (("east-1", 1024), ("east-2", 1280))
]


def policy(name: str, *to: str, **more: Any) -> dict[str, Any]:
    return {
        "policy": name,
        "created": "",
        "destinations": list(to),
        "excluded": [],
        "addresses": ["198.51.100.10"],
        "gateways": GATEWAYS,
        "pods": ["shop/client-1"],
        "labelled": False,
    } | more


def said(*policies: dict[str, Any], to: str = "192.0.2.10") -> Explained:
    return explain(POD, ip_address(to), policies, BLOCKS)


def test_the_longest_network_decides_and_the_others_hear_why() -> None:
    found = said(
        policy("wide", "0.0.0.0/0"), policy("erp", "192.0.2.0/24"), policy("x", "10.0.0.0/8")
    )
    assert (found.policy, found.network, found.address) == ("erp", "192.0.2.0/24", "198.51.100.10")
    assert found.verdict == "translated to 198.51.100.10"
    assert (found.gateways, found.blocks) == (GATEWAYS, BLOCKS[:1])
    assert found.lost == {
        "wide": "0.0.0.0/0 is shorter than 192.0.2.0/24 of erp",
        "x": "no network of it has the destination",
    }


def test_an_address_leaves_by_the_path_that_the_node_says() -> None:
    row = {"cluster": "east", "node": "east-1", "address": "198.51.100.10", "path": "direct"}
    others = [
        row | {"node": "east-2"},
        row | {"cluster": "west"},
        row | {"address": "198.51.100.11"},
    ]
    assert path_of(POD, "198.51.100.10", [*others, row]) == "direct"
    assert path_of(POD, "198.51.100.10", others) == "gateway"
    assert path_of(POD, None, [row]) is None


def test_of_two_policies_with_the_same_network_the_older_one_decides() -> None:
    older = policy("z", "192.0.2.0/24", created="2026-01-01T00:00:00+00:00")
    found = said(policy("a", "192.0.2.0/24"), older)
    assert (found.policy, found.lost) == ("z", {"a": "z is older, and has 192.0.2.0/24 too"})


def test_an_exclusion_and_a_pod_that_nobody_covers_leave_with_their_own_address() -> None:
    found = said(policy("erp", "192.0.2.0/24", excluded=["192.0.2.8/29"]))
    assert (found.verdict, found.address) == (
        "excluded by erp: it leaves with the pod's own address", None
    )  # fmt: skip
    assert said(policy("erp", "192.0.2.0/24", pods=[])).policy is None


def test_what_is_dropped_says_which_reason() -> None:
    verdicts = {
        said(policy("p", "::/0", addresses=["198.51.100.10"]), to="2001:db8::1").verdict,
        said(policy("p", "0.0.0.0/0", gateways=[])).verdict,
        said(policy("p", "0.0.0.0/0", addresses=["198.51.100.99"])).verdict,
    }
    assert verdicts == {
        "dropped (NO_EGRESS_IP): p has no IPv6 address",
        "dropped (NO_EGRESS_GATEWAY): p has no gateway",
        "dropped (NO_BLOCK): east-1 has no ports of 198.51.100.99",
    }


def test_a_policy_that_selects_learned_networks_may_come_first() -> None:
    found = said(policy("erp", "192.0.2.0/24"), policy("bgp", labelled=True))
    assert found.policy == "erp"
    assert "by labels" in found.lost["bgp"]
