"""What one of Cilium's BGP objects says, as far as it is served."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from mesh.core.model import IP, Labels, Selector
from mesh.objects.tables import ObjectNoun


@dataclass(frozen=True, slots=True)
class CiliumPeer:
    """A peer of an instance; ``asn`` 0: any, ``config`` empty: the defaults."""

    name: str
    address: IP | None
    asn: int
    config: str
    discovers: bool = False


@dataclass(frozen=True, slots=True)
class CiliumInstance:
    """A BGP instance: an AS of ours and its peers."""

    name: str
    asn: int | None
    peers: tuple[CiliumPeer, ...]


@dataclass(frozen=True, slots=True)
class CiliumCluster:
    """A CiliumBGPClusterConfig; key in tables: its name."""

    name: str
    nodes: Selector
    instances: tuple[CiliumInstance, ...]
    labels: Labels = ()
    origin: str = ""


@dataclass(frozen=True, slots=True)
class CiliumFamily:
    """A family of a session, and by which labels its advertisements are found; None: by none."""

    afi: str
    safi: str
    advertisements: Selector | None = None


@dataclass(frozen=True, slots=True)
class CiliumPeerConfig:
    """A CiliumBGPPeerConfig; ``secret`` empty: no password, ``restart_s`` 0: no such capability."""

    name: str = ""
    families: tuple[CiliumFamily, ...] = (
        CiliumFamily("ipv4", "unicast"),
        CiliumFamily("ipv6", "unicast"),
    )
    port: int = 179
    hold_s: int = 90
    restart_s: int = 0
    multihop: int = 1
    secret: str = ""
    origin: str = ""


@dataclass(frozen=True, slots=True)
class CiliumEntry:
    """One entry of an advertisement; ``lengths`` are those of aggregates, IPv4 and IPv6."""

    type: str
    selector: Selector | None = None
    addresses: tuple[str, ...] = ()
    lengths: tuple[int | None, int | None] = (None, None)
    communities: tuple[str, ...] = ()
    large: tuple[str, ...] = ()
    local_preference: int | None = None


@dataclass(frozen=True, slots=True)
class CiliumAdvertisement:
    """A CiliumBGPAdvertisement, which families of peers find by its labels."""

    name: str
    entries: tuple[CiliumEntry, ...]
    labels: Labels = ()
    origin: str = ""


@dataclass(frozen=True, slots=True)
class CiliumNodeInstance:
    """What is different on a node for one instance; ``addresses`` are sources by peer."""

    name: str
    router_id: IPv4Address | None = None
    asn: int | None = None
    addresses: tuple[tuple[str, IP], ...] = ()


@dataclass(frozen=True, slots=True)
class CiliumOverride:
    """A CiliumBGPNodeConfigOverride; its name is the node's."""

    node: str
    instances: tuple[CiliumNodeInstance, ...]
    origin: str = ""


CLUSTERS: ObjectNoun[str, CiliumCluster] = ObjectNoun("cilium bgp cluster")
PEER_CONFIGS: ObjectNoun[str, CiliumPeerConfig] = ObjectNoun("cilium bgp peer")
ADVERTISEMENTS: ObjectNoun[str, CiliumAdvertisement] = ObjectNoun("cilium bgp advertisement")
OVERRIDES: ObjectNoun[str, CiliumOverride] = ObjectNoun("cilium bgp override")
#: All of them, as a process that has BGPPeers reads them.
NOUNS = (CLUSTERS, PEER_CONFIGS, ADVERTISEMENTS, OVERRIDES)
