"""An UPDATE body as a row (RFC 4271 4.3), with the treatment of RFC 7606 for a malformed one."""

from __future__ import annotations

from dataclasses import replace

from bgp.route import Family
from bgp.wire import attributes, nlri
from bgp.wire.attributes import Found, Sender
from bgp.wire.rows import Attributes, Malformed, Nlri, Severity, Update
from mesh.core.model import IP


def decode(body: bytes, *, asn4: bool = True, external: bool = False) -> Update:
    """The UPDATE; ``body`` is the message without its header of 19 octets.

    ``external``: the sender is of another AS. Raises nothing.
    """
    sender = Sender(asn4=asn4, external=external)
    try:
        withdrawn, path, announced = _fields(body)
    except Malformed as fault:
        return Update(reset=str(fault))
    if not path and not withdrawn and not announced:
        return Update(end_of_rib=Family.IPV4)
    found = attributes.read(path, sender)
    gone, fault_gone = nlri.read(Family.IPV4, withdrawn, None)
    hop: IP | None = found.values.get(attributes.NEXT_HOP)
    come, fault_come = nlri.read(Family.IPV4, announced, hop)
    for why in filter(None, (fault_gone, fault_come)):
        found.note(Malformed(Severity.RESET, why))
    return _judged(found, sender, come, gone)


def _judged(
    found: Found, sender: Sender, announced: tuple[Nlri, ...], withdrawn: tuple[Nlri, ...]
) -> Update:
    """The row: malformed ones have no announced prefix left."""
    for reach in filter(None, (found.reached, found.unreached)):
        if reach.fault:
            found.note(Malformed(Severity.RESET, reach.fault))
    if announced:
        _require(found, attributes.NEXT_HOP)
    come = announced + (found.reached.prefixes if found.reached else ())
    gone = withdrawn + (found.unreached.prefixes if found.unreached else ())
    if come:
        _require(found, attributes.ORIGIN, attributes.AS_PATH)
        _check_sender(found, sender)
        _check_next_hops(found, come)
    if found.worst is None:
        end = _end_of_rib(found) if not come and not gone else None
        row = found.attributes(sender)
        return Update(come, gone, row if come else Attributes(discarded=row.discarded), end)
    gone += tuple(replace(one, next_hop=None) for one in come)
    text = str(found.worst)
    is_reset = found.worst.severity is Severity.RESET
    return Update(
        withdrawn=gone,
        attributes=Attributes(discarded=tuple(found.discarded)),
        treat_as_withdraw="" if is_reset else text,
        reset=text if is_reset else "",
    )


def _end_of_rib(found: Found) -> Family | None:
    """RFC 4724 2: an MP_UNREACH_NLRI without prefixes, and nothing else."""
    if found.unreached is None or set(found.values) != {attributes.MP_UNREACH}:
        return None
    return found.unreached.family


def _fields(body: bytes) -> tuple[bytes, bytes, bytes]:
    """Withdrawn routes, attributes, prefixes. Raises Malformed (RFC 7606 3 a)."""
    if len(body) < 4:
        raise Malformed(Severity.RESET, f"an UPDATE of {len(body)} octets")
    withdrawn = int.from_bytes(body[:2])
    if 4 + withdrawn > len(body):
        text = f"the withdrawn routes have {withdrawn} octets of {len(body)}"
        raise Malformed(Severity.RESET, text)
    begin = 4 + withdrawn
    length = int.from_bytes(body[begin - 2 : begin])
    if begin + length > len(body):
        text = f"the attributes have {length} octets, and {len(body) - begin} are left"
        raise Malformed(Severity.RESET, text)
    return body[2 : begin - 2], body[begin : begin + length], body[begin + length :]


def _require(found: Found, *codes: int) -> None:
    """RFC 7606 3 d: without a mandatory attribute the routes count as withdrawn."""
    for code in codes:
        if code not in found.values:
            name = attributes.name_of(code)
            found.note(Malformed(Severity.WITHDRAW, f"{name} is missing"))


def _check_sender(found: Found, sender: Sender) -> None:
    """What each kind of session must say (RFC 4271 5.1.2 b and 5.1.5)."""
    if not sender.external:
        _require(found, attributes.LOCAL_PREF)
    elif found.values.get(attributes.AS_PATH) == ():
        text = "AS_PATH is empty, and its sender is of another AS"
        found.note(Malformed(Severity.WITHDRAW, text))


def _check_next_hops(found: Found, announced: tuple[Nlri, ...]) -> None:
    """RFC 4271 6.3: an address that cannot be a host's."""
    for hop in {one.next_hop for one in announced if one.next_hop is not None}:
        if hop.is_unspecified or hop.is_multicast or hop.is_loopback:
            found.note(Malformed(Severity.WITHDRAW, f"{hop} is no next hop"))
