"""The ring: order, discards, foreign records, limits, wrap-around, asyncio, a second reader."""

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from bpf.object import Object
from bpf.ring import Ring
from bpf.testrun import run

PACKET = bytes(12) + b"\x08\x00" + bytes(50)
#: 65,536 bytes of records of 16 bytes and a header of 8 each.
CAPACITY = 65536 // 24


@pytest.fixture
def ring(door: Object) -> Iterator[Ring]:
    opened = Ring(door.maps["mg_door_ring"], door.btf.struct("door_event"))
    yield opened
    opened.close()


def emit(door: Object, count: int, mark: int = 0) -> None:
    run(door.programs["mg_door_emit"], PACKET, count, {"mark": mark})


def test_records_come_out_decoded_and_in_order(door: Object, ring: Ring) -> None:
    emit(door, 100)
    events = ring.drain()
    assert events["number"].tolist() == list(range(100))
    assert set(events["colour"].tolist()) == {door.btf.enum("colour")["COLOUR_BLUE"]}
    assert len(ring.drain()) == 0


def test_a_limit_leaves_the_rest_in_the_ring(door: Object, ring: Ring) -> None:
    emit(door, 10)
    assert ring.drain(4)["number"].tolist() == [0, 1, 2, 3]
    assert ring.drain(4)["number"].tolist() == [4, 5, 6, 7]
    assert ring.drain(4)["number"].tolist() == [8, 9]


def test_discarded_records_are_skipped_also_first_and_last(door: Object, ring: Ring) -> None:
    emit(door, 3)
    assert len(ring.drain()) == 3
    emit(door, 1, mark=1)
    assert len(ring.drain()) == 0
    emit(door, 500, mark=1)
    assert ring.drain()["number"].tolist() == [n for n in range(4, 504) if n % 10 != 3]
    assert ring.foreign == 0


def test_records_of_another_size_are_skipped_and_counted(door: Object, ring: Ring) -> None:
    emit(door, 5)
    emit(door, 5, mark=2)
    emit(door, 5)
    assert ring.drain()["number"].tolist() == list(range(15))
    assert ring.foreign == 5


def test_records_survive_the_end_of_the_ring(door: Object, ring: Ring) -> None:
    seen: list[int] = []
    for count in (1000, CAPACITY - 1, 1500, 2000, 777):
        emit(door, count)
        seen += ring.drain()["number"].tolist()
    assert seen == list(range(len(seen)))
    assert len(seen) == 1000 + CAPACITY - 1 + 1500 + 2000 + 777


def test_a_full_ring_keeps_the_oldest(door: Object, ring: Ring) -> None:
    emit(door, CAPACITY + 1000)
    seen = ring.drain()["number"]
    assert len(seen) in (CAPACITY - 1, CAPACITY)
    assert (seen == np.arange(len(seen))).all()


def test_a_new_reader_continues_where_the_old_one_stopped(door: Object) -> None:
    emit(door, 10)
    seen = []
    for limit in (6, 100):
        ring = Ring(door.maps["mg_door_ring"], door.btf.struct("door_event"))
        seen.append(ring.drain(limit)["number"].tolist())
        ring.close()
    assert seen == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]


def test_asyncio_wakes_up_for_records(door: Object, ring: Ring) -> None:
    async def story() -> list[int]:
        loop, seen, done = asyncio.get_running_loop(), list[int](), asyncio.Event()

        def readable() -> None:
            seen.extend(ring.drain()["number"].tolist())
            if len(seen) == 30:
                done.set()

        loop.add_reader(ring.fd, readable)
        for _ in range(30):
            emit(door, 1)
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await done.wait()
        loop.remove_reader(ring.fd)
        return seen

    assert asyncio.run(story()) == list(range(30))
