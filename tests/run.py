"""Run pytest on the given levels, and fail when a test was skipped that may not be.

``tests/expected-skips.txt`` lists what may be skipped, one a line: ``<test id> <reason>``, with
``#`` for comments. A skip hides a test, so each needs its line.

The log begins with the versions of the system packages and of the Python packages, so that two
logs with different results can be compared.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import pytest

#: Levels that wait for leases, kills and sessions most of the time.
WAITING = ("interop", "lab")
#: Levels that compute. They run beside the waiting ones, one after the other, and give way to them.
COMPUTING = ("unit", "packet")
GIVES_WAY = 10  # nice(2)
#: Files of a level that run beside its others, by the mark of their group. ``packet+`` and
#: ``interop+``: half of the time of their levels; those of ``interop+`` wait for leases. The groups
#: of ``lab`` have labs of their own and run one after the other: beside two labs, a third process
#: that starts has hardly anything left of two processors.
#: ``lab++``: files that wait for findings, objects and agents most of the time, while those of
#: ``lab`` send traffic. ``lab+`` and ``lab+++``: the fabric is of another shape.
APART = {
    "lab": {
        "++": (
            "test_cni.py", "test_cni_beside.py", "test_cni_chained.py", "test_confined.py",
            "test_edge.py", "test_ended.py", "test_health.py", "test_lab_commands.py",
            "test_netfilter.py", "test_objects.py", "test_path_mtu.py", "test_reachability.py",
            "test_taken_away.py",
        ),
        "+": ("test_endpoint.py", "test_hosts.py", "test_masquerade.py"),
        "+++": ("test_beside.py",),
    },
    "interop": {
        "+": (
            "test_controller.py", "test_etcd_claims.py", "test_etcd_leader.py",
            "test_etcd_target.py", "test_untrusted_leases.py",
        ),
    },
    "packet": {
        "+": (
            "test_full_maps.py", "test_gone_backends.py", "test_half_open.py", "test_handover.py",
            "test_hops.py", "test_leaks.py", "test_migrate.py", "test_new_room.py",
            "test_one_shots.py", "test_ports.py", "test_races.py", "test_resets.py",
            "test_shares.py", "test_sock.py", "test_stack.py", "test_states.py", "test_sweep.py",
            "test_veths.py",
        ),
    },
}  # fmt: skip
MARK = "+"
#: Levels whose groups share a lane with the rest of the level.
IN_TURN = ("lab",)
#: Lanes at a time: more fill two processors no better, and what waits for a second, or for three
#: probes, then waits for a processor.
AT_ONCE = 4
#: What lanes that run side by side are given: the factor for waits for a fact
#: (``tests/patience.py``), and the seconds in which a process answers the command line.
PATIENCE = {"MESHGATE_PATIENCE": "3", "MESHGATE_ANSWER_S": "6"}

#: One test with its fixtures, in seconds: four times the longest on a loaded machine. A test that
#: hangs fails with the stack of each thread, and its fixtures are torn down.
TEST_S = 600
#: A lane. One that hangs outside of its tests is told to end, then killed: seconds for each.
LANE_S = 2700
ENDING: tuple[tuple[signal.Signals, int], ...] = ((signal.SIGTERM, 120), (signal.SIGKILL, 10))
#: For the last lines of a lane that has ended.
REST_S = 10
#: Tests in full length, for hours.
SOAK = bool(os.environ.get("MESHGATE_SOAK"))

#: What pytest's lines of a failed test begin with: its title, what failed there, its summary.
FAILURE = ("E  ", "____", "FAILED ", "ERROR ", "unexpected skip: ")
#: Failures said again at the end of the log, as whoever has only its end must know them: lines.
AGAIN = 60

#: Lines that name a failure, in the order of their coming.
FAILURES: list[str] = []
#: Lanes that run now.
RUNNING: set[subprocess.Popen[str]] = set()
#: Set when we were told to end.
TOLD = threading.Event()

EXPECTED = Path(__file__).with_name("expected-skips.txt")
#: Names the system packages, for itself and for the log.
INSTALL = Path(__file__).parent.parent / "deploy" / "install.sh"


class Skips:
    """Collects what was skipped."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        self.found[report.nodeid] = reason.removeprefix("Skipped: ")


def expected() -> set[str]:
    """Test ids that may be skipped."""
    lines = EXPECTED.read_text().splitlines()
    return {line.split(" ", 1)[0] for line in lines if line.strip() and not line.startswith("#")}


def run_level(level: str) -> int:
    """Pytest's status on one level, or 1 for an unexpected skip."""
    skips = Skips()
    bound = [f"--timeout={TEST_S}"] if is_of(level, (*WAITING, *COMPUTING)) and not SOAK else []
    status = int(pytest.main(["-q", "--durations=5", *bound, *files(level)], plugins=[skips]))
    unexpected = {name: why for name, why in skips.found.items() if name not in expected()}
    for name, why in sorted(unexpected.items()):
        sys.stdout.write(f"unexpected skip: {name} {why}\n")
    if unexpected:
        sys.stdout.write(f"A skip needs its line in {EXPECTED.relative_to(Path.cwd())}.\n")
    return status or int(bool(unexpected))


