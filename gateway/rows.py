"""Rows of egress for the maps of a node. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from ipaddress import IPv4Address
from types import MappingProxyType

from gateway.history import RUN_PORTS
from gateway.plan import by_precedence, exclusions
from gateway.policy import MOST_GATEWAYS, EgressPolicy, Timers
from gateway.spread import leads, policy_of
from mesh.core.model import IP, Labels, Network, Node, PodKey
from mesh.identity.addresses import tunnel_endpoint
from mesh.identity.selectors import matches

#: No policy has timers of its own.
NO_TIMERS: Mapping[Timers, int] = MappingProxyType({})


class Action(StrEnum):
    """Names of ``enum egress_action``; their numbers are in BTF."""

    TRANSLATE = "EGRESS_TRANSLATE"
    EXCLUDED = "EGRESS_EXCLUDED"
    NO_GATEWAY = "EGRESS_NO_GATEWAY"
    NO_ADDRESS = "EGRESS_NO_ADDRESS"
    NO_ROOM = "EGRESS_NO_ROOM"
    NOT_ACKNOWLEDGED = "EGRESS_NOT_ACKNOWLEDGED"


class Binding(IntEnum):
    """``enum binding_kind``: whether a pod's port is one port outside, and who may send to it."""

    NONE = 0
    FILTERED = 1
    OPEN = 2


@dataclass(frozen=True, slots=True)
class EgressKey:
    """A destination network as a class of pods sees it."""

    egress_class: int
    network: Network


@dataclass(frozen=True, slots=True)
class EgressRow:
    """The action for packets to the network; what follows only with ``TRANSLATE``.

    ``runs`` of ports and ``rate`` of new mappings in a second are a pod's quota; 0: it has none.
    ``binding`` is the mapping and filtering that the policy wants, ``timers`` the number of its
    timers (``gateway/timers.py``).
    """

    action: Action
    address: IP | None = None
    runs: int = 0
    rate: int = 0
    binding: Binding = Binding.NONE
    timers: int = 0


@dataclass(frozen=True, slots=True)
class EgressLabelKey:
    """A learned network, by the identity of its labels, as a class of pods sees it."""

    egress_class: int
    identity: int
    family: int


AnyKey = EgressKey | EgressLabelKey


def label_rows(
    learned: Mapping[int, Labels],
    names: tuple[str, ...],
    number: int | None,
    policies: Mapping[str, EgressPolicy],
    gateways: Collection[str],
    sets: Collection[IP],
    without: Collection[IP],
    timers: Mapping[Timers, int] = NO_TIMERS,
) -> dict[EgressLabelKey, EgressRow]:
    """Rows of ``mg_egress_label`` of one class: at most learned identities x two families.

    Of two policies that select an identity the first one counts, as in ``egress_rows``.
    """
    rows: dict[EgressLabelKey, EgressRow] = {}
    if number is None:
        return rows
    for word in names:
        name = policy_of(word)
        policy = policies.get(name)
        if policy is None or policy.labelled is None:
            continue
        usable = [
            a
            for a in leads(word, policy.addresses)
            if name in gateways and a in sets and a not in without
        ]
        for identity, labels in learned.items():
            if matches(policy.labelled, dict(labels)):
                for family in (4, 6):
                    key = EgressLabelKey(number, identity, family)
                    rows.setdefault(key, _destination(policy, usable, family, timers))
    return rows


def kept_label_rows(
    before: Mapping[EgressLabelKey, EgressRow],
    names: tuple[str, ...],
    number: int | None,
    policies: Mapping[str, EgressPolicy],
    gateways: Collection[str],
    sets: Collection[IP],
    without: Collection[IP],
    _: Mapping[Timers, int] = NO_TIMERS,
) -> dict[EgressLabelKey, EgressRow]:
    """Rows of a class as the last agent wrote them, while nothing is known of learned labels.

    They stay as long as a policy of the class selects labels; an address that cannot be used by
    now becomes a drop.
    """
    known = [name for name in map(policy_of, names) if name in policies]
    labelled = [policies[name] for name in known if policies[name].labelled]
    able = {one for policy in labelled if policy.name in gateways for one in policy.addresses}
    if any(policy.pool and not policy.addresses for policy in labelled):
        able |= set(sets)  # which one it has is not known yet
    usable = {one for one in able if one in sets and one not in without}
    return {
        key: row if row.address is None or row.address in usable else EgressRow(Action.NO_GATEWAY)
        for key, row in before.items()
        if labelled and key.egress_class == number
    }


def egress_rows(
    names: tuple[str, ...],
    number: int | None,
    policies: Mapping[str, EgressPolicy],
    gateways: Collection[str],
    sets: Collection[IP],
    without: Collection[IP] = (),
    timers: Mapping[Timers, int] = NO_TIMERS,
) -> dict[EgressKey, EgressRow]:
    """Rows of ``mg_egress`` of one class: at most the networks of its policies.

    The longest prefix decides (S7); of two policies with the same network the first one (S18).
    A policy that has gone is left out of a class that still names it. ``sets`` are
    the addresses that have gateways, ``without`` those for which the map has no room. ``names`` are
    words (``gateway/spread.py``).
    """
    rows: dict[EgressKey, EgressRow] = {}
    if number is None:
        return rows
    for word in names:
        name = policy_of(word)
        if name in policies:
            policy, able = policies[name], name in gateways
            ordered = leads(word, policy.addresses)
            usable = [a for a in ordered if able and a in sets and a not in without]
            for network, row in _policy_rows(policy, usable, timers).items():
                rows.setdefault(EgressKey(number, network), row)
    return rows


