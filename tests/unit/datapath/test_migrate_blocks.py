"""Port blocks of two generations that live side by side."""

from __future__ import annotations

import numpy as np
import pytest

from bpf.migrate import Entries
from mesh.datapath.connections import Ports, ranges_of, split_ranges

ADDR = np.dtype([("w", ">u4", (4,))])
OWN = np.dtype([("count", "u4"), ("number", "u4", (16,))])
NAT4 = np.dtype([("source", ">u4"), ("destination", ">u4"), ("destination_port", ">u2")])
NAT6 = np.dtype([("source", ADDR), ("destination", ADDR), ("destination_port", ">u2")])
EGRESS = (0, 0, 0xFFFF, 0xC633640A)


def own(*numbers: int, address: tuple[int, ...] = EGRESS) -> Entries:
    keys, values = np.zeros(1, ADDR), np.zeros(1, OWN)
    keys["w"], values["count"] = address, len(numbers)
    values["number"][0, : len(numbers)] = numbers
    return Entries(keys, values)


@pytest.mark.parametrize(
    ("whole", "old", "new"),
    [([3, 9], [3], [9]), ([1, 2, 3], [1, 2], [3]), ([5], [5], []), ([], [], [])],
)
def test_every_block_is_in_one_part(whole: list[int], old: list[int], new: list[int]) -> None:
    assert split_ranges({b"a": whole}) == ({b"a": old}, {b"a": new})


def test_two_parts_are_one_set_again() -> None:
    (numbers,) = ranges_of(own(9), own(3, 5)).values()
    assert numbers == [3, 5, 9]
    other = own(1, address=(1, 2, 3, 4))
    assert sorted(ranges_of(own(9), other).values()) == [[1], [9]]


def test_a_port_belongs_to_the_block_of_its_address() -> None:
    ports = Ports([own(3, 9)], 256)
    first = 1024 + 3 * 256
    mappings = np.zeros(5, NAT4)
    mappings["destination"] = EGRESS[3]
    mappings["destination"][4] += 1
    mappings["destination_port"] = [first, first + 255, first + 256, 80, first]
    assert ports.holds(mappings).tolist() == [True, True, False, False, False]


def test_ports_of_ipv6_addresses_likewise() -> None:
    address = (0x20010DB8, 0, 0, 1)
    mappings = np.zeros(2, NAT6)
    mappings["destination"]["w"] = [address, (0x20010DB8, 0, 0, 2)]
    mappings["destination_port"] = 1024
    assert Ports([own(0, address=address)], 256).holds(mappings).tolist() == [True, False]
