"""What nodes change of the machine that they all share: kept before, given back afterwards.

kubelet writes settings of the whole kernel, and each node mounts its folders over standard paths,
which must exist.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from mesh.core.files import replace_file
from mesh.lab import network
from mesh.lab.kube.configs import FOLDERS
from mesh.lab.places import OWN, Lab

_WATCHERS = "fs.inotify.max_user_instances"
#: Written by kubelet, and one that the bed raises: each kubelet and containerd needs instances.
SYSCTLS = (
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
    _WATCHERS,
)
_INSTANCES = 1024
_SYSCTL = Path("/proc/sys")


def keep(lab: Lab) -> None:
    """Note former settings, make the folders that nodes mount over, and note those too."""
    made = [path for seen in FOLDERS.values() for path in _make(Path(seen))]
    former = {name: _path(name).read_text().strip() for name in SYSCTLS if _path(name).exists()}
    replace_file(_file(lab), json.dumps({"folders": made, "sysctls": former}, indent=1))
    wanted = max(_INSTANCES, int(former[_WATCHERS]))
    network.set_sysctls(lab.host(OWN), {_WATCHERS: wanted})


def restore(lab: Lab) -> None:
    """Write back the former settings, and remove the folders that are still empty."""
    try:
        kept = json.loads(_file(lab).read_text())
    except (OSError, ValueError):
        return
    former = {name: int(value) for name, value in kept["sysctls"].items()}
    network.set_sysctls(lab.host(OWN), former)
    for folder in reversed(kept["folders"]):
        with suppress(OSError):
            Path(folder).rmdir()
    _file(lab).unlink()


def _make(path: Path) -> list[str]:
    """Make a folder, and what leads to it; the new ones, from above."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    path.mkdir(parents=True, exist_ok=True)
    return [str(one) for one in reversed(missing)]


def _path(name: str) -> Path:
    return _SYSCTL / name.replace(".", "/")


def _file(lab: Lab) -> Path:
    return lab.run / "machine.json"
