"""Links: they outlive the process, change programs without a gap, and notice deleted places."""

import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import HERE, ip, veth

from bpf import links, netns
from bpf.maps import Map
from bpf.object import Object
from bpf.sys import AttachType, info, open_pinned

FRAME = b"\xff" * 6 + bytes(6) + b"\x88\xb5" + bytes(50)


@contextmanager
def counting(objects: Path, pins: Path, slot: int) -> Iterator[int]:
    """A program that counts packets in ``slot`` of a pinned map."""
    with Object.open(objects / "door.o") as door:
        door.set_config("cfg", {"verdict": slot})
        door.only("mg_door_count")
        door.pin(pins)
        door.load()
        yield door.programs["mg_door_count"]


def counts(pins: Path) -> list[int]:
    with Map.open_pinned(pins / "mg_door_percpu") as map_:
        keys, values = map_.dump_percpu()
        return [int(values[keys == slot].sum()) for slot in range(4)]


def packet_socket(namespace: Path, device: str) -> socket.socket:
    with netns.enter(namespace):
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sender.bind((device, 0))
    return sender


def link_ids(*pins: Path) -> list[int]:
    found = []
    for pin in pins:
        fd = open_pinned(pin)
        found.append(int.from_bytes(info(fd, 8)[4:], sys.byteorder))
        os.close(fd)
    return found


def test_a_link_counts_packets_of_its_device_and_direction(
    door_objects: Path, pins: Path, namespace: Path
) -> None:
    with counting(door_objects, pins, 1) as program, netns.enter(namespace):
        links.tcx(program, "left", ingress=True, pin=pins / "in")
        links.tcx(program, "right", ingress=False, pin=pins / "out")
    before = counts(pins)[1]
    with packet_socket(namespace, "right") as sender:
        for _ in range(10):
            sender.send(FRAME)
    assert counts(pins)[1] - before == 20


@pytest.mark.parametrize("first", [True, False])
def test_a_program_stands_before_those_that_were_there(
    door_objects: Path, door: Object, pins: Path, namespace: Path, *, first: bool
) -> None:
    """Its verdict ends the chain, so that the other one never sees the packet."""
    with counting(door_objects, pins, 1) as other, netns.enter(namespace):
        links.tcx(other, "left", ingress=True, pin=pins / "other")
        grow = door.programs["mg_door_grow"]
        links.tcx(grow, "left", ingress=True, pin=pins / "in", first=first)
        before = counts(pins)[1]
        with packet_socket(namespace, "right") as sender:
            for _ in range(10):
                sender.send(FRAME)
        assert counts(pins)[1] - before == (0 if first else 10)


