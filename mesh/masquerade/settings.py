"""The section ``masquerade`` of the agent's configuration file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import msgspec

from mesh.core.section import Section
from mesh.core.strict import AnyNetwork, Wrong

#: Kubernetes gives services these ports of every node, unless its API server says otherwise.
NODE_PORTS = range(30000, 32768)
#: Below are the ports of well-known services, which hosts have themselves.
FIRST_PORT, LAST_PORT = 1024, 65535
#: Fewer are no use: a pod that opens a web page opens some dozen connections to one remote.
LEAST_PORTS = 64
_RANGE = re.compile(r"([1-9][0-9]{0,4})-([1-9][0-9]{0,4})\Z")


class MasqueradeSettings(Section, frozen=True):
    """Whether the node's address stands for its pods towards the world."""

    mode: Literal["auto", "on", "off"] = "auto"
    """``auto``: unless a BGPPeer that selects this node advertises podCIDRs, by its configuration;
    then the world has routes to the pods."""
    non_masquerade_cidrs: tuple[AnyNetwork, ...] = msgspec.field(
        name="nonMasqueradeCIDRs", default=()
    )
    """Networks outside of the mesh that see pods by their own addresses."""
    ports: str = "61000-65535"
    """Ports and ICMP ids of the node that stand for its pods; the host itself uses others. Each
    serves any number of remotes."""

    @property
    def range(self) -> range:
        """The ports as numbers."""
        first, last = (int(text) for text in self.ports.split("-"))
        return range(first, last + 1)

    def problems(self, path: str) -> Iterator[Wrong]:
        found = _RANGE.match(self.ports)
        if not found or not FIRST_PORT <= int(found[1]) <= int(found[2]) <= LAST_PORT:
            text = f"expected FIRST-LAST of {FIRST_PORT}-{LAST_PORT}, got {self.ports!r}"
            yield Wrong(f"{path}.ports", text)
            return
        if len(self.range) < LEAST_PORTS:
            text = f"expected {LEAST_PORTS} ports or more, got {len(self.range)}"
            yield Wrong(f"{path}.ports", text)
        if self.range.start < NODE_PORTS.stop and self.range.stop > NODE_PORTS.start:
            text = f"{self.ports} overlaps {NODE_PORTS.start}-{NODE_PORTS.stop - 1}"
            yield Wrong(f"{path}.ports", f"{text}, the node ports of Kubernetes services")
