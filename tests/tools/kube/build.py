"""Binaries of real Kubernetes, built once per machine from the pinned module beside this file.

Needs a Go toolchain; nothing of ``make test`` does. A cold build takes some minutes.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
_VERSION = re.compile(r"^require k8s\.io/kubernetes (v\S+)$", re.MULTILINE)


def cache() -> Path:
    """Where binaries are kept, outside of the work tree."""
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshgate"
    place.mkdir(parents=True, exist_ok=True)
    return place


def version() -> str:
    """The version that the module pins."""
    found = _VERSION.search((HERE / "go.mod").read_text())
    assert found, "go.mod names no version of k8s.io/kubernetes"
    return found[1]


def binary(name: str) -> Path:
    """A command of k8s.io/kubernetes. Raises CalledProcessError, FileNotFoundError without Go."""
    built = cache() / f"{name}-{version()}"
    if not built.exists():
        stamp = f"-s -w -X k8s.io/component-base/version.gitVersion={version()}"
        fresh = built.with_suffix(f".{os.getpid()}")
        command = ["go", "build", "-ldflags", stamp, "-o", fresh, f"k8s.io/kubernetes/cmd/{name}"]
        settings = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
        subprocess.run(command, cwd=HERE, env={**os.environ, **settings}, check=True)
        fresh.rename(built)
    return built
