"""The section ``egress`` of the configuration files of agent and controller."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from gateway.blocks import OWN_BLOCKS
from mesh.core.section import Section
from mesh.core.strict import Wrong

#: Bits of an egress address's port space that every block size divides: 64512 = 63 * 2**10.
_BLOCK_SIZES = tuple(1 << bit for bit in range(6, 11))


class EgressSettings(Section, frozen=True):
    """Port blocks of egress addresses; the same in all processes of a cluster."""

    block_size: int = 256
    """Ports in a block, a power of two of 64..1024; 256 gives 252 blocks per address."""
    blocks_per_node: Annotated[int, msgspec.Meta(ge=1, le=OWN_BLOCKS)] = OWN_BLOCKS
    """Blocks of each egress address that a node may hold; it gets one more than it uses."""

    def problems(self, path: str) -> Iterator[Wrong]:
        if self.block_size not in _BLOCK_SIZES:
            sizes = ", ".join(map(str, _BLOCK_SIZES))
            yield Wrong(f"{path}.blockSize", f"expected one of {sizes}, got {self.block_size}")
