"""Maps of the door: batches and their five rules, per-CPU values, LPM tries, targets."""

import asyncio
import errno
import os
from pathlib import Path

import numpy as np
import pytest

from bpf.maps import Map, MapTarget, RowTarget, possible_cpus
from bpf.object import Object
from bpf.testrun import run
from mesh.core.reconcile import Loop
from mesh.core.table import ColumnTable, Table

PACKET = bytes(12) + b"\x08\x00" + bytes(50)


def hash_rows(map_: Map, count: int) -> tuple[np.ndarray, np.ndarray]:
    keys, values = np.zeros(count, map_.key), np.zeros(count, map_.value)
    keys["address"]["w"][:, 3] = np.arange(count)
    keys["port"] = 443
    values["packets"] = np.arange(count)
    values["name"] = b"row"
    return keys, values


def test_a_batch_comes_back_as_it_was_written(door: Object) -> None:
    map_ = door.maps["mg_door_hash"]
    keys, values = hash_rows(map_, 1000)
    map_.update(keys, values)
    got_keys, got_values = map_.dump()
    order = np.argsort(got_keys["address"]["w"][:, 3])
    assert (got_keys[order] == keys).all()
    assert (got_values[order] == values).all()


def test_the_kernel_sees_network_order(door: Object) -> None:
    map_ = door.maps["mg_door_hash"]
    map_.update_one({"address": {"w": (0, 0, 0xFFFF, 0x0A010203)}, "port": 80}, {"packets": 1})
    name = bytes(10) + b"\xff\xff\x0a\x01\x02\x03" + b"\x00\x50" + bytes(2)
    value = map_.lookup(name)
    assert value is not None
    assert value["packets"] == 1


def test_rows_of_another_byte_order_and_layout_are_converted(door: Object) -> None:
    map_ = door.maps["mg_door_hash"]
    keys = np.zeros(2, [("zone", "u2"), ("port", "u2")])
    keys["port"] = (1, 2)
    values = np.zeros(2, [("node", "u4")])
    values["node"] = 0x0A000001
    map_.update(keys, values)
    value = map_.lookup({"port": 2})
    assert value is not None
    assert value["node"].tobytes() == b"\x0a\x00\x00\x01"


def test_a_field_that_the_map_has_not_is_refused(door: Object) -> None:
    map_ = door.maps["mg_door_hash"]
    with pytest.raises(KeyError, match="colour"):
        map_.update(np.zeros(1, map_.key), np.zeros(1, [("colour", "u4")]))
    with pytest.raises(KeyError, match="colour"):
        map_.update_one({"colour": 1}, {})


def test_a_delete_steps_over_vanished_keys(door: Object) -> None:
    map_ = door.maps["mg_door_hash"]
    keys, values = hash_rows(map_, 1000)
    map_.update(keys, values)
    map_.delete(keys[::3])
    map_.delete(keys[:900])
    left = map_.dump()[0]["address"]["w"][:, 3]
    assert set(left.tolist()) == set(range(900, 1000)) - set(range(0, 1000, 3))
    map_.delete(keys[:900])
    assert len(map_.dump()[0]) == len(left)


def test_a_dump_grows_its_chunk_when_a_bucket_is_longer(door: Object) -> None:
    map_ = door.maps["mg_door_hash"]
    keys, values = hash_rows(map_, 60_000)
    map_.update(keys, values)
    got = map_.dump(chunk=1)[0]["address"]["w"][:, 3]
    assert len(got) == len(set(got.tolist())) == 60_000


def test_one_row_that_does_not_fit_stops_no_other(door: Object) -> None:
    map_ = door.maps["mg_door_small"]
    map_.update_one(7, 1)
    keys = np.array([1, 2, 3, 4, 5, 7], np.uint32)
    failed = map_.try_update(keys, keys)
    assert failed == {3: errno.E2BIG, 4: errno.E2BIG}
    assert dict(zip(*map_.dump(), strict=True)) == {1: 1, 2: 2, 3: 3, 7: 7}
    with pytest.raises(OSError, match="2 of 6 rows") as caught:
        map_.update(keys, keys)
    assert caught.value.errno == errno.E2BIG


def test_a_closed_map_is_one_error(door: Object) -> None:
    map_ = door.maps["mg_door_small"]
    keys = np.arange(4, dtype=np.uint32)
    map_.close()
    for call in (lambda: map_.update(keys, keys), lambda: map_.delete(keys), map_.dump):
        with pytest.raises(OSError, match="mg_door_small") as caught:
            call()
        assert caught.value.errno == errno.EBADF


