"""How full is too full: tables, no clock."""

from __future__ import annotations

from ipaddress import ip_address

import numpy as np
import pytest

from mesh.core.model import Usage
from mesh.health.counts import ports_in_use, usages
from mesh.health.shares import HALF, Pressure, findings, means

WHAT = "connections IPv4"


def story(*used: int, what: str = WHAT) -> list[bool]:
    """Whether there is a finding after each 10 s, of 100."""
    pressure, seen = Pressure(), []
    for number, one in enumerate(used):
        row = Usage(what, "east-1", one, 100)
        pressure.note(10.0 * number, [row])
        seen.append(bool(list(pressure.findings("east-1", {what: row}))))
    return seen


def test_three_quarters_are_a_finding() -> None:
    assert story(74, 75, 100) == [False, True, True]


def test_it_ends_after_a_quiet_minute() -> None:
    assert story(90, *[10] * 7) == [True] * 6 + [False] * 2


def test_what_is_not_quiet_keeps_it() -> None:
    assert story(90, 10, 10, 70, *[10] * 5) == [True] * 9


def test_a_table_that_gives_way_is_never_too_full() -> None:
    assert not any(story(100, 100, what="fragments"))


def test_what_is_gone_is_no_finding() -> None:
    """An egress address that this node has no blocks of any more."""
    pressure = Pressure()
    pressure.note(0.0, [Usage("ports 198.51.100.10", "east-1", 90, 100)])
    assert not list(pressure.findings("east-1", {}))


def told(*used: int, what: str = WHAT) -> list[list[str]]:
    """The codes after each 10 s, of 100."""
    nearly, half, seen = Pressure(), Pressure(HALF), []
    for number, one in enumerate(used):
        row = Usage(what, "east-1", one, 100)
        for pressure in (nearly, half):
            pressure.note(10.0 * number, [row])
        seen.append([str(f) for f in _codes(nearly, half, row)])
    return seen


def _codes(nearly: Pressure, half: Pressure, row: Usage) -> list[str]:
    found = findings("east-1", half, nearly, {row.what: row}, {row.what: 7})
    return [one.code for one in found if "7 of them half-open" in one.text]


def test_half_a_connection_table_is_a_finding_of_its_own() -> None:
    assert told(49, 50, 74, 75) == [[], ["D657"], ["D657"], ["D631"]]


def test_a_table_that_empties_is_half_full_until_a_quiet_minute_has_passed() -> None:
    assert told(90, *[50] * 8)[-2:] == [["D657"], ["D657"]]
    assert told(50, *[39] * 7) == [["D657"]] * 6 + [[]] * 2


def test_half_of_what_only_we_fill_is_none() -> None:
    assert told(70, what="ports 198.51.100.10") == [[]]
    assert told(70, what="mg_egress") == [[]]


def test_each_kind_says_what_is_refused() -> None:
    assert "mg_ct_v4" in means(WHAT)
    assert "mg_nat_v6" in means("mappings IPv6")
    assert "blocksPerNode" in means("ports 198.51.100.10")
    assert "mg_egress" in means("mg_egress")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("family", [4, 6])
def test_ports_in_use_are_those_of_the_busiest_remote(family: int, order: str) -> None:
    """The same port for two remotes is one port of each. Maps hold addresses as the wire does."""
    width = {4: (f"{order}u4", ()), 6: (f"{order}u4", (4,))}[family]
    key = np.dtype(
        [
            ("source", *width),
            ("destination", *width),
            ("source_port", "<u2"),
            ("destination_port", "<u2"),
            ("protocol", "u1"),
        ]
    )
    egress = {4: "198.51.100.10", 6: "2001:db8:100::10"}[family]
    remotes = {4: ["192.0.2.1", "192.0.2.2"], 6: ["2001:db8::1", "2001:db8::2"]}[family]
    keys = np.zeros(5, key)
    keys["destination"] = np.frombuffer(ip_address(egress).packed, key["destination"])
    for row, remote in enumerate([0, 0, 0, 1, 1]):
        keys[row]["source"] = np.frombuffer(ip_address(remotes[remote]).packed, key["source"])[0]
    keys["source_port"], keys["protocol"] = 53, 17
    keys["destination_port"] = [1, 2, 3, 1, 2]
    assert ports_in_use(keys) == {ip_address(egress): 3}
    assert ports_in_use(keys[:0]) == {}


def test_ports_are_counted_against_this_node_s_blocks() -> None:
    address = ip_address("198.51.100.10")
    rows = list(usages("n", {WHAT: (1, 2)}, {address: 700}, {address: 1024}))
    assert rows == [Usage(WHAT, "n", 1, 2), Usage(f"ports {address}", "n", 700, 1024)]
