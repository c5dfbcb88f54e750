"""A node is drained: no new connection is translated, and the agent says how many are left."""

from __future__ import annotations

import argparse
import asyncio
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from gateway.leaving import without_new
from gateway.rows import Action, AnyKey, EgressKey, EgressLabelKey, EgressRow
from mesh.draining import RESETS_S, Draining
from mesh.host.drained import Drain, Drained, Leaving, Stage, answered, ask, asked
from mesh.install.leaving import DRAIN, Request, request_of
from mesh.install.verbs import _seconds


class Rig:
    def __init__(self, folder: Path) -> None:
        self.leaving, self.folder = Leaving(), folder
        self.left, self.now = 0, 1000.0
        self.draining = Draining(folder, self.leaving, lambda: self.left, lambda: self.now)

    def look(self) -> Stage:
        """The stage after a look of the agent."""
        asyncio.run(self.draining.look())
        return self.leaving.stage


def test_nothing_is_drained_until_it_is_asked(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    assert rig.look() is Stage.STAYS
    assert answered(tmp_path) is None
    assert list(rig.draining.findings("n1")) == []


def test_a_node_drains_until_no_connection_is_left(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.left = 2
    ask(tmp_path, Drain("7", 1300.0))
    assert rig.look() is Stage.DRAINS
    assert [found.code for found in rig.draining.findings("n1")] == ["M255"]
    rig.look()
    assert answered(tmp_path) == Drained("7", 2, done=False)
    rig.left, rig.now = 0, 1400.0
    assert rig.look() is Stage.DRAINS, "it may be the gateway of another node's"
    assert answered(tmp_path) == Drained("7", 0, done=True)


def test_what_is_left_when_time_is_up_ends(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.left = 1
    ask(tmp_path, Drain("7", 1300.0))
    rig.look()
    rig.now = 1300.0
    assert rig.look() is Stage.ENDS
    assert answered(tmp_path) == Drained("7", 1, done=False)
    rig.now += RESETS_S
    rig.look()
    assert answered(tmp_path) == Drained("7", 1, done=True)


def test_a_request_that_is_taken_back_changes_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.left = 1
    ask(tmp_path, Drain("7", 900.0))
    rig.look()
    assert rig.look() is Stage.ENDS
    ask(tmp_path, None)
    assert rig.look() is Stage.STAYS
    assert answered(tmp_path) is None


def test_rows_of_a_node_that_drains_translate_and_drop_nothing() -> None:
    covered = EgressKey(7, ip_network("192.0.2.0/24"))
    lacking = EgressKey(7, ip_network("2001:db8:2::/64"))
    rows: dict[AnyKey, EgressRow] = {
        covered: EgressRow(Action.TRANSLATE, ip_address("198.51.100.10")),
        lacking: EgressRow(Action.NO_GATEWAY),
        EgressLabelKey(7, 9, 4): EgressRow(Action.TRANSLATE, ip_address("198.51.100.10")),
    }
    excluded = EgressRow(Action.EXCLUDED)
    assert without_new(rows) == {covered: excluded, lacking: excluded}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "7"}', '{"id": "7", "until": "soon"}'])
def test_a_file_that_cannot_be_read_asks_for_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "drain.json").write_text(text)
    assert asked(tmp_path) is None


def test_the_request_has_its_seconds() -> None:
    request = Request("7", DRAIN, drain=300)
    assert request_of(request.document("meshgate-system")) == request
    odd = {"data": {"id": "7", "phase": "drain", "drain": "long"}}
    assert request_of(odd) == Request("7", DRAIN)


@pytest.mark.parametrize(("text", "seconds"), [("300s", 300), ("90", 90), ("5m", 300), ("0", 0)])
def test_seconds_of_an_option(text: str, seconds: int) -> None:
    assert _seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1h", "x"])
def test_odd_seconds_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        _seconds(text)
