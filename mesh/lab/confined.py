"""A process of the lab with the rights that its unit gives it, and no other.

Usage: ``python -m mesh.lab.confined ROLE --config FILE [--user USER]``. The units are in
``deploy/systemd``; a test compares. All code is read before the rights go, so a checkout may lie
where its user could not read it.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from bpf.privileges import User, confine

#: What each process may do beyond what its user may.
CAPABILITIES = {
    "agent": ("CAP_BPF", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_PERFMON", "CAP_SYS_ADMIN"),
    "controller": (),
    "speaker": ("CAP_CHOWN", "CAP_SETGID", "CAP_SETUID"),
}
#: Where files of others lie, root needs this one to read BPF objects: in a checkout of a user.
_READ_ALL = "CAP_DAC_READ_SEARCH"
_TREE = Path(__file__).resolve().parents[2]


def is_readable(path: Path, stats: Iterable[os.stat_result] | None = None) -> bool:
    """Whether root without capabilities gets through to ``path``."""
    found = stats or (one.stat() for one in (path, *path.parents))
    return all(one.st_uid == 0 or one.st_mode & stat.S_IXOTH for one in found)


def main() -> int:
    """Be the process, confined."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=CAPABILITIES)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--user", type=User.find)
    given = parser.parse_args()
    process = import_module(f"mesh.{given.role}")
    import_module("yaml")  # msgspec's parser is imported when it is needed
    keep = CAPABILITIES[given.role]
    if given.user is None and not is_readable(_TREE):
        keep = (*keep, _READ_ALL)
    confine(keep, given.user)
    return int(process.main(given.config))


if __name__ == "__main__":
    sys.exit(main())
