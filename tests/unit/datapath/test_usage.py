"""What is live in the tables: ports by remote, connections whose port may change hands."""

from ipaddress import ip_address
from typing import Any

import numpy as np

from bpf.btf import Btf
from bpf.build import HERE, build
from bpf.migrate import Entries, Shape, copy
from bpf.object import Object
from mesh.datapath import layouts, sweep
from mesh.datapath.connections import Flags
from mesh.datapath.usage import RESTS, ports_in_use

SECOND = 10**9
NOW = 1000 * SECOND
ADDR = np.dtype([("w", ">u4", (4,))])
V4 = [("source", ">u4"), ("destination", ">u4")]
PORTS = [("source_port", ">u2"), ("destination_port", ">u2"), ("protocol", "u1"), ("pad", "u1")]
KEY = np.dtype([*V4, *PORTS, ("zone", "u2")])
WIDE = np.dtype([("source", ADDR), ("destination", ADDR), *PORTS, ("zone", "u2")])
MAPPING = np.dtype([("pod", ADDR), ("closed", "u8"), ("first", "u8"), ("quiet", "u8")])
LIVE, ANSWERED, UNANSWERED = 0, 1 << 62, 2 << 62


class FakeMap:
    def __init__(self, keys: Any, values: Any) -> None:
        self._entries = keys, values

    def dump(self) -> Any:
        return self._entries


class FakeDatapath:
    def __init__(self, v4: FakeMap, v6: FakeMap) -> None:
        self._maps = {"mg_nat_v4": v4, "mg_nat_v6": v6}

    def map(self, name: str) -> FakeMap:
        return self._maps[name]


def mappings(key: Any, rows: list[tuple[int, int, int, int]]) -> FakeMap:
    """Rows are remote, port, when closed, word of a one-shot."""
    keys, values = np.zeros(len(rows), key), np.zeros(len(rows), MAPPING)
    for at, (remote, port, closed, quiet) in enumerate(rows):
        for name, number in (("source", remote), ("destination", 0xC6336410)):
            if keys.dtype[name] == ADDR:
                keys[name]["w"][at, 3] = number
            else:
                keys[name][at] = number
        keys["destination_port"][at], keys["protocol"][at] = port, 17
        values["closed"][at], values["quiet"][at] = closed, quiet
    return FakeMap(keys, values)


def test_the_fullest_remote_counts_and_only_what_is_live() -> None:
    rows = [(1, 1024 + n, 0, LIVE) for n in range(3)]
    rows += [(2, 1024 + n, 0, LIVE) for n in range(5)]
    rows += [(2, 2000, 5, LIVE)]  # closed
    rows += [(2, 2001, 0, ANSWERED + NOW - 2 * SECOND), (2, 2002, 0, ANSWERED + NOW)]
    rows += [(2, 2003, 0, UNANSWERED + NOW - 11 * SECOND)]
    rows += [(2, 2004, 0, UNANSWERED + NOW - 9 * SECOND)]
    datapath: Any = FakeDatapath(mappings(KEY, rows), mappings(WIDE, rows[:2]))
    found = ports_in_use(datapath, NOW)
    assert found == {ip_address("198.51.100.16"): 7, ip_address("::c633:6410"): 2}


def test_an_empty_table_has_no_address() -> None:
    datapath: Any = FakeDatapath(mappings(KEY, []), mappings(WIDE, []))
    assert ports_in_use(datapath, NOW) == {}


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
    assert RESTS[1] >= SECOND
    assert RESTS[2] >= 10 * SECOND
