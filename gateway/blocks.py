"""Port blocks of egress addresses: which nodes want some, and which nodes have them. Pure.

Block ``number`` of an address are the ports from 1024 + number * block size. A block is claimed
(``clustermesh/store/allocator.py``): the noun is ``block``, the pool the address, the owner
``node/k``. Where the address's EgressPool says how large its blocks are, the size stands in the
pool of the claim (``198.51.100.10_512``) and in the number that BPF knows, so no block is ever
taken for one of another size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, ip_address
from types import MappingProxyType

from gateway.nouns import block_row
from gateway.policy import EgressPolicy
from gateway.spread import crowded_blocks
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


#: The noun of block claims; their pool is the egress address, and the size of its blocks.
NOUN = "block"
#: Block sizes that a pool may name: each divides the ports from 1024 on.
SIZES = (64, 128, 256, 512, 1024)
#: ``enum block_limit``: above it stands the size in the number of a block that has its own.
SIZE_SHIFT = 16

#: ``enum run_limit``: here, because the configuration is bounded by it without a datapath.
OWN_BLOCKS = 32

#: All blocks are as configured.
NO_SIZES: Mapping[IP, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class BlockOwner:
    """Value of ``mg_block``: the tunnel endpoint that may use the block."""

    node: IPv4Address
    epoch: int


def pool_of(address: IP, size: int) -> str:
    """The pool of an address's block claims; ``size`` 0: as configured."""
    return f"{address}_{size}" if size else str(address)


@lru_cache(1 << 14)
def size_of_pool(pool: str, block_size: int) -> int:
    """Ports in the blocks of the pool, ``block_size`` being the configured ones; 0: it is none."""
    _, _, size = pool.partition("_")
    if not size:
        return block_size
    return int(size) if size in map(str, SIZES) else 0


def coded(claim: ClaimKey | Claim) -> int:
    """The number of a block as BPF knows it (``bpf/include/gateway.h``)."""
    return size_of_pool(claim.pool, 0) << SIZE_SHIFT | claim.number


def size_of(code: int, block_size: int) -> int:
    """Ports of a block by its number as BPF knows it."""
    return code >> SIZE_SHIFT or block_size


def is_block(claim: Claim, block_size: int) -> bool:
    """Whether a claim is a block; ``block_size`` is the configured one."""
    size = size_of_pool(claim.pool, block_size)
    known = size > 0 and 0 <= claim.number < block_count(size)
    return known and address_of_pool(claim.pool) is not None


def block_of_claim(claim: Claim, cluster: str, block_size: int) -> Block:
    """The block that a claim is."""
    first, last = block_ports(claim.number, size_of_pool(claim.pool, block_size))
    address, node = ip_address(claim.pool.partition("_")[0]), node_of_owner(claim.owner)
    return Block(address, claim.number, first, last, cluster, node, claim.epoch)


def node_of_owner(owner: str) -> str:
    """The node of ``node/k``."""
    return owner.rpartition("/")[0]


def place_of_owner(owner: str) -> int:
    """The place of a block among those of its node: ``k`` of ``node/k``."""
    number = owner.rpartition("/")[2]
    return int(number) if number.isascii() and number.isdecimal() else OWN_BLOCKS


def wants_of(
    hosted: tuple[str, str],
    policy: EgressPolicy | None,
    used: Mapping[tuple[str, IP], int],
    most: int,
    sizes: Mapping[IP, int] = NO_SIZES,
) -> list[Want]:
    """Blocks of a policy's egress addresses for a node that hosts a pod which it covers.

    ``hosted`` are the names of policy and node, ``used`` how many blocks the node uses: it gets one
    more, so that no connection waits for a block, and ``most`` at most. ``sizes`` are those of
    blocks by address, where they are not as configured. Of a further address of a
    pool it gets some when it fills those before.
    """
    _, node = hosted
    return [
        Want(NOUN, pool_of(address, sizes.get(address, 0)), f"{node}/{k}")
        for address in (_for_node(policy, node, used, most) if policy else ())
        for k in range(min(max(used.get((node, address), 0), 1) + 1, most))
    ]


def always_wanted(policy: EgressPolicy) -> list[IP]:
    """The addresses of which each node with a covered pod has ports: of a pool the first ones."""
    if not policy.pool:
        return list(policy.addresses)
    found = (next((a for a in policy.addresses if a.version == family), None) for family in (4, 6))
    return [one for one in found if one]


def _for_node(
    policy: EgressPolicy, node: str, used: Mapping[tuple[str, IP], int], most: int
) -> Iterator[IP]:
    """The addresses of a policy of which the node needs ports."""
    crowded = crowded_blocks(most)
    for family in (4, 6):
        filled = True
        for address in (one for one in policy.addresses if one.version == family):
            blocks = used.get((node, address), 0)
            if filled or blocks or not policy.pool:
                yield address
            filled = filled and blocks >= crowded


def used_places(node: str, demand: Mapping[IP, int] | None, most: int) -> dict[tuple[str, IP], int]:
    """How many blocks of each address a node says that it uses."""
    rows = (demand or {}).items()
    return {(node, address): min(count, most) for address, count in rows if count > 0}


def kept(used: int, held: Mapping[ClaimKey, Claim]) -> dict[Want, bool]:
    """Blocks that a node has and uses, of one address, whoever is covered: connections go on."""
    return {
        Want(NOUN, key.pool, claim.owner): True
        for key, claim in held.items()
        if place_of_owner(claim.owner) < used
    }


def blocks_in_use(
    own: Mapping[IP, tuple[int, ...]], taken: Callable[[IP, int], bool]
) -> dict[IP, int]:
    """How many blocks of each address are in use: up to the last one with a run that is taken."""
    return {
        address: next((k for k in range(len(numbers), 0, -1) if taken(address, numbers[k - 1])), 0)
        for address, numbers in own.items()
    }


@lru_cache(1 << 14)
def address_of_pool(pool: str) -> IP | None:
    """The egress address whose blocks the pool has."""
    try:
        return ip_address(pool.partition("_")[0])
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
    """``mg_own_block``: the block numbers of this node of an address, at most OWN_BLOCKS.

    They are of one size: of blocks of a former size only connections are left. Runs come out of
    the first one that has any, so the last ones fall idle and are given back.
    """
    newest = max(claims.values(), key=lambda claim: claim.epoch).pool if claims else ""
    rows = sorted(
        (place_of_owner(claim.owner), coded(key))
        for key, claim in claims.items()
        if key.pool == newest
    )
    numbers = tuple(number for _, number in rows[:OWN_BLOCKS])
    return {address: numbers} if numbers else {}


def own_size(address: IP, numbers: tuple[int, ...]) -> tuple[IP, ...]:
    """The row of ``mg_block_size`` that a row of ``mg_own_block`` needs."""
    return (address,) if size_of(numbers[0], 0) else ()


def let_go_name(key: ClaimKey) -> str:
    """How a node names a block that it has let go, beside the objects that it holds."""
    return f"{NOUN}/{key.pool}/{key.number}"


def has_let_go(said: Mapping[str, int], key: ClaimKey, claim: Claim) -> bool:
    """Whether a node says that it lends no more out of a released block, and has nothing lent.

    The epoch that it has read with the release is not smaller than the one of the assignment.
    """
    return said.get(let_go_name(key), -1) >= claim.epoch


def block_rows(claims: Iterable[Claim], cluster: str, block_size: int) -> Sequence[Row]:
    """``block list``: the blocks that are claimed."""
    held = (claim for claim in claims if is_block(claim, block_size))
    return Rows.of(held, lambda claim: block_row(block_of_claim(claim, cluster, block_size)))
