"""BGPPeer: documents -> rows, strictly.

An unknown or wrong field refuses the whole object by path.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import msgspec

from mesh.core.model import IP, Network, Selector
from mesh.core.strict import AnyAddress, Misfit, convert
from mesh.objects.definition import Column, Definition
from mesh.objects.schema import (
    Kind,
    Parsed,
    Place,
    SelectorField,
    Strict,
    StrictObject,
    selector_of,
)
from mesh.objects.tables import ObjectNoun


@dataclass(frozen=True, slots=True)
class BGPPeer:
    """One BGPPeer object, parsed."""

    name: str
    nodes: Selector
    address: IP
    asn: int
    local_asn: int
    advertise: tuple[str, ...]  # words of rooms: podCIDRs and others
    hold_s: int = 90
    graceful_restart_s: int = 120
    origin: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """One BGP route to announce."""

    prefix: Network
    next_hop: IP


PEERS: ObjectNoun[str, BGPPeer] = ObjectNoun("peer")


class _PeerSpec(Strict, frozen=True, kw_only=True):
    node_selector: SelectorField
    address: AnyAddress
    asn: Annotated[int, msgspec.Meta(ge=1, le=4294967295)]
    local_asn: Annotated[int, msgspec.Meta(ge=1, le=4294967295)] = msgspec.field(name="localASN")
    advertise: tuple[str, ...]
    hold_seconds: Annotated[int, msgspec.Meta(ge=3, le=65535)] = 90
    graceful_restart_seconds: Annotated[int, msgspec.Meta(ge=1, le=4095)] = 120


class _Peer(StrictObject, frozen=True, kw_only=True):
    spec: _PeerSpec


def _peer(place: Place, document: object, advertised: Collection[str]) -> Parsed:
    spec = convert(document, _Peer).spec
    for number, word in enumerate(spec.advertise):
        if word not in advertised:
            raise Misfit(f"spec.advertise[{number}]", f"invalid enum value {word!r}", word)
    row = BGPPeer(
        place.key.name,
        nodes=selector_of("spec.nodeSelector", spec.node_selector),
        address=spec.address,
        asn=spec.asn,
        local_asn=spec.local_asn,
        advertise=tuple(sorted(set(spec.advertise))),
        hold_s=spec.hold_seconds,
        graceful_restart_s=spec.graceful_restart_seconds,
        origin=str(place),
    )
    return Parsed(PEERS.name, row.name, row)


def kinds(advertised: Collection[str]) -> tuple[Kind, ...]:
    """The kind; ``advertised`` are the words that ``spec.advertise`` may have."""
    parse = partial(_peer, advertised=advertised)
    definition = Definition(
        _Peer,
        "bgppeers",
        ("bgpp",),
        (
            Column("Address", ".spec.address"),
            Column("ASN", ".spec.asn", "integer"),
            Column("Advertise", ".spec.advertise", wide=True),
        ),
        {"spec.advertise[]": advertised},
    )
    return (Kind("meshgate.io/v1alpha1", "BGPPeer", PEERS, parse, definition=definition),)
