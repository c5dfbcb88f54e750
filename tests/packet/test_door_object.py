"""Objects: configuration, layouts against bpftool, pins shared and refused, generations, errors."""

import fcntl
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from bpf.btf import Dtype
from bpf.libbpf import LoadError
from bpf.maps import Map, MapInfo
from bpf.object import DriftError, Generation, Object, mount_bpffs
from bpf.sys import mount, open_pinned
from bpf.testrun import run

PACKET = bytes(12) + b"\x08\x00" + bytes(50)
CONFIG = {"verdict": 9, "address": {"w": (0, 0, 0xFFFF, 0x0A010203)}}


def ids(*paths: Path) -> list[int]:
    """The kernel's ids of pinned maps."""
    found = []
    for path in paths:
        with Map.open_pinned(path) as map_:
            found.append(MapInfo(map_.fd).id)
    return found


def test_a_program_reads_the_configuration(door_objects: Path) -> None:
    with Object.open(door_objects / "door.o") as door:
        door.set_config("cfg", CONFIG)
        door.load()
        result = run(door.programs["mg_door_config"], PACKET, ctx={"mark": 5})
    assert result.verdict == 9
    assert result.ctx_out["mark"] == 14


def test_fields_that_are_not_named_keep_their_value(door: Object) -> None:
    assert run(door.programs["mg_door_config"], PACKET, ctx={"mark": 5}).ctx_out["mark"] == 12


def test_a_wrong_field_or_variable_is_named(door_objects: Path) -> None:
    with Object.open(door_objects / "door.o") as door:
        with pytest.raises(KeyError, match=r"door\.o cfg: no field verdikt"):
            door.set_config("cfg", {"verdikt": 1})
        with pytest.raises(KeyError, match="no read-only variable config"):
            door.set_config("config", {})


def test_a_packet_comes_back_as_the_program_left_it(door: Object) -> None:
    result = run(door.programs["mg_door_grow"], PACKET)
    assert len(result.packet_out) == len(PACKET) + 100
    assert result.packet_out.startswith(PACKET)


def test_the_context_names_the_device_of_the_namespace(door: Object) -> None:
    result = run(door.programs["mg_door_emit"], PACKET, ctx={"ifindex": 1, "ingress_ifindex": 1})
    assert result.ctx_out["ifindex"] == 1
    assert result.ctx_out["len"] == 0, "the kernel fills only what it takes"


def test_the_digest_changes_with_configuration_and_sizes(door_objects: Path) -> None:
    def digest(verdict: int, entries: int = 4, name: str = "door.o") -> bytes:
        with Object.open(door_objects / name) as opened:
            if name == "door.o":
                opened.set_config("cfg", {"verdict": verdict})
                opened.set_max_entries("mg_door_small", entries)
            return opened.digest()

    assert digest(1) == digest(1)
    assert len({digest(1), digest(2), digest(1, entries=8), digest(1, name="door_swapped.o")}) == 4


def test_a_generation_is_remembered(pins: Path) -> None:
    assert Generation.read(pins) is None
    Generation.write(pins, bytes(range(32)))
    assert Generation.read(pins) == bytes(range(32))
    Generation.write(pins, bytes(32))
    assert Generation.read(pins) == bytes(32)
    with pytest.raises(ValueError, match="32 bytes"):
        Generation.write(pins, b"short")


def test_sizes_can_be_set_before_the_load(door_objects: Path) -> None:
    with Object.open(door_objects / "door.o") as door:
        door.set_max_entries("mg_door_small", 100)
        door.load()
        keys = np.arange(100, dtype=np.uint32)
        door.maps["mg_door_small"].update(keys, keys)
        assert len(door.maps["mg_door_small"].dump()[0]) == 100


def test_only_the_programs_asked_for_are_loaded(door_objects: Path) -> None:
    with Object.open(door_objects / "door.o") as door:
        door.only("mg_door_emit")
        door.load()
        assert list(door.programs) == ["mg_door_emit"]


def test_objects_and_generations_share_maps_pinned_by_name(door_objects: Path, pins: Path) -> None:
    paths = [pins / "mg_door_hash", pins / "mg_door_ring", pins / "mg_door_lpm"]
    with Object.open(door_objects / "door.o") as first:
        first.pin(pins)
        first.load()
        first.maps["mg_door_small"].update_one(1, 11)
        before = ids(*paths)
    assert all(before)
    assert not [path.name for path in pins.iterdir() if "rodata" in path.name]
    with Object.open(door_objects / "door.o") as second:
        second.set_config("cfg", CONFIG)
        second.pin(pins)
        second.load()
        assert second.maps["mg_door_small"].lookup(1) == 11
    assert ids(*paths) == before


