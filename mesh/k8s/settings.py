"""Section ``kubernetes`` of the configuration: where the API server is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from mesh.core.section import Section
from mesh.core.strict import Wrong


class Kubernetes(Section, frozen=True):
    """How the API server is reached; ``{}``: as any pod does (service account, environment)."""

    host: str | None = None
    """``https://host:port`` in place of the one that the environment or the kubeconfig names. A
    process that serves the cluster's services must not need one to reach the API server."""
    kubeconfig: Path | None = None
    """File with address and credentials; absent: those of the pod's service account."""

    def problems(self, path: str) -> Iterator[Wrong]:
        if self.host is not None and not _is_url(self.host):
            yield Wrong(f"{path}.host", f"expected https://host:port, got {self.host!r}")
        if self.kubeconfig is not None and not self.kubeconfig.is_file():
            yield Wrong(f"{path}.kubeconfig", f"no such file: {self.kubeconfig}")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    bare = not (parts.path.rstrip("/") or parts.query or parts.fragment or parts.username)
    return parts.scheme == "https" and bool(parts.hostname) and port != 0 and bare
