"""Events that a sender's share left out, by sender."""

from __future__ import annotations

import numpy as np

from mesh.observe.unshown import Totals, Unshown, totals

SENDERS = 4
DEVICES = {7: "shop/web-1", 9: "shop/client-1"}


def counts(**rows: int) -> Totals:
    """Totals by number of the sender, as ``n3``."""
    found = np.zeros(2 * SENDERS, np.uint64)
    for name, events in rows.items():
        found[int(name[1:])] = events
    return found


def test_a_device_has_the_name_of_its_pod_and_others_are_elsewhere() -> None:
    unshown = Unshown(SENDERS)
    assert unshown.rows("east-1", DEVICES) == []
    unshown.note(0, counts(n3=5, n2=1))
    unshown.note(5, counts(n3=105, n2=1, n1=3, n0=2, n6=30))
    assert unshown.rows("east-1", DEVICES) == [
        {"sender": "shop/web-1", "events": 100, "node": "east-1"},
        {"sender": "elsewhere", "events": 32, "node": "east-1"},
        {"sender": "shop/client-1", "events": 3, "node": "east-1"},
    ]


def test_what_was_before_the_last_minute_is_over() -> None:
    unshown = Unshown(SENDERS)
    for second in range(0, 200, 5):
        unshown.note(second, counts(n3=min(second, 100)))
    assert unshown.rows("east-1", DEVICES) == []


def test_totals_are_a_column_of_the_map() -> None:
    values = np.zeros(2, [("window", "u4"), ("total", "u8")])
    values["total"] = 3, 4
    assert totals(values).tolist() == [3, 4]
