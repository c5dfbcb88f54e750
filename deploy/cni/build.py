"""Compile the CNI plugin: ``python -m deploy.cni.build``. It is static: hosts differ."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent / "meshgate_cni.c"
BUILT = Path(__file__).parents[2] / "build" / "meshgate-cni"
#: musl: a static program of 50 kB, where one with glibc would have 800 kB.
COMMAND = ("musl-gcc", "-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror")


class BuildError(Exception):
    """The compiler refused the source; the text is what it said."""


def build(built: Path = BUILT) -> None:
    """Make ``built`` current."""
    if built.exists() and built.stat().st_mtime > max(map(_changed, (SOURCE, Path(__file__)))):
        return
    built.parent.mkdir(parents=True, exist_ok=True)
    fresh = built.with_name(f"{built.name}.{os.getpid()}")
    command = [*COMMAND, "-o", str(fresh), str(SOURCE)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        fresh.unlink(missing_ok=True)
        raise BuildError(f"{shlex.join(command)}\n{result.stderr}")
    fresh.replace(built)


def _changed(path: Path) -> float:
    return path.stat().st_mtime


if __name__ == "__main__":
    try:
        build()
    except BuildError as error:
        sys.exit(str(error))
