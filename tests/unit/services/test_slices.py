"""Slices: a client that reads a service's entry at any moment finds right backends behind it."""

import random
from collections.abc import Mapping
from ipaddress import IPv4Address

import pytest

from mesh.services.backends import BackendAddress, ServiceAddress
from mesh.services.slots import Allocation, Slice, allocate, recovered


def ask(number: int) -> ServiceAddress:
    return ServiceAddress(IPv4Address(0x0A610100 + number), 80, "TCP")


def content(*numbers: int) -> tuple[BackendAddress, ...]:
    return tuple(BackendAddress(IPv4Address(0x0A010000 + number), 8080) for number in numbers)


def step(
    before: Allocation,
    wanted: Mapping[ServiceAddress, tuple[BackendAddress, ...]],
    capacity: int = 100,
    *,
    arrived: bool = True,
) -> Allocation:
    allocation, findings = allocate(before, wanted, arrived=arrived, capacity=capacity)
    assert findings == []
    return allocation


def test_a_slice_holds_the_backends_of_its_service() -> None:
    state = step(Allocation(), {ask(1): content(1, 2, 3), ask(2): content(4), ask(3): ()})
    assert state.services() == {ask(1): Slice(0, 3), ask(2): Slice(3, 1), ask(3): Slice(0, 0)}
    assert state.backends() == dict(enumerate(content(1, 2, 3, 4)))


def test_equal_backends_share_a_slice() -> None:
    state = step(Allocation(), {ask(1): content(1, 2), ask(2): content(1, 2)})
    assert state.services() == {ask(1): Slice(0, 2), ask(2): Slice(0, 2)}
    assert len(state.backends()) == 2


def test_a_change_moves_nothing_else_and_the_old_slice_rests() -> None:
    first = step(Allocation(), {ask(1): content(1, 2), ask(2): content(3)})
    second = step(first, {ask(1): content(1, 2, 9), ask(2): content(3)})
    assert second.services() == {ask(1): Slice(3, 3), ask(2): Slice(2, 1)}
    assert second.backends() == dict(enumerate(content(1, 2, 3, 1, 2, 9)))


def test_a_resting_slice_is_free_only_when_no_entry_points_to_it_any_more() -> None:
    first = step(Allocation(), {ask(1): content(1, 2)})
    second = step(first, {ask(1): content(3)})
    waiting = step(second, {ask(1): content(4)}, arrived=False)
    assert waiting.backends() == dict(enumerate(content(1, 2, 3, 4)))
    settled = step(waiting, {ask(1): content(4)})
    assert settled.backends() == {3: content(4)[0]}
    assert not settled.resting
    assert step(settled, {ask(1): content(4), ask(2): content(5, 6)}).services()[ask(2)] == Slice(
        0, 2
    )


def test_backends_that_come_back_while_they_rest_take_their_old_slice() -> None:
    first = step(Allocation(), {ask(1): content(1, 2)})
    second = step(first, {ask(1): content(1)})
    third = step(second, {ask(1): content(1, 2)})
    assert third.services() == first.services()


def test_a_removed_service_leaves_its_slots_for_one_round() -> None:
    first = step(Allocation(), {ask(1): content(1, 2), ask(2): content(3)})
    second = step(first, {ask(2): content(3)})
    assert second.services() == {ask(2): Slice(2, 1)}
    assert len(second.backends()) == 3
    assert len(step(second, {ask(2): content(3)}).backends()) == 1


def test_a_service_that_finds_no_room_keeps_what_it_had_and_is_named() -> None:
    first = step(Allocation(), {ask(1): content(1, 2), ask(2): content(3)}, capacity=4)
    second, findings = allocate(
        first, {ask(1): content(5, 6), ask(2): content(7)}, arrived=True, capacity=4
    )
    assert second.services() == {ask(1): Slice(0, 2), ask(2): Slice(3, 1)}
    assert second.backends() == dict(enumerate(content(1, 2, 3, 7)))
    assert [(f.code, f.object) for f in findings] == [
        ("M162", "service address 10.97.1.1 port 80/TCP")
    ]
    third = step(second, {ask(1): content(5), ask(2): content(7)}, capacity=4)
    assert third.services() == {ask(1): Slice(2, 1), ask(2): Slice(3, 1)}


def test_a_new_service_that_finds_no_room_is_refused() -> None:
    state, findings = allocate(Allocation(), {ask(1): content(1, 2)}, arrived=True, capacity=1)
    assert state.services() == {ask(1): Slice(0, 0)}
    assert len(findings) == 1


def test_an_allocation_is_recovered_from_the_maps() -> None:
    wanted = {ask(1): content(1, 2), ask(2): content(3), ask(3): ()}
    state = step(Allocation(), wanted)
    state = step(state, {**wanted, ask(1): content(1, 2, 4)})
    again = recovered(state.services(), state.backends())
    assert step(again, again.contents).services() == state.services()
    assert again.contents == state.contents
    assert again.first == state.first


def test_an_entry_that_points_to_absent_slots_is_written_anew() -> None:
    again = recovered({ask(1): Slice(0, 2), ask(2): Slice(5, 1)}, {0: content(1)[0]})
    assert again.contents == {ask(1): (), ask(2): ()}
    assert step(again, {ask(1): content(1)}).services() == {ask(1): Slice(0, 1)}


class Maps:
    """Both maps as a client meets them, written like the loop does: one row at a time."""

    def __init__(self) -> None:
        self.entries: dict[ServiceAddress, Slice] = {}
        self.slots: dict[int, BackendAddress] = {}
        self.right: dict[ServiceAddress, set[tuple[BackendAddress, ...]]] = {}

    def check(self) -> None:
        """Every service leads to backends that it has, or had until its entry is written."""
        for name, row in self.entries.items():
            seen = tuple(self.slots[row.first + place] for place in range(row.count))
            assert seen in self.right[name]

    def write_slots(self, state: Allocation) -> None:
        self.slots.update(state.backends())
        self.check()
        self.slots = state.backends()
        self.check()

    def write_entries(self, state: Allocation, names: list[ServiceAddress]) -> None:
        rows = state.services()
        for name in names:
            self.entries[name] = rows[name]
            self.check()
        if len(names) == len(rows):
            self.entries = {name: self.entries[name] for name in rows}
            self.right = {name: {state.contents[name]} for name in rows}
            self.check()


@pytest.mark.parametrize("seed", range(20))
def test_every_order_of_events_keeps_every_entry_right(seed: int) -> None:
    chance, maps, state, arrived = random.Random(seed), Maps(), Allocation(), True
    for _ in range(60):
        names = [ask(number) for number in range(5) if chance.random() < 0.8]
        wanted = {name: content(*chance.sample(range(8), chance.randrange(5))) for name in names}
        for name in names:
            maps.right.setdefault(name, set()).add(wanted[name])
        state = step(state, wanted, 1000, arrived=arrived)
        maps.write_slots(state)
        arrived = chance.random() < 0.6
        chance.shuffle(names)
        maps.write_entries(state, names if arrived else names[: len(names) // 2])
        if arrived and chance.random() < 0.1:
            state = recovered(maps.entries, maps.slots)
