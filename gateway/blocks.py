"""Port blocks of egress addresses: which nodes want some, and which nodes have them. Pure.

Block ``number`` of an address are the ports from 1024 + number * block size. A block is claimed
(``clustermesh/store/allocator.py``): the noun is ``block``, the pool the address, the owner
``node/k``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, ip_address

from gateway.nouns import block_row
from gateway.policy import EgressPolicy
from mesh.core.feature import Want
from mesh.core.model import IP, Claim, ClaimKey, Node
from mesh.core.noun import Row, Rows
from mesh.identity.addresses import tunnel_endpoint


@dataclass(frozen=True, slots=True)
class Block:
    """The node that may translate into the block; ``epoch``: etcd revision of the assignment."""

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


def is_block(claim: Claim, block_size: int) -> bool:
    """Whether a claim is a block of this size."""
    known = 0 <= claim.number < block_count(block_size)
    return known and address_of_pool(claim.pool) is not None


def block_of_claim(claim: Claim, cluster: str, block_size: int) -> Block:
    """The block that a claim is."""
    first, last = block_ports(claim.number, block_size)
    address, node = ip_address(claim.pool), node_of_owner(claim.owner)
    return Block(address, claim.number, first, last, cluster, node, claim.epoch)


def node_of_owner(owner: str) -> str:
    """The node of ``node/k``."""
    return owner.rpartition("/")[0]


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


@lru_cache(1 << 14)
def address_of_pool(pool: str) -> IP | None:
    """The egress address whose blocks the pool has."""
    try:
        return ip_address(pool)
    except ValueError:
        return None


def block_owner(
    key: ClaimKey, claim: Claim | None, resting: Claim | None, node: Node | None, *, block_size: int
) -> dict[ClaimKey, BlockOwner]:
    """``mg_block``: the owner of a block whose node is known; packets of others have no owner.

    A block that rests serves the connections that are left, and takes no new ones.
    """
    row, endpoint = claim or resting, tunnel_endpoint(node) if node else None
    if row is None or endpoint is None or not is_block(row, block_size):
        return {}
    return {key: BlockOwner(endpoint, row.epoch)}


def own_blocks(address: IP, claims: Mapping[ClaimKey, Claim]) -> dict[IP, tuple[int, ...]]:
    """``mg_own_block``: the block numbers of this node of an address, at most OWN_BLOCKS."""
    numbers = sorted(key.number for key in claims)
    return {address: tuple(numbers[:OWN_BLOCKS])} if numbers else {}


def block_rows(claims: Iterable[Claim], cluster: str, block_size: int) -> Sequence[Row]:
    """``block list``: the blocks that are claimed."""
    held = (claim for claim in claims if is_block(claim, block_size))
    return Rows.of(held, lambda claim: block_row(block_of_claim(claim, cluster, block_size)))