def test_one_entry_is_written_read_and_removed(door: Object) -> None:
    map_ = door.maps["mg_door_small"]
    assert map_.lookup(9) is None
    map_.update_one(9, 90, flags=1)
    with pytest.raises(FileExistsError):
        map_.update_one(9, 91, flags=1)
    assert map_.lookup(9) == 90
    assert map_.delete_one(9)
    assert not map_.delete_one(9)
    assert map_.lookup(9) is None


def test_an_array_is_dumped_in_order(door: Object) -> None:
    map_ = door.maps["mg_door_array"]
    map_.update_one(3, 0x0A000001)
    keys, values = map_.dump(chunk=3)
    assert keys.tolist() == list(range(8))
    assert values[3] == 0x0A000001
    assert values.tobytes()[12:16] == b"\x0a\x00\x00\x01"


def test_per_cpu_values_have_a_column_per_cpu(door: Object) -> None:
    map_ = door.maps["mg_door_percpu"]
    run(door.programs["mg_door_count"], PACKET, repeat=500)
    keys, values = map_.dump_percpu()
    assert values.shape == (16, possible_cpus())
    assert values[keys.tolist().index(7)].sum() == 500
    assert values.sum() == 500
    one = map_.lookup(7)
    assert one is not None
    assert one.shape == (possible_cpus(),)
    assert one.sum() == 500


def cidr_rows(map_: Map) -> tuple[np.ndarray, np.ndarray]:
    """Nested prefixes, 1000 of them: ::10.x.0.0 with every length from 96 to 128."""
    keys, values = np.zeros(1000, map_.key), np.zeros(1000, map_.value)
    bits = np.arange(1000) % 33
    keys["prefix"] = 96 + bits
    address = (10 << 24) + (np.arange(1000) << 12)
    keys["addr"]["w"][:, 3] = address & (0xFFFFFFFF << (32 - bits))
    values["node"] = np.arange(1000)
    return keys, values


def test_a_trie_is_written_dumped_and_emptied_in_batches(door: Object) -> None:
    map_ = door.maps["mg_door_lpm"]
    keys, values = cidr_rows(map_)
    names = {key.tobytes() for key in keys}
    map_.update(keys, values)
    for chunk in (1, 7, 4096):
        got = map_.dump(chunk)[0]
        assert len(got) == len(names)
        assert {key.tobytes() for key in got} == names
    map_.delete(np.concatenate([keys[:300], keys[:600]], dtype=map_.key))
    gone = {key.tobytes() for key in keys[:600]}
    assert {key.tobytes() for key in map_.dump()[0]} == names - gone
    map_.delete(keys)
    assert len(map_.dump()[0]) == 0


def test_a_trie_answers_with_the_longest_prefix(door: Object) -> None:
    map_ = door.maps["mg_door_lpm"]
    for prefix, node in ((96, 1), (104, 2), (112, 3)):
        map_.update_one({"prefix": prefix, "addr": {"w": (0, 0, 0, 0x0A010000)}}, {"node": node})
    for address, node in ((0x0A010203, 3), (0x0A020304, 2), (0x0B000001, 1)):
        value = map_.lookup({"prefix": 128, "addr": {"w": (0, 0, 0, address)}})
        assert value is not None
        assert value["node"] == node


def test_a_pinned_map_is_opened_with_the_layout_that_the_kernel_keeps(
    door_objects: Path, pins: Path
) -> None:
    with Object.open(door_objects / "door.o") as first:
        first.pin(pins)
        first.load()
        ours = first.maps["mg_door_hash"]
        keys, values = hash_rows(ours, 3)
        ours.update(keys, values)
        with Map.open_pinned(pins / "mg_door_hash") as map_:
            assert (map_.key, map_.value) == (ours.key, ours.value)
            assert (map_.name, map_.type, map_.max_entries) == ("mg_door_hash", 1, 131072)
            assert sorted(map_.dump()[1]["packets"].tolist()) == [0, 1, 2]
    with pytest.raises(FileNotFoundError):
        Map.open_pinned(pins / "mg_none")


async def arrived(loop: Loop) -> None:
    """Until every table of ``loop`` has arrived."""
    async with asyncio.timeout(10):
        while not all(applied.current for applied in loop.applied):
            await asyncio.sleep(0.001)


