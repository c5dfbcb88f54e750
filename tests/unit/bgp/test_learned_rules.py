"""Import rules: what is accepted, what never is, and which labels communities become."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from bgp.learned.rows import State
from bgp.learned.rules import Ours, judged, labels_of, merged
from bgp.peer import ImportRule, PrefixMatch
from mesh.core.received import Received

OURS = Ours(
    {
        ip_network("10.1.0.0/16"): "the pool of pods",
        ip_network("10.1.7.0/24"): "a pod CIDR",
        ip_network("198.51.100.10/32"): "an egress address",
        ip_network("fd01::/48"): "the pool of pods",
    }
)
ROUTE = Received(ip_address("10.99.0.1"), communities=("65000:100", "65000:7"))


def match(text: str, ge: int | None = None, le: int | None = None) -> PrefixMatch:
    network = ip_network(text)
    longest = network.max_prefixlen if ge is not None else network.prefixlen
    return PrefixMatch(
        network, network.prefixlen if ge is None else ge, longest if le is None else le
    )


def accept(*prefixes: PrefixMatch, **fields: object) -> ImportRule:
    return ImportRule(accept=True, prefixes=prefixes, **fields)  # type: ignore[arg-type]


ALL_V4, ALL_V6 = match("0.0.0.0/0", 0, 32), match("::/0", 0, 128)
EVERYTHING = accept(ALL_V4, ALL_V6)


def state(prefix: str, *rules: ImportRule, row: Received = ROUTE) -> State:
    return judged(ip_network(prefix), row, rules, OURS)[0]


def test_without_rules_nothing_is_accepted() -> None:
    assert state("192.0.2.0/24") is State.NOT_ACCEPTED
    assert "no import rules" in judged(ip_network("192.0.2.0/24"), ROUTE, (), OURS)[1]


@pytest.mark.parametrize(
    ("prefix", "rule", "accepted"),
    [
        ("192.0.2.0/24", match("192.0.2.0/24"), True),
        ("192.0.2.0/25", match("192.0.2.0/24"), False),
        ("192.0.2.0/25", match("192.0.2.0/24", ge=25, le=26), True),
        ("192.0.2.0/24", match("192.0.2.0/24", ge=25, le=26), False),
        ("192.0.2.0/27", match("192.0.2.0/24", ge=25, le=26), False),
        ("192.0.2.0/32", match("192.0.2.0/24", le=32), True),
        ("192.0.3.0/24", match("192.0.2.0/24", le=32), False),
        ("2001:db8::/48", match("0.0.0.0/0", 0, 32), False),
        ("2001:db8::/48", match("2001:db8::/32", ge=48), True),
    ],
)
def test_a_prefix_list_has_networks_and_lengths(
    prefix: str, rule: PrefixMatch, *, accepted: bool
) -> None:
    wanted = State.USED if accepted else State.NOT_ACCEPTED
    assert state(prefix, accept(rule)) is wanted


def test_the_first_rule_that_matches_decides() -> None:
    refuse = ImportRule(accept=False, prefixes=(match("192.0.2.0/24"),))
    assert state("192.0.2.0/24", refuse, EVERYTHING) is State.NOT_ACCEPTED
    assert state("192.0.2.0/24", EVERYTHING, refuse) is State.USED
    why = judged(ip_network("192.0.2.0/24"), ROUTE, (refuse, EVERYTHING), OURS)[1]
    assert why == "spec.import[0] refuses it"


def test_a_rule_may_ask_for_one_of_some_communities_of_any_kind() -> None:
    of = accept(ALL_V4, communities=("65000:100", "65000:1:2", "target:65000:3"))
    for row, wanted in (
        (ROUTE, State.USED),
        (Received(ROUTE.next_hop, large=("65000:1:2",)), State.USED),
        (Received(ROUTE.next_hop, extended=("target:65000:3",)), State.USED),
        (Received(ROUTE.next_hop, communities=("65000:101",)), State.NOT_ACCEPTED),
    ):
        assert state("192.0.2.0/24", of, row=row) is wanted


@pytest.mark.parametrize(
    "prefix",
    ["10.1.0.0/16", "10.1.3.0/24", "10.1.7.0/24", "198.51.100.10/32", "fd01:0:0:5::/64"],
)
def test_what_is_ours_is_never_accepted(prefix: str) -> None:
    assert state(prefix, EVERYTHING) is State.PROTECTED
    assert "ours" in judged(ip_network(prefix), ROUTE, (EVERYTHING,), OURS)[1]


@pytest.mark.parametrize("prefix", ["10.0.0.0/8", "198.51.100.0/24", "10.2.0.0/16", "fd02::/48"])
def test_a_network_around_ours_or_beside_it_is(prefix: str) -> None:
    assert state(prefix, EVERYTHING) is State.USED


@pytest.mark.parametrize("prefix", ["0.0.0.0/0", "::/0"])
def test_a_default_route_has_to_be_named(prefix: str) -> None:
    assert state(prefix, EVERYTHING) is State.PROTECTED
    assert state(prefix, accept()) is State.PROTECTED
    assert state(prefix, accept(match("0.0.0.0/0"), match("::/0"))) is State.USED
    assert state("192.0.2.0/24", accept(match("0.0.0.0/0"))) is State.NOT_ACCEPTED


@pytest.mark.parametrize(
    "prefix", ["127.0.0.0/8", "224.0.0.0/4", "169.254.7.0/24", "::1/128", "fe80::/64", "ff02::/16"]
)
def test_nothing_leads_to_what_is_never_forwarded(prefix: str) -> None:
    assert state(prefix, EVERYTHING) is State.PROTECTED


def test_communities_become_labels_of_the_rule_that_accepts() -> None:
    rule = accept(
        ALL_V4,
        labels=(
            ("65000:100", "site", "hq"),
            ("65000:7", "tier", "db"),
            ("65000:8", "tier", "web"),
            ("65000:7", "site", "branch"),
        ),
    )
    assert judged(ip_network("192.0.2.0/24"), ROUTE, (rule,), OURS)[2] == (
        ("site", "hq"), ("tier", "db"),
    )  # fmt: skip
    assert labels_of(rule, Received(ROUTE.next_hop)) == ()


def test_of_two_labels_with_one_key_the_first_counts() -> None:
    one, other = (("site", "hq"),), (("a", "b"), ("site", "branch"))
    assert merged([one, other]) == (("a", "b"), ("site", "hq"))
