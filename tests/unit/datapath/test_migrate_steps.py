"""The order of a migration, and what an agent does about another one's marker."""

from __future__ import annotations

import pytest

from mesh.datapath.hooks import HANDOVER_PROGRAMS, program_of
from mesh.datapath.steps import (
    NO_RETURN,
    ORDER,
    Course,
    Links,
    Marker,
    Step,
    Way,
    course,
    is_before,
    next_step,
)

DIGEST = bytes(32)
ALL = [(way, step) for way, steps in ORDER.items() for step in steps]


def marker(way: Way, step: Step) -> Marker:
    return Marker(way, step, DIGEST)


@pytest.mark.parametrize("way", Way)
def test_every_map_is_filled_before_the_first_link_is_swapped(way: Way) -> None:
    assert is_before(way, Step.LOADED, Step.FILLED)
    assert is_before(way, Step.FILLED, Step.SWAPPED)
    assert is_before(way, Step.SWAPPED, Step.CLEARED)


@pytest.mark.parametrize("way", [Way.TO_NEW, Way.FROM_OLD])
def test_blocks_are_split_while_both_may_open_ports(way: Way) -> None:
    assert is_before(way, Step.SPLIT, Step.SHARED)
    assert is_before(way, Step.MERGED, Step.JOINED)
    assert is_before(way, Step.SWAPPED, Step.JOINED)


def test_nothing_is_handed_over_when_the_blocks_are_joined() -> None:
    assert is_before(Way.TO_NEW, Step.ALONE, Step.JOINED)


@pytest.mark.parametrize("way", Way)
def test_each_step_leads_to_the_last(way: Way) -> None:
    seen, step = [ORDER[way][0]], next_step(way, ORDER[way][0])
    while step is not None:
        seen.append(step)
        step = next_step(way, step)
    assert tuple(seen) == ORDER[way]
    assert seen[-1] is Step.PLACED


def test_without_a_marker_nothing_is_done() -> None:
    assert course(None, Links.OLD) is Course.NOTHING


@pytest.mark.parametrize(("way", "step"), ALL)
def test_a_migration_begins_anew_while_the_old_maps_hold_everything(way: Way, step: Step) -> None:
    early = is_before(way, step, NO_RETURN[way])
    links = Links.OLD if is_before(way, step, Step.SWAPPED) else Links.NEW
    assert course(marker(way, step), links) is (Course.UNDO if early else Course.GO_ON)


@pytest.mark.parametrize(("way", "step"), ALL)
def test_links_that_went_back_to_old_programs_undo_it(way: Way, step: Step) -> None:
    """Unless the pins are a mixture by then, with which no old program can have been loaded."""
    if is_before(way, Step.SWAPPED, step):
        mixture = step in (Step.CLEARED, Step.PLACED)
        for links in (Links.OLD, Links.BOTH):
            expected = Course.GO_ON if mixture else Course.UNDO
            assert course(marker(way, step), links) is expected


def test_a_swap_that_is_half_done_goes_on() -> None:
    for way in (Way.PLAIN, Way.TO_NEW):
        assert course(marker(way, Step.SWAPPED), Links.BOTH) is Course.GO_ON
        assert course(marker(way, Step.SWAPPED), Links.OLD) is Course.UNDO
    for links in Links:
        assert course(marker(Way.FROM_OLD, Step.SWAPPED), links) is Course.GO_ON


def test_a_link_tells_its_program() -> None:
    assert program_of("uplink") == "mg_from_uplink"
    assert program_of("vxlan") == "mg_from_vxlan"
    assert program_of("guard") == "mg_to_uplink"
    assert program_of("mgp0123456789a_in") == "mg_from_pod"
    assert program_of("mgp0123456789a_out") == "mg_to_pod"
    assert program_of("mg_connect4") == "mg_connect4"
    assert program_of("something") is None
    assert {program_of(name) for name in ("uplink", "vxlan", "host", "guard", "x_in", "x_out")} == {
        *HANDOVER_PROGRAMS.values()
    }
