"""The sources that rooms read, as the tables that each one fills.

The rooms of ``clustermesh/`` fill these tables from etcd. A room names the protocol, so that it
depends on the rows and on nothing that reads etcd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mesh.core.model import (
    IP,
    Beat,
    Claim,
    ClaimKey,
    Confirmed,
    Draining,
    Identity,
    Listed,
    Node,
    NodeKey,
    PodEntry,
    PodKey,
    PodRef,
    Service,
    ServiceKey,
)
from mesh.core.table import Source, Table


@dataclass(frozen=True, slots=True)
class ClaimTables:
    """Claims of one noun: those that have an owner, and released ones that nobody has taken."""

    held: Table[ClaimKey, Claim]
    resting: Table[ClaimKey, Claim]


#: The held claims of a noun; a process follows the nouns that its features have asked for.
ClaimsOf = Callable[[str], Table[ClaimKey, Claim]]


class OwnStore(Protocol):
    """What the store says about the own cluster; synced once the store was seen complete."""

    def claims_of(self, noun: str, *, pool: str = "") -> ClaimTables:
        """The claims of a noun. The process follows the nouns that its features have asked for.

        With ``pool`` a node needs the numbers of this pool only, not who has which number.
        """

    #: Pods that agents have wired, as they say it.
    pods: Table[PodRef, PodEntry]
    #: What the controllers say of pods.
    confirmed: Table[PodRef, Confirmed]
    #: Has a row once a controller has confirmed all pods: then nothing else counts.
    confirms: Table[str, None]
    #: Drains of egress addresses that an operator has ended, as ``address/epoch``.
    evicted: Table[str, None]
    #: Live mappings of draining egress addresses, by node and address, as agents say them; only
    #: controllers read them.
    draining: Table[tuple[str, IP], Draining]
    #: What nodes say of egress addresses on layer 2, by node; only controllers read it.
    beats: Table[str, Beat]
    #: Label texts of learned networks by node, as its speaker says them.
    learned: Table[str, tuple[str, ...]]
    #: How many blocks of each egress address a node uses, as its agent says it; for controllers.
    demand: Table[str, Mapping[IP, int]]
    #: By node, what its agent says by name: generations of objects that it holds, and epochs of
    #: blocks of ports that it has let go; for controllers.
    programmed: Table[str, Mapping[str, int]]
    #: What all controllers of the cluster agree on, by field.
    config: Table[str, Any]
    #: Egress addresses that feeds for firewalls list, as the feed says it.
    listed: Table[IP, Listed]
    #: UDP port of the overlay by name of the own cluster, as its leader publishes it.
    ports: Table[str, int]


class Remote(Protocol):
    """What other clusters publish and the import firewall has accepted."""

    nodes: Table[NodeKey, Node]
    services: Table[ServiceKey, Service]
    identities: Table[int, Identity]
    #: Cluster id by name, of the own cluster and of every accepted one.
    ids: Table[str, int]
    #: UDP port of the overlay by name of another cluster; one that publishes none has 8472.
    ports: Table[str, int]
    #: Other clusters whose contract lets their hosts reach ours, by name.
    hosts: Table[str, bool]
    #: Synced when the first list of this store has been judged: what is there is known.
    heard: Source
    #: Clusters that were known in another store and are not complete in this one.
    awaited: Table[str, None]
    #: Synced when everything that other clusters have is in: then none is awaited.
    complete: Source

    def pod_of(self, address: IP) -> PodKey | None:
        """The pod of an address, as its cluster names it."""

    def claimant(self, address: IP) -> str:
        """The cluster that has an address of a pod or node, ours included; empty: none."""
