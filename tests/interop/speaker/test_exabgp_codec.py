"""ExaBGP's own codec beside ours: it writes the golden bytes, and reads ours as we mean them."""

from __future__ import annotations

from typing import Any

import pytest

from bgp.wire.encode import encode
from bgp.wire.update import decode
from tests.interop.speaker.exabgp_codec import COMMANDS, prefixes, wire
from tests.unit.bgp.golden import triples


def test_the_golden_commands_are_those_that_are_tried() -> None:
    assert [(one["command"], one["peer"]) for one in triples()] == COMMANDS


@pytest.mark.parametrize("triple", triples(), ids=lambda triple: triple["command"])
def test_exabgp_makes_the_golden_bytes_of_its_command(triple: dict[str, Any]) -> None:
    assert wire(triple["command"], triple["peer"]).hex() == triple["wire"]


@pytest.mark.parametrize("triple", triples(), ids=lambda triple: triple["command"])
def test_exabgp_reads_our_bytes_as_they_are_meant(triple: dict[str, Any]) -> None:
    said = decode(bytes.fromhex(triple["wire"]), external=triple["peer"] != 65001)
    found = {prefix for prefix, _ in prefixes(encode(said))}
    assert found == {str(one.prefix) for one in (*said.announced, *said.withdrawn)}
