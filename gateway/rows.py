"""Rows of egress for the maps of a node. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from gateway.plan import address_for, by_precedence, exclusions
from gateway.policy import EgressPolicy
from mesh.core.model import IP, Network, Node, PodKey
from mesh.identity.addresses import tunnel_endpoint


class Action(StrEnum):
    """Names of ``enum egress_action``; their numbers are in BTF."""

    TRANSLATE = "EGRESS_TRANSLATE"
    EXCLUDED = "EGRESS_EXCLUDED"
    NO_GATEWAY = "EGRESS_NO_GATEWAY"
    NO_ADDRESS = "EGRESS_NO_ADDRESS"
    NO_ROOM = "EGRESS_NO_ROOM"


@dataclass(frozen=True, slots=True)
class EgressKey:
    """A destination network as a class of pods sees it."""

    egress_class: int
    network: Network


@dataclass(frozen=True, slots=True)
class EgressRow:
    """The action for packets to the network; ``address`` only with ``TRANSLATE``."""

    action: Action
    address: IP | None = None


def egress_rows(
    names: tuple[str, ...],
    number: int | None,
    policies: Mapping[str, EgressPolicy],
    gateways: Mapping[str, Node],
    sets: Collection[IP],
    without: Collection[IP] = (),
) -> dict[EgressKey, EgressRow]:
    """Rows of ``mg_egress`` of one class: at most the networks of its policies.

    The longest prefix decides (S7); of two policies with the same network the first one (S18).
    A policy that has gone is left out of a class that still names it. ``sets`` are
    the addresses that have gateways, ``without`` those for which the map has no room.
    """
    rows: dict[EgressKey, EgressRow] = {}
    if number is None:
        return rows
    for name in names:
        if name in policies:
            policy, able = policies[name], name in gateways
            usable = {a for a in policy.addresses if able and a in sets and a not in without}
            for network, row in _policy_rows(policy, usable).items():
                rows.setdefault(EgressKey(number, network), row)
    return rows


def addresses_of(
    _: tuple[str, ...], __: int | None, policies: Mapping[str, EgressPolicy], *___: object
) -> list[IP]:
    """The egress addresses of the policies of a class."""
    return [address for policy in policies.values() for address in policy.addresses]


def pods_of_addresses(
    covered: Mapping[PodKey, tuple[str, ...]], policies: Mapping[str, EgressPolicy]
) -> dict[IP, int]:
    """Row of ``mg_egress_pods``: egress address -> how many of the covered pods may leave by it."""
    addresses = (
        {address for name in names if name in policies for address in policies[name].addresses}
        for names in covered.values()
    )
    return dict(Counter(address for each in addresses for address in each))


def class_of_row(key: EgressKey) -> int:
    """The class of a row: the name by which a pod's row refers to it."""
    return key.egress_class


def classes_of_row(key: EgressKey, _: EgressRow) -> list[int]:
    """The group of a row: its class."""
    return [key.egress_class]


def address_of_row(_: EgressKey, row: EgressRow) -> Iterable[IP]:
    """The egress address whose gateways a packet needs."""
    return () if row.address is None else (row.address,)


def row_count(number: int, rows: Mapping[EgressKey, EgressRow]) -> dict[int, int]:
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


def _policy_rows(policy: EgressPolicy, usable: Collection[IP]) -> dict[Network, EgressRow]:
    """One policy's networks; an exclusion beats a destination of the same length.

    ``usable`` are its addresses that have gateways.
    """
    rows = {network: _destination(policy, usable, network) for network in policy.destinations}
    return rows | {network: EgressRow(Action.EXCLUDED) for network in exclusions(policy)}


def _destination(policy: EgressPolicy, usable: Collection[IP], network: Network) -> EgressRow:
    address = address_for(policy, network)
    if address is None:
        return EgressRow(Action.NO_ADDRESS)
    if address not in usable:
        return EgressRow(Action.NO_GATEWAY)
    return EgressRow(Action.TRANSLATE, address)


def gateway_of_address(
    address: IP, policies: Mapping[str, EgressPolicy], gateways: Mapping[str, Node]
) -> dict[IP, Node]:
    """The gateway of an egress address: that of the oldest policy that has one."""
    for policy in by_precedence(policies.values()):
        if policy.name in gateways:
            return {address: gateways[policy.name]}
    return {}


def endpoints_of_address(address: IP, gateway: Node | None) -> dict[IP, tuple[IPv4Address, ...]]:
    """Row of ``mg_egress_addr``: egress address -> tunnel endpoints of its gateways, today one."""
    endpoint = tunnel_endpoint(gateway) if gateway else None
    return {address: (endpoint,)} if endpoint else {}
