"""Sizes of the programs, the time to load them, and one packet's way through one of them."""

from __future__ import annotations

import statistics
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from bpf import netns
from bpf.build import HERE
from bpf.chain import Depth, depths
from bpf.object import Object
from bpf.sys import info
from bpf.testrun import run
from mesh.datapath.hooks import SOCKET_PROGRAMS
from mesh.datapath.programs import OBJECTS
from mesh.lab.places import Lab
from tests.bench import network as net_
from tests.bench.frames import OBJECT, Flows, packet
from tests.bench.network import FAR_POD, MACS, POD
from tests.bench.ours import nodes

RUNS = 2000
LOADS = 3


@dataclass(frozen=True, slots=True)
class Program:
    """One program: instructions as translated and as walked by the verifier, ms to load it.

    ``stack`` and ``frames`` are those of its deepest chains of calls.
    """

    name: str
    instructions: int
    verified: int
    load_ms: float
    stack: int
    frames: int


@dataclass(frozen=True, slots=True)
class Programs:
    """All rows of this file; ns net of an empty program's run."""

    programs: list[Program]
    overlay_ns: float
    empty_ns: float


def measure(lab: Lab, objects: Path) -> Programs:
    """``objects``: where the bench's own programs are."""
    overlay, empty = _overlay_ns(lab, objects)
    return Programs(list(_sizes()), overlay - empty, empty)


def _sizes() -> list[Program]:
    found = []
    for name in OBJECTS:
        with Object.open(HERE / "obj" / f"{name}.o") as opened:
            opened.load()
            names = [n for n in opened.programs if n not in SOCKET_PROGRAMS or n == "mg_connect4"]
            sizes = {n: _instructions(opened.programs[n]) for n in names}
        deep = depths(HERE / "obj" / f"{name}.o")
        found += [Program(n, *sizes[n], _load_ms(name, n), *_deep(deep[n])) for n in names]
    return found


def _deep(depth: Depth) -> tuple[int, int]:
    return depth.by_stack.stack, len(depth.by_frames.functions)


def _instructions(program: int) -> tuple[int, int]:
    raw = info(program, 224)  # struct bpf_prog_info of linux/bpf.h
    return struct.unpack_from("=I", raw, 20)[0] // 8, struct.unpack_from("=I", raw, 216)[0]


def _load_ms(name: str, program: str) -> float:
    took = []
    for _ in range(LOADS):
        with Object.open(HERE / "obj" / f"{name}.o") as opened:
            opened.only(program)
            begin = time.thread_time()
            opened.load()
            took.append(1000 * (time.thread_time() - begin))
    return statistics.median(took)


def _overlay_ns(lab: Lab, objects: Path) -> tuple[float, float]:
    """mg_from_pod on a packet of an open connection to a pod of another node; an empty program."""
    wire = packet(Flows(POD[4], FAR_POD[4]), MACS["a0"])
    with (
        net_.network(lab) as net,
        nodes(net, "a") as made,
        Object.open(objects / OBJECT) as empty,
    ):
        empty.load()
        node = made["a"]
        node.pod()
        place = {"ifindex": node.ifindex("a0")}
        with netns.enter(net.space("a")):
            program = node.datapath.program("mg_from_pod")
            ours = [run(program, wire, ctx=place).ns for _ in range(RUNS)]
            floor = [run(empty.programs["empty"], wire, ctx=place).ns for _ in range(RUNS)]
    return statistics.median(ours), statistics.median(floor)
