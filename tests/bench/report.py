"""BENCH.md, and the same text on the terminal."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from bpf.chain import FRAMES, STACK
from tests.bench import objects
from tests.bench import scale as scales
from tests.bench.attaching import CALLS, Wait
from tests.bench.control import ADDRESSES, CHANGES, Control, Spread
from tests.bench.objects import Objects
from tests.bench.paths import NEW, NEW_SOURCE_PORTS, PACKETS, PAIRS, RUNS, Figure
from tests.bench.programs import Programs
from tests.bench.running import IDLE_S, PUBLISHED, STARTS, Running
from tests.bench.scale import Scale
from tests.bench.use import Use

_METHOD = f"""\
Packets come from an XDP program run by BPF_PROG_RUN with live frames: it writes every header and
passes the frame into the stack at the host end of the pod's veth. The figure is CPU time of that
thread, with the ksoftirqd of its CPU, per packet: the whole path runs in it, and so does the
generator ("reference" rows). Ours and the kernel's way alternate in one process, in fresh
namespaces each time; {PAIRS} pairs of the median of {RUNS} runs of {PACKETS:,} packets, UDP with 22
bytes, 1,024 flows. A counter at the end of the path takes only packets with the expected source; a
row in which one is missing is no figure. Ratio = peer / ours by pair, median [min .. max]; above 1
we are cheaper. "New connection": {NEW:,} packets, each of a connection of its own,
{NEW_SOURCE_PORTS} to each destination, 1,024 ports per remote. Everything is veth on one machine:
use the ratios; absolute times are this machine's, under whatever else it was doing."""


_PROCESSES = f"""\
On the lab of `make demo`. Start to ready: from the start of the process until its socket says so,
median of {STARTS} [min .. max]; "nothing loaded" without any pin on the node. Idle CPU over
{IDLE_S:.0f} s without traffic. Memory and CPU: median and highest of all processes of the role."""
_PROGRAMS = """\
`mg_from_pod` on a packet of an open connection over the overlay: {overlay:.0f} ns, net of an empty
program's run of {empty:.0f} ns (BPF_PROG_TEST_RUN, one packet at a time: colder than under load).
Instructions as translated, and as the verifier walked them; load ms is CPU time of libbpf and
verifier for this program alone."""


_USE = """\
One node in namespaces of its own, its own gateway; sockets ask, open and answer. "agent" is what
the agent does for this in its process: sweeps, counts of the tables, the flow events.
"programs" is the time in the programs at the hooks (`kernel.bpf_stats_enabled`), in percent of a
core. A query, flow or connection is never one of before. Rows last a few seconds here; with
MESHGATE_BENCH_LONG=1 queries last a minute, new flows five, and the tables under attack have their
usual size. A query without an answer holds its port for 10 s, so 1,024 ports serve a dead remote
with 102 queries a second, and one pod of several with three quarters of that (D41)."""


_OBJECTS = """\
One reader with its informers, and the API server's fake in another process; no features. A pod has
2 KB. A step is CPU time between two returns to the event loop."""
_WAITS = f"""\
From exec of the plugin to its exit, {CALLS} pods a row: real plugin, agent, controller, etcd, ready
network namespaces, no other plugin. The pods' objects are known, and so are the identities but for
"new labels": there each pod has labels that nobody had."""