def test_pinned_programs_are_replaced_in_place(door_objects: Path, pins: Path) -> None:
    for verdict in (9, 10):
        with Object.open(door_objects / "door.o") as door:
            door.set_config("cfg", {**CONFIG, "verdict": verdict})
            door.load()
            door.pin_programs(pins / "programs")
        program = open_pinned(pins / "programs" / "mg_door_config")
        assert run(program, PACKET).verdict == verdict
    assert not list((pins / "programs").glob("*_new"))


def test_a_changed_layout_is_refused_before_the_load(door_objects: Path, pins: Path) -> None:
    with Object.open(door_objects / "door.o") as door:
        door.pin(pins)
        door.load()
    before = sorted(path.name for path in pins.iterdir())
    with Object.open(door_objects / "door_swapped.o") as swapped:
        reasons = swapped.drift(pins)
        swapped.pin(pins)
        with pytest.raises(DriftError) as caught:
            swapped.load()
    assert caught.value.reasons == reasons
    assert reasons == [
        "map mg_door_hash: key field zone: <u2 at 16, pinned: <u2 at 18",
        "map mg_door_hash: key field port: >u2 at 18, pinned: >u2 at 16",
        "map mg_door_hash: value field bytes: absent, pinned: |u1[4] at 12",
        "map mg_door_small: max_entries: 8, pinned: 4",
        "map mg_door_small: map_flags: 1, pinned: 0",
    ]
    assert sorted(path.name for path in pins.iterdir()) == before


def test_the_same_object_shows_no_drift(door_objects: Path, pins: Path) -> None:
    with Object.open(door_objects / "door.o") as door:
        assert door.drift(pins) == []
        door.pin(pins)
        door.load()
    with Object.open(door_objects / "door.o") as again:
        assert again.drift(pins) == []
        again.set_max_entries("mg_door_small", 5)
        assert again.drift(pins) == ["map mg_door_small: max_entries: 5, pinned: 4"]


def test_the_verifier_is_quoted(door_objects: Path) -> None:
    with (
        Object.open(door_objects / "door_bad.o") as bad,
        pytest.raises(LoadError, match="R1 offset is outside of the packet") as caught,
    ):
        bad.load()
    assert str(caught.value).startswith(f"[Errno 13] door_bad.o: {os.strerror(13)}")


def test_a_file_that_is_no_object_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.o"
    path.write_bytes(b"not an object")
    for name in (path, tmp_path / "absent.o"):
        with pytest.raises(LoadError, match=name.name):
            Object.open(name)


def test_bpffs_is_mounted_once(bpffs: Path) -> None:
    assert not mount_bpffs(bpffs)


def test_of_two_processes_that_find_no_bpffs_one_mounts_it(tmp_path: Path) -> None:
    """A second mount would hide the pins of the first."""
    first = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(mount_bpffs, tmp_path)
        with suppress(TimeoutError):
            second.result(0.2)
        mount("bpf", tmp_path, "mode=0700")
        os.close(first)
        did = second.result()
    for _ in range(1 + did):
        subprocess.run(["umount", tmp_path], check=True)
    assert not did


def bpftool_types(path: Path) -> dict[int, dict]:
    shown = subprocess.run(
        ["bpftool", "-j", "btf", "dump", "file", str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    return {item["id"]: item for item in json.loads(shown.stdout)["types"]}


def bpftool_offsets(types: dict[int, dict], item: dict, base: int = 0) -> dict[str, int]:
    found: dict[str, int] = {}
    for member in item["members"]:
        offset = base + member["bits_offset"] // 8
        if member["name"] == "(anon)":
            found |= bpftool_offsets(types, types[member["type_id"]], offset)
        else:
            found[member["name"]] = offset
    return found


def offsets(dtype: Dtype) -> dict[str, int]:
    return {name: field[1] for name, field in dtype.fields.items()}


def test_layouts_are_those_that_bpftool_shows(door_objects: Path) -> None:
    types = bpftool_types(door_objects / "door.o")
    structs = {
        item["name"]: item
        for item in types.values()
        if item["kind"] == "STRUCT" and item["name"].startswith(("door_", "addr", "cidr"))
    }
    assert len(structs) >= 7
    with Object.open(door_objects / "door.o") as door:
        for name, item in structs.items():
            ours = door.btf.struct(name)
            assert offsets(ours) == bpftool_offsets(types, item), name
            assert ours.itemsize == item["size"], name


def test_every_pinned_map_can_be_opened_without_the_object(door_objects: Path, pins: Path) -> None:
    with Object.open(door_objects / "door.o") as door:
        door.pin(pins)
        door.load()
        for name, spec in door.specs.items():
            with Map.open_pinned(pins / name) as map_:
                assert (map_.type, map_.name) == (spec.type, name)
                if spec.key is not None:
                    assert (map_.key, map_.value) == (spec.key, spec.value)
