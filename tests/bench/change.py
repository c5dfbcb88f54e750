"""What one change costs an agent and a controller, and what they cost from nothing.

Each figure comes from a process of its own (``python -m tests.bench.change WHAT SIZE``), so that
memory is that of one side and no figure depends on the ones before it. CPU is the time of the
event loop's thread, so that other load on the machine matters little; the generator is not in it.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import heapq
import io
import itertools
import json
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mesh.core.model import Pod
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import PODS
from mesh.objects.manifests import Manifests
from mesh.process import COLLECT
from tests.bench import world
from tests.bench.events import Events
from tests.bench.frames import BenchError
from tests.bench.maps import bench_maps
from tests.bench.quiet import Quiet
from tests.bench.sides import AgentSide, ControllerSide, Side

#: Times that a change is made at most, and CPU seconds after which one kind has been seen enough.
REPEAT, ENOUGH_S = 20, 2.0
#: Changes a second, seconds of them, CPU seconds at most, seconds between the steps of a change.
RATES = (20.0, 200.0)
STEADY_S, STEADY_MOST_S, STEP_S = 10.0, 60.0, 0.3
#: Looks at a folder at most, and seconds between two.
LOOKS, LOOK_S = 20, 0.5
SIDES = ("agent", "folder-agent", "controller")
WHAT = ("start", "memory", "events", "steady", "folder", "profile")
#: Files of the memory that are named.
_FILES = 12
_ROOT = Path(__file__).parent.parent.parent
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
    before = tracemalloc.take_snapshot() if tracemalloc.is_tracing() else None
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
    if before:
        found["memory_mb"] = _memory(before, tracemalloc.take_snapshot())
    if given.what == "events":
        found["events"] = await _events(side, given)
    if given.what == "steady":
        found["steady"] = {f"{rate:g}": await _steady(side, rate) for rate in RATES}
    if given.what == "profile":
        found["profile"] = await _profile(side, given.only, given.order)
    await side.stop()
    return found


def _memory(before: tracemalloc.Snapshot, after: tracemalloc.Snapshot) -> dict[str, float]:
    """MB that stay, by the file that allocated them; the last row is the rest."""
    grown = after.compare_to(before, "filename")
    found = {_file(one.traceback[0].filename): one.size_diff / 1e6 for one in grown[:_FILES]}
    return {**found, "others": sum(one.size_diff for one in grown[_FILES:]) / 1e6}


def _file(path: str) -> str:
    """Our files below the tree; of others the name."""
    place = Path(path)
    if path.startswith("<"):
        return "code made at run time"
    return str(place.relative_to(_ROOT)) if place.is_relative_to(_ROOT) else place.name


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
    """The functions in which a change of one kind spends its CPU time."""
    profile = cProfile.Profile(time.thread_time)
    make = next(make for name, make in Events(side).rows.items() if only in name)
    for _ in range(REPEAT):
        for act in make():
            profile.enable()
            await side.timed(act)
            profile.disable()
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats(order).print_stats(40)
    return text.getvalue()


# --- Steady changes ---------------------------------------------------------------------------


async def _steady(side: Side, rate: float) -> Result:
    """Pods come and go, ``rate`` changes a second, each in its steps; idle time is skipped.

    The clock is that of the events, moved by the CPU that the side needs: so neither the machine's
    other load nor a pause counts. An event's steps arrive 0.3 s after each other.
    """
    queue, number = list[tuple[float, int, Any]](), itertools.count()
    events = Events(side)
    for i in range(int(rate * STEADY_S)):
        make = events.pod_gone if i % 2 else events.pod_elsewhere
        heapq.heappush(queue, (i / rate, next(number), make()))
    clock = busy = 0.0
    late = list[float]()
    while queue and busy < STEADY_MOST_S:
        clock = max(clock, queue[0][0])
        arrived = list[tuple[float, Any]]()
        while queue and queue[0][0] <= clock:
            at, _, steps = heapq.heappop(queue)
            if act := next(steps, None):
                arrived.append((at, act))
                heapq.heappush(queue, (at + STEP_S, next(number), steps))
        if not arrived:
            continue
        spent = await side.timed(lambda: [act() for _, act in arrived])  # noqa: B023
        busy, clock = busy + spent, clock + spent
        late += [clock - at for at, _ in arrived]
    late.sort()
    return {
        "percent": round(100 * busy / clock, 2),
        "p50_ms": round(1000 * late[len(late) // 2], 2),
        "p99_ms": round(1000 * late[(99 * len(late) - 1) // 100], 2),
    }


# --- A folder of manifests --------------------------------------------------------------------


def _folder(size: world.Size) -> Result:
    """One file for each pod: the first look at all of them, and one changed file."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "manifests"
        place.mkdir()
        for n in range(size.pods):
            (place / f"pod-{n:06d}.yaml").write_text(_manifest(world.pod(size, n)))
        base = memory_mb()
        source = Manifests(place, world.CLUSTER, Path(name) / "state", kinds=KINDS)
        pods = source.objects[PODS].rows
        whole = _scanned(source, lambda: len(pods) == size.pods)
        gc.collect()
        grown = memory_mb() - base
        late = world.pod(size, size.pods + 7)
        (place / "pod-000007.yaml").write_text(_manifest(late))
        again = _scanned(source, lambda: world.key_of(late) in pods)
    return {"cpu_s": round(whole, 2), "grown_mb": round(grown, 1), "again_ms": round(1000 * again)}


def _scanned(source: Manifests, done: Callable[[], bool]) -> float:
    """CPU seconds of looks until ``done``: a file that was just written is left to rest."""
    spent = 0.0
    for _ in range(LOOKS):
        begin = time.process_time()
        source.scan()
        spent += time.process_time() - begin
        if done():
            return spent
        time.sleep(LOOK_S)
    raise BenchError("pods of the folder are missing")


def _manifest(row: Pod) -> str:
    labels = "".join(f"    {key}: {value!r}\n" for key, value in row.labels)
    return (
        f"apiVersion: v1\nkind: Pod\nmetadata:\n  name: {row.name}\n"
        f"  namespace: {row.namespace}\n  labels:\n{labels}"
        f"spec:\n  nodeName: {row.node}\n  serviceAccountName: {row.service_account}\n"
        "  containers: []\n"
    )


def calibration_ms() -> float:
    """CPU of a piece of plain Python: what the machine's other load makes of this bench's rows."""
    times = []
    for _ in range(5):
        begin, rows = time.thread_time(), {}
        for number in range(100_000):
            rows[(number, "x")] = number
        times.append(1000 * (time.thread_time() - begin))
    return statistics.median(times)


def memory_mb() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 1e6


def main() -> None:
    """Measure one side and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("size", choices=world.SIZES)
    parser.add_argument("--peers", type=int, default=0)
    parser.add_argument("--only", default="", help="changes with this text in their name")
    parser.add_argument("--costs", type=int, default=5)
    parser.add_argument("--order", default="tottime", help="of a profile")
    given = parser.parse_args()
    gc.set_threshold(*COLLECT)  # as every process of the product does
    if given.what == "memory":
        tracemalloc.start(1)
    quiet = Quiet()
    size = replace(world.SIZES[given.size], peers=given.peers)
    if given.what == "folder":
        found = _folder(size)
    else:
        with _side(given.side, size, quiet) as side:
            found = quiet.run(_run(given, side))
    found["calibration_ms"] = round(calibration_ms(), 1)
    profile = found.pop("profile", "")
    sys.stdout.write(profile or json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
