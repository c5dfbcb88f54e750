"""The section ``bgp`` of the configuration files of agents and speakers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from mesh.core.section import Section
from mesh.core.strict import Wrong

#: Tables of the kernel itself (linux/rtnetlink.h): unspecified, compat, default, main, local.
_KERNELS = frozenset({252, 253, 254, 255})


class BGPSettings(Section, frozen=True):
    """What a node does with the routes that its peers send."""

    table: Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)] = 4100
    """Number of the kernel table with learned unicast routes, the same for agent and speaker; 0:
    they are shown and not used. Nothing else may use the table."""

    def problems(self, path: str) -> Iterator[Wrong]:
        if self.table in _KERNELS:
            yield Wrong(f"{path}.table", f"{self.table} is a table of the kernel's own")
