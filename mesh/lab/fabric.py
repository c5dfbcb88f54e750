"""What surrounds the nodes in every lab: a fabric with a router, an etcd, and a legacy network.

The parts of a topology file that the lab and the bed of real Kubernetes (``mesh/lab/kube``) share,
with the rules between their fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv6Network
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from mesh.core.strict import AnyAddress, AnyNetwork, convert, parse_yaml
from mesh.lab.places import LabError

#: Hosts that every lab has, besides the nodes of its clusters.
FIXED_HOSTS = ("router", "firewall", "legacy", "etcd")
#: Bits of the locator with which FRR 8.4.4 announces its own SIDs (bgp/routers/frr_vpn.py).
LOCATOR_BITS = 64


class TopologyError(LabError):
    """The topology file cannot be used; the text names the file and the field."""

    status = 2


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """A part of the file."""


class Router(Part, frozen=True):
    """The data-centre router; ``bfd``: with BFD for peers that ask for it, each so many ms."""

    asn: int
    addresses: tuple[AnyAddress, ...]
    bfd: bool = False
    bfd_interval: int = 300


class Etcd(Part, frozen=True):
    """The shared store."""

    addresses: tuple[AnyAddress, ...]
    port: int


class Legacy(Part, frozen=True):
    """The network behind the firewall and the echo server in it."""

    networks: tuple[AnyNetwork, ...]
    addresses: tuple[AnyAddress, ...]
    tcp: int
    udp: int
    closed: int
    further: tuple[AnyAddress, ...] = ()
    """A second address of each network, for what has to be seen from two of them."""


class Tenant(Part, frozen=True):
    """A customer of the provider: a VRF, and a host behind it that is called like it."""

    name: str
    target: str
    """The route target of the VRF, both ways."""


class Edge(Part, frozen=True):
    """The provider edge of an SRv6 L3VPN; all tenants have the same addresses."""

    asn: int
    addresses: tuple[AnyAddress, ...]
    locator: AnyNetwork
    """A /64, from which FRR takes the SIDs of its VRFs."""
    tenants: tuple[Tenant, ...]
    networks: tuple[AnyNetwork, ...]
    """Of each tenant's host."""
    hosts: tuple[AnyAddress, ...]
    pods: tuple[AnyNetwork, ...]
    """Of each tenant's pods, in all clusters."""
    tcp: int
    udp: int
    vrfs: bool = False
    """Whether the clusters have the tenants' VRFs and pods."""

    @property
    def prefix(self) -> IPv6Network:
        """The locator, which ``problems`` has checked."""
        return IPv6Network(self.locator)


class Host(Protocol):
    """A node, as far as the fabric knows it."""

    @property
    def name(self) -> str:
        """Its name, which is unique."""

    @property
    def addresses(self) -> tuple[AnyAddress, ...]:
        """One address in each network of the fabric."""


class Site(Protocol):
    """A cluster, as far as the fabric knows it."""

    @property
    def name(self) -> str:
        """Its name, which is unique."""

    @property
    def id(self) -> int:
        """Its number, which is unique."""

    @property
    def asn(self) -> int:
        """The number by which its nodes peer with the router."""

    @property
    def egress(self) -> tuple[AnyAddress, ...]:
        """The addresses that the firewall lets in."""


class Fabric(Part, frozen=True):
    """The network that the nodes stand in; a topology adds its clusters."""

    fabric: tuple[AnyNetwork, ...]
    transit: tuple[AnyNetwork, ...]
    router: Router
    etcd: Etcd
    legacy: Legacy
    second: Router | None = None
    """A second router of the fabric, which is BIRD."""
    pe: Edge | None = None
    """FRR as provider edge, with the tenants' hosts behind it."""

    @property
    def sites(self) -> Sequence[Site]:
        """The clusters."""
        raise NotImplementedError

    @property
    def fed(self) -> Sequence[AnyAddress]:
        """The egress addresses that the firewall has from a feed, at the start."""
        return ()

    @property
    def members(self) -> Iterator[tuple[Site, Host]]:
        """All nodes with their clusters."""
        raise NotImplementedError

    @property
    def addresses(self) -> dict[str, tuple[AnyAddress, ...]]:
        """Each host's addresses on its uplink (the router's: on the fabric)."""
        found = {node.name: node.addresses for _, node in self.members}
        found["router"] = self.router.addresses
        found["firewall"] = tuple(net[2] for net in self.transit)
        found["legacy"] = self.legacy.addresses
        found["etcd"] = self.etcd.addresses
        if self.second is not None:
            found["second"] = self.second.addresses
        if self.pe is not None:
            found["pe"] = self.pe.addresses
        return found

    def problems(self) -> Iterator[str]:
        """The rules between fields that are broken, each with its field."""
        hosts = [*FIXED_HOSTS, *(node.name for _, node in self.members)]
        hosts += ["second"] if self.second else []
        hosts += edge_hosts(self.pe)
        yield from _repeated("clusters[…].nodes[…].name", hosts)
        yield from _repeated("clusters[…].name", [one.name for one in self.sites])
        yield from _repeated("clusters[…].id", [one.id for one in self.sites])
        for host, addresses in self.addresses.items():
            if host not in ("firewall", "legacy"):
                yield from _misplaced(f"host {host}", self.fabric, addresses)
        yield from _misplaced("legacy", self.legacy.networks, self.legacy.addresses)
        if self.legacy.further:
            yield from _misplaced("legacy.further", self.legacy.networks, self.legacy.further)
        if self.pe is not None:
            yield from _misplaced("pe.hosts", self.pe.networks, self.pe.hosts)
            if self.pe.locator.version != 6 or self.pe.locator.prefixlen != LOCATOR_BITS:  # IPv6
                yield f"pe.locator: {self.pe.locator} is no IPv6 prefix of {LOCATOR_BITS} bits"


Shape = TypeVar("Shape", bound=Fabric)


def edge_hosts(edge: Edge | None) -> list[str]:
    """The hosts of a provider edge: itself, its VRFs, and the tenants' hosts."""
    if edge is None:
        return []
    names = [tenant.name for tenant in edge.tenants]
    return ["pe", *map(vrf_host, names), *names]


def vrf_host(tenant: str) -> str:
    """The namespace that is a tenant's VRF at the provider edge."""
    return f"pe-{tenant}"


def load(path: Path, kind: type[Shape]) -> Shape:
    """The topology in ``path``.

    Raises:
        TopologyError: the file is unreadable, or a field is unknown, missing or wrong.

    """
    try:
        (document,) = parse_yaml(path.read_text(encoding="utf-8"))
        topology = convert(document, kind)
    except (OSError, ValueError) as error:
        raise TopologyError(f"{path}: {error}") from error
    for problem in topology.problems():
        raise TopologyError(f"{path}: {problem}")
    return topology


def _repeated(path: str, values: Iterable[object]) -> Iterator[str]:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            yield f"{path}: {value} is used twice"
        seen.add(value)


def _misplaced(
    name: str, networks: tuple[AnyNetwork, ...], addresses: tuple[AnyAddress, ...]
) -> Iterator[str]:
    if [a.version for a in addresses] != [n.version for n in networks]:
        yield f"{name}.addresses: need one address in each of {', '.join(map(str, networks))}"
        return
    for address, network in zip(addresses, networks, strict=True):
        if address not in network:
            yield f"{name}.addresses: {address} is outside {network}"
