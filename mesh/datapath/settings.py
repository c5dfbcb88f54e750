"""The sections ``datapath`` and ``limits`` of the agent's configuration file.

``limits`` says how many entries maps have. A map that is not named has as many as its definition in
``bpf/include`` says: room for 150,000 pods, 10,000 services and 300,000 backends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import msgspec

from mesh.core.section import Section
from mesh.core.strict import Wrong


class DatapathSettings(Section, frozen=True):
    """How programs are attached."""

    xdp: Literal["auto", "on", "off"] = "off"
    """SRv6 packets are passed on and opened in the uplink's driver; ``auto``: where the uplink is a
    device of hardware. ``off``: the tc program does the same work. That is the default, since many
    drivers lose frames for a moment when a program is attached."""


class Size(Section, frozen=True):
    """The size of one map."""

    map: Annotated[str, msgspec.Meta(pattern=r"^mg_[a-z0-9_]{1,12}\Z")]
    """Name of the map, as findings have it."""
    entries: Annotated[int, msgspec.Meta(ge=16, le=1 << 24)]
    """Entries that it has room for."""


def size_problems(path: str, sizes: Iterable[Size]) -> Iterator[Wrong]:
    """Maps that are named twice."""
    seen: set[str] = set()
    for number, size in enumerate(sizes):
        if size.map in seen:
            yield Wrong(f"{path}[{number}].map", f"expected each map once, got {size.map!r} again")
        seen.add(size.map)
