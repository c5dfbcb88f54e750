"""Layouts and enums from BTF, and how differences are told; clang compiles, nothing is loaded."""

import struct

import numpy as np
import pytest

from bpf.btf import Btf, differences, layout
from bpf.build import HERE, build
from bpf.object import Object

SOURCE = """
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

struct inner { __be32 w[4]; };
enum signed_values { BELOW = -2, ABOVE = 3 };
typedef struct inner inner_alias;

struct outer {
	__be16 port;
	__u8 mac[6];
	inner_alias addresses[2];
	union { __be64 wide; struct { __u32 low; __s32 high; }; };
	const volatile _Bool on;
	char name[7];
	enum signed_values number;
	__u32 matrix[2][3];
	void *pointer;
};
const struct outer *outer_btf __attribute__((unused));

struct bits { __u32 one : 1; __u32 rest : 31; };
const struct bits *bits_btf __attribute__((unused));

const volatile __u32 first = 1;
const volatile struct inner second = {{1, 2, 3, 4}};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 77);
	__uint(map_flags, BPF_F_NO_COMMON_LRU);
	__type(key, __be32);
	__type(value, struct inner);
} mg_lru SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} mg_ring SEC(".maps");

SEC("tc")
int mg_program(struct __sk_buff *ctx)
{
	return ctx->len == first + second.w[0];
}
char _license[] SEC("license") = "Dual BSD/GPL";
"""


@pytest.fixture(scope="module")
def btf(tmp_path_factory: pytest.TempPathFactory) -> Btf:
    directory = tmp_path_factory.mktemp("btf")
    (directory / "layout.bpf.c").write_text(SOURCE)
    build(directory)
    with Object.open(directory / "obj" / "layout.o") as opened:
        return opened.btf


def test_a_struct_becomes_a_dtype_with_the_same_bytes(btf: Btf) -> None:
    assert layout(btf.struct("outer")) == {
        "port": ">u2 at 0",
        "mac": "|u1[6] at 2",
        "addresses[2].w": ">u4[4] at 8",
        "wide": ">u8 at 40",
        "low": "<u4 at 40",
        "high": "<i4 at 44",
        "on": "|b1 at 48",
        "name": "|S7 at 49",
        "number": "<i4 at 56",
        "matrix": "<u4[2, 3] at 60",
        "pointer": "<u8 at 88",
    }
    assert btf.struct("outer").itemsize == 96


def test_host_integers_become_network_bytes(btf: Btf) -> None:
    row = np.zeros((), btf.struct("outer"))
    row["port"], row["addresses"]["w"][1, 3] = 443, 0x0A000001
    assert row.tobytes()[:2] == b"\x01\xbb"
    assert row.tobytes()[36:40] == b"\x0a\x00\x00\x01"


def test_enums_are_read_by_name(btf: Btf) -> None:
    assert btf.enum("signed_values") == {"BELOW": -2, "ABOVE": 3}


def test_wide_enums_of_newer_compilers_are_read() -> None:
    names, big = b"\0wide\0BIG\0", 0x123456789A
    body = struct.pack("=3I3I", 1, 19 << 24 | 1, 8, 6, big & 0xFFFFFFFF, big >> 32)
    head = struct.pack("=HBB5I", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(names))
    btf = Btf(head + body + names)
    assert btf.enum("wide") == {"BIG": big}
    assert btf.dtype(1) == np.dtype("u8")


def test_variables_have_the_offsets_that_libbpf_filled_in(btf: Btf) -> None:
    variables = btf.section(".rodata")
    assert {name: dtype.itemsize for name, (_, dtype) in variables.items()} == {
        "first": 4,
        "second": 16,
    }
    assert sorted(offset for offset, _ in variables.values()) == [0, 4]
    assert btf.section(".nothing") == {}


def test_map_definitions_are_read(btf: Btf) -> None:
    lru, ring = btf.maps()["mg_lru"], btf.maps()["mg_ring"]
    assert (lru.type, lru.max_entries, lru.flags) == (9, 77, 2)
    assert (lru.key, lru.value) == (np.dtype(">u4"), btf.struct("inner"))
    assert (ring.type, ring.max_entries, ring.key, ring.value) == (27, 4096, None, None)


def test_bitfields_are_refused_by_name(btf: Btf) -> None:
    with pytest.raises(ValueError, match="bitfield one in struct bits"):
        btf.struct("bits")


def test_an_unknown_name_is_an_error_that_says_so(btf: Btf) -> None:
    with pytest.raises(KeyError, match="no struct/union nothing in BTF"):
        btf.struct("nothing")
    with pytest.raises(KeyError, match="no enum/enum64 outer in BTF"):
        btf.enum("outer")


@pytest.mark.parametrize(
    ("theirs", "sentences"),
    [
        ([("a", "u4"), ("b", ">u2"), ("c", "u2")], []),
        ([("b", ">u2"), ("c", "u2"), ("a", "u4")], ["a: <u4 at 0", "b: >u2 at 4", "c: <u2 at 6"]),
        ([("a", "u4"), ("b", "u2"), ("c", "u2")], ["b: >u2 at 4, pinned: <u2 at 4"]),
        (
            [("a", "u4"), ("b", ">u2"), ("c", "u2"), ("d", "u4")],
            ["d: absent, pinned: <u4 at 8", "size: 8, pinned: 12"],
        ),
        ("u8", ["a: <u4 at 0, pinned: absent", "b: ", "c: ", "(whole): absent, pinned: <u8"]),
    ],
)
def test_differences_name_each_field(theirs: object, sentences: list[str]) -> None:
    ours = np.dtype([("a", "u4"), ("b", ">u2"), ("c", "u2")])
    found = differences(ours, np.dtype(theirs))
    assert len(found) == len(sentences)
    for sentence, told in zip(sentences, found, strict=True):
        assert sentence in told


def test_no_shared_struct_has_hidden_padding() -> None:
    """Python zero-fills padding, C does not: keys that differ only there would never be found."""
    build()
    for path in sorted((HERE / "obj").glob("*.o")):
        with Object.open(path) as opened:
            for name, spec in opened.specs.items():
                for part in (spec.key, spec.value):
                    assert part is None or part.itemsize == covered(part), f"{path.name} {name}"


def covered(dtype: np.dtype) -> int:
    """Bytes that belong to a field."""
    marks = bytearray(dtype.itemsize)
    mark(dtype, marks, 0)
    return sum(marks)


def mark(dtype: np.dtype, marks: bytearray, at: int) -> None:
    base, shape = dtype.subdtype or (dtype, ())
    if base.fields is None:
        marks[at : at + dtype.itemsize] = b"\1" * dtype.itemsize
        return
    for index in range(int(np.prod(shape, dtype=int))):
        for field in base.fields.values():
            mark(field[0], marks, at + index * base.itemsize + field[1])
