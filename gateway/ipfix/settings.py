"""The section ``ipfix`` of the controller's configuration: who is told of port blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from mesh.core.section import Section
from mesh.core.strict import Wrong


class IPFIXSettings(Section, frozen=True):
    """A collector of IPFIX (RFC 7011); the leading controller tells it of each port block."""

    collector: str
    """``host:port``, ``[address]:port`` for IPv6; 4739 by convention."""
    transport: Literal["tcp", "udp"] = "tcp"
    """``tcp`` notices a collector that is gone; with ``udp`` events may be lost unseen."""
    domain: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)] = 1
    """Observation domain: another one for each cluster that has the same collector."""

    def problems(self, path: str) -> Iterator[Wrong]:
        host, port = self.place
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            yield Wrong(f"{path}.collector", f"expected host:port, got {self.collector!r}")

    @property
    def place(self) -> tuple[str, str]:
        """Host and port."""
        host, _, port = self.collector.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), port
