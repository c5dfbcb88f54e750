"""``make bench``: prints figures and writes BENCH.md; nothing is asserted on time."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bpf.build import build
from bpf.object import BPFFS, mount_bpffs
from mesh.lab import bringup, places
from mesh.lab.places import Lab
from tests.bench import attaching, control, objects, paths, programs, running, scale, use
from tests.bench.frames import BenchError, pin_thread
from tests.bench.report import Results, text
from tests.bench.say import say, seconds

NAME = "mgb"
TARGET = Path(__file__).parents[2] / "BENCH.md"


def main() -> int:
    """0, or 1 when a figure could not be taken."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load = os.getloadavg()[0]
    cpus = os.sched_getaffinity(0)
    try:
        with _lab() as lab, tempfile.TemporaryDirectory() as name:
            built = Path(name)
            build(Path(__file__).parent, built)
            say("control plane")
            in_process = control.measure(lab.bpffs("control"))
            grown = scale.measure()
            waits = attaching.measure()
            on_lab, problem = _on_lab(lab)
            read = objects.measure()
            in_use = use.measure(lab, built)
            say(f"datapath on CPU {pin_thread()}")
            sizes = programs.measure(lab, built)
            figures = paths.measure(lab, built)
    except (BenchError, places.LabError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    finally:
        os.sched_setaffinity(0, cpus)
    results = Results(figures, in_process, on_lab, problem, sizes, grown, in_use, read, waits)
    report = text(results, seconds(), (load, os.getloadavg()[0]))
    TARGET.write_text(report)
    sys.stdout.write(f"\n{report}\n{TARGET.name} is written\n")
    return int(bool(problem) or any(figure.problem for figure in figures))


def _on_lab(lab: Lab) -> tuple[running.Running | None, str]:
    """The figures, or why there are none."""
    try:
        with running.lab_up(lab):
            return running.measure(lab), ""
    except (BenchError, places.LabError) as error:
        say(f"no figures on the lab: {error}")
        return None, str(error)


@contextmanager
def _lab() -> Iterator[Lab]:
    """A lab's places of our own; what an earlier run left goes first, all goes at the end."""
    os.environ["MESHGATE_LAB"], os.environ["MESHGATE_RUN"] = NAME, f"/run/meshgate-{NAME}"
    lab = places.current()
    with Path(f"/run/{NAME}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BenchError("another bench runs on this machine") from None
        bringup.down(lab, force=True)
        mounted = mount_bpffs()
        try:
            yield lab
        finally:
            bringup.down(lab, force=True)
            if mounted and not any(BPFFS.iterdir()):
                subprocess.run(["umount", str(BPFFS)], check=False)
            Path(lock.name).unlink()


if __name__ == "__main__":
    sys.exit(main())
