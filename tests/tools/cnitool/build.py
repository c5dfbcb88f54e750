"""cnitool, the reference client of CNI, built once per machine from the pinned module."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.tools.kube.build import cache

HERE = Path(__file__).parent
_PACKAGE = "github.com/containernetworking/cni"
_VERSION = re.compile(rf"^require {_PACKAGE} (v\S+)$", re.MULTILINE)


def cnitool() -> Path:
    """The program. Raises CalledProcessError, FileNotFoundError without Go."""
    found = _VERSION.search((HERE / "go.mod").read_text())
    assert found, f"go.mod names no version of {_PACKAGE}"
    built = cache() / f"cnitool-{found[1]}"
    if not built.exists():
        fresh = built.with_suffix(f".{os.getpid()}")
        settings = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
        command = ["go", "build", "-o", fresh, f"{_PACKAGE}/cnitool"]
        subprocess.run(command, cwd=HERE, env={**os.environ, **settings}, check=True)
        fresh.rename(built)
    return built
