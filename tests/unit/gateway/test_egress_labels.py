"""Egress policies that select learned networks by label: documents, rows, and their maps."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from gateway.maps import decode_label, encode_label
from gateway.policy import EgressPolicy
from gateway.rows import Action, EgressKey, EgressLabelKey, EgressRow, kept_label_rows, label_rows
from gateway.targets import EgressTarget
from mesh.core.model import Node, PodSelector, Requirement, Selector

EGRESS, OTHER = ip_address("198.51.100.10"), ip_address("198.51.100.11")
HQ = Selector((Requirement("site", "In", ("hq",)),))
GATEWAY = Node("east", "gw", (ip_address("10.99.0.13"),))
POLICY = EgressPolicy(
    "erp", (PodSelector(None, Selector()),), (), (), (EGRESS,), Selector(), labelled=HQ
)  # fmt: skip
LEARNED = {65800: (("site", "hq"),), 65801: (("site", "branch"),)}
NUMBER = 7


def rows(*policies: EgressPolicy, learned: Mapping[int, Any] = LEARNED) -> dict[Any, EgressRow]:
    names = tuple(policy.name for policy in policies)
    named = {policy.name: policy for policy in policies}
    gateways = dict.fromkeys(names, GATEWAY)
    return dict(label_rows(learned, names, NUMBER, named, gateways, {EGRESS, OTHER}, ()))


def test_a_policy_selects_the_identities_of_its_labels_in_both_families() -> None:
    assert rows(POLICY) == {
        EgressLabelKey(NUMBER, 65800, 4): EgressRow(Action.TRANSLATE, EGRESS),
        EgressLabelKey(NUMBER, 65800, 6): EgressRow(Action.NO_ADDRESS),
    }


def test_labels_that_go_take_their_rows_along() -> None:
    assert rows(POLICY, learned={}) == {}


def test_a_policy_without_a_selector_of_labels_selects_none() -> None:
    assert rows(replace(POLICY, labelled=None)) == {}


def test_of_two_policies_the_first_counts() -> None:
    second = replace(POLICY, name="late", addresses=(OTHER,))
    key = EgressLabelKey(NUMBER, 65800, 4)
    assert rows(POLICY, second)[key].address == EGRESS
    assert rows(second, POLICY)[key].address == OTHER


def test_without_a_gateway_nothing_leaves_untranslated() -> None:
    found = label_rows(LEARNED, ("erp",), NUMBER, {"erp": POLICY}, {}, {EGRESS}, ())
    assert found[EgressLabelKey(NUMBER, 65800, 4)] == EgressRow(Action.NO_GATEWAY)
    without = label_rows(
        LEARNED, ("erp",), NUMBER, {"erp": POLICY}, {"erp": GATEWAY}, {EGRESS}, (EGRESS,)
    )
    assert without[EgressLabelKey(NUMBER, 65800, 4)] == EgressRow(Action.NO_GATEWAY)


def test_a_class_that_has_no_number_has_no_rows() -> None:
    assert label_rows(LEARNED, ("erp",), None, {"erp": POLICY}, {}, set(), ()) == {}


def test_what_the_last_agent_wrote_stays_while_nothing_is_known_of_labels() -> None:
    """An agent that starts without the store must not let covered packets out as they are."""
    key, other = EgressLabelKey(NUMBER, 65800, 4), EgressLabelKey(8, 65800, 4)
    before = {key: EgressRow(Action.TRANSLATE, EGRESS), other: EgressRow(Action.NO_GATEWAY)}
    of_class = (("erp",), NUMBER, {"erp": POLICY}, {"erp": GATEWAY})
    assert kept_label_rows(before, *of_class, {EGRESS}, ()) == {key: before[key]}
    dropped = {key: EgressRow(Action.NO_GATEWAY)}
    assert kept_label_rows(before, *of_class, (), ()) == dropped
    assert kept_label_rows(before, *of_class, {EGRESS}, {EGRESS}) == dropped
    plain = {"erp": replace(POLICY, labelled=None)}
    assert kept_label_rows(before, ("erp",), NUMBER, plain, {"erp": GATEWAY}, {EGRESS}, ()) == {}


ACTIONS = {str(action): number for number, action in enumerate(Action, 1)}


@pytest.mark.parametrize(
    "action", [EgressRow(Action.TRANSLATE, EGRESS), EgressRow(Action.NO_GATEWAY)]
)
def test_an_entry_says_what_its_row_says(action: EgressRow) -> None:
    key = EgressLabelKey(NUMBER, 65800, 4)
    name, value = encode_label(key, action, ACTIONS)
    assert name == {"egress_class": NUMBER, "identity": 65800, "family": 4}
    assert isinstance(value, dict)
    assert (value["action"], value["family"]) == (ACTIONS[action.action], 4)


class Map:
    """A map in memory."""

    def __init__(self, name: str) -> None:
        self.name, self.rows = name, dict[Any, Any]()

    async def read(self) -> Mapping[Any, Any]:
        return dict(self.rows)

    async def upsert(self, rows: Mapping[Any, Any]) -> Mapping[Any, Exception]:
        self.rows |= rows
        return {key: OSError("no room") for key in rows if getattr(key, "identity", 0) == 1}

    async def delete(self, keys: Collection[Any]) -> Mapping[Any, Exception]:
        for key in keys:
            self.rows.pop(key, None)
        return {}


def test_two_maps_are_one_target() -> None:
    networks, labels = Map("mg_egress"), Map("mg_egress_label")
    target = EgressTarget(networks, labels)
    network = EgressKey(NUMBER, ip_network("192.0.2.0/24"))
    label, refused = EgressLabelKey(NUMBER, 65800, 4), EgressLabelKey(NUMBER, 1, 4)
    row = EgressRow(Action.TRANSLATE, EGRESS)

    async def run() -> None:
        errors = await target.upsert({network: row, label: row, refused: row})
        assert set(errors) == {refused}
        assert (set(networks.rows), set(labels.rows)) == ({network}, {label, refused})
        assert set(await target.read()) == {network, label, refused}
        assert set(await target.read_known({label: row})) == {network, label, refused}
        await target.delete([network, label])
        assert (set(networks.rows), set(labels.rows)) == (set(), {refused})

    asyncio.run(run())
    assert target.name == "mg_egress"
    assert decode_label is not encode_label
