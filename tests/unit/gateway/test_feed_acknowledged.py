"""Which addresses a policy may use, and what is said of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from gateway.feed.acknowledged import addresses_of, findings, usable
from gateway.nouns import policy_row
from gateway.policy import EgressPolicy
from gateway.rows import Action, EgressRow, egress_rows
from mesh.core.model import IP, Listed, Node, Selector

A, B = ip_address("198.51.100.1"), ip_address("198.51.100.2")
SIX = ip_address("2001:db8::1")
TO, TO_SIX = ip_network("192.0.2.0/24"), ip_network("2001:db8:2::/64")
POLICY = EgressPolicy(
    "erp", (), (TO, TO_SIX), (), (A, B, SIX), Selector(), activation="Acknowledged"
)
YES, NO = Listed(("erp",), acknowledged=True), Listed(("erp",), waits=("forti", "pan"))


def of(policy: EgressPolicy, listed: Mapping[IP, Listed]) -> EgressPolicy:
    return usable("erp", policy, listed)["erp"]


def rows(policy: EgressPolicy) -> dict[str, EgressRow]:
    made = egress_rows(("erp",), 1, {"erp": policy}, {"erp"}, {A, B, SIX})
    return {str(key.network): row for key, row in made.items()}


def test_an_immediate_policy_asks_nobody() -> None:
    policy = replace(POLICY, activation="Immediate")
    assert of(policy, {A: NO}) is policy
    assert addresses_of("erp", policy) == addresses_of("erp", None) == ()
    assert usable("erp", None, {}) == {}


@pytest.mark.parametrize(
    ("listed", "ready", "waiting"),
    [
        ({}, (), (A, B, SIX)),
        ({A: NO, B: YES, SIX: YES}, (B, SIX), (A,)),
        ({A: YES, B: YES, SIX: YES}, (A, B, SIX), ()),
    ],
)
def test_only_acknowledged_addresses_are_used(
    listed: Mapping[IP, Listed], ready: tuple[IP, ...], waiting: tuple[IP, ...]
) -> None:
    policy = of(POLICY, listed)
    assert (policy.addresses, policy.waiting) == (ready, waiting)


def test_where_no_address_is_acknowledged_connections_are_refused() -> None:
    assert rows(of(POLICY, {B: YES})) == {
        str(TO): EgressRow(Action.TRANSLATE, B),
        str(TO_SIX): EgressRow(Action.NOT_ACKNOWLEDGED),
    }
    four = replace(POLICY, addresses=(A,))
    assert rows(of(four, {}))[str(TO_SIX)] == EgressRow(Action.NO_ADDRESS)


def test_of_several_addresses_the_first_that_can_be_used_is() -> None:
    both = {A: YES, B: YES, SIX: YES}
    assert rows(of(POLICY, both))[str(TO)] == EgressRow(Action.TRANSLATE, A)
    made = egress_rows(("erp",), 1, {"erp": of(POLICY, both)}, {"erp"}, {A, B}, {A})
    assert {row.action: row.address for row in made.values()} == {
        Action.TRANSLATE: B,
        Action.NO_GATEWAY: None,
    }


def test_a_policy_waits_until_it_has_an_address_that_it_may_use() -> None:
    gateway = [Node("east", "gw", (ip_address("10.99.0.12"),))]
    assert policy_row("east", POLICY, gateway, {A: NO})["state"] == "waiting"
    assert policy_row("east", POLICY, gateway, {A: NO, B: YES})["state"] == "active"
    assert policy_row("east", POLICY, [], {A: YES})["state"] == "waiting"
    assert policy_row("east", replace(POLICY, activation="Immediate"), gateway)["state"] == "active"


def test_what_waits_is_a_finding_that_names_whom() -> None:
    first, second = findings([POLICY], {A: NO, B: YES})
    assert (first.code, first.field) == ("M234", f"addresses {A}")
    assert f"{A} waits for forti, pan to fetch group erp" in first.text
    assert (second.code, second.field) == ("M234", f"addresses {SIX}")
    assert "is in no feed" in second.text


def test_nobody_registered_is_a_finding() -> None:
    (found,) = findings([replace(POLICY, addresses=(A,))], {A: Listed(("erp",))})
    assert "no firewall is registered for group erp" in found.text


def test_an_override_and_what_rests_are_findings() -> None:
    listed = {
        A: replace(YES, without=("pan",)),
        B: Listed(("crm",), waits=("pan",), leaving=True),
        SIX: Listed(("crm",), leaving=True),
    }
    found = list(findings([replace(POLICY, addresses=(A,))], listed))
    assert [one.code for one in found] == ["M235", "M236", "M236"]
    assert "pan may still have it" in found[1].text
    assert "meshgate egress release" in found[2].text
    assert not list(findings([replace(POLICY, activation="Immediate")], {A: NO}))
