"""Which addresses a policy may use: those that firewalls have acknowledged. Pure.

Only policies with ``activation: Acknowledged`` ask. What the feed says stands in the store; as long
as the store has not been read, what the last agent wrote goes on (``gateway/before.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from gateway.feed.findings import NOT_ACKNOWLEDGED, OVERRIDDEN, RESTING
from gateway.policy import EgressPolicy
from mesh.core.model import IP, Finding, Listed


def usable(
    name: str, policy: EgressPolicy | None, listed: Mapping[IP, Listed]
) -> dict[str, EgressPolicy]:
    """The policy with the addresses that may carry traffic; the others are ``waiting``."""
    if policy is None or policy.activation == "Immediate":
        return {name: policy} if policy else {}
    ready = tuple(one for one in policy.addresses if one in listed and listed[one].acknowledged)
    waiting = tuple(one for one in policy.addresses if one not in ready)
    return {name: replace(policy, addresses=ready, waiting=waiting)}


def addresses_of(_: str, policy: EgressPolicy | None) -> Iterable[IP]:
    """The addresses about which a policy asks."""
    return policy.addresses if policy and policy.activation != "Immediate" else ()


def findings(policies: Iterable[EgressPolicy], listed: Mapping[IP, Listed]) -> Iterator[Finding]:
    """What addresses of policies wait for, whom nobody waits for, and which addresses rest."""
    for policy in policies:
        about = (f"egress/{policy.name}",)
        for address in policy.addresses if policy.activation == "Acknowledged" else ():
            row, field = listed.get(address), f"{policy.fields.addresses} {address}"
            places = (*about, f"address/{address}")
            if row is None or not row.acknowledged:
                yield Finding(NOT_ACKNOWLEDGED, policy.origin, field, _waits(address, row), places)
            elif row.without:
                text = f"carries traffic without {', '.join(row.without)}, as an operator has asked"
                yield Finding(OVERRIDDEN, policy.origin, field, text, places)
    for address, row in listed.items():
        if row.leaving:
            yield Finding(RESTING, f"address/{address}", "feed", _rests(row))


def _waits(address: IP, row: Listed | None) -> str:
    no_other = "new connections do not use it"
    if row is None or row.leaving:
        return f"{address} is in no feed: {no_other}"
    groups = ", ".join(row.groups)
    if not row.waits:
        return f"no firewall is registered for group {groups}, which lists {address}: {no_other}"
    return f"{address} waits for {', '.join(row.waits)} to fetch group {groups}: {no_other}"


def _rests(row: Listed) -> str:
    groups = ", ".join(row.groups)
    if row.waits:
        return f"{', '.join(row.waits)} may still have it of group {groups}"
    return f"group {groups} was deleted: `meshgate egress release` gives its addresses up"
