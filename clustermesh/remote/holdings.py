"""The holders of prefixes, node addresses and cluster ids, which two clusters must not share.

Each agent and controller keeps one ledger. Its own facts stand in it first and always win; the
accepted nodes of other clusters enter their claims. A claim that meets another holder's is
refused with a text that names both. IPv4 is counted in its IPv4-mapped form, so one order covers
both families.

It also keeps the contracts that are in force, and what only a contract gives (``Barred``); who may
claim what by those is judged in ``terms.py``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_network
from types import MappingProxyType

from clustermesh.contract import Contract, Contracts, in_force
from clustermesh.findings import ADDRESS_TAKEN, ID_TAKEN, PREFIX_TAKEN
from mesh.core.findings import Code
from mesh.core.model import IP, Network

MAPPED = 0xFFFF << 32
IPV4_SHIFT = 96

#: No pod and no node has such an address: this host, loopback, link-local, multicast, reserved.
NEVER: tuple[Network, ...] = (
    *(ip_network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")),
    *(ip_network(text) for text in ("::/80", "fe80::/10", "ff00::/8")),
)


class NotAccepted(Exception):  # a judgement, not a failure of this program
    """A claim that is not accepted: a stable code, the field at fault and a sentence."""

    def __init__(
        self, code: Code, field: str, text: str, part: object = None, rests: Iterable[str] = ()
    ) -> None:
        """``part`` is accepted all the same; on ``rests`` the judgement rests."""
        super().__init__(f"{code} {field}: {text}")
        self.code = code
        self.field = field
        self.text = text
        self.part = part
        self.rests = tuple(rests)


@dataclass(frozen=True, slots=True)
class OwnFacts:
    """The facts of this cluster that no other may claim."""

    cluster: str
    id: int
    networks: tuple[Network, ...] = ()  # pools, service addresses, networks of features
    addresses: frozenset[IP] = frozenset()  # of its nodes

    @classmethod
    def union(
        cls,
        cluster: str,
        cluster_id: int,
        networks: Iterable[Iterable[Network]],
        addresses: Iterable[Iterable[IP]] = (),
    ) -> OwnFacts:
        """Everything that the features say is ours, each network once, in the order given."""
        ours = tuple(dict.fromkeys(network for part in networks for network in part))
        return cls(cluster, cluster_id, ours, frozenset(a for part in addresses for a in part))


class Bar(Enum):
    """Pods, or pods and nodes: no place in a network without a contract."""

    ALL = "pods and nodes"
    PODS = "pods"


@dataclass(frozen=True, slots=True)
class OwnChange:
    """The facts that this cluster has got, and those that it has lost.

    ``barred`` and ``gone_barred``: networks that only a contract gives, of each kind, with a word.
    ``contracts`` are the objects, all of them; None: they are as before. ``more``: this is a part,
    and the next one follows.
    """

    networks: frozenset[Network] = frozenset()
    gone_networks: frozenset[Network] = frozenset()
    addresses: frozenset[IP] = frozenset()
    gone_addresses: frozenset[IP] = frozenset()
    barred: Mapping[Bar, Mapping[Network, str]] = field(default_factory=dict)
    gone_barred: Mapping[Bar, frozenset[Network]] = field(default_factory=dict)
    contracts: tuple[Contract, ...] | None = None
    more: bool = False


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """A node of a cluster; the node is empty for facts of the whole cluster."""

    cluster: str
    node: str = ""

    def __str__(self) -> str:
        return f"node {self.node} of cluster {self.cluster}" if self.node else self.cluster


@dataclass(frozen=True, slots=True)
class Holdings:
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


class OwnNetworks:
    """Networks of this cluster, which may lie in each other."""

    def __init__(self) -> None:
        self.all: dict[Network, None] = {}
        self._firsts: list[int] = []  # of each network, sorted
        self._by_first: dict[int, list[Network]] = {}
        self._by_shift: dict[int, dict[int, Network]] = {}  # host bits -> prefix -> network

    def add(self, network: Network) -> None:
        """Enter a network that is not in here."""
        first, shift = span(network)[0], shift_of(network)
        self.all[network] = None
        insort(self._firsts, first)
        self._by_first.setdefault(first, []).append(network)
        self._by_shift.setdefault(shift, {})[first >> shift] = network

    def remove(self, network: Network) -> None:
        """Take out a network that was added."""
        first, shift = span(network)[0], shift_of(network)
        self.all.pop(network, None)
        del self._firsts[bisect_left(self._firsts, first)]
        self._by_first[first].remove(network)
        del self._by_shift[shift][first >> shift]

    def meeting(self, first: int, last: int) -> Network | None:
        """A network that shares an address with ``first``..``last``: the largest around, or one."""
        for shift in sorted(self._by_shift, reverse=True):
            network = self._by_shift[shift].get(first >> shift)
            if network is not None:
                return network
        at = bisect_right(self._firsts, last) - 1
        if at < 0 or self._firsts[at] < first:
            return None
        return self._by_first[self._firsts[at]][0]


class Barred:
    """Networks in which a cluster without a contract has no place, each with a word for it.

    The families are apart, because an IPv6 network may hold the IPv4-mapped addresses.
    """

    def __init__(self, words: Mapping[Network, str] = MappingProxyType({})) -> None:
        self.words: dict[Network, str] = {}
        self._of_family = {4: OwnNetworks(), 6: OwnNetworks()}
        for network, word in words.items():
            self.add(network, word)

    def add(self, network: Network, word: str) -> None:
        """Enter a network, or change its word."""
        if network not in self.words:
            self._of_family[network.version].add(network)
        self.words[network] = word

    def remove(self, network: Network) -> None:
        """Take out a network that was added."""
        del self.words[network]
        self._of_family[network.version].remove(network)

    def meeting(self, network: Network) -> tuple[Network, str] | None:
        """A network that shares an address with this one, and its word."""
        met = self._of_family[network.version].meeting(*span(network))
        return None if met is None else (met, self.words[met])


class PodClaims:
    """Single addresses, each of one cluster: for nodes that have no pod CIDR (cloud IPAM).

    A cluster that is refused an address waits for it. ``again`` are addresses that changed hands,
    by cluster: their keys are to be judged again.
    """

    def __init__(self) -> None:
        self.again: dict[str, dict[int, None]] = {}
        self._holders: dict[int, str] = {}
        self._waiting: dict[int, set[str]] = {}
        self._order: tuple[list[int], list[int]] = ([], [])  # of holders, of waiting clusters

    def holder(self, address: int) -> str | None:
        """The cluster that has the address."""
        return self._holders.get(address)

    def held(self, first: int, last: int) -> Iterable[tuple[int, str]]:
        """Addresses in a range with their clusters."""
        order = self._order[0]
        for at in range(bisect_left(order, first), bisect_right(order, last)):
            yield order[at], self._holders[order[at]]

    def take(self, cluster: str, address: int) -> None:
        """Enter an address that is free."""
        if address not in self._holders:
            self._holders[address] = cluster
            insort(self._order[0], address)

    def drop(self, cluster: str, address: int) -> bool:
        """Give up an address; whether the cluster had it. Clusters that wait are judged again."""
        if self._holders.get(address) != cluster:
            return False
        del self._holders[address]
        _remove(self._order[0], address)
        self.touch(address, address)
        return True

    def wait(self, cluster: str, address: int) -> None:
        """The cluster was refused the address, because another one has it."""
        if address not in self._waiting:
            self._waiting[address] = set()
            insort(self._order[1], address)
        self._waiting[address].add(cluster)

    def leave(self, cluster: str, address: int) -> None:
        """The cluster no longer asks for the address."""
        waiting = self._waiting.get(address)
        if waiting is None:
            return
        waiting.discard(cluster)
        if not waiting:
            del self._waiting[address]
            _remove(self._order[1], address)

    def touch(self, first: int, last: int) -> None:
        """Something else about these addresses has changed: holders and waiters are judged."""
        for address, cluster in self.held(first, last):
            self.again.setdefault(cluster, {})[address] = None
        order = self._order[1]
        for at in range(bisect_left(order, first), bisect_right(order, last)):
            for cluster in self._waiting[order[at]]:
                self.again.setdefault(cluster, {})[order[at]] = None


def _remove(order: list[int], address: int) -> None:
    del order[bisect_left(order, address)]


class Ledger:
    """The claims of all clusters; ``revision`` grows when something is given up or ours changes."""

    def __init__(self, own: OwnFacts) -> None:
        self.revision = 0
        #: The contract of each cluster that has one, and the findings about the objects.
        self.in_force = Contracts({})
        self._objects: tuple[Contract, ...] = ()
        self._chosen = False  # among these, with ours as it is now
        self._barred = {bar: Barred() for bar in Bar}
        self._given = {bar: Barred() for bar in Bar}  # by contracts, and so to no other cluster
        self.ids: dict[int, str] = {}
        self.pods = PodClaims()
        self._claims: dict[Holder, Holdings] = {}
        self._networks = Spans()
        self._addresses: dict[int, Holder] = {}
        self._order: list[int] = []  # the numbers of _addresses, sorted
        self._own_cluster, self._own_id = own.cluster, own.id
        self._own_networks = OwnNetworks()
        self._own_addresses: set[IP] = set()
        self._own_order: list[int] = []  # numbers of the addresses of own nodes, sorted
        self.ids[own.id] = own.cluster
        self.update_own(own)
        self.revision = 0

    @property
    def own(self) -> OwnFacts:
        """All that this cluster has."""
        networks, addresses = tuple(self._own_networks.all), frozenset(self._own_addresses)
        return OwnFacts(self._own_cluster, self._own_id, networks, addresses)

    @property
    def own_cluster(self) -> str:
        """Name of this cluster."""
        return self._own_cluster

    def update_own(self, own: OwnFacts) -> set[Holder]:
        """``change_own`` to all facts of this cluster."""
        if own.id != self._own_id:
            self.revision += 1
            self.ids.pop(self._own_id, None)
            self.ids[own.id], self._own_id = own.cluster, own.id
        networks, addresses = frozenset(own.networks), own.addresses
        before = self._own_networks.all.keys()
        return self.change_own(
            OwnChange(
                networks - before,
                frozenset(before - networks),
                addresses - self._own_addresses,
                frozenset(self._own_addresses - addresses),
            )
        )

    def change_own(self, change: OwnChange) -> set[Holder]:
        """Take in changed facts of ours. Return the clusters whose claims meet new ones.

        Those are judged again by their importers, and all that are refused.
        """
        networks, addresses = change.networks, change.addresses
        barred = [*change.barred.values(), *change.gone_barred.values()]
        gone_ours = change.gone_networks or change.gone_addresses
        if not (networks or addresses or gone_ours or any(barred)):
            return set()
        self.revision += 1
        self._chosen &= not (networks or addresses or gone_ours)
        for network in change.gone_networks:
            self._own_networks.remove(network)
        for network in networks:
            self._own_networks.add(network)
        for address in change.gone_addresses:
            self._own_addresses.discard(address)
            del self._own_order[bisect_left(self._own_order, number(address))]
        for address in addresses:
            self._own_addresses.add(address)
            insort(self._own_order, number(address))
        spans = [*map(span, networks), *((number(a), number(a)) for a in addresses)]
        gone = [number(address) for address in change.gone_addresses]
        for ends in (*spans, *map(span, change.gone_networks), *((at, at) for at in gone)):
            self.pods.touch(*ends)
        return {holder for ends in spans for holder in self._holders(*ends)} | self._bar(change)

    def _bar(self, change: OwnChange) -> set[Holder]:
        """Take in networks that only a contract gives. Return the clusters there without one."""
        touched: list[Network] = []
        for bar, gone in change.gone_barred.items():
            touched += gone
            for network in gone:
                self._barred[bar].remove(network)
        for bar, words in change.barred.items():
            touched += words
            for network, word in words.items():
                self._barred[bar].add(network, word)
        return self._touched(touched)

    def _touched(self, networks: Iterable[Network]) -> set[Holder]:
        """Clusters without a contract that have something in one of the networks."""
        found: set[Holder] = set()
        for network in networks:
            mapped = network.version == 6 and span(network)[0] <= MAPPED <= span(network)[1]
            parts = _around_mapped(network) if mapped else [span(network)]
            for ends in parts:
                self.pods.touch(*ends)
                found.update(self._holders(*ends))
        return {holder for holder in found if holder.cluster not in self.contracts}

    # --- Contracts ----------------------------------------------------------------------------

    @property
    def contracts(self) -> Mapping[str, Contract]:
        """The contract that is in force, by cluster."""
        return self.in_force.contracts

    def change_contracts(
        self, objects: tuple[Contract, ...] | None
    ) -> tuple[set[str], set[Holder]]:
        """Choose among the objects again; None: the same ones, after ours has changed.

        Return the clusters whose contract is another one, and who else has something that a
        contract gives away now.
        """
        if self._chosen and objects in (None, self._objects):
            return set(), set()
        self._objects = self._objects if objects is None else objects
        self._chosen = True
        before = self.contracts
        self.in_force = in_force(self._objects, before, self._own_id, self._own_meeting)
        names = before.keys() | self.contracts.keys()
        changed = {name for name in names if before.get(name) != self.contracts.get(name)}
        if not changed:
            return changed, set()
        self.revision += 1
        former = self._given
        self._given = {bar: Barred(words) for bar, words in _given(self.contracts).items()}
        moved = {
            network
            for bar in Bar
            for network in former[bar].words.keys() ^ self._given[bar].words.keys()
        }
        return changed, {one for one in self._touched(moved) if one.cluster not in changed}

    def restore_contracts(self, contracts: Mapping[str, Contract]) -> None:
        """Start from those that were in force when the process ended."""
        self.in_force = Contracts(contracts)
        self._given = {bar: Barred(words) for bar, words in _given(contracts).items()}

    def _own_meeting(self, network: Network) -> Network | None:
        """A fact of ours that meets a network: a network, or the address of a node."""
        first, last = span(network)
        met = self._own_networks.meeting(first, last)
        if met is None and self.holds_own_node(first, last):
            return ip_network(readable(self._own_order[bisect_left(self._own_order, first)]))
        return met

    def barred(self, network: Network, *, pods: bool) -> str:
        """Why a cluster without a contract has no pods, or no node, there; empty: it may."""
        for bar in Bar if pods else (Bar.ALL,):
            for barred in (self._barred[bar], self._given[bar]):
                met = barred.meeting(network)
                if met is not None:
                    return f"it meets {met[0]}, {met[1]}"
        return ""

    # --- Claims -------------------------------------------------------------------------------

    def _holders(self, first: int, last: int) -> Iterable[Holder]:
        """The holders of prefixes and addresses that meet the range."""
        yield from (holder for _, holder in self._networks.meeting(first, last))
        for at in range(bisect_left(self._order, first), bisect_right(self._order, last)):
            yield self._addresses[self._order[at]]

    def claimant(self, address: IP) -> str:
        """The cluster that has the address; empty when none has."""
        here = number(address)
        if address in self._own_addresses or self._own_networks.meeting(here, here):
            return self._own_cluster
        for _, whose in self._networks.meeting(here, here):
            return whose.cluster
        node = self._addresses.get(here)
        return node.cluster if node else self.pods.holder(here) or ""

    def take_id(self, cluster: str, cluster_id: int) -> None:
        """Enter a cluster's id. Raises NotAccepted when another cluster has it."""
        holder = self.ids.setdefault(cluster_id, cluster)
        if holder != cluster:
            raise NotAccepted(
                ID_TAKEN, "id", f"cluster id {cluster_id} of {cluster} is used by cluster {holder}"
            )

    def drop_id(self, cluster: str, cluster_id: int) -> None:
        """Give up a cluster's id."""
        if self.ids.get(cluster_id) == cluster:
            del self.ids[cluster_id]
            self.revision += 1

    def take(self, holder: Holder, claimed: Holdings) -> None:
        """Make ``claimed`` all that the holder has. Raises NotAccepted and changes nothing."""
        self.check(holder, claimed)
        self.enter(holder, claimed)

    def check(self, holder: Holder, claimed: Holdings) -> None:
        """Whether the holder may have it. Raises NotAccepted."""
        for at, (name, network) in enumerate(claimed.networks):
            self._check_network(holder, name, network)
            for _, other in claimed.networks[:at]:
                if span(other)[0] <= span(network)[1] and span(network)[0] <= span(other)[1]:
                    raise NotAccepted(
                        PREFIX_TAKEN, name, f"{network} overlaps {other} of the same node"
                    )
        for name, address in claimed.addresses:
            self._check_address(holder, name, address)

    def enter(self, holder: Holder, claimed: Holdings) -> None:
        """Make the checked claims all that the holder has."""
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
            self.pods.touch(*span(network))
        for _, address in claimed.addresses:
            here = number(address)
            del self._addresses[here]
            _remove(self._order, here)
            self.pods.touch(here, here)

    def drop_pod(self, cluster: str, address: int) -> None:
        """Give up an address that stands by itself."""
        if self.pods.drop(cluster, address):
            self.revision += 1

    def check_pod(self, cluster: str, name: str, address: int, text: str) -> None:
        """Whether an address that lies in no pod CIDR is free. Raises NotAccepted."""
        whose = self._other_holder(cluster, address)
        if whose:
            raise NotAccepted(ADDRESS_TAKEN, name, f"{text}: {whose}")

    def _other_holder(self, cluster: str, address: int) -> str:
        """The holder of an address, or why no pod has it; empty when the cluster may have it."""
        here = readable(address)
        if any(never.version == here.version and here in never for never in NEVER):
            return "no pod has such an address"
        if self.holds_own_node(address, address):
            return f"a node of our cluster {self._own_cluster} has this address"
        ours = self._own_networks.meeting(address, address)
        if ours is not None:
            return f"it lies in {ours} of our cluster {self._own_cluster}"
        for network, whose in self._networks.meeting(address, address):
            return f"it lies in {network} of {whose}"
        if address in self._addresses:
            return f"it is an address of {self._addresses[address]}"
        other = self.pods.holder(address)
        return f"a pod of cluster {other} has it" if other not in (None, cluster) else ""

    def holds_own_node(self, first: int, last: int) -> bool:
        """Whether a node of this cluster has an address in the range."""
        return bisect_left(self._own_order, first) != bisect_right(self._own_order, last)

    def _check_network(self, holder: Holder, name: str, network: Network) -> None:
        first, last = span(network)
        for never in NEVER:
            if never.version == network.version and never.overlaps(network):
                raise NotAccepted(
                    PREFIX_TAKEN, name, f"{network} is no prefix for pods: it meets {never}"
                )
        ours = self._own_networks.meeting(first, last)
        if ours is not None:
            text = f"{network} overlaps {ours} of our cluster {self._own_cluster}"
            raise NotAccepted(PREFIX_TAKEN, name, text)
        for other, whose in self._networks.meeting(first, last):
            if whose != holder:
                raise NotAccepted(PREFIX_TAKEN, name, f"{network} overlaps {other} of {whose}")
        self._check_nodes_inside(holder, name, network)

    def _check_nodes_inside(self, holder: Holder, name: str, network: Network) -> None:
        first, last = span(network)
        if self.holds_own_node(first, last):
            text = f"{network} holds an address of a node of our cluster {self._own_cluster}"
            raise NotAccepted(PREFIX_TAKEN, name, text)
        for at in range(bisect_left(self._order, first), bisect_right(self._order, last)):
            whose = self._addresses[self._order[at]]
            if whose.cluster != holder.cluster:
                raise NotAccepted(PREFIX_TAKEN, name, f"{network} holds an address of {whose}")
        for address, cluster in self.pods.held(first, last):
            if cluster != holder.cluster:
                pod = readable(address)
                text = f"{network} holds {pod}, the address of a pod of cluster {cluster}"
                raise NotAccepted(PREFIX_TAKEN, name, text)

    def _check_address(self, holder: Holder, name: str, address: IP) -> None:
        here = number(address)
        if address in self._own_addresses:
            text = f"{address} is an address of a node of our cluster {self._own_cluster}"
            raise NotAccepted(ADDRESS_TAKEN, name, text)
        whose = self._addresses.get(here, holder)
        if whose != holder:
            raise NotAccepted(ADDRESS_TAKEN, name, f"{address} is an address of {whose}")
        pod = self.pods.holder(here)
        if pod not in (None, holder.cluster):
            raise NotAccepted(
                ADDRESS_TAKEN, name, f"{address} is the address of a pod of cluster {pod}"
            )
        if any(never.version == address.version and address in never for never in NEVER):
            raise NotAccepted(ADDRESS_TAKEN, name, f"{address} is no address for a node")
        ours = self._own_networks.meeting(here, here)
        if ours is not None:
            raise NotAccepted(
                ADDRESS_TAKEN, name, f"{address} lies in {ours} of {self._own_cluster}"
            )
        for network, whose in self._networks.meeting(here, here):
            if whose.cluster != holder.cluster:
                raise NotAccepted(ADDRESS_TAKEN, name, f"{address} lies in {network} of {whose}")


