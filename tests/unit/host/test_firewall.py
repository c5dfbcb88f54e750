"""What a firewall certainly stops; chains are as ``nft -j`` prints them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mesh.host.firewall import Chain, ChainKey, judged, probes

FILTER = ("inet", "filter")
ASKED = probes("eth0", "mgp", 8472)
ACCEPT, DROP, REJECT = {"accept": None}, {"drop": None}, {"reject": {"type": "tcp reset"}}


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def state(*states: str) -> dict[str, Any]:
    return match({"ct": {"key": "state"}}, list(states), "in")


def meta(key: str, value: Any, op: str = "==") -> dict[str, Any]:
    return match({"meta": {"key": key}}, value, op)


def field(protocol: str, name: str, value: Any, op: str = "==") -> dict[str, Any]:
    return match({"payload": {"protocol": protocol, "field": name}}, value, op)


PORT = field("udp", "dport", 8472)
KNOWN = [state("established", "related"), ACCEPT]


def stopped(
    hook: str, policy: str, *rules: Sequence[dict[str, Any]], other: Sequence[Any] = ()
) -> list[str]:
    """The findings about one base chain, and a chain ``other``."""
    chains: dict[ChainKey, Chain] = {
        (*FILTER, hook): Chain((*FILTER, hook), [{"expr": one} for one in rules], hook, policy),
        (*FILTER, "other"): Chain((*FILTER, "other"), [{"expr": one} for one in other]),
    }
    return [one.text for one in judged(chains, ASKED)]


JUMP = [{"jump": {"target": "other"}}]
GOTO = [{"goto": {"target": "other"}}]
VMAP_KEY = {"ct": {"key": "state"}}
STATES = {"set": [["established", ACCEPT], ["invalid", DROP]]}

STOPS: list[tuple[str, list[Any], list[Any]]] = [
    ("drop", [KNOWN], []),
    ("accept", [KNOWN, [PORT, {"counter": {}}, DROP]], []),
    ("accept", [[meta("l4proto", "udp"), REJECT]], []),
    ("accept", [[field("udp", "dport", {"range": [8000, 9000]}), DROP]], []),
    ("accept", [[field("udp", "dport", {"set": [53, 8472]}), DROP]], []),
    ("accept", [[meta("iifname", "eth*"), {"log": None}, DROP]], []),
    ("accept", [[meta("iifname", "lo", "!="), DROP]], []),
    ("accept", [JUMP], [[PORT, DROP]]),
    ("drop", [JUMP], [[{"return": None}], [ACCEPT]]),
    ("drop", [GOTO, [PORT, ACCEPT]], []),
    ("drop", [[field("tcp", "dport", 22), ACCEPT], [field("ip6", "saddr", "fd00::1"), ACCEPT]], []),
    ("drop", [[{"vmap": {"key": VMAP_KEY, "data": STATES}}]], []),
]


@pytest.mark.parametrize(("policy", "rules", "other"), STOPS)
def test_a_certain_drop_of_the_overlay_is_told(
    policy: str, rules: list[Any], other: list[Any]
) -> None:
    (text,) = stopped("input", policy, *rules, other=other)
    assert text.startswith("table inet filter chain input of the host's firewall drops")
    assert "udp dport 8472 accept" in text


PASSES: list[tuple[str, list[Any], list[Any]]] = [
    ("accept", [], []),
    ("drop", [[PORT, ACCEPT]], []),
    ("drop", [[field("ip", "saddr", "@nodes"), ACCEPT]], []),
    ("drop", [[{"xt": None}, ACCEPT]], []),
    ("accept", [[{"xt": None}, DROP]], []),
    ("accept", [[{"limit": {"rate": 5}}, PORT, DROP]], []),
    ("accept", [[field("udp", "dport", 8473), DROP]], []),
    ("accept", [[field("tcp", "dport", 8472), DROP]], []),
    ("accept", [[field("ip6", "nexthdr", "udp"), DROP]], []),
    ("drop", [JUMP], [[PORT, ACCEPT]]),
    ("drop", [[{"vmap": {"key": VMAP_KEY, "data": "@states"}}]], []),
    ("drop", [[{"jump": {"target": "unknown"}}]], []),
    ("accept", [[{"unheard": {}}, *JUMP]], [[DROP]]),
]


@pytest.mark.parametrize(("policy", "rules", "other"), PASSES)
def test_what_may_pass_is_not_told(policy: str, rules: list[Any], other: list[Any]) -> None:
    assert stopped("input", policy, *rules, other=other) == []


@pytest.mark.parametrize(
    ("policy", "rules"),
    [
        ("drop", [[meta("iifname", "mgp*"), ACCEPT]]),
        ("accept", [[meta("oifname", "mgp*"), DROP]]),
    ],
)
def test_a_firewall_that_lets_no_answer_back_is_told(policy: str, rules: list[Any]) -> None:
    four, six = stopped("forward", policy, *rules)
    assert "answers over IPv4" in four
    assert "answers over IPv6" in six
    assert 'oifname "mgp*" ct state established,related accept' in four
    assert stopped("forward", policy, KNOWN, *rules) == []


def test_conntrack_knows_every_answer() -> None:
    """The stack gets both directions, so kube-proxy's chains may drop what is invalid."""
    assert stopped("forward", "accept", [state("invalid"), DROP]) == []


def test_forwarding_that_is_dropped_is_told_for_both_families() -> None:
    """As Docker leaves it."""
    docker = [meta("iifname", "docker*"), ACCEPT]
    four, six = stopped("forward", "drop", KNOWN, docker)
    assert 'iifname "mgp*" accept' in four
    assert ("IPv4" in four, "IPv6" in six) == (True, True)
    assert stopped("forward", "drop", KNOWN, docker, [meta("iifname", "mgp*"), ACCEPT]) == []


def test_beside_another_cni_what_pods_forward_is_not_asked_for() -> None:
    assert [one.hook for one in probes("eth0", "", 8473)] == ["input"]