class Watched(Map):
    """A map that remembers how many rows each batch wrote or removed."""

    def update(self, keys: np.ndarray, values: np.ndarray) -> None:
        self.name += f" +{len(keys)}"
        super().update(keys, values)

    def delete(self, keys: np.ndarray) -> None:
        self.name += f" -{len(keys)}"
        super().delete(keys)


def test_a_column_table_reaches_the_map_and_later_only_what_changed(door: Object) -> None:
    with Watched.from_fd(os.dup(door.maps["mg_door_hash"].fd)) as map_:
        keys, values = hash_rows(map_, 3001)
        Map.update(map_, keys[3000:], values[3000:])  # left by an older agent
        table = ColumnTable("row", map_.key, map_.value)
        loop = Loop()
        loop.apply_columns(table, MapTarget(map_))

        async def story() -> None:
            running = asyncio.create_task(loop.run())
            table.replace(keys[:3000], values[:3000])
            await arrived(loop)
            assert len(map_.dump()[0]) == 3000
            table.upsert(keys[7:8], values[8:9])
            table.delete(keys[8:10])
            await arrived(loop)
            running.cancel()

        asyncio.run(story())
        assert map_.name == "mg_door_hash +3000 -1 +1 -2"
        value = map_.lookup(keys[7].tobytes())
        assert value is not None
        assert value["packets"] == 8
        assert len(map_.dump()[0]) == 2998


def test_a_target_may_know_fewer_fields_than_the_map(door: Object) -> None:
    map_ = door.maps["mg_door_hash"]
    target = MapTarget(map_, key=f"V{map_.key.itemsize}", value=[("node", "u4")])
    keys = np.frombuffer(bytes(19) + b"\x01" + bytes(20), "V20")
    values = np.array([(1,), (2,)], [("node", "u4")])
    asyncio.run(target.upsert(keys, values))
    got_keys, got_values = asyncio.run(target.read())
    assert got_keys.dtype == keys.dtype
    assert sorted(got_values["node"].tolist()) == [1, 2]
    with pytest.raises(KeyError, match="owner"):
        MapTarget(map_, value=[("owner", "u4")])


def test_rows_reach_the_map_and_a_bad_one_fails_alone(door: Object) -> None:
    map_ = door.maps["mg_door_small"]

    def encode(key: str, row: int) -> tuple[object, object]:
        return int(key), row

    target: RowTarget[str, int] = RowTarget(map_, encode, lambda k, v: (str(k), int(v)))
    map_.update_one(4, 40)
    table: Table[str, int] = Table("row")
    table.replace({"1": 10, "2": 20, "x": 30})
    errors = asyncio.run(target.upsert({**table.rows, "3": 1 << 32, "-1": 1}))
    assert list(errors) == ["x", "3", "-1"]
    assert asyncio.run(target.read()) == {"1": 10, "2": 20, "4": 40}
    assert asyncio.run(target.delete(["4", "1", "9"])) == {}
    assert asyncio.run(target.read()) == {"2": 20}
    errors = asyncio.run(target.upsert({"5": 5, "6": 6, "7": 7, "8": 8}))
    assert [str(error) for error in errors.values()] == [
        "[Errno 7] mg_door_small: Argument list too long"
    ]


def test_an_entry_that_nobody_understands_hides_no_other(
    door: Object, caplog: pytest.LogCaptureFixture
) -> None:
    map_ = door.maps["mg_door_small"]
    names = {1: "one", 2: "two"}
    target: RowTarget[str, int] = RowTarget(
        map_, lambda _, row: (row, row), lambda k, v: (names[int(k)], int(v))
    )
    for number in (1, 2, 3):
        map_.update_one(number, number)
    assert asyncio.run(target.read()) == {"one": 1, "two": 2}
    assert "map=mg_door_small entry=03000000 unreadable: 3" in caplog.text


def test_bytes_of_another_length_are_refused(door: Object) -> None:
    map_ = door.maps["mg_door_small"]
    for wrong in (b"abc", b"abcde"):
        with pytest.raises(ValueError, match="bytes where 4 belong"):
            map_.update_one(wrong, 1)


def test_other_tasks_run_while_65536_rows_are_written(door: Object) -> None:
    map_ = door.maps["mg_door_hash"]
    keys, values = hash_rows(map_, 65536)
    turns = 0

    async def story() -> None:
        nonlocal turns
        writing = asyncio.create_task(MapTarget(map_).upsert(keys, values))
        while not writing.done():
            turns += 1
            await asyncio.sleep(0)

    asyncio.run(story())
    assert len(map_.dump()[0]) == 65536
    assert turns >= 16
