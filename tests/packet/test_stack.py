"""Every program leaves room for the next feature: at most 320 bytes of stack and 5 frames.

And none takes the verifier long: an agent that starts, and each test that loads one, waits for it.
"""

import struct
from pathlib import Path

import pytest

from bpf.build import HERE, build
from bpf.chain import FRAMES, STACK, Depth, depths
from bpf.object import Object
from bpf.sys import info
from mesh.datapath.programs import OBJECTS


@pytest.fixture(scope="module")
def programs(door_objects: Path) -> dict[str, Depth]:
    build()
    paths = [HERE / "obj" / f"{name}.o" for name in OBJECTS]
    paths.append(door_objects / "gateway_xdp.o")
    return {name: depth for path in paths for name, depth in depths(path).items()}


def test_no_chain_of_calls_is_deeper_than_the_bound(programs: dict[str, Depth]) -> None:
    for name, depth in programs.items():
        stack, frames = depth.by_stack, depth.by_frames
        assert stack.stack <= STACK, f"{name}: {stack.stack} bytes in {' > '.join(stack.functions)}"
        assert len(frames.functions) <= FRAMES, f"{name}: {' > '.join(frames.functions)}"


#: Instructions that the verifier walks in one program, 2 µs each. What many paths reach is
#: ``__global``, or it is walked once for each of them.
WALKED = 120_000


@pytest.mark.parametrize("name", OBJECTS)
def test_the_verifier_is_soon_done(name: str) -> None:
    build()
    with Object.open(HERE / "obj" / f"{name}.o") as opened:
        opened.load()
        walked = {
            program: struct.unpack_from("=I", info(fd, 224), 216)[0]
            for program, fd in opened.programs.items()
        }
    assert all(walked.values())
    assert {program: count for program, count in walked.items() if count > WALKED} == {}


def test_every_program_is_there(programs: dict[str, Depth]) -> None:
    wanted = {
        "mg_from_pod",
        "mg_to_pod",
        "mg_from_uplink",
        "mg_from_vxlan",
        "mg_to_vxlan",
        "mg_sweep",
    }
    assert wanted <= set(programs)


SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#define APART __attribute__((noinline))

static APART int leaf(volatile char *to) { char room[40]; bpf_get_current_comm(room, 40);
	*to = room[7]; return room[3]; }
static long turn(__u32 i, char *to) { return leaf(to) + i > 100; }
static APART int middle(int n) { char room[100]; bpf_get_current_comm(room, 100);
	bpf_loop(n, turn, room, 0); return room[5]; }
SEC("tc") int mg_deep(struct __sk_buff *ctx) { return middle(ctx->len); }
SEC("tc") int mg_flat(struct __sk_buff *ctx) { return ctx->len; }
char LICENSE[] SEC("license") = "GPL";
"""


def test_a_chain_goes_through_the_body_of_a_loop(tmp_path: Path) -> None:
    (tmp_path / "one.bpf.c").write_text(SOURCE)
    build(tmp_path, tmp_path)
    found = depths(tmp_path / "one.o")
    assert found["mg_deep"].by_frames.functions == ("mg_deep", "middle", "turn", "leaf")
    assert found["mg_deep"].by_stack.stack == 16 + 112 + 16 + 48
    assert found["mg_flat"].by_stack.functions == ("mg_flat",)
    assert found["mg_flat"].by_stack.stack == 16
