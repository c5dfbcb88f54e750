"""Who holds which prefix, node address and cluster id: what two clusters must not share.

Each agent and controller keeps one ledger. Its own facts stand in it first and always win; peers
enter what their accepted nodes claim, and a claim that meets somebody else's is refused with a
text that names both. IPv4 is counted in its IPv4-mapped form, so one order covers both families.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, collapse_addresses, ip_network

from mesh.core.model import IP, Network

MAPPED = 0xFFFF << 32
IPV4_SHIFT = 96

#: No pod and no node has such an address: this host, loopback, link-local, multicast, reserved.
NEVER: tuple[Network, ...] = (
    *(ip_network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")),
    *(ip_network(text) for text in ("::/80", "fe80::/10", "ff00::/8")),
)


class Refused(Exception):  # a judgement, not a failure of this program
    """A claim that is not accepted: a stable code, the field at fault and a sentence."""

    def __init__(self, code: str, field: str, text: str) -> None:
        super().__init__(f"{code} {field}: {text}")
        self.code = code
        self.field = field
        self.text = text


ID_TAKEN = "M124"
ADDRESS_TAKEN = "M128"
OVERLAP = "M129"


@dataclass(frozen=True, slots=True)
class OwnFacts:
    """What this cluster has and no peer may claim."""

    cluster: str
    id: int
    networks: tuple[Network, ...] = ()  # pod CIDRs and their pools, locator pools, egress addresses
    addresses: frozenset[IP] = frozenset()  # of its nodes


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """A node of a cluster; the node is empty for what the whole cluster holds."""

    cluster: str
    node: str = ""

    def __str__(self) -> str:
        return f"node {self.node} of cluster {self.cluster}" if self.node else self.cluster


@dataclass(frozen=True, slots=True)
class Claimed:
    """Prefixes and addresses by the field that names them."""

    networks: tuple[tuple[str, Network], ...] = ()
    addresses: tuple[tuple[str, IP], ...] = ()


@dataclass(slots=True)
class Spans:
    """Disjoint ranges in order, each with its prefix and holder."""

    firsts: list[int] = field(default_factory=list)
    rows: dict[int, tuple[Network, Holder]] = field(default_factory=dict)

    def add(self, network: Network, holder: Holder) -> None:
        """Enter a prefix that overlaps none in here."""
        first, _ = span(network)
        insort(self.firsts, first)
        self.rows[first] = network, holder

    def remove(self, network: Network) -> None:
        """Take out a prefix that was added."""
        first, _ = span(network)
        del self.firsts[bisect_left(self.firsts, first)]
        del self.rows[first]

    def meeting(self, first: int, last: int) -> Iterable[tuple[Network, Holder]]:
        """The prefixes that share an address with ``first``..``last``."""
        at = bisect_right(self.firsts, last)
        while at:
            at -= 1
            network, holder = self.rows[self.firsts[at]]
            if span(network)[1] < first:
                return
            yield network, holder


class Ledger:
    """The claims of all clusters; ``revision`` grows when something is given up or ours changes."""

    def __init__(self, own: OwnFacts) -> None:
        self.revision = 0
        self.ids: dict[int, str] = {}
        self._claims: dict[Holder, Claimed] = {}
        self._networks = Spans()
        self._addresses: dict[int, Holder] = {}
        self._order: list[int] = []  # the numbers of _addresses, sorted
        self.own = own
        self._enter_own(own)

    def update_own(self, own: OwnFacts) -> None:
        """Replace what this cluster has; claims of peers are judged again by their importers."""
        if own != self.own:
            self.ids.pop(self.own.id, None)
            self._enter_own(own)
            self.revision += 1

    def take_id(self, cluster: str, cluster_id: int) -> None:
        """Enter a cluster's id. Raises Refused when another cluster has it."""
        holder = self.ids.setdefault(cluster_id, cluster)
        if holder != cluster:
            raise Refused(
                ID_TAKEN, "id", f"cluster id {cluster_id} of {cluster} is used by cluster {holder}"
            )

    def drop_id(self, cluster: str, cluster_id: int) -> None:
        """Give up a cluster's id."""
        if self.ids.get(cluster_id) == cluster:
            del self.ids[cluster_id]
            self.revision += 1

    def take(self, holder: Holder, claimed: Claimed) -> None:
        """Make ``claimed`` all that the holder has. Raises Refused and changes nothing."""
        for at, (name, network) in enumerate(claimed.networks):
            self._check_network(holder, name, network)
            for _, other in claimed.networks[:at]:
                if span(other)[0] <= span(network)[1] and span(network)[0] <= span(other)[1]:
                    raise Refused(OVERLAP, name, f"{network} overlaps {other} of the same node")
        for name, address in claimed.addresses:
            self._check_address(holder, name, address)
        if self._claims.get(holder) == claimed:
            return
        self.drop(holder)
        self._claims[holder] = claimed
        for _, network in claimed.networks:
            self._networks.add(network, holder)
        for _, address in claimed.addresses:
            self._addresses[number(address)] = holder
            insort(self._order, number(address))

    def drop(self, holder: Holder) -> None:
        """Give up all that the holder has."""
        claimed = self._claims.pop(holder, None)
        if claimed is None:
            return
        self.revision += 1
        for _, network in claimed.networks:
            self._networks.remove(network)
        for _, address in claimed.addresses:
            del self._addresses[number(address)]
            del self._order[bisect_left(self._order, number(address))]

    def holds_own_node(self, first: int, last: int) -> bool:
        """Whether a node of this cluster has an address in the range."""
        return bisect_left(self._own_order, first) != bisect_right(self._own_order, last)

    def _enter_own(self, own: OwnFacts) -> None:
        self.own = own
        self.ids[own.id] = own.cluster
        self._own_order = sorted(number(address) for address in own.addresses)
        self._own_networks, holder = Spans(), Holder(own.cluster)
        for network in _collapsed(own.networks):
            self._own_networks.add(network, holder)

    def _check_network(self, holder: Holder, name: str, network: Network) -> None:
        first, last = span(network)
        for never in NEVER:
            if never.version == network.version and never.overlaps(network):
                raise Refused(OVERLAP, name, f"{network} is no prefix for pods: it meets {never}")
        for other, whose in self._own_networks.meeting(first, last):
            raise Refused(OVERLAP, name, f"{network} overlaps {other} of our cluster {whose}")
        for other, whose in self._networks.meeting(first, last):
            if whose != holder:
                raise Refused(OVERLAP, name, f"{network} overlaps {other} of {whose}")
        self._check_nodes_inside(holder, name, network)

    def _check_nodes_inside(self, holder: Holder, name: str, network: Network) -> None:
        first, last = span(network)
        if self.holds_own_node(first, last):
            text = f"{network} holds an address of a node of our cluster {self.own.cluster}"
            raise Refused(OVERLAP, name, text)
        for at in range(bisect_left(self._order, first), bisect_right(self._order, last)):
            whose = self._addresses[self._order[at]]
            if whose.cluster != holder.cluster:
                raise Refused(OVERLAP, name, f"{network} holds an address of {whose}")

    def _check_address(self, holder: Holder, name: str, address: IP) -> None:
        here = number(address)
        if address in self.own.addresses:
            text = f"{address} is an address of a node of our cluster {self.own.cluster}"
            raise Refused(ADDRESS_TAKEN, name, text)
        whose = self._addresses.get(here, holder)
        if whose != holder:
            raise Refused(ADDRESS_TAKEN, name, f"{address} is an address of {whose}")
        if any(never.version == address.version and address in never for never in NEVER):
            raise Refused(ADDRESS_TAKEN, name, f"{address} is no address for a node")
        foreign = [
            *self._own_networks.meeting(here, here),
            *(
                hit
                for hit in self._networks.meeting(here, here)
                if hit[1].cluster != holder.cluster
            ),
        ]
        for network, whose in foreign:
            raise Refused(ADDRESS_TAKEN, name, f"{address} lies in {network} of {whose}")


def number(address: IP) -> int:
    """The address as a number, IPv4 in its mapped form."""
    return int(address) | MAPPED if isinstance(address, IPv4Address) else int(address)


def span(network: Network) -> tuple[int, int]:
    """First and last address of a prefix as numbers."""
    first = number(network.network_address)
    return first, first + network.num_addresses - 1


def shift_of(network: Network) -> int:
    """Host bits of the prefix: ``number(address) >> shift`` is the same all over it."""
    return network.max_prefixlen - network.prefixlen


def _collapsed(networks: Iterable[Network]) -> Iterable[Network]:
    known = list(networks)
    yield from collapse_addresses(n for n in known if isinstance(n, IPv4Network))
    yield from collapse_addresses(n for n in known if not isinstance(n, IPv4Network))
