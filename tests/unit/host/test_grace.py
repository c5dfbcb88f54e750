"""The switch of grace periods: on while a section is open, and as it was afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.host.grace import FILE, Grace


@pytest.fixture
def switch(tmp_path: Path) -> Path:
    made = tmp_path / "rcu_expedited"
    made.write_text("0\n")
    return made


def value(switch: Path) -> str:
    return switch.read_text().strip()


def test_it_is_on_until_the_last_section_ends(tmp_path: Path, switch: Path) -> None:
    grace = Grace(tmp_path, switch)
    with grace.short():
        with grace.short():
            assert value(switch) == "1"
        assert value(switch) == "1"
    assert value(switch) == "0"


def test_it_is_off_after_a_section_that_fails(tmp_path: Path, switch: Path) -> None:
    with pytest.raises(OSError, match="no device"), Grace(tmp_path, switch).short():
        raise OSError("no device")
    assert value(switch) == "0"


def test_what_an_administrator_has_set_stays(tmp_path: Path, switch: Path) -> None:
    switch.write_text("1\n")
    grace = Grace(tmp_path, switch)
    with grace.short():
        assert value(switch) == "1"
    grace.settle()
    assert value(switch) == "1"


def test_the_next_agent_takes_back_what_a_killed_one_has_left(tmp_path: Path, switch: Path) -> None:
    section = Grace(tmp_path, switch).short()
    section.__enter__()
    Grace(tmp_path, switch).settle()
    assert value(switch) == "0"
    assert not (tmp_path / FILE).exists()


def test_a_value_of_another_boot_is_not_ours(tmp_path: Path, switch: Path) -> None:
    switch.write_text("1\n")
    (tmp_path / FILE).write_text("another boot")
    Grace(tmp_path, switch).settle()
    assert value(switch) == "1"


def test_without_the_switch_a_section_takes_its_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grace = Grace(tmp_path, tmp_path / "missing")
    for _ in range(2):
        with grace.short():
            pass
    assert len(caplog.records) == 1
