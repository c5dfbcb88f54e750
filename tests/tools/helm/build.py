"""Real Helm, built once per machine from the pinned module beside this file.

Needs a Go toolchain; nothing of ``make test`` does. A cold build takes some minutes.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.tools.kube.build import cache

HERE = Path(__file__).parent
_VERSION = re.compile(r"^require helm\.sh/helm/v3 (v\S+)$", re.MULTILINE)


def version() -> str:
    """The version that the module pins."""
    found = _VERSION.search((HERE / "go.mod").read_text())
    assert found, "go.mod names no version of helm.sh/helm/v3"
    return found[1]


def helm() -> Path:
    """The command. Raises CalledProcessError, FileNotFoundError without Go."""
    built = cache() / f"helm-{version()}"
    if not built.exists():
        stamp = f"-s -w -X helm.sh/helm/v3/internal/version.version={version()}"
        # Helm knows a cluster's version by this when it speaks to none (`helm template`).
        client = "-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1"
        client += " -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=36"
        fresh = built.with_suffix(f".{os.getpid()}")
        command = ["go", "build", "-ldflags", f"{stamp} {client}", "-o", fresh]
        settings = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
        subprocess.run(
            [*command, "helm.sh/helm/v3/cmd/helm"],
            cwd=HERE,
            env={**os.environ, **settings},
            check=True,
        )
        fresh.rename(built)
    return built
