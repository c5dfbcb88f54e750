"""A file that grows by what changed: cut at any byte it says what it said before, or after."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from mesh.core import journal
from mesh.core.journal import HEADER, SLACK, Journal, Occupied, decode, encode, frame


def history(seed: int) -> list[dict[str, bytes | None]]:
    """Changes of a few keys: new ones, new values, removals, an empty set of changes."""
    rng = random.Random(seed)
    steps: list[dict[str, bytes | None]] = [{}]
    for _ in range(12):
        keys = rng.sample("abcdefgh", rng.randrange(4))
        steps.append({key: rng.choice([None, b"", rng.randbytes(9)]) for key in keys})
    return steps


def states(steps: list[dict[str, bytes | None]]) -> list[dict[str, bytes]]:
    """The mapping after each step."""
    rows: dict[str, bytes | None] = {}
    after = []
    for step in steps:
        rows |= step
        after.append({key: value for key, value in rows.items() if value is not None})
    return after


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("tail", [b"", b"\0" * 40, b"\xff" * 40, b"\x01\0\0\0garbage"])
def test_cut_at_every_byte(seed: int, tail: bytes) -> None:
    """A file that ends anywhere, also with zeros or garbage behind, is the last whole change."""
    content, steps = HEADER, history(seed)
    lengths = [len(content)]
    for step in steps:
        content += frame(step)
        lengths.append(len(content))
    after = [{}, *states(steps)]
    for cut in range(len(HEADER), len(content) + 1):
        damaged = content[:cut] + tail  # a tail of zeros may be just what was cut off
        whole = max(at for at, length in enumerate(lengths) if damaged[:length] == content[:length])
        assert decode(damaged) == (after[whole], lengths[whole])


@pytest.mark.parametrize("cut", range(len(HEADER)))
def test_a_file_without_its_header_is_no_journal(cut: int) -> None:
    with pytest.raises(ValueError, match="no journal"):
        decode(encode({"a": b"1"})[:cut])


def test_a_changed_byte_ends_the_reading_before_its_frame() -> None:
    one, two = frame({"a": b"1"}), frame({"b": b"2"})
    for at in range(len(two)):
        damaged = bytearray(HEADER + one + two)
        damaged[len(HEADER + one) + at] ^= 1
        assert decode(bytes(damaged)) == ({"a": b"1"}, len(HEADER + one))


@pytest.mark.parametrize("seed", range(5))
def test_a_writer_after_a_torn_write_goes_on_from_the_last_whole_change(
    tmp_path: Path, seed: int
) -> None:
    path, steps = tmp_path / "state" / "claims.journal", history(seed)
    rng = random.Random(seed)
    after = states(steps)
    for step, expected in zip(steps, after, strict=True):
        writer = Journal(path)
        writer.append(step)
        writer.close()
        assert journal.read(path) == expected
        with path.open("ab") as file:  # the next one died in the middle
            file.write(frame({"x": b"torn"})[: rng.randrange(1, 15)])
    assert journal.read(path) == after[-1]


def test_appending_does_not_write_the_file_anew_until_it_has_doubled(tmp_path: Path) -> None:
    path = tmp_path / "pods.journal"
    writer = Journal(path)
    writer.replace({"kept": b"1"})
    sizes = []
    for number in range(SLACK // 4000):
        writer.append({"often": b"%04d" % number * 2000})
        sizes.append(path.stat().st_size)
    assert SLACK < max(sizes) < SLACK + 20_000
    assert sum(now < before for before, now in pairwise(sizes)) == 1
    assert journal.read(path) == {"kept": b"1", "often": b"%04d" % (SLACK // 4000 - 1) * 2000}
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "pods.journal",
        "pods.journal.lock",
    ]


CHILD = """
import sys
from pathlib import Path
from mesh.core.journal import Journal, Occupied
try:
    Journal(Path(sys.argv[1])).append({"theirs": b"2"})
except Occupied as error:
    print(error)
"""


def test_a_second_process_writes_nothing_while_the_first_lives(tmp_path: Path) -> None:
    path = tmp_path / "claims.journal"
    writer = Journal(path)
    writer.append({"ours": b"1"})

    def other() -> str:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, path], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert other() == f"another process writes {path}"
    assert journal.read(path) == {"ours": b"1"}
    with pytest.raises(Occupied):
        Journal(path).replace({})
    writer.close()
    assert other() == ""
    assert journal.read(path) == {"ours": b"1", "theirs": b"2"}


def test_a_failed_write_is_not_written_on(tmp_path: Path) -> None:
    """After an error the file's end is unknown: the next change writes the file anew."""
    path = tmp_path / "claims.journal"
    writer = Journal(path)
    writer.replace({"a": b"1"})
    path.with_name("claims.journal.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        writer.replace({"a": b"2"})
    assert journal.read(path) == {"a": b"1"}
    path.with_name("claims.journal.new").rmdir()
    writer.append({"b": b"2"})
    assert journal.read(path) == {"a": b"1", "b": b"2"}


def test_another_file_is_not_overwritten_by_a_change(tmp_path: Path) -> None:
    path = tmp_path / "claims.journal"
    path.write_bytes(b"[{}]")
    with pytest.raises(OSError, match="is no journal"):
        Journal(path).append({"a": b"1"})
    assert path.read_bytes() == b"[{}]"
