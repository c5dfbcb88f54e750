"""The rows of BENCH.md that grow with a cluster: one change, a start, steady changes, memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import change, maps, world
from tests.bench.change import Result
from tests.bench.say import say

#: With this variable the rows of the largest cluster are taken, too: some minutes of CPU.
LARGE = "MESHGATE_BENCH_LARGE"
#: Aims in ms by size and change.
AIMS: Mapping[str, Mapping[str, float]] = {
    "10k": {
        "a pod elsewhere": 1,
        "a pod goes, elsewhere": 1,
        "a pod here": 3,
        "a label of a namespace": 20,
        "an EndpointSlice": 1,
        "a policy": 20,
        "a node": 40,
        "an identity claimed": 1,
        "a block claimed": 1,
        "100 remote addresses": 2,
    },
    "150k": {"a pod elsewhere": 3, "a node": 300},
}
_STEP_MS = 20


@dataclass(frozen=True, slots=True)
class Start:
    """A start of one process from nothing; aims in seconds and MB, 0: none."""

    title: str
    side: str
    size: str
    peers: int = 0
    aim_s: float = 0.0
    aim_mb: float = 0.0


STARTS = (
    Start("agent, 10,000 pods", "agent", "10k", 0, 5, 150),
    Start("agent, 10,000 pods, 13 peers: 150,000 addresses", "agent", "10k", 13, 0, 400),
    Start("agent, 10,000 pods, objects of a folder", "folder-agent", "10k"),
    Start("controller, 10,000 pods", "controller", "10k"),
)
LARGE_STARTS = (
    Start("agent, 150,000 pods, one peer of 10,000 addresses", "agent", "150k", 1, 0, 600),
    Start("controller, 150,000 pods, the same peer", "controller", "150k", 1),
)


@dataclass(frozen=True, slots=True)
class Scale:
    """All rows of this file; the keys are size and side."""

    events: Mapping[tuple[str, str], Result]
    starts: Sequence[tuple[Start, Result]]
    steady: Mapping[str, Result]
    folder: Result
    maps_mb: Mapping[str, float]
    memory: Mapping[str, Result]


def measure() -> Scale:
    """All of them, one process after the other."""
    large = bool(os.environ.get(LARGE))
    sizes = ("1k", "10k", "150k") if large else ("1k", "10k")
    events = {}
    for size in sizes:
        for side in ("agent", "controller"):
            say(f"one change: {side}, {size}")
            events[size, side] = change.measure("events", side, size, peers=1)
    starts = []
    for start in STARTS:
        say(f"start: {start.title}")
        starts.append((start, change.measure("start", start.side, start.size, peers=start.peers)))
    if large:  # a start of minutes is not made twice
        starts += [(start, events[start.size, start.side]) for start in LARGE_STARTS]
    say("steady changes, folder, maps")
    steady = {side: change.measure("steady", side, "10k") for side in ("agent", "controller")}
    folder = change.measure("folder", "agent", "10k")
    memory = {size: change.measure("memory", "agent", size) for size in sizes[1:]}
    return Scale(events, starts, steady, folder, maps_mb(), memory)


def maps_mb() -> dict[str, float]:
    """Kernel memory of the empty maps at default sizes, by name."""
    with maps.bench_maps(room={}) as made:
        return {name: _memlock(made.map(name).fd) / 1e6 for name in sorted(made.names)}


def _memlock(fd: int) -> int:
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("memlock:"))


# --- Rows of the report -----------------------------------------------------------------------

METHOD = """\
CPU ms of the event loop's thread for one change and all that follows, median of {repeat}, in a
process of its own: agent with real maps (a directory of the bench's own), controller with targets
that remember nothing; netlink, etcd and Kubernetes are not in it. An agent is fed as by an API
server: the pods of its node, all nodes, namespaces, services, slices and policies, keys of the
store in pages of 1,000. A controller sees all pods. One other cluster. "Step" is the longest time
for which the event loop served nobody. A change of several steps (object, key, slices) is their
sum. Pods / services / policies: {sizes}."""


def method() -> str:
    """How the rows are made."""
    sizes = "; ".join(f"{one.name} on {one.nodes:,} nodes" for one in world.SIZES.values())
    return METHOD.format(repeat=change.REPEAT, sizes=sizes)


def load_text(scale: Scale) -> str:
    """What the machine's other load made of the rows."""
    rows = [*scale.events.values(), *(found for _, found in scale.starts)]
    times = sorted(float(row["calibration_ms"]) for row in rows)
    return (
        "A piece of plain Python, 100,000 rows into a dict, took "
        f"{times[0]:.0f} to {times[-1]:.0f} ms of CPU beside these rows: rows of one run compare "
        "only as far as that is the same."
    )


def change_rows(scale: Scale) -> Iterator[Sequence[str]]:
    """Size, change, and for each side ms, step, aim."""
    for size in dict.fromkeys(size for size, _ in scale.events):
        agent, controller = scale.events[size, "agent"], scale.events[size, "controller"]
        for name, found in agent["events"].items():
            aim = AIMS.get(size, {}).get(name)
            other = controller["events"].get(name)
            yield (
                world.SIZES[size].name,
                name,
                f"{found['ms']:.2f}",
                f"{found['step_ms']:.1f}",
                f"{other['ms']:.2f}" if other else "",
                f"{other['step_ms']:.1f}" if other else "",
                f"{aim:g}" if aim else "",
            )


def start_rows(scale: Scale) -> Iterator[Sequence[str]]:
    """CPU s and RSS of each start, with aims."""
    for start, found in scale.starts:
        aim_s = f"{start.aim_s:g}" if start.aim_s else ""
        aim_mb = f"{start.aim_mb:g}" if start.aim_mb else ""
        memory = f"{found['rss_mb']:.0f} (bare process {found['base_mb']:.0f})"
        step = f"{found['longest_step_ms']:.0f}"
        yield start.title, f"{found['cpu_s']:.1f}", aim_s, memory, aim_mb, step
    folder = scale.folder
    grown = f"+{folder['grown_mb']:.0f}"
    yield "folder of 10,000 files, first look", f"{folder['cpu_s']:.1f}", "10", grown, "+60", ""
    yield "the same, one file changed", f"{folder['again_ms'] / 1000:.2f}", "", "", "", ""


def steady_rows(scale: Scale) -> Iterator[Sequence[str]]:
    """Share of a core and latency at each rate."""
    for rate in change.RATES:
        for side, found in scale.steady.items():
            row = found["steady"][f"{rate:g}"]
            aim = "5" if rate == change.RATES[0] else ""
            late = f"p50 {row['p50_ms']:.1f}, p99 {row['p99_ms']:.1f}"
            yield f"{rate:g} a second", side, f"{row['percent']:.1f}", aim, late


def map_rows(scale: Scale) -> Iterator[Sequence[str]]:
    """The maps that take a megabyte, the rest, and all."""
    big = {name: mb for name, mb in scale.maps_mb.items() if mb >= 1}
    for name, mb in sorted(big.items(), key=lambda item: -item[1]):
        yield name, f"{mb:.1f}"
    total = sum(scale.maps_mb.values())
    yield f"{len(scale.maps_mb) - len(big)} others", f"{total - sum(big.values()):.1f}"
    yield "all", f"{total:.1f}"


def memory_rows(scale: Scale) -> Iterator[Sequence[str]]:
    """Size, file, MB: the largest first, the rest last."""
    for size, found in scale.memory.items():
        for name, mb in found["memory_mb"].items():
            yield world.SIZES[size].name, name, f"{mb:.1f}"