def _given(contracts: Mapping[str, Contract]) -> Mapping[Bar, Mapping[Network, str]]:
    """The networks that contracts give to one cluster, and so to none without a contract.

    The nodes of several clusters may have one network, so only pods have no place there.
    """
    given: dict[Bar, dict[Network, str]] = {bar: {} for bar in Bar}
    for one in contracts.values():
        for network in (*one.pod_cidrs, *one.service_cidrs):
            given[Bar.ALL][network] = f"which {one} gives to cluster {one.cluster}"
        for network in one.node_cidrs:
            given[Bar.PODS][network] = f"where {one} has nodes of cluster {one.cluster}"
    return given


def _around_mapped(network: Network) -> Iterator[tuple[int, int]]:
    """An IPv6 network without the IPv4-mapped addresses in it."""
    first, last = span(network)
    yield first, MAPPED - 1
    yield MAPPED + (1 << 32), last


def number(address: IP) -> int:
    """The address as a number, IPv4 in its mapped form."""
    return int(address) | MAPPED if isinstance(address, IPv4Address) else int(address)


def readable(here: int) -> IP:
    """Inverse of ``number``."""
    return IPv4Address(here & 0xFFFFFFFF) if here >> 32 == MAPPED >> 32 else IPv6Address(here)


def span(network: Network) -> tuple[int, int]:
    """First and last address of a prefix as numbers."""
    first = number(network.network_address)
    return first, first + network.num_addresses - 1


def shift_of(network: Network) -> int:
    """Host bits of the prefix: ``number(address) >> shift`` is the same all over it."""
    return network.max_prefixlen - network.prefixlen
