"""Rows of the maps of VRFs and SIDs. Pure.

A VRF's number is the zone of its addresses. A pod that is in a VRF without a number is in zone
CLOSED: its destinations are known there and no route is, so what it sends to them is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv6Address, IPv6Network

from mesh.core.model import IP, Network
from srv6.behaviours import is_next_csid
from srv6.sids import ARGUMENT_BITS, FUNCTION_BITS, SID

#: Zone of pods whose VRF has no number; no VRF has it (``claims.NUMBERS``).
CLOSED = 1 << 15
#: Equal paths of a route, and segments of a path (``enum vrf_limit``, ``enum srv6_limit``).
MOST_PATHS, MOST_SEGMENTS = 4, 8


@dataclass(frozen=True, slots=True)
class ZonedAddress:
    """An address in a VRF, by the VRF's number."""

    zone: int
    address: IP


@dataclass(frozen=True, slots=True)
class ZonedPrefix:
    """A prefix in a VRF, by the VRF's number."""

    zone: int
    prefix: Network

    @property
    def is_host(self) -> bool:
        """Whether it is one address: then its row is in a hash."""
        return self.prefix.prefixlen == self.prefix.max_prefixlen

    @property
    def host(self) -> ZonedAddress:
        """The address."""
        return ZonedAddress(self.zone, self.prefix.network_address)


@dataclass(frozen=True, slots=True)
class VRFLink:
    """Value of ``mg_vrf_link``; ``tenant``: only from tenant addresses packets go into the VRF."""

    vrf: int
    tenant: bool


@dataclass(frozen=True, slots=True)
class VRFPod:
    """Value of ``mg_vrf_pod``; ``marks`` are the numbers of the pod's own row."""

    ifindex: int
    identity: int
    mac: str
    host_mac: str
    marks: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class VRFPath:
    """Value of ``mg_vrf_via``: the segments in the order of the way.

    ``argument`` are the bits in front of the argument in which the last segment takes the sender's
    identity; 0: it takes none. ``bfd`` is the number of the BFD session with the next hop: while it
    is down the datapath passes the path over. 0: none.
    """

    segments: tuple[IPv6Address, ...]
    source: IPv6Address
    argument: int = 0
    bfd: int = 0

    @property
    def number(self) -> int:
        """The path's number, out of its content: the same in every process, and after a restart."""
        text = f"{self.source} {self.argument} {' '.join(map(str, self.segments))}"
        text += f" {self.bfd}" if self.bfd else ""
        return int.from_bytes(sha256(text.encode()).digest()[:4], "big") or 1


@dataclass(frozen=True, slots=True)
class VRFReach:
    """Where a destination of a VRF is; without a path what is for it is dropped."""

    paths: tuple[VRFPath, ...]
    identity: int
    closed: bool = False


@dataclass(frozen=True, slots=True)
class VRFRoute:
    """Value of ``mg_vrf_host`` and ``mg_vrf_prefix``: ``via`` are numbers of paths."""

    via: tuple[int, ...]
    identity: int
    closed: bool = False


@dataclass(frozen=True, slots=True)
class LocalSID:
    """Value of ``mg_sid``: lengths are in bits; ``identity``: its argument may say one."""

    behaviour: str
    vrf: int
    block: int
    node: int
    next_csid: bool = False
    identity: bool = False

    @property
    def function(self) -> int:
        """Bits of the function; the node's own SID has none."""
        return 0 if self.behaviour in ("End", "uN") else FUNCTION_BITS

    @property
    def argument(self) -> int:
        """Bits of the argument."""
        return ARGUMENT_BITS if self.identity else 0


@dataclass(frozen=True, slots=True)
class SRv6Source:
    """Value of ``mg_srv6_domain``; ``cluster`` is that of a node's own address, else 0."""

    cluster: int = 0


def local_sid(row: SID, vrf: int) -> LocalSID:
    """What a SID of this node does."""
    csid = is_next_csid(row.behaviour)
    plain = row.behaviour.startswith("End.DT")
    return LocalSID(row.behaviour, vrf, row.block, row.locator - row.block, csid, plain)


def argument_of(row: SID) -> int:
    """The bits in front of the argument of a SID of one of our nodes; 0: it takes no identity."""
    return row.locator + FUNCTION_BITS if row.behaviour.startswith("End.DT") else 0


def path_to(row: SID, segments: Iterable[IPv6Address], source: IPv6Address) -> VRFPath:
    """The path to a SID of one of our nodes, by the segments that its VRF names."""
    return VRFPath((*segments, row.sid), source, argument_of(row))


def route_of(key: ZonedPrefix, reach: VRFReach | None) -> dict[ZonedPrefix, VRFRoute]:
    """The row of a destination."""
    if reach is None:
        return {}
    numbers = tuple(path.number for path in reach.paths[:MOST_PATHS])
    return {key: VRFRoute(numbers, reach.identity, reach.closed)}


def paths_of(_: ZonedPrefix, reach: VRFReach) -> tuple[VRFPath, ...]:
    """The paths of a route."""
    return reach.paths[:MOST_PATHS]


def numbers_of(_: object, row: VRFRoute) -> tuple[int, ...]:
    """The paths that a row names."""
    return row.via


def as_network(address: IPv6Address) -> IPv6Network:
    """The network that is one address."""
    return IPv6Network(address)
