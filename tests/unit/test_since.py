"""Since when a finding holds: since the process has first seen it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from gateway.findings import CONFLICT, NO_GATEWAY
from mesh.core.model import Finding
from mesh.process import KEEP_S, STARTING_S, Since

ERP = Finding(NO_GATEWAY, "erp.yaml", "gateways", "no node", ("egress/erp",))


class Story:
    """What is wrong, and a clock that is set by hand; Unix time is 1000 s ahead."""

    def __init__(self) -> None:
        self.wrong: list[Finding] = []
        self.now = 0.0
        self.since = Since(lambda: self.wrong, lambda: self.now, lambda: self.now + 1000)

    def at(self, now: float, *wrong: Finding) -> list[float]:
        """The dates of what is wrong at a time."""
        self.now, self.wrong = now, list(wrong)
        return [one.since for one in self.since.dated()]


def test_a_finding_keeps_the_time_at_which_it_was_first_seen() -> None:
    it = Story()
    assert it.at(1, ERP) == [1001]
    assert it.at(500, ERP) == [1001]


def test_another_sentence_is_no_other_finding() -> None:
    it = Story()
    it.at(1, ERP)
    other = Finding(ERP.code, ERP.object, ERP.field, "no node with an address", ERP.about)
    assert it.at(2, other) == [1001]


def test_another_field_thing_or_code_is_another_finding() -> None:
    it = Story()
    it.at(1, ERP)
    others = [
        Finding(CONFLICT, ERP.object, ERP.field, ERP.text, ERP.about),
        Finding(ERP.code, "crm.yaml", ERP.field, ERP.text, ERP.about),
        Finding(ERP.code, ERP.object, "addresses", ERP.text, ERP.about),
        Finding(ERP.code, ERP.object, ERP.field, ERP.text, ("egress/crm",)),
    ]
    assert it.at(2, ERP, *others) == [1001, 1002, 1002, 1002, 1002]


def test_the_same_finding_twice_is_one() -> None:
    assert Story().at(1, ERP, ERP) == [1001]


def test_a_finding_that_was_away_for_the_length_of_an_attempt_is_the_same() -> None:
    it = Story()
    it.at(1, ERP)
    assert it.at(5) == []
    assert it.at(KEEP_S, ERP) == [1001]


def test_a_finding_that_comes_back_later_is_new() -> None:
    it = Story()
    it.at(1, ERP)
    it.at(2)
    assert it.at(3 + KEEP_S) == []
    assert it.at(4 + KEEP_S, ERP) == [1004 + KEEP_S]


def test_a_finding_is_dated_before_somebody_asks() -> None:
    it = Story()
    it.now, it.wrong = 1.0, [ERP]
    asyncio.run(looked(it.since))
    assert it.at(50, ERP) == [1001]


def test_a_report_that_cannot_be_made_ends_no_process() -> None:
    def broken() -> Iterable[Finding]:
        raise KeyError("row")

    asyncio.run(looked(Since(broken)))


async def looked(since: Since) -> None:
    """The process has looked once, and still looks."""
    running = asyncio.create_task(since.run())
    await asyncio.sleep(0)
    assert not running.done()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def test_a_finding_is_as_old_after_a_restart_as_before(tmp_path: Path) -> None:
    """And one that has ended meanwhile is new when it comes back later."""
    file = tmp_path / "findings.json"
    before = Since(lambda: [ERP], lambda: 1.0, lambda: 1001.0, file=file)
    before.dated()
    before.save()
    after = Since(lambda: [ERP], lambda: 5.0, lambda: 2000.0, file=file)
    assert [one.since for one in after.dated()] == [1001.0]
    now = 5.0
    wrong: list[Finding] = []
    later = Since(lambda: wrong, lambda: now, lambda: 3000.0, file=file)
    now = 5.0 + STARTING_S + KEEP_S + 1
    later.dated()
    wrong = [ERP]
    assert later.dated()[0].since == 3000.0


def test_a_file_that_cannot_be_read_makes_findings_young(tmp_path: Path) -> None:
    (tmp_path / "findings.json").write_text('[{"code": 1}]')
    since = Since(lambda: [ERP], lambda: 1.0, lambda: 7.0, file=tmp_path / "findings.json")
    assert [one.since for one in since.dated()] == [7.0]
