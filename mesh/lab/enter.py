"""How a command runs on a host or in a pod: in its cgroup, in its network namespace.

By setns, never by ``ip netns exec``: that one remounts /sys and hides the cgroup2 tree and bpffs
(bpf-loading.md 7.2). A shell moves itself into the cgroup and then becomes the command, so process
id, standard streams, signals and exit status are the command's own and nothing stays in between.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.lab.places import Place

_SCRIPT = 'echo 0 >"$1" && ns=$2 && shift 2 && exec nsenter --net="$ns" -- "$@"'


def argv(place: Place, command: Sequence[str]) -> list[str]:
    """The argument list that runs ``command`` in ``place``."""
    procs = str(place.cgroup / "cgroup.procs")
    return ["/bin/sh", "-c", _SCRIPT, "enter", procs, str(place.netns_path), *command]
