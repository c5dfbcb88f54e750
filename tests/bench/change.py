"""What one change costs an agent and a controller, and what they cost from nothing.

Each figure comes from a process of its own (``python -m tests.bench.change WHAT SIZE``), so that
memory is that of one side and no figure depends on the ones before it. CPU is the time of the
event loop's thread, so that other load on the machine matters little; the generator is not in it.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import io
import json
import pstats
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mesh.process import COLLECT
from tests.bench import world
from tests.bench.events import Events
from tests.bench.maps import bench_maps
from tests.bench.quiet import Quiet
from tests.bench.sides import AgentSide, ControllerSide, Side

#: Times that a change is made at most, and CPU seconds after which one kind has been seen enough.
REPEAT, ENOUGH_S = 20, 2.0
SIDES = ("agent", "folder-agent", "controller")
#: Page of memory of this machine.
_PAGE = 4096

Result = dict[str, Any]


def measure(
    what: str, side: str, size: str, *, peers: int = 0, arguments: Sequence[str] = ()
) -> Result:
    """The figures of one process."""
    command = [sys.executable, "-m", "tests.bench.change", what, side, size, f"--peers={peers}"]
    done = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)
    found: Result = json.loads(done.stdout)
    return found


@contextmanager
def _side(name: str, size: world.Size, quiet: Quiet) -> Iterator[Side]:
    if name == "controller":
        yield ControllerSide(size, quiet)
        return
    with bench_maps() as maps:
        yield AgentSide(size, quiet, maps, folder=name == "folder-agent")


async def _run(given: argparse.Namespace, side: Side) -> Result:
    base = memory_mb()
    await side.prepare()
    parts = await side.start(given.peers)
    gc.collect()
    found: Result = {
        "parts_s": {name: round(s, 3) for name, s in parts.items()},
        "cpu_s": round(side.cpu_s, 2),
        "base_mb": round(base, 1),
        "rss_mb": round(memory_mb(), 1),
        "longest_step_ms": round(1000 * side.quiet.steps.longest_s, 1),
        "dearest": side.loop.costs()[: given.costs],
    }
    if given.what == "events":
        found["events"] = await _events(side, given)
    if given.what == "profile":
        found["profile"] = await _profile(side, given.only, given.order)
    await side.stop()
    return found


# --- One change -------------------------------------------------------------------------------


async def _events(side: Side, given: argparse.Namespace) -> dict[str, Result]:
    events = Events(side)
    found = {}
    for name, make in events.rows.items():
        if not given.only or given.only in name:
            found[name] = await _event(side, make)
    return found


async def _event(side: Side, make: Any) -> Result:
    """Mean and dearest of some changes of one kind."""
    spent, steps = list[float](), side.quiet.steps
    steps.longest_s = 0.0
    before = _costs(side)
    while len(spent) < REPEAT and sum(spent) < ENOUGH_S:
        spent.append(0.0)
        for act in make():
            spent[-1] += await side.timed(act)
    each = {name: (cpu - before.get(name, 0.0)) / len(spent) for name, cpu in _costs(side).items()}
    dearest = sorted(each.items(), key=lambda item: -item[1])[:4]
    return {
        "ms": round(1000 * sorted(spent)[len(spent) // 2], 3),
        "most_ms": round(1000 * max(spent), 3),
        "times": len(spent),
        "step_ms": round(1000 * steps.longest_s, 3),
        "derivations_ms": {name: round(ms, 3) for name, ms in dearest if ms > 0.01},
    }


def _costs(side: Side) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for row in side.loop.costs():
        found[str(row["name"])] += float(str(row["cpu_ms"]))
    return found


async def _profile(side: Side, only: str, order: str) -> str:
    """The functions in which a change of one kind spends its time."""
    profile = cProfile.Profile()
    make = next(make for name, make in Events(side).rows.items() if only in name)
    for _ in range(REPEAT):
        for act in make():
            profile.enable()
            await side.timed(act)
            profile.disable()
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats(order).print_stats(40)
    return text.getvalue()


def memory_mb() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 1e6


def main() -> None:
    """Measure one side and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("start", "events", "profile"))
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("size", choices=world.SIZES)
    parser.add_argument("--peers", type=int, default=0)
    parser.add_argument("--only", default="", help="changes with this text in their name")
    parser.add_argument("--costs", type=int, default=5)
    parser.add_argument("--order", default="tottime", help="of a profile")
    given = parser.parse_args()
    gc.set_threshold(*COLLECT)  # as every process of the product does
    quiet = Quiet()
    size = replace(world.SIZES[given.size], peers=given.peers)
    with _side(given.side, size, quiet) as side:
        found = quiet.run(_run(given, side))
    profile = found.pop("profile", "")
    sys.stdout.write(profile or json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
