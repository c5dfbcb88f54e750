"""Slots: a client that reads a service's entry at any moment finds right backends behind it."""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address

from mesh.services.backends import BackendAddress, ServiceAddress
from mesh.services.slots import NO_SLOTS, SlotRange, Slots, recovered_slots

Wanted = Mapping[ServiceAddress, tuple[BackendAddress, ...]]


def ask(number: int) -> ServiceAddress:
    return ServiceAddress(IPv4Address(0x0A610100 + number), 80, "TCP")


def content(*numbers: int) -> tuple[BackendAddress, ...]:
    return tuple(BackendAddress(IPv4Address(0x0A010000 + number), 8080) for number in numbers)


def slots_of(wanted: Wanted, capacity: int = 100) -> Slots:
    """Slots whose entries have arrived in the map."""
    slots = Slots(capacity)
    place(slots, wanted)
    arrive(slots)
    return slots


def place(slots: Slots, wanted: Wanted, gone: Iterable[ServiceAddress] = ()) -> None:
    for name in gone:
        slots.remove(name)
    for name, backends in wanted.items():
        slots.place(name, backends)


def arrive(slots: Slots) -> None:
    """All entries are in the map, and what nothing leads to is given back."""
    rows = slots.rows
    assert slots.writing(rows) == set()
    slots.written(rows, ())
    slots.found(rows)
    slots.free()


def test_a_region_holds_the_backends_of_its_service() -> None:
    slots = slots_of({ask(1): content(1, 2, 3), ask(2): content(4), ask(3): ()})
    assert slots.rows == {ask(1): SlotRange(0, 3), ask(2): SlotRange(3, 1), ask(3): NO_SLOTS}
    assert slots.backends == dict(enumerate(content(1, 2, 3, 4)))


def test_equal_backends_share_a_region() -> None:
    slots = slots_of({ask(1): content(1, 2), ask(2): content(1, 2)})
    assert slots.rows == {ask(1): SlotRange(0, 2), ask(2): SlotRange(0, 2)}
    assert len(slots.backends) == 2


def test_only_what_changed_is_written() -> None:
    slots = slots_of({ask(1): content(1, 2), ask(2): content(3)})
    slots.take_writes()
    place(slots, {ask(1): content(1, 2), ask(2): content(4)})
    writes = slots.take_writes()
    assert writes.services == {ask(2): SlotRange(3, 1)}
    assert writes.backends == {3: content(4)[0]}
    assert (writes.gone, writes.freed) == ({}, {})
    arrive(slots)
    assert list(slots.take_writes().freed) == [2]


def test_a_change_moves_nothing_else_and_the_old_region_rests() -> None:
    slots = slots_of({ask(1): content(1, 2), ask(2): content(3)})
    place(slots, {ask(1): content(1, 2, 9)})
    assert slots.rows == {ask(1): SlotRange(3, 3), ask(2): SlotRange(2, 1)}
    slots.free()
    assert slots.backends == dict(enumerate(content(1, 2, 3, 1, 2, 9)))


def test_a_resting_region_is_free_only_when_no_entry_leads_to_it_any_more() -> None:
    slots = slots_of({ask(1): content(1, 2)})
    place(slots, {ask(1): content(3)})
    slots.free()
    assert slots.backends == dict(enumerate(content(1, 2, 3)))
    arrive(slots)
    assert slots.backends == {2: content(3)[0]}
    place(slots, {ask(2): content(5, 6)})
    assert slots.rows[ask(2)] == SlotRange(0, 2)


def test_an_entry_that_was_never_written_keeps_no_region() -> None:
    slots = slots_of({ask(1): content(1)})
    place(slots, {ask(1): content(2, 3)})
    place(slots, {ask(1): content(4)})
    slots.free()
    assert slots.backends == {0: content(1)[0], 3: content(4)[0]}


