"""The section ``hubble`` of the agent's configuration: flows for a Hubble relay of others."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from mesh.core.section import Section
from mesh.core.strict import Wrong


class Hubble(Section, frozen=True):
    """A listener with mutual TLS; without the section an agent serves its unix socket only."""

    listen: str
    """``address:port`` of the node, ``[address]:port`` for IPv6; 4244 by convention."""
    ca: Path
    """PEM file of the authority that signs the certificates of relays."""
    cert: Path
    """PEM file of our certificate, for the name ``<node>.<cluster>.hubble-grpc.cilium.io``."""
    key: Path
    """PEM file of the certificate's private key. Changed files count for new connections."""

    @property
    def port(self) -> int:
        """The port, which is that of all agents."""
        return int(self.listen.rpartition(":")[2])

    def problems(self, path: str) -> Iterator[Wrong]:
        host, _, port = self.listen.rpartition(":")
        if not (port.isdecimal() and 0 < int(port) < 1 << 16 and _is_address(host)):
            yield Wrong(f"{path}.listen", f"expected address:port, got {self.listen!r}")
        for name in ("ca", "cert", "key"):
            file: Path = getattr(self, name)
            if not file.is_file():
                yield Wrong(f"{path}.{name}", f"no such file: {file}")


def _is_address(host: str) -> bool:
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return (ip_address(bare).version == 6) == (bare != host)
    except ValueError:
        return False
