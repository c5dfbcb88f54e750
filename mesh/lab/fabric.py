"""What surrounds the nodes in every lab: a fabric with a router, an etcd, and a legacy network.

The parts of a topology file that the lab and the bed of real Kubernetes (``mesh/lab/kube``) share,
with the rules between their fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from mesh.core.strict import AnyAddress, AnyNetwork, convert, parse_yaml
from mesh.lab.places import LabError

#: Hosts that every lab has, besides the nodes of its clusters.
FIXED_HOSTS = ("router", "firewall", "legacy", "etcd")


class TopologyError(LabError):
    """The topology file cannot be used; the text names the file and the field."""

    status = 2


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """A part of the file."""


class Router(Part, frozen=True):
    """The data-centre router."""

    asn: int
    addresses: tuple[AnyAddress, ...]


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

    @property
    def sites(self) -> Sequence[Site]:
        """The clusters."""
        raise NotImplementedError

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
        return found

    def problems(self) -> Iterator[str]:
        """The rules between fields that are broken, each with its field."""
        hosts = [*FIXED_HOSTS, *(node.name for _, node in self.members)]
        yield from _repeated("clusters[…].nodes[…].name", hosts)
        yield from _repeated("clusters[…].name", [one.name for one in self.sites])
        yield from _repeated("clusters[…].id", [one.id for one in self.sites])
        for host, addresses in self.addresses.items():
            if host not in ("firewall", "legacy"):
                yield from _misplaced(f"host {host}", self.fabric, addresses)
        yield from _misplaced("legacy", self.legacy.networks, self.legacy.addresses)


Shape = TypeVar("Shape", bound=Fabric)


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
