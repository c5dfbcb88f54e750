"""``tests/run.py``: every file of a level runs in one lane, and in no other."""

from __future__ import annotations

from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

TESTS = Path(__file__).parents[1]


def runner() -> ModuleType:
    spec = spec_from_file_location("tests_run", TESTS / "run.py")
    assert spec
    assert spec.loader
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def collected(words: list[str]) -> list[Path]:
    """The files that pytest takes for these words."""
    ignored = {Path(word.removeprefix("--ignore=")) for word in words if word.startswith("--")}
    found: list[Path] = []
    for place in (Path(word) for word in words if not word.startswith("--")):
        found += sorted(place.rglob("test_*.py")) if place.is_dir() else [place]
    return [path for path in found if path not in ignored]


def test_each_file_runs_once() -> None:
    run = runner()
    levels = [str(TESTS / name) for name in ("unit", "packet", "interop", "lab")]
    lanes = run.in_lanes(levels)
    counts = Counter(
        path for lane in lanes for level in lane for path in collected(run.files(level))
    )
    wanted = {path for level in levels for path in Path(level).rglob("test_*.py")}
    assert counts == Counter(wanted)


def test_labs_stand_one_after_the_other_and_the_computing_levels_share_a_lane() -> None:
    run = runner()
    lanes = run.in_lanes(["tests/unit", "tests/packet", "tests/interop", "tests/lab"])
    assert lanes == [
        ["tests/lab", "tests/lab++", "tests/lab+", "tests/lab+++"],
        ["tests/interop"], ["tests/interop+"], ["tests/packet+"], ["tests/unit", "tests/packet"],
    ]  # fmt: skip
    assert run.in_lanes(["tests/unit", "tests/interop"]) == [
        ["tests/interop"], ["tests/interop+"], ["tests/unit"],
    ]  # fmt: skip


def test_the_lanes_of_computing_levels_give_way() -> None:
    run = runner()
    assert run.is_of("tests/packet+", run.COMPUTING)
    assert not run.is_of("tests/lab++", run.COMPUTING)
