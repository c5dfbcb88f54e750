"""Port blocks of egress addresses: which nodes want some, and whose they are. Pure.

Block ``number`` of an address are the ports from 1024 + number * block size. A block is claimed
(``clustermesh/store/allocator.py``): the noun is ``block``, the pool the address, the owner
``node/k``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from mesh.core.model import IP, Claim, Node, NodeKey
from mesh.identity.addresses import tunnel_endpoint


@dataclass(frozen=True, slots=True, order=True)
class BlockKey:
    """Port block ``number`` of ``address``; first port is 1024 + number * block size."""

    address: IP
    number: int


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

#: ``OWN_BLOCKS`` of ``bpf/include/types.h``.
OWN_BLOCKS = 16


@dataclass(frozen=True, slots=True)
class BlockOwner:
    """Value of ``mg_block``: the tunnel endpoint that may use the block."""

    node: IPv4Address
    epoch: int


def block_rows(claims: Iterable[Claim], cluster: str, block_size: int) -> dict[BlockKey, Block]:
    """Blocks of a cluster; a claim that is no block of this size is left out."""
    rows = {}
    for claim in claims:
        address = _pool_address(claim.pool) if claim.noun == NOUN else None
        if address is None or not 0 <= claim.number < block_count(block_size):
            continue
        first, last = block_ports(claim.number, block_size)
        node, _, _ = claim.owner.rpartition("/")
        row = Block(address, claim.number, first, last, cluster, node, claim.epoch)
        rows[BlockKey(address, claim.number)] = row
    return rows


def _pool_address(pool: str) -> IP | None:
    try:
        return ip_address(pool)
    except ValueError:
        return None


def block_owners(
    blocks: Mapping[BlockKey, Block], nodes: Mapping[NodeKey, Node]
) -> dict[BlockKey, BlockOwner]:
    """``mg_block``: blocks of the nodes that we know; the others' packets have no owner."""
    rows = {}
    for key, block in blocks.items():
        node = nodes.get(NodeKey(block.cluster, block.node))
        endpoint = tunnel_endpoint(node) if node else None
        if endpoint:
            rows[key] = BlockOwner(endpoint, block.epoch)
    return rows


def own_blocks(blocks: Mapping[BlockKey, Block], node: str) -> dict[IP, tuple[int, ...]]:
    """``mg_own_block``: the block numbers of one node by egress address, at most OWN_BLOCKS."""
    rows: dict[IP, tuple[int, ...]] = {}
    for key in sorted(blocks, key=lambda key: (key.address.version, key.address, key.number)):
        if blocks[key].node == node:
            rows[key.address] = (*rows.get(key.address, ()), key.number)[:OWN_BLOCKS]
    return rows
