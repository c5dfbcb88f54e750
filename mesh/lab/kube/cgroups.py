"""A node's groups in every cgroup tree of this machine.

kubelet and runc use the trees of version 1 where those are mounted (hybrid layout); runc also puts
each container into the tree of version 2, where cgroup programs are attached. So each node has a
group of its own in all of them, ``<lab>/<node>``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from mesh.lab.places import MOUNTS, Lab, LabError

#: The weight of the bed beside the other processes of this machine, where a process has 1024: the
#: pods of all nodes in one group would have the part of a single process.
CPU_SHARES = 4096
#: A container's processes end some time after the node's process 1.
EMPTY_WITHIN_S = 5.0


def trees(mounts: str) -> list[Path]:
    """The mount points of all cgroup trees, from the text of /proc/mounts."""
    rows = [line.split() for line in mounts.splitlines()]
    return [Path(row[1]) for row in rows if row[2] in ("cgroup", "cgroup2")]


def root(lab: Lab, node: str) -> str:
    """The node's group as kubelet is told (``cgroupRoot``)."""
    return f"/{lab.name}/{node}"


def make(lab: Lab, node: str) -> None:
    """Make the node's group in each tree.

    Raises:
        LabError: this machine has no tree of version 1, which kubelet's configuration here needs.

    """
    text = MOUNTS.read_text()
    if " cgroup rw" not in text:
        raise LabError("the bed needs cgroup trees of version 1 (hybrid layout)")
    for tree in trees(text):
        group = tree / lab.name / node
        group.mkdir(parents=True, exist_ok=True)
        for one in (group.parent, group):
            _copy_cpuset(one)
        shares = group.parent / "cpu.shares"
        if shares.exists():
            shares.write_text(f"{CPU_SHARES}")


def clear(lab: Lab, node: str) -> None:
    """Remove what a dead node has left, as no group outlives a machine.

    kubelet would ask for the container of each group for three seconds before it starts any pod.
    """
    _remove(lab, node)
    make(lab, node)


def remove(lab: Lab) -> None:
    """Remove the lab's groups from all trees; nothing of theirs runs any more."""
    _remove(lab, "")


def _remove(lab: Lab, node: str) -> None:
    for tree in trees(MOUNTS.read_text()):
        end = time.monotonic() + EMPTY_WITHIN_S
        while not _removed(tree / lab.name / node) and time.monotonic() < end:
            time.sleep(0.1)


def _removed(top: Path) -> bool:
    try:
        for group in _deepest_first(top):
            group.rmdir()
    except OSError:
        return False
    return not top.exists()


def _deepest_first(top: Path) -> Iterator[Path]:
    if top.is_dir():
        yield from sorted(top.glob("**/"), reverse=True)


def _copy_cpuset(group: Path) -> None:
    """A new group of this tree has no processors and no memory, and so can hold no process."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        own = group / name
        if own.exists() and not own.read_text().strip():
            own.write_text((group.parent / name).read_text())
