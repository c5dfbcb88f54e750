"""Entries in another layout: by field name, and refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bpf.migrate import (
    Added,
    Converter,
    Declared,
    Entries,
    Made,
    RefusedError,
    Renamed,
    Scratch,
    Shape,
    copy,
    has_successor,
    is_kept,
    merged_keys,
    missing_room,
    renamed_map,
)
from bpf.sys import MapType

ADDR = np.dtype([("w", ">u4", (4,))])


def shape(key: Any, value: Any, entries: int = 8) -> Shape:
    return Shape(np.dtype(key), np.dtype(value), entries)


def entries(of: Shape, rows: list[tuple[Any, Any]]) -> Entries:
    keys, values = (np.array([row[side] for row in rows], of[side]) for side in (0, 1))
    return Entries(keys, values)


def test_fields_go_by_name_wherever_they_stand() -> None:
    old = shape([("a", ADDR), ("port", ">u2"), ("pad", "u2")], [("x", "u4"), ("y", "u2")])
    new = shape(
        [("zone", "u2"), ("port", ">u2"), ("a", ADDR)],
        [("y", "u4"), ("added", "u8"), ("x", "u4")],
    )
    given = entries(old, [((((1, 2, 3, 4),), 53, 9), (7, 8))])
    keys, values = copy("m", old, new).entries(given)
    assert (keys["zone"].tolist(), keys["port"].tolist()) == ([0], [53])
    assert keys["a"]["w"].tolist() == [[1, 2, 3, 4]]
    assert values.tolist() == [(8, 0, 7)]


def test_numbers_keep_their_value_in_another_byte_order_and_width() -> None:
    keys, values = copy("m", shape(">u2", "u1"), shape("u4", ">u4")).entries(
        entries(shape(">u2", "u1"), [(258, 3)])
    )
    assert (keys.tolist(), values.tolist()) == ([258], [3])
    assert keys.tobytes() == (258).to_bytes(4, "little")


def test_a_longer_array_keeps_what_it_has() -> None:
    old, new = shape("u4", [("n", "u4", (2,))]), shape("u4", [("n", "u4", (4,))])
    _, values = copy("m", old, new).entries(entries(old, [(1, ((5, 6),))]))
    assert values["n"].tolist() == [[5, 6, 0, 0]]


def test_values_of_every_cpu_go_over() -> None:
    old, new = shape("u4", [("n", "u4")]), shape("u4", [("more", "u4"), ("n", "u8")])
    given = Entries(np.array([1], "u4"), np.array([[(3,), (4,)]], old.value))
    _, values = copy("m", old, new).entries(given)
    assert values["n"].tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ([("a", "u4")], [("b", "u4")], "field value.a has no successor and no converter"),
        ([("a", "u4")], [("a", "u2")], "field value.a: <u4 does not fit into value.a: <u2"),
        (
            [("a", "u4", (4,))], [("a", "u4", (2,))],
            "field value.a: <u4[4] does not fit into value.a: <u4[2]",
        ),
        ([("a", "S4")], [("a", "u4")], "field value.a: |S4 does not fit into value.a: <u4"),
    ],
)  # fmt: skip
def test_what_would_be_lost_is_refused_by_name(old: Any, new: Any, reason: str) -> None:
    with pytest.raises(RefusedError) as caught:
        copy("m", shape("u4", old), shape("u4", new))
    assert caught.value.reasons == [f"map m: {reason}"]


def test_a_renamed_field_goes_over_in_both_directions() -> None:
    declared: Declared = (Renamed("value.gateway", "value.node", map="m"),)
    for old, new in (("gateway", "node"), ("node", "gateway")):
        here, there = shape("u4", [(old, "u4")]), shape("u4", [(new, "u4")])
        _, values = copy("m", here, there, declared).entries(entries(here, [(1, (7,))]))
        assert values[new].tolist() == [7]


def _to_set(old: Entries, new: Entries) -> None:
    new.values["count"] = old.values["gateway"] != 0
    new.values["nodes"][:, 0] = old.values["gateway"]


def _to_one(old: Entries, new: Entries) -> None:
    new.values["gateway"] = old.values["nodes"][:, 0]


ONE, SET = shape("u4", [("gateway", ">u4")]), shape("u4", [("count", "u4"), ("nodes", ">u4", (4,))])
CONVERTERS: Declared = (
    Converter("m", ("value.gateway",), ("value.count", "value.nodes"), _to_set),
    Converter("m", ("value.count", "value.nodes"), ("value.gateway",), _to_one),
)


def test_a_changed_meaning_goes_through_its_converter_there_and_back() -> None:
    given = entries(ONE, [(1, (7,)), (2, (0,))])
    there = copy("m", ONE, SET, CONVERTERS).entries(given)
    assert there.values["count"].tolist() == [1, 0]
    assert there.values["nodes"][:, 0].tolist() == [7, 0]
    back = copy("m", SET, ONE, CONVERTERS).entries(there)
    assert back.values.tolist() == given.values.tolist()
    assert back.keys.tolist() == given.keys.tolist()


def test_a_converter_of_another_map_is_no_successor() -> None:
    with pytest.raises(RefusedError, match=r"map other: field value\.gateway"):
        copy("other", ONE, SET, CONVERTERS)


def test_an_added_field_may_go_again_but_not_one_that_tells_keys_apart() -> None:
    old, new = shape([("zone", "u2"), ("id", "u2")], "u4"), shape([("id", "u2")], "u4")
    declared: Declared = (Added("m", ("key.zone",)),)
    assert copy("m", old, new, declared).entries(entries(old, [((0, 5), 1)])).keys.tolist() == [
        (5,)
    ]
    assert merged_keys("m", entries(old, [((0, 5), 1)]), new, declared) == []
    assert merged_keys("m", entries(old, [((1, 5), 1)]), new, declared) == [
        "map m: field key.zone goes, and is not zero in every entry"
    ]
    assert merged_keys("m", entries(new, [((5,), 1)]), old, declared) == []


def test_maps_are_found_by_their_other_name_and_by_their_source() -> None:
    made = Made("derived", "m", ("value.gateway",), lambda old, _key, _value: old)
    declared: Declared = (Renamed("before", "after"), made, Scratch("slot"))
    assert renamed_map("before", declared, {"after": 0}) == "after"
    assert renamed_map("after", declared, {"before": 0}) == "before"
    assert renamed_map("after", declared, {}) is None
    assert has_successor("derived", declared, {"m": 0})
    assert not has_successor("derived", declared, {"n": 0})
    assert not is_kept("slot", MapType.ARRAY, declared)
    assert not is_kept("ring", MapType.RINGBUF, declared)
    assert is_kept("m", MapType.HASH, declared)


def test_a_field_that_another_map_is_made_from_needs_no_successor() -> None:
    declared: Declared = (Made("derived", "m", ("value.gateway",), lambda old, _k, _v: old),)
    copied = copy("m", ONE, shape("u4", [("rest", "u4")]), declared)
    assert copied.entries(entries(ONE, [(1, (7,))])).keys.tolist() == [1]


def test_a_size_below_the_live_entries_is_named() -> None:
    assert missing_room("m", 8, shape("u4", "u4", 8)) == []
    assert missing_room("m", 9, shape("u4", "u4", 8)) == ["map m: 9 live entries, room for 8"]