def addresses_of(
    _: tuple[str, ...],
    __: int | None,
    led: Mapping[str, tuple[IP, ...]] | None,
    policies: Mapping[str, EgressPolicy],
    *___: object,
) -> list[IP]:
    """The egress addresses of the policies of a class, and those to which it led before."""
    now = [address for policy in policies.values() for address in policy.addresses]
    return list(dict.fromkeys([*now, *(one for some in (led or {}).values() for one in some)]))


def timers_of(
    _: tuple[str, ...],
    __: int | None,
    ___: object,
    policies: Mapping[str, EgressPolicy],
    *____: object,
) -> list[Timers]:
    """The timers of the policies of a class."""
    return [policy.timers for policy in policies.values()]


def pods_of_addresses(
    covered: Mapping[PodKey, tuple[str, ...]], policies: Mapping[str, EgressPolicy]
) -> dict[IP, int]:
    """Row of ``mg_egress_pods``: egress address -> how many of the covered pods may leave by it."""
    addresses = (
        {address for name in names if name in policies for address in policies[name].addresses}
        for names in covered.values()
    )
    return dict(Counter(address for each in addresses for address in each))


def class_of_row(key: AnyKey) -> int:
    """The class of a row: the name by which a pod's row refers to it."""
    return key.egress_class


def classes_of_row(key: AnyKey, _: EgressRow) -> list[int]:
    """The group of a row: its class."""
    return [key.egress_class]


def address_of_row(_: AnyKey, row: EgressRow) -> Iterable[IP]:
    """The egress address whose gateways a packet needs."""
    return () if row.address is None else (row.address,)


def timers_of_row(_: AnyKey, row: EgressRow) -> Iterable[int]:
    """The number of the timers that a row names."""
    return (row.timers,) if row.timers else ()


def row_count(number: int, rows: Mapping[AnyKey, EgressRow]) -> dict[int, int]:
    """How many rows a class has."""
    return {number: len(rows)} if rows else {}


def class_of_pod(
    number: int, counts: Mapping[int, int], without: Collection[int], no_room: int
) -> int:
    """The class in a pod's row: that of its policies, 0 when they cover nothing.

    ``without`` are classes whose rows have no room. Their pods get the class ``no_room``: packets
    would be dropped that way, not leave untranslated.
    """
    if number not in counts:
        return 0
    return no_room if number in without else number


def _policy_rows(
    policy: EgressPolicy, usable: Sequence[IP], timers: Mapping[Timers, int]
) -> dict[Network, EgressRow]:
    """One policy's networks; an exclusion beats a destination of the same length.

    ``usable`` are its addresses that have gateways, in the order in which they are taken.
    """
    rows = {
        network: _destination(policy, usable, network.version, timers)
        for network in policy.destinations
    }
    return rows | {network: EgressRow(Action.EXCLUDED) for network in exclusions(policy)}


def _destination(
    policy: EgressPolicy, usable: Sequence[IP], family: int, timers: Mapping[Timers, int]
) -> EgressRow:
    """Of several addresses of a family the first one that can be used carries new connections."""
    if not any(one.version == family for one in policy.addresses):
        waiting = any(one.version == family for one in policy.waiting)
        return EgressRow(Action.NOT_ACKNOWLEDGED if waiting else Action.NO_ADDRESS)
    able = [one for one in usable if one.version == family]
    if not able:
        return EgressRow(Action.NO_GATEWAY)
    rate = policy.quota_new_per_second
    runs = runs_of_quota(policy.quota_ports)
    number = timers.get(policy.timers, 0)
    return EgressRow(Action.TRANSLATE, able[0], runs, rate, binding_of(policy), number)


def binding_of(policy: EgressPolicy) -> Binding:
    """What a policy says of mappings and of who may send to them."""
    if policy.mapping != "endpoint-independent":
        return Binding.NONE
    return Binding.OPEN if policy.filtering == "endpoint-independent" else Binding.FILTERED


def runs_of_quota(ports: int) -> int:
    """How many runs of ports a quota is; less than one run is one."""
    return max(ports // RUN_PORTS, 1) if ports else 0


def gateways_of_address(
    address: IP, policies: Mapping[str, EgressPolicy], gateways: Mapping[str, tuple[Node, ...]]
) -> dict[IP, tuple[Node, ...]]:
    """The gateways of an egress address: those of the oldest policy that has any."""
    for policy in by_precedence(policies.values()):
        if policy.name in gateways:
            return {address: gateways[policy.name]}
    return {}


def carriers_of_address(
    address: IP, gateways: tuple[Node, ...] | None, _: object, carriers: Mapping[str, Node]
) -> dict[IP, tuple[Node, ...]]:
    """Its gateways; where no policy has any, the nodes that have carried the address."""
    left = sorted(carriers.values(), key=lambda node: node.name)[:MOST_GATEWAYS]
    found = gateways or tuple(left)
    return {address: found} if found else {}


def endpoints_of_address(
    address: IP, gateways: tuple[Node, ...] | None
) -> dict[IP, tuple[IPv4Address, ...]]:
    """Row of ``mg_egress_addr``: egress address -> tunnel endpoints of its gateways."""
    endpoints = (tunnel_endpoint(node) for node in gateways or ())
    known = tuple(dict.fromkeys(one for one in endpoints if one))
    return {address: known} if known else {}
