"""The nouns that clusters publish: one object each, and the list of them.

The form of a noun's keys, the reading and judging of its values, and their number are declared
here and nowhere else. ``Imports`` and ``RemoteTables`` get the list from their makers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from clustermesh.remote import checks, wire
from clustermesh.remote import slice_pb2 as pb
from clustermesh.remote.checks import AcceptedAddress, AddressValue, RemoteCluster, RemoteNode
from clustermesh.remote.slices import ServiceSlice
from mesh.core.model import Identity, NodeKey, Service, ServiceKey

K = TypeVar("K", bound=Hashable)
D = TypeVar("D")
R = TypeVar("R")

KIB = 1 << 10


@dataclass(frozen=True, eq=False, slots=True)
class Shared(Generic[K, D, R]):
    """A published noun: the content of its keys (``D``), the row that is accepted (``R``), its key.

    ``decode`` gets a name, which is the part of a key behind the cluster, and a value, and looks at
    nothing else. ``judge`` sees the cluster and returns the row with the nodes on which the
    judgement rests; ``rests_on_nodes``: it is judged again when those change. Both raise
    ``NotAccepted`` or ``WireError``. ``limit`` is the number of keys that are read of one cluster,
    ``largest`` the size of a value in bytes.
    """

    noun: str
    prefix: str
    decode: Callable[[str, bytes], D]
    judge: Callable[[RemoteCluster, str, D], tuple[R, Sequence[str]]]
    key: Callable[[R], K]
    limit: int
    largest: int = 64 * KIB
    rests_on_nodes: bool = False

    def __str__(self) -> str:
        return self.noun


def _node_key(node: RemoteNode) -> NodeKey:
    return NodeKey(node.row.cluster, node.row.name)


def _service_key(row: Service) -> ServiceKey:
    return ServiceKey(row.cluster, row.namespace, row.name)


def _slice_key(row: ServiceSlice) -> tuple[str, str, str]:
    return row.cluster, row.namespace, row.name


def _identity_key(row: Identity) -> int:
    return row.id


def _address_key(row: AcceptedAddress | None) -> bytes:
    return row[0] if row else b""


def _no_key(_: int) -> None:
    """The id is no row of a table."""


#: The noun that is read first; nothing else of a cluster is used without it.
CONFIG: Shared[None, bytes, int] = Shared(
    "config", wire.CONFIGS, checks.read_config, checks.cluster_id, _no_key, 1
)
NODE: Shared[NodeKey, wire.WireNode, RemoteNode] = Shared(
    "node", wire.NODES, checks.read_node, checks.node, _node_key, 8192
)
SERVICE: Shared[ServiceKey, wire.WireService, Service] = Shared(
    "service",
    wire.SERVICES,
    checks.read_service,
    checks.service,
    _service_key,
    16_384,
    largest=1024 * KIB,
    rests_on_nodes=True,
)
IDENTITY: Shared[int, bytes, Identity] = Shared(
    "identity", wire.IDENTITIES, checks.read_identity, checks.identity, _identity_key, 65_536
)
ADDRESS: Shared[bytes, AddressValue, AcceptedAddress | None] = Shared(
    "address",
    wire.ADDRESSES,
    checks.read_address,
    checks.address,
    _address_key,
    131_072,
    rests_on_nodes=True,
)

SLICE: Shared[tuple[str, str, str], pb.ClusterEndpointSlice, ServiceSlice] = Shared(
    "service slice",
    wire.SLICES,
    checks.read_slice,
    checks.service_slice,
    _slice_key,
    65_536,
    largest=256 * KIB,
    rests_on_nodes=True,
)

#: Every published noun, in the order in which rows are judged: those that rest on others
#: comes after them.
SHARED: tuple[Shared[Any, Any, Any], ...] = (CONFIG, NODE, IDENTITY, ADDRESS, SERVICE, SLICE)
