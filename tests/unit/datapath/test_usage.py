"""What is live in the tables: ports by remote, connections whose port may change hands."""

from typing import Any

import numpy as np

from bpf.btf import Btf
from bpf.build import HERE, build
from bpf.migrate import Entries, Shape, copy
from bpf.object import Object
from mesh.datapath import layouts, sweep
from mesh.datapath.connections import Flags
from mesh.datapath.usage import DYING, are_live

SECOND = 10**9
NOW = 1000 * SECOND
ADDR = np.dtype([("w", ">u4", (4,))])
V4 = [("source", ">u4"), ("destination", ">u4")]
PORTS = [("source_port", ">u2"), ("destination_port", ">u2"), ("protocol", "u1"), ("pad", "u1")]
KEY = np.dtype([*V4, *PORTS, ("zone", "u2")])
MAPPING = np.dtype([("pod", ADDR), ("closed", "u8"), ("first", "u8"), ("quiet", "u8")])
LIVE, ANSWERED, UNANSWERED = 0, 1 << 62, 2 << 62


def mappings(rows: list[tuple[int, int]]) -> Any:
    """Rows are when closed, and the word of a one-shot."""
    values = np.zeros(len(rows), MAPPING)
    for at, (closed, quiet) in enumerate(rows):
        values["closed"][at], values["quiet"][at] = closed, quiet
    return values


def test_what_may_be_taken_is_not_live() -> None:
    late = 1 << types().enum("one_shot")["TOUCH_SHIFT"]
    rows = {
        "a stream, or TCP": (0, LIVE),
        "somebody is about to take it": (DYING, LIVE),
        "answered a moment ago": (0, ANSWERED + NOW),
        "answered, within its rest": (0, ANSWERED + NOW - SECOND - late + 1),
        "unanswered, within its rest": (0, UNANSWERED + NOW - 10 * SECOND - late + 1),
    }
    gone = {
        "closed": (5, LIVE),
        "answered and quiet": (0, ANSWERED + NOW - SECOND - late),
        "unanswered and quiet": (0, UNANSWERED + NOW - 10 * SECOND - late),
    }
    values = mappings([*rows.values(), *gone.values()])
    live = are_live(values, NOW, types().enum("one_shot")).tolist()
    assert live == [True] * len(rows) + [False] * len(gone)
    assert are_live(values[:0], NOW, types().enum("one_shot")).tolist() == []


def types() -> Btf:
    build()
    opened = Object.open(HERE / "obj" / "sweep.o")
    try:
        return opened.btf
    finally:
        opened.close()


def test_ports_of_one_shots_and_of_what_has_closed_may_change_hands() -> None:
    bits = types().enum("connection_flag")
    rows = [
        (6, bits["CONNECTION_STREAM"], True, False),
        (6, bits["CONNECTION_RST"] | bits["CONNECTION_STREAM"], True, True),
        (6, 0, True, False),  # TCP of a layout that had no such flag
        (17, 0, True, True),
        (17, 0, False, False),  # not translated: it has no port
        (17, bits["CONNECTION_STREAM"], True, False),
        (1, bits["CONNECTION_REPLIED"], True, True),
    ]
    connection = np.dtype([("translated", ADDR), ("flags", "u4")])
    keys, values = np.zeros(len(rows), KEY), np.zeros(len(rows), connection)
    for at, (protocol, flags, translated, _) in enumerate(rows):
        keys["protocol"][at], values["flags"][at] = protocol, flags
        values["translated"]["w"][at, 3] = translated
    assert Flags(types()).takeable(keys, values).tolist() == [row[3] for row in rows]


def test_mappings_of_before_are_live() -> None:
    """They have no word of a one-shot, and no first packet."""
    before = np.dtype([("pod", ADDR), ("closed", "u8")])
    values = np.zeros(2, before)
    values["closed"] = 0, 77
    old = Entries(np.zeros(2, KEY), values)
    shapes = Shape(KEY, before, 8), Shape(KEY, MAPPING, 8)
    new = copy("mg_nat_v4", *shapes, layouts.DECLARED).entries(old)
    assert (new.values["closed"].tolist(), new.values["quiet"].tolist()) == ([0, 77], [0, 0])
    back = copy("mg_nat_v4", *reversed(shapes), layouts.DECLARED).entries(new)
    assert back.values.tobytes() == values.tobytes()


def test_no_translated_connection_lives_shorter_than_the_rfcs_say() -> None:
    least = {"opening": 240, "established": 7440, "datagram": 120, "one_shot": 120, "echo": 60}
    for limits in (sweep.LIMITS, sweep.LIMITS | sweep.PRESSURE_LIMITS):
        assert all(limits[name] >= seconds for name, seconds in least.items())