def files(level: str) -> list[str]:
    """Pytest's words for what belongs to a level."""
    folder = level.rstrip(MARK)
    groups = APART.get(Path(folder).name, {})
    if mark := level.removeprefix(folder):
        return [f"{folder}/{name}" for name in groups[mark]]
    return [level, *(f"--ignore={folder}/{name}" for names in groups.values() for name in names)]


def start(level: str) -> subprocess.Popen[str]:
    """One level in a process of its own, with its own conftest."""
    gives_way = ["nice", "-n", str(GIVES_WAY)] if is_of(level, COMPUTING) else []
    return subprocess.Popen(
        [*gives_way, sys.executable, __file__, "--level", level],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )


def environment() -> dict[str, str]:
    """Ours, but Python keeps what it compiles.

    Hundreds of processes start in a run. Each would compile our sources anew, which takes a third
    of its start.
    """
    return {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def is_of(level: str, names: Collection[str]) -> bool:
    """Whether a level is one of these."""
    return Path(level.rstrip(MARK)).name in names


def finish(level: str, running: subprocess.Popen[str]) -> bool:
    """Pass its output on as it comes, each line with its level; whether it passed.

    A process that a test has left may hold the output open for ever: that fails the level, too.
    """
    name = Path(level).name
    reader = threading.Thread(target=pass_on, args=(name, running), daemon=True)
    reader.start()
    RUNNING.add(running)
    status = end(name, running)
    RUNNING.discard(running)
    reader.join(REST_S)
    if reader.is_alive():
        sys.stdout.write(f"── {name}: a process that a test has left holds its output\n")
    return status == 0 and not reader.is_alive()


def pass_on(name: str, running: subprocess.Popen[str]) -> None:
    """Each line of a level's output, as it comes."""
    for line in running.stdout or ():
        sys.stdout.write(f"{name}: {line}")
        sys.stdout.flush()
        if line.startswith(FAILURE):
            FAILURES.append(f"{name}: {line}")


def end(name: str, running: subprocess.Popen[str]) -> int:
    """Status of a level, which has its time; whatever the time, when it is a soak."""
    if SOAK:
        return running.wait()
    waits = [LANE_S, *(seconds for _, seconds in ENDING)]
    for at, seconds in enumerate(waits):
        try:
            return running.wait(seconds)
        except subprocess.TimeoutExpired:
            sys.stdout.write(f"── {name}: not at its end after {seconds} s\n")
            sys.stdout.flush()
            if at < len(ENDING):
                running.send_signal(ENDING[at][0])
    return 1


def versions() -> str:
    """The versions that the tests run with: system packages, then Python packages."""
    asked = subprocess.run([INSTALL, "versions"], text=True, stdout=subprocess.PIPE, check=True)
    python = sorted((one.name.lower(), one.version) for one in metadata.distributions())
    packages = "".join(f"{name} {version}\n" for name, version in python)
    return f"── Debian\n{asked.stdout}── Python {sys.version.split()[0]}\n{packages}"


def in_lanes(levels: Sequence[str]) -> list[list[str]]:
    """Lanes that run side by side, the longest first; the levels of one run one after the other."""
    lanes = []
    for level in levels:
        own = [level] if is_of(level, WAITING) else []
        groups = [level + mark for mark in APART.get(Path(level).name, {})]
        lanes += [own + groups] if is_of(level, IN_TURN) else [[one] for one in own + groups]
    lanes.sort(key=lambda lane: (not is_of(lane[0], IN_TURN), is_of(lane[0], COMPUTING)))
    computing = [one for one in levels if is_of(one, COMPUTING)]
    return [*lanes, *([computing] if computing else [])]


def in_turn(levels: Iterable[str]) -> list[str]:
    """Run levels one after the other; those that failed. The log has what each one takes."""
    failed = []
    for level in levels:
        if TOLD.is_set():
            return [*failed, level]
        begun = time.monotonic()
        passed = finish(level, start(level))
        took = f"{time.monotonic() - begun:.0f} s"
        sys.stdout.write(f"── {Path(level).name}: {'passed' if passed else 'failed'}, {took}\n")
        failed += [] if passed else [level]
    return failed


def end_all(number: int, _: object) -> None:
    """Tell all lanes to end, as we were told: each takes away what it has made. None begins."""
    signal.signal(number, signal.SIG_IGN)
    TOLD.set()
    for running in list(RUNNING):
        running.send_signal(signal.SIGTERM)


def main() -> int:
    """0 when every level passed. A level of another name runs before the lanes, alone."""
    if sys.argv[1:2] == ["--level"]:
        return run_level(sys.argv[2])
    signal.signal(signal.SIGTERM, end_all)
    levels = sys.argv[1:]
    sys.stdout.write(versions())
    failed = in_turn(one for one in levels if not is_of(one, (*WAITING, *COMPUTING)))
    if lanes := in_lanes(levels):
        if len(lanes) > 1:
            os.environ.update(PATIENCE)
        sys.stdout.write(f"── side by side: {'; '.join(' '.join(one) for one in lanes)}\n")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            failed += [one for lane in pool.map(in_turn, lanes) for one in lane]
    sys.stdout.writelines(FAILURES[-AGAIN:])
    sys.stdout.write(f"failed: {', '.join(failed)}\n" if failed else "all levels passed\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
