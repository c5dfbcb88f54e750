"""A process of the lab with the rights that its unit gives it, and no other.

Usage: ``python -m mesh.lab.confined ROLE --config FILE [--user USER]``. The units are in
``deploy/systemd``; a test compares. All code is read before the rights go, so a checkout may lie
where its user could not read it.
"""

from __future__ import annotations

import argparse
import stat
import sys
from importlib import import_module
from pathlib import Path

import yaml

from bpf.privileges import User, confine

#: What each process may do beyond what its user may.
CAPABILITIES = {
    "agent": ("CAP_BPF", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_PERFMON", "CAP_SYS_ADMIN"),
    "controller": (),
    "feed": (),
    "speaker": (
        "CAP_BPF",
        "CAP_CHOWN",
        "CAP_NET_ADMIN",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETGID",
        "CAP_SETUID",
    ),
}
#: What a process needs beside them where its user cannot read the code: it has read most of it, and
#: libraries import the rest when they need it; the agent reads BPF objects.
_READ_ALL = "CAP_DAC_READ_SEARCH"


def kept(role: str, uid: int) -> tuple[str, ...]:
    """The capabilities of a process of the lab, from where this code lies."""
    code = (Path(__file__), Path(yaml.__file__))
    return CAPABILITIES[role] + (() if all(is_readable(one, uid) for one in code) else (_READ_ALL,))


def is_readable(file: Path, uid: int) -> bool:
    """Whether the user gets through to a file without a capability; groups count for nothing."""
    found = file.stat()
    own, others = (stat.S_IRUSR, stat.S_IROTH)
    if not found.st_mode & (own if found.st_uid == uid else others):
        return False
    own, others = (stat.S_IXUSR, stat.S_IXOTH)
    places = [place.stat() for place in file.parents]
    return all(one.st_mode & (own if one.st_uid == uid else others) for one in places)


def main() -> int:
    """Be the process, confined."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=CAPABILITIES)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--user", type=User.find)
    given = parser.parse_args()
    process = import_module(f"mesh.{given.role}")
    confine(kept(given.role, given.user.uid if given.user else 0), given.user)
    return int(process.main(given.config))


if __name__ == "__main__":
    sys.exit(main())