def test_an_entry_that_failed_keeps_its_own_region_and_no_other() -> None:
    slots = slots_of({ask(1): content(1), ask(2): content(2)})
    place(slots, {ask(1): content(3), ask(2): content(4), ask(3): content(5)})
    rows = slots.rows
    slots.writing(rows)
    slots.written(rows, {ask(2), ask(3)})
    slots.free()
    assert slots.backends == dict(enumerate([*content(2), *content(3, 4, 5)], start=1))
    assert slots.in_map(ask(2))
    assert not slots.in_map(ask(3))


def test_while_an_entry_may_be_the_old_or_the_new_one_both_regions_stay() -> None:
    slots = slots_of({ask(1): content(1)})
    place(slots, {ask(1): content(2)})
    slots.writing(slots.rows)  # and the map does not answer
    place(slots, {ask(1): content(3)})
    slots.free()
    assert slots.backends == dict(enumerate(content(1, 2, 3)))
    slots.found({ask(1): SlotRange(1, 1)})
    slots.free()
    assert slots.backends == {1: content(2)[0], 2: content(3)[0]}


def test_an_entry_whose_slots_were_given_away_is_not_written() -> None:
    slots = slots_of({ask(1): content(1)})
    place(slots, {ask(1): content(2, 3)})
    late = slots.rows
    place(slots, {ask(1): content(4)})
    slots.free()
    assert slots.writing(late) == {ask(1)}


def test_backends_that_come_back_while_they_rest_take_their_old_region() -> None:
    slots = slots_of({ask(1): content(1, 2)})
    before = slots.rows
    place(slots, {ask(1): content(1)})
    place(slots, {ask(1): content(1, 2)})
    assert slots.rows == before
    arrive(slots)
    assert len(slots.backends) == 2


def test_a_removed_service_leaves_its_slots_until_its_entry_has_gone() -> None:
    slots = slots_of({ask(1): content(1, 2), ask(2): content(3)})
    place(slots, {}, gone=[ask(1)])
    slots.free()
    assert slots.rows == {ask(2): SlotRange(2, 1)}
    assert len(slots.backends) == 3
    slots.removed([ask(1)])
    slots.free()
    assert len(slots.backends) == 1


def test_a_service_that_finds_no_room_keeps_its_slots_with_present_backends() -> None:
    slots = slots_of({ask(1): content(1, 2), ask(2): content(3)}, capacity=4)
    place(slots, {ask(1): content(5, 6), ask(2): content(7)})
    assert slots.rows == {ask(1): SlotRange(0, 2), ask(2): SlotRange(3, 1)}
    assert slots.backends == dict(enumerate(content(5, 6, 3, 7)))
    assert not slots.short


def test_more_backends_than_slots_are_as_many_as_fit() -> None:
    slots = slots_of({ask(1): content(1, 2), ask(2): content(3)}, capacity=4)
    place(slots, {ask(1): content(5, 6, 7, 8)})
    assert slots.rows[ask(1)] == SlotRange(0, 2)
    assert slots.backends == dict(enumerate(content(5, 6, 3)))
    assert slots.short == {ask(1): content(5, 6, 7, 8)}
    assert slots.demand == 5


def test_fewer_backends_than_slots_stand_there_twice_until_there_is_room() -> None:
    """The entry in the map leads to all slots, so each of them holds a backend of now."""
    slots = slots_of({ask(1): content(1, 2, 3)}, capacity=4)
    place(slots, {ask(2): content(9)})
    place(slots, {ask(1): content(5, 6)})
    assert slots.rows[ask(1)] == SlotRange(0, 3)
    assert slots.backends == dict(enumerate(content(5, 6, 5, 9)))
    slots.remove(ask(2))
    slots.free()
    assert not slots.retry()
    assert slots.rows[ask(1)] == SlotRange(0, 3)
    assert ask(1) in slots.short
    assert not slots.lacking


def test_a_new_service_gets_the_part_that_fits_and_the_rest_when_slots_are_free() -> None:
    slots = slots_of({ask(1): content(1, 2)}, capacity=3)
    place(slots, {ask(2): content(3, 4)})
    assert slots.rows[ask(2)] == SlotRange(2, 1)
    place(slots, {ask(1): ()})
    arrive(slots)
    assert not slots.retry()
    assert slots.rows[ask(2)] == SlotRange(0, 2)
    assert not slots.short


