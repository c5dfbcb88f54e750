"""Golden triples in both directions: command, UPDATE, and what it says."""

from __future__ import annotations

from typing import Any

import pytest

from bgp.wire.attributes import EXTENDED_LENGTH, MP_REACH, MP_UNREACH, NEXT_HOP
from bgp.wire.encode import encode
from bgp.wire.update import decode
from tests.unit.bgp.golden import in_json, of_json, triples

OURS = 65001


def parts(body: bytes) -> tuple[bytes, dict[int, bytes], bytes]:
    """Withdrawn routes, attributes by code, prefixes: ExaBGP has another order than we have.

    It also says what nobody reads: a NEXT_HOP beside that of MP_REACH_NLRI, and attributes of
    prefixes that are withdrawn.
    """
    begin = 4 + int.from_bytes(body[:2])
    end = begin + int.from_bytes(body[begin - 2 : begin])
    path, found = body[begin:end], dict[int, bytes]()
    while path:
        head = 4 if path[0] & EXTENDED_LENGTH else 3
        size = head + int.from_bytes(path[2:head])
        found[path[1]] = path[:size]
        path = path[size:]
    if MP_REACH in found:
        found.pop(NEXT_HOP, None)
    if MP_UNREACH in found:
        found = {MP_UNREACH: found[MP_UNREACH]}
    return body[: begin - 2], found, body[end:]


@pytest.mark.parametrize("triple", triples(), ids=lambda triple: triple["command"])
def test_an_update_says_what_its_command_says(triple: dict[str, Any]) -> None:
    body = bytes.fromhex(triple["wire"])
    assert in_json(decode(body, external=triple["peer"] != OURS)) == triple["json"]


@pytest.mark.parametrize("triple", triples(), ids=lambda triple: triple["command"])
def test_what_is_said_becomes_the_bytes_of_exabgp(triple: dict[str, Any]) -> None:
    made = encode(of_json(triple["json"]))
    assert parts(made) == parts(bytes.fromhex(triple["wire"]))
