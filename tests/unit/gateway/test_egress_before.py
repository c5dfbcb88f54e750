"""Where pods were led by the last agent, as long as the store has said nothing."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from gateway.before import as_before, is_unsure, led_by, words_before
from gateway.plan import class_number
from gateway.policy import EgressPolicy
from gateway.rows import Action, AnyKey, EgressKey, EgressLabelKey, EgressRow
from mesh.core.model import Selector

A, B = ip_address("198.51.100.1"), ip_address("198.51.100.2")
SIX = ip_address("2001:db8::1")
TO, TO_SIX = ip_network("192.0.2.0/24"), ip_network("2001:db8:2::/64")
ERP = EgressPolicy("erp", (), (TO, TO_SIX), (), (B,), Selector(), activation="Acknowledged")
POOLED = replace(ERP, activation="Immediate", pool="p", addresses=())
TO_A, TO_THE_SIX = EgressRow(Action.TRANSLATE, A), EgressRow(Action.TRANSLATE, SIX)
LED = {"erp": (A, SIX)}
BOTH = f"erp@{A}@{SIX}"


@pytest.mark.parametrize(
    ("policy", "feeds", "addresses", "unsure"),
    [
        (ERP, False, True, True),
        (ERP, True, False, False),
        (replace(ERP, activation="Immediate"), False, False, False),
        (POOLED, True, False, True),
        (POOLED, False, True, False),
        (replace(POOLED, addresses=(A,)), False, False, False),
    ],
)
def test_of_which_policies_the_store_has_yet_to_say_something(
    policy: EgressPolicy, *, feeds: bool, addresses: bool, unsure: bool
) -> None:
    assert is_unsure(policy, feeds=feeds, addresses=addresses) is unsure


def test_a_class_led_where_its_rows_led_whatever_the_policy_names_now() -> None:
    before: dict[AnyKey, EgressRow] = {
        EgressKey(7, TO): TO_A,
        EgressKey(7, TO_SIX): TO_THE_SIX,
        EgressKey(8, TO): EgressRow(Action.TRANSLATE, B),
        EgressKey(8, TO_SIX): EgressRow(Action.NOT_ACKNOWLEDGED),
    }
    assert led_by(7, ("erp",), {"erp": ERP}, before) == {"erp": (A, SIX)}
    assert led_by(8, ("erp",), {"erp": ERP}, before) == {"erp": (B,)}
    assert led_by(9, ("erp",), {"erp": ERP}, before) == {"erp": ()}
    older = replace(ERP, name="old", destinations=(TO,))
    both = led_by(7, ("old", "erp"), {"old": older, "erp": ERP}, before)
    assert both == {"old": (A,), "erp": (SIX,)}, "the first one has the row of a network"


def test_a_policy_of_labels_has_rows_by_identity() -> None:
    policy = replace(ERP, destinations=(), labelled=Selector())
    rows: dict[AnyKey, EgressRow] = {EgressLabelKey(7, 5, 4): TO_A, EgressLabelKey(8, 5, 4): TO_A}
    assert led_by(7, ("erp",), {"erp": policy}, rows) == {"erp": (A,)}


@pytest.mark.parametrize("words", [("erp",), (f"erp@{A}",), (f"erp@{SIX}",), (BOTH,)])
def test_words_that_make_the_number_keep_the_class(words: tuple[str, ...]) -> None:
    assert words_before(class_number(words), {"erp": "erp"}, LED) == words
    more = (*words, f"crm@{B}")
    assert words_before(class_number(more), {"erp": "erp", "crm": f"crm@{B}"}, LED) == more


def test_a_pod_that_other_policies_cover_by_now_is_led_to_the_same_addresses() -> None:
    """Its class of before lacks the other policy's networks."""
    found = words_before(class_number(("erp",)), {"erp": "erp", "crm": "crm"}, LED)
    assert found == (BOTH, "crm")
    assert words_before(1, {"erp": "erp"}, {"erp": ()}) == ("erp",)


def test_only_what_was_led_somewhere_is_changed() -> None:
    crm = replace(ERP, name="crm")
    found = as_before({"erp": ERP, "crm": crm}, {"erp": (A,), "crm": ()})
    assert found == {"erp": replace(ERP, addresses=(A,)), "crm": crm}
