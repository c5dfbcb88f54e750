"""UPDATEs as rows of ``mesh/core/received.py``. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address

from bgp.route import Family, ServiceSID
from bgp.wire.rows import Attributes, Nlri, Update
from bgp.wire.service import Unusable, real_sid
from mesh.core.model import IP
from mesh.core.received import Received, ReceivedKey


def key_of(peer: IP, one: Nlri) -> ReceivedKey:
    """The row's key."""
    return ReceivedKey(peer, one.prefix, one.rd)


def family_of(key: ReceivedKey) -> Family:
    """The family in which the prefix was sent."""
    if key.prefix.version == 4:
        return Family.VPNV4 if key.rd else Family.IPV4
    return Family.VPNV6 if key.rd else Family.IPV6


def rows(peer: IP, update: Update) -> Iterator[tuple[ReceivedKey, Received]]:
    """The announced prefixes; those that differ in nothing have one and the same row."""
    made: dict[tuple[IP | None, int], Received] = {}
    for one in update.announced:
        mark = one.next_hop, one.label
        row = made.get(mark)
        if row is None:
            row = made[mark] = _row(one, update.attributes)
        yield key_of(peer, one), row


def _row(one: Nlri, said: Attributes) -> Received:
    if one.next_hop is None:
        raise ValueError(f"{one.prefix} has no next hop")  # the decoder announces none of these
    service = said.service if one.family.vpn else None
    sid, unusable = _sid(service, one.label)
    return Received(
        next_hop=one.next_hop,
        as_path=said.as_path,
        communities=said.communities,
        large=said.large,
        extended=said.extended,
        med=said.med,
        local_preference=said.local_preference,
        sid=sid,
        behaviour=service.behaviour if service else 0,
        structure=service.structure if service else None,
        label=one.label,
        unusable=unusable,
        origin=said.origin,
    )


def _sid(service: ServiceSID | None, label: int) -> tuple[IPv6Address | None, str]:
    """The SID, or why there is none that can be used."""
    if service is None:
        return None, ""
    try:
        return real_sid(service, label), ""
    except Unusable as error:
        return None, str(error)
