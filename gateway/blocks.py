"""Port blocks of egress addresses: which nodes want some, and whose they are. Pure.

Block ``number`` of an address are the ports from 1024 + number * block size. A block is claimed
(``clustermesh/store/allocator.py``): the noun is ``block``, the pool the address, the owner
``node/k``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from gateway.policy import EgressPolicy
from mesh.core.feature import Want
from mesh.core.model import IP, Claim, Node
from mesh.identity.addresses import tunnel_endpoint


@dataclass(frozen=True, slots=True, order=True)
class BlockKey:
    """Port block ``number`` of ``address``; first port is 1024 + number * block size."""

    address: IP
    number: int

    def __hash__(self) -> int:
        """Half the time of the default: an address's own hash goes by way of its text."""
        return hash((int(self.address), self.number))


@dataclass(frozen=True, slots=True)
class Block:
    """Who may translate into the block; ``epoch`` is the etcd revision of the assignment."""

    address: IP
    number: int
    first: int
    last: int
    cluster: str
    node: str
    epoch: int


FIRST_PORT = 1024

LAST_PORT = 65535


def block_count(block_size: int) -> int:
    """How many whole blocks of ports an egress address has."""
    return (LAST_PORT + 1 - FIRST_PORT) // block_size


def block_ports(number: int, block_size: int) -> tuple[int, int]:
    """First and last port of a block."""
    first = FIRST_PORT + number * block_size
    return first, first + block_size - 1


def block_of(port: int, block_size: int) -> int | None:
    """The block of a port; None below 1024, where no block is."""
    number = (port - FIRST_PORT) // block_size
    return number if 0 <= number < block_count(block_size) else None


#: The noun of block claims; their pool is the egress address.
NOUN = "block"

#: ``enum port_limit``: here, because the configuration is bounded by it without a datapath.
OWN_BLOCKS = 16


@dataclass(frozen=True, slots=True)
class BlockOwner:
    """Value of ``mg_block``: the tunnel endpoint that may use the block."""

    node: IPv4Address
    epoch: int


def block_of_claim(claim: Claim | None, cluster: str, block_size: int) -> dict[BlockKey, Block]:
    """The block of a claim; a claim that is no block of this size is left out."""
    address = _pool_address(claim.pool) if claim else None
    if claim is None or address is None or not 0 <= claim.number < block_count(block_size):
        return {}
    first, last = block_ports(claim.number, block_size)
    node, _, _ = claim.owner.rpartition("/")
    row = Block(address, claim.number, first, last, cluster, sys.intern(node), claim.epoch)
    return {BlockKey(address, claim.number): row}


def wants_of(
    hosted: tuple[str, str], policy: EgressPolicy | None, blocks_per_node: int
) -> list[Want]:
    """Blocks of a policy's egress addresses for a node that hosts a pod which it covers.

    ``hosted`` are the names of policy and node.
    """
    _, node = hosted
    return [
        Want(NOUN, str(address), f"{node}/{k}")
        for address in (policy.addresses if policy else ())
        for k in range(blocks_per_node)
    ]


def _pool_address(pool: str) -> IP | None:
    try:
        return ip_address(pool)
    except ValueError:
        return None


def block_owner(
    key: BlockKey, block: Block | None, resting: Block | None, node: Node | None
) -> dict[BlockKey, BlockOwner]:
    """``mg_block``: the owner of a block whose node is known; packets of others have no owner.

    A block that rests serves the connections that are left, and takes no new ones.
    """
    row, endpoint = block or resting, tunnel_endpoint(node) if node else None
    return {key: BlockOwner(endpoint, row.epoch)} if row and endpoint else {}


def own_blocks(address: IP, blocks: Mapping[BlockKey, Block]) -> dict[IP, tuple[int, ...]]:
    """``mg_own_block``: the block numbers of this node of an address, at most OWN_BLOCKS."""
    numbers = sorted(key.number for key in blocks)
    return {address: tuple(numbers[:OWN_BLOCKS])} if numbers else {}