def test_a_link_survives_the_process_that_made_it(
    door_objects: Path, pins: Path, namespace: Path
) -> None:
    script = f"""
        from pathlib import Path
        from bpf import links, netns
        from bpf.object import Object
        door = Object.open(Path({str(door_objects / "door.o")!r}))
        door.set_config("cfg", {{"verdict": 1}})
        door.only("mg_door_count")
        door.pin(Path({str(pins)!r}))
        door.load()
        with netns.enter(Path({str(namespace)!r})):
            links.tcx(door.programs["mg_door_count"], "left", ingress=True,
                      pin=Path({str(pins / "in")!r}))
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=HERE.parent.parent
    )
    before = counts(pins)[1]
    with packet_socket(namespace, "right") as sender:
        for _ in range(10):
            sender.send(FRAME)
    assert counts(pins)[1] - before == 10


def test_a_pinned_link_goes_over_to_the_next_program_without_a_gap(
    door_objects: Path, pins: Path, namespace: Path
) -> None:
    stop, sent = threading.Event(), 0

    def send() -> None:
        nonlocal sent
        with packet_socket(namespace, "right") as sender:
            while not stop.is_set():
                sender.send(FRAME)
                sent += 1

    with (
        counting(door_objects, pins, 1) as first,
        counting(door_objects, pins, 2) as second,
        netns.enter(namespace),
    ):
        links.tcx(first, "left", ingress=True, pin=pins / "in")
        made = link_ids(pins / "in")
        before = sum(counts(pins))
        thread = threading.Thread(target=send)
        thread.start()
        programs = set()
        deadline = time.monotonic() + 60
        for turn in range(400):
            links.tcx((second, first)[turn % 2], "left", ingress=True, pin=pins / "in")
            programs.add(links.program_id(pins / "in"))
            passed = sent
            while sent == passed and time.monotonic() < deadline:
                time.sleep(0)  # each program sees a packet, however busy the machine is
        stop.set()
        thread.join()
    counted = counts(pins)
    assert counted[1], "the first program ran"
    assert counted[2], "the second program ran"
    assert sum(counted) - before == sent
    assert len(programs) == 2
    assert link_ids(pins / "in") == made


def test_a_deleted_device_gets_a_new_link(door_objects: Path, pins: Path, namespace: Path) -> None:
    with counting(door_objects, pins, 1) as program, netns.enter(namespace):
        links.tcx(program, "left", ingress=True, pin=pins / "in")
        made = link_ids(pins / "in")
        ip("-n", namespace.name, "link", "del", "left")
        with pytest.raises(OSError, match="left"):
            links.tcx(program, "left", ingress=True, pin=pins / "in")
        veth(namespace)
        links.tcx(program, "left", ingress=True, pin=pins / "in")
        assert link_ids(pins / "in") != made
    before = counts(pins)[1]
    with packet_socket(namespace, "right") as sender:
        sender.send(FRAME)
    assert counts(pins)[1] - before == 1


def test_a_name_that_moved_to_another_device_takes_the_link_along(
    door_objects: Path, pins: Path, namespace: Path
) -> None:
    name = namespace.name
    with counting(door_objects, pins, 1) as program, netns.enter(namespace):
        links.tcx(program, "left", ingress=True, pin=pins / "pod_in")
        for old, new in (("left", "other"), ("right", "left"), ("other", "right")):
            ip("-n", name, "link", "set", old, "down")
            ip("-n", name, "link", "set", old, "name", new)
        for device in ("left", "right"):
            ip("-n", name, "link", "set", device, "up")
        links.tcx(program, "left", ingress=True, pin=pins / "pod_in")
    before = counts(pins)[1]
    with packet_socket(namespace, "right") as sender, packet_socket(namespace, "left") as other:
        sender.send(FRAME)
        other.send(FRAME)
    assert counts(pins)[1] - before == 1


def test_a_detached_link_runs_no_more(door_objects: Path, pins: Path, namespace: Path) -> None:
    with counting(door_objects, pins, 1) as program, netns.enter(namespace):
        links.tcx(program, "left", ingress=True, pin=pins / "in")
    assert links.detach(pins / "in")
    assert not links.detach(pins / "in")
    before = counts(pins)[1]
    with packet_socket(namespace, "right") as sender:
        sender.send(FRAME)
    assert counts(pins)[1] == before


def test_a_cgroup_program_is_replaced_and_follows_a_new_cgroup(
    door_objects: Path, pins: Path, cgroup: Path
) -> None:
    def connect() -> int:
        """Errno of a UDP connect by a process in the cgroup."""
        script = textwrap.dedent(f"""
            import os, socket
            open({str(cgroup / "cgroup.procs")!r}, "w").write(str(os.getpid()))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                print(s.connect_ex(("127.0.0.1", 9)))
        """)
        done = subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True
        )
        return int(done.stdout)

    def attach(verdict: int) -> None:
        with Object.open(door_objects / "door.o") as door:
            door.set_config("cfg", {"verdict": verdict})
            door.only("mg_door_refuse")
            door.load()
            links.cgroup(
                door.programs["mg_door_refuse"], cgroup, AttachType.CONNECT4, pins / "connect4"
            )

    attach(7)
    made = link_ids(pins / "connect4")
    assert connect() == 0
    attach(8)
    assert link_ids(pins / "connect4") == made
    assert connect() == 1, "EPERM"
    cgroup.rmdir()
    cgroup.mkdir()
    attach(8)
    assert connect() == 1, "EPERM"
    assert link_ids(pins / "connect4") != made


def test_namespaces_are_left_again_even_after_an_error(namespaces: Callable[[], Path]) -> None:
    own = Path("/proc/thread-self/ns/net")
    here, there = own.readlink(), namespaces()

    def fail_inside() -> None:
        with netns.enter(there):
            assert own.readlink() != here
            assert [name for _, name in socket.if_nameindex()] == ["lo"]
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail_inside()
    assert own.readlink() == here
    with pytest.raises(FileNotFoundError), netns.enter(Path("/run/netns/mg-none")):
        pass