_LARGE = """\
Rows of 150,000 pods are taken by `make bench-large` only: they take some minutes of CPU more."""


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that was measured."""

    figures: Sequence[Figure]
    control: Control
    running: Running | None
    problem: str  # why nothing was measured on the lab
    programs: Programs
    scale: Scale
    use: Sequence[Use]
    objects: Objects
    waits: Sequence[Wait]


def text(results: Results, seconds: float, load: tuple[float, float]) -> str:
    """The whole of BENCH.md; ``load``: at the start and at the end."""
    programs, running = results.programs, results.running
    parts = [
        "# Bench",
        _heading(seconds, load),
        "## Datapath",
        _METHOD,
        _table(("path", "ours ns", "peer", "peer ns", "ratio"), map(_figure, results.figures)),
        "## Ports and tables in use",
        _USE,
        _table(("what", "figure", "aim"), [(row.what, row.figure, row.aim) for row in results.use]),
        "## Pods of a container runtime",
        _WAITS,
        _table(("call", "p50 ms", "aim", "p99 ms", "aim"), map(_wait, results.waits)),
        "## Control plane",
        _table(("what", "figure"), _control(results.control, running)),
        *_scale(results.scale),
        "## Objects from an API server",
        _OBJECTS,
        _table(("what", "figure"), objects.rows(results.objects)),
        "## Processes",
        _PROCESSES,
        *(_processes(running) if running else [f"No figures: {results.problem}"]),
        "## Programs",
        _PROGRAMS.format(overlay=programs.overlay_ns, empty=programs.empty_ns),
        _table(
            ("program", "instructions", "verified", "load ms", "stack", "aim", "frames", "aim"),
            _programs(programs),
        ),
    ]
    return "\n\n".join(parts) + "\n"


_MEMORY = """\
What an agent's memory is, by the file that allocated it (tracemalloc, after the start, garbage
collected): rows of tables, rows of groups, what targets note of their entries, keys of the store.
`tests/bench/world.py` stands for the objects that an API server's source would make. RSS is more:
the interpreter and its libraries (the bare process), memory that the allocator keeps, and maps."""


def _scale(scale: Scale) -> Iterator[str]:
    """What grows with a cluster."""
    yield "## One change"
    yield f"{scales.method()}\n{scales.load_text(scale)}"
    head = ("cluster", "change", "agent ms", "step", "controller ms", "step", "aim ms")
    yield _table(head, scales.change_rows(scale))
    yield _LARGE
    yield "## From nothing"
    yield _table(
        ("what", "CPU s", "aim", "RSS MB", "aim", "longest step ms"), scales.start_rows(scale)
    )
    yield _MEMORY
    yield _table(("cluster", "allocated in", "MB"), scales.memory_rows(scale))
    yield "## Steady changes among 10,000 pods"
    head = ("pods come and go", "process", "% of a core", "aim", "latency ms")
    yield _table(head, scales.steady_rows(scale))
    yield "## Kernel memory of the empty maps at default sizes"
    yield _table(("map", "MB"), scales.map_rows(scale))


def _heading(seconds: float, load: tuple[float, float]) -> str:
    busy = f"load {load[0]:.1f} at the start, {load[1]:.1f} at the end"
    machine = f"Kernel {platform.release()}, {os.cpu_count()} CPUs, {busy}."
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC in {seconds:.0f} s"
    return f"Written by `make bench` on {when}. {machine} Nothing here is asserted."


def _wait(wait: Wait) -> Sequence[str]:
    aims = ["" if aim is None else str(aim) for aim in wait.aims]
    return (wait.what, f"{wait.p50:.1f}", aims[0], f"{wait.p99:.1f}", aims[1])


def _figure(figure: Figure) -> Sequence[str]:
    if figure.problem:
        return (figure.title, figure.problem, figure.peer_name, "", "")
    ours = f"{statistics.median(figure.ours):.0f}"
    if not figure.peer:
        return (figure.title, ours, "", "", "")
    ratios = figure.ratios
    ratio = f"{statistics.median(ratios):.2f} [{min(ratios):.2f} .. {max(ratios):.2f}]"
    return (figure.title, ours, figure.peer_name, f"{statistics.median(figure.peer):.0f}", ratio)


def _control(control: Control, running: Running | None) -> Iterator[Sequence[str]]:
    yield (
        f"{ADDRESSES:,} addresses from the table into the empty map",
        f"{statistics.median(control.bulk):.3f} s",
    )
    yield (
        f"{ADDRESSES:,} addresses that the map has already, read and compared",
        f"{statistics.median(control.adopt):.3f} s",
    )
    yield (
        f"one change among {ADDRESSES:,}, table to map ({CHANGES} times)",
        _spread(control.change),
    )
    if running:
        yield (
            f"etcd put to the other cluster's map, on the lab ({PUBLISHED} times)",
            _spread(running.publish),
        )


def _spread(spread: Spread) -> str:
    return f"p50 {1000 * spread.p50:.2f} ms, p99 {1000 * spread.p99:.2f} ms"


def _processes(running: Running) -> list[str]:
    return [
        _table(("process", "start to ready", "aim"), _ready(running)),
        _table(("process", "RSS MB", "aim", "idle % of a core", "aim"), _usage(running)),
    ]


def _ready(running: Running) -> Iterator[Sequence[str]]:
    for title, seconds in running.ready.items():
        aim = "2 s" if title.startswith("agent") else ""
        found = f"{statistics.median(seconds):.2f} s [{min(seconds):.2f} .. {max(seconds):.2f}]"
        yield (title, found, aim)


def _usage(running: Running) -> Iterator[Sequence[str]]:
    for usage in running.usage:
        aims = ("150", "1") if usage.role in ("agent", "controller", "speaker") else ("", "")
        memory = f"{statistics.median(usage.memory):.0f}, highest {max(usage.memory):.0f}"
        idle = f"{statistics.median(usage.idle):.2f}, highest {max(usage.idle):.2f}"
        yield (f"{usage.role} ({len(usage.idle)})", memory, aims[0], idle, aims[1])


def _programs(programs: Programs) -> Iterator[Sequence[str]]:
    for each in programs.programs:
        deep = (f"{each.stack}", f"{STACK}", f"{each.frames}", f"{FRAMES}")
        sizes = (f"{each.instructions}", f"{each.verified}", f"{each.load_ms:.0f}")
        yield (each.name, *sizes, *deep)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