def test_a_new_service_that_finds_no_room_is_refused() -> None:
    slots = slots_of({ask(1): content(1)}, capacity=1)
    place(slots, {ask(2): content(2)})
    assert slots.rows == {ask(1): SlotRange(0, 1), ask(2): NO_SLOTS}
    assert (slots.short, slots.demand) == ({ask(2): content(2)}, 2)


def test_slots_that_others_share_are_not_rewritten() -> None:
    slots = slots_of({ask(1): content(1, 2), ask(2): content(1, 2)}, capacity=2)
    place(slots, {ask(1): content(3)})
    assert slots.rows == {ask(1): SlotRange(0, 2), ask(2): SlotRange(0, 2)}
    assert slots.backends == dict(enumerate(content(1, 2)))
    assert slots.short == {ask(1): content(3)}
    assert slots.lacking == {ask(1)}


def test_slots_to_which_the_map_still_leads_another_service_are_not_rewritten() -> None:
    slots = slots_of({ask(1): content(1, 2), ask(2): content(1, 2)}, capacity=3)
    place(slots, {ask(2): content(5)})
    place(slots, {ask(1): content(6, 7)})
    assert slots.backends == dict(enumerate(content(1, 2, 5)))
    arrive(slots)
    assert slots.due
    assert not slots.retry()
    assert slots.backends == dict(enumerate(content(6, 7, 5)))
    assert slots.short == {}


def test_services_that_share_slots_and_want_the_same_keep_them() -> None:
    slots = slots_of({ask(1): content(1, 2), ask(2): content(1, 2)}, capacity=2)
    place(slots, {ask(1): content(3, 4), ask(2): content(3, 4)})
    assert slots.backends == dict(enumerate(content(3, 4)))
    assert slots.rows == {ask(1): SlotRange(0, 2), ask(2): SlotRange(0, 2)}
    assert not slots.retry()
    assert slots.short == {}


def test_a_full_map_with_thousands_of_services_is_tried_in_parts() -> None:
    wanted = {ask(number): content(number, number + 1) for number in range(200)}
    slots = slots_of(wanted, capacity=4)
    assert len(slots.short) == 198
    place(slots, {}, gone=[ask(0)])
    arrive(slots)
    assert not slots.retry(), "nothing is free any more, so the others need not be tried"
    assert sum(row.count for row in slots.rows.values()) == 4


def test_slots_are_recovered_from_the_maps() -> None:
    wanted = {ask(1): content(1, 2), ask(2): content(3), ask(3): ()}
    slots = slots_of(wanted)
    place(slots, {ask(1): content(1, 2, 4)})
    again = recovered_slots(slots.rows, slots.backends, 100)
    assert again.rows == slots.rows
    place(again, {**wanted, ask(1): content(1, 2, 4)})
    assert again.rows == slots.rows
    writes = again.take_writes()
    assert not writes.services
    assert writes.backends == {s: slots.backends[s] for s in (2, 3, 4, 5)}
    place(again, {ask(4): content(7)})
    assert again.rows[ask(4)] == SlotRange(0, 1), "the slots that rested before are free"


def test_an_entry_that_leads_to_absent_slots_is_written_anew() -> None:
    again = recovered_slots(
        {ask(1): SlotRange(0, 2), ask(2): SlotRange(5, 1)}, {0: content(1)[0]}, 100
    )
    assert again.rows == {}
    place(again, {ask(1): content(1)})
    assert again.rows == {ask(1): SlotRange(0, 1)}


def test_an_entry_that_leads_into_the_middle_of_another_is_written_anew() -> None:
    again = recovered_slots(
        {ask(1): SlotRange(0, 3), ask(2): SlotRange(1, 1)}, dict(enumerate(content(1, 2, 3))), 100
    )
    assert again.rows == {ask(1): SlotRange(0, 3)}
