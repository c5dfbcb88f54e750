"""``make e2e [SUITE=…]``: suites on real clusters of the bed, each with its own.

Usage: ``python -m tests.e2e.run [SUITE]``. Prints ``<suite> N passed, N failed, N skipped`` and the
names that failed; Ginkgo's reports go below ``build/e2e/``. The specs are upstream's; their names
are the lists in ``specs/``. The bed stays up after a failure when ``MESHGATE_KEEP`` is set.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from mesh.lab import enter, places
from mesh.lab.kube import bringup, builds, cli, credentials, installed, topology
from mesh.lab.kube.topology import Cluster
from mesh.lab.places import Lab, LabError
from tests.e2e import killing, report
from tests.e2e.report import Result

ROOT = Path(__file__).resolve().parents[2]
REPORTS = ROOT / "build" / "e2e"
BEDS = Path(__file__).with_name("beds")


@dataclass(frozen=True, slots=True)
class Suite:
    """One line of the output: specs of a list, on a cluster of a topology."""

    name: str
    bed: Path
    processes: int
    minutes: int
    before: tuple[str, ...] = ()
    """Levels of pytest that run without the bed."""
    on_bed: tuple[str, ...] = ()
    """Levels of pytest that run on the bed, before the specs."""
    afterwards: tuple[str, ...] = ()
    """Levels of pytest that run on the bed after the specs: Meshgate is gone then."""
    specs: str = ""
    """The list of specs; absent: that of the suite's name."""
    beside: bool = False
    """Whether Meshgate is installed beside the network of the topology."""
    kills_agents: bool = False
    """Whether the agents of the chart are killed in turn while the specs run."""


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "smoke",
            BEDS / "smoke.yaml",
            4,
            10,
            before=("tests/e2e",),
            on_bed=("tests/bed",),
            afterwards=("tests/leaving",),
        ),
        Suite("killed", BEDS / "smoke.yaml", 6, 30, specs="conformance", kills_agents=True),
        Suite("conformance", places.KUBE_TOPOLOGY, 6, 30),
        Suite("whole", BEDS / "smoke.yaml", 6, 30, specs="conformance"),
        Suite("dualstack", places.KUBE_TOPOLOGY, 4, 30),
        Suite(
            "beside-bridge",
            places.KUBE_TOPOLOGY,
            6,
            30,
            on_bed=("tests/bed/test_egress.py",),
            afterwards=("tests/leaving",),
            specs="conformance",
            beside=True,
        ),
        Suite("kube-router", BEDS / "kube-router.yaml", 6, 30, specs="conformance"),
        Suite(
            "beside-kube-router",
            BEDS / "kube-router.yaml",
            6,
            30,
            on_bed=("tests/bed/test_egress.py",),
            afterwards=("tests/leaving",),
            specs="conformance",
            beside=True,
        ),
    )
}


def main(words: Sequence[str]) -> int:
    """Run the suites that were named; 0 when all of them are good."""
    wanted = words[0] if words else "smoke"
    if wanted != "all" and wanted not in SUITES:
        print(f"no suite {wanted}; known: {', '.join(SUITES)}, all", file=sys.stderr)
        return 2
    chosen = list(SUITES.values()) if wanted == "all" else [SUITES[wanted]]
    good = [run(suite) for suite in chosen]
    return 0 if all(good) else 1


def run(suite: Suite) -> bool:
    """Whether a suite is good; what it came to is printed."""
    levels = {level: _level(level) for level in suite.before}
    begin = time.monotonic()
    lab = places.current(cli.NAME, cli.RUN)
    try:
        _bring_up(lab, suite.bed, beside=suite.beside)
        levels |= {level: _level(level) for level in suite.on_bed}
        result = _run_specs(lab, suite)
        levels |= {level: _level(level) for level in suite.afterwards}
        result = replace(result, outcomes=levels | dict(result.outcomes))
        problems, good = result.lines(), result.is_good
    except LabError as error:
        problems, good = [f"{suite.name} 0 passed, 1 failed, 0 skipped", f"    {error}"], False
    if good or not os.environ.get("MESHGATE_KEEP"):
        bringup.down(lab)
    print("\n".join(problems))
    print(f"    {time.monotonic() - begin:.0f} s, reports in {REPORTS / suite.name}", flush=True)
    return good


def _bring_up(lab: Lab, bed: Path, *, beside: bool) -> None:
    """The bed; clusters without a network get Meshgate's, with ``beside`` the others, too.

    Raises LabError.
    """
    shape = topology.load(bed)
    ours = [cluster for cluster in shape.clusters if beside or cluster.cni == "none"]
    if ours:
        installed.make_image()
    bringup.up(lab, shape, bed.read_text())
    for cluster in ours:
        installed.install(lab, shape, cluster)


def _level(level: str) -> str:
    """What became of a level of pytest; it counts like a spec."""
    command = [sys.executable, "tests/run.py", level]
    ended = subprocess.run(command, cwd=ROOT, check=False)
    return report.FAILED if ended.returncode else report.PASSED


def _run_specs(lab: Lab, suite: Suite) -> Result:
    """Run the suite's specs where the API server is, and judge them."""
    listed = suite.specs or suite.name
    names = report.specs(listed)
    folder = REPORTS / suite.name
    folder.mkdir(parents=True, exist_ok=True)
    junit = folder / "junit.xml"
    junit.unlink(missing_ok=True)
    (cluster,) = topology.load(lab.topology).clusters
    command = ginkgo(lab, cluster, suite, names, folder)
    kills = killing.agents_killed(lab, cluster) if suite.kills_agents else nullcontext()
    with (folder / "ginkgo.log").open("wb") as log, kills:
        inside = enter.argv(lab.host(cluster.control_plane.name), command)
        subprocess.run(inside, cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=False)
    if not junit.exists():
        raise LabError(f"the suite wrote no report: see {folder / 'ginkgo.log'}")
    found = report.judged(listed, names, junit.read_text(), report.expected_skips())
    return replace(found, suite=suite.name)


def ginkgo(
    lab: Lab, cluster: Cluster, suite: Suite, names: Sequence[str], folder: Path
) -> list[str]:
    """The command that runs these specs, with Ginkgo's flags and the suite's."""
    found = builds.programs("ginkgo", "e2e.test")
    binary = folder / "e2e.test"  # Ginkgo knows a compiled suite by this suffix
    binary.unlink(missing_ok=True)
    binary.symlink_to(found["e2e.test"])
    config = credentials.kubeconfig(lab, cluster)
    workers = sum(node.is_open for node in cluster.nodes)
    return [
        *(str(found["ginkgo"]), f"--procs={suite.processes}", "--no-color"),
        *(f"--output-dir={folder}", "--junit-report=junit.xml", f"--focus={report.focus(names)}"),
        *(f"--timeout={suite.minutes}m", "--silence-skips", str(binary), "--"),
        *(f"--kubeconfig={config}", "--provider=skeleton", f"--num-nodes={workers}"),
        *("--node-os-distro=custom", "--system-pods-startup-timeout=60s"),
        *("--dump-logs-on-failure=false", f"--report-dir={folder}"),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
