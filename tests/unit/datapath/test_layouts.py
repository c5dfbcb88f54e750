"""What former layouts' names cannot tell: zones, and the gateways of an egress address."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpf.migrate import Entries, Made, Shape, copy
from gateway import layouts as egress
from mesh.nodes import layouts as nodes

ADDR = np.dtype([("w", ">u4", (4,))])
ONE = Shape(ADDR, np.dtype([("gateway", ">u4")]), 8)
SET = Shape(ADDR, np.dtype([("count", "u4"), ("node", ">u4", (16,))]), 8)
PREFIX = Shape(np.dtype([("prefix", "u4"), ("addr", ADDR)]), np.dtype([("node", ">u4")]), 8)
ZONED = [("bits", "u4"), ("pad", "u2"), ("zone", "u2"), ("addr", ADDR)]
BITS = Shape(np.dtype(ZONED), PREFIX.value, 8)


def addresses(*gateways: int) -> Entries:
    keys, values = np.zeros(len(gateways), ONE.key), np.zeros(len(gateways), ONE.value)
    keys["w"][:, 3], values["gateway"] = range(len(gateways)), gateways
    return Entries(keys, values)


def test_a_gateway_becomes_a_set_of_one_and_again_a_gateway() -> None:
    old = addresses(7, 0)
    new = copy("mg_egress_addr", ONE, SET, egress.DECLARED).entries(old)
    assert new.values["count"].tolist() == [1, 0]
    assert new.values["node"].sum(axis=1).tolist() == [7, 0]
    back = copy("mg_egress_addr", SET, ONE, egress.DECLARED).entries(new)
    assert back.values.tobytes() == old.values.tobytes()


def test_of_several_gateways_the_first_stays_on_the_way_back() -> None:
    several: Any = np.zeros(1, SET.value)
    several["count"], several["node"][0, :2] = 2, (5, 6)
    back = copy("mg_egress_addr", SET, ONE, egress.DECLARED).entries(
        Entries(np.zeros(1, ADDR), several)
    )
    assert back.values["gateway"].tolist() == [5]


def test_the_gateway_of_an_address_sends_and_accepts() -> None:
    key = np.dtype([("address", ADDR), ("node", ">u4")])
    value = np.dtype([("sends", "u1"), ("accepts", "u1"), ("pad", "u1", (2,))])
    (made,) = [each for each in egress.DECLARED if isinstance(each, Made)]
    keys, values = made.make(addresses(7, 0), key, value)
    assert (keys["node"].tolist(), keys["address"]["w"].tolist()) == ([7], [[0, 0, 0, 0]])
    assert (values["sends"].tolist(), values["accepts"].tolist()) == ([1], [1])


def test_a_prefix_counts_the_bits_of_the_zone_too() -> None:
    old = Entries(np.zeros(1, PREFIX.key), np.ones(1, PREFIX.value))
    old.keys["prefix"] = 96 + 24
    new = copy("mg_addr_cidr", PREFIX, BITS, nodes.DECLARED).entries(old)
    assert (new.keys["bits"].tolist(), new.keys["zone"].tolist()) == ([32 + 96 + 24], [0])
    back = copy("mg_addr_cidr", BITS, PREFIX, nodes.DECLARED).entries(new)
    assert back.keys.tobytes() == old.keys.tobytes()
