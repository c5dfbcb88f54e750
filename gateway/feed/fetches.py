"""Which firewall has fetched which epoch, and which addresses all firewalls know by that. Pure.

A firewall *has* an epoch once it has fetched its list, and has *settled* it once it has also asked
again with the ETag of that list, or its time to load the list is over. Both families are counted
apart, as a firewall may fetch either of them alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from gateway.feed.groups import FeedGroup, address_order
from mesh.core.model import IP, Listed

#: Groups of a firewall that is registered for all.
ALL = "*"
FAMILIES = (4, 6)


@dataclass(frozen=True, slots=True, order=True)
class FetchKey:
    """A list as a firewall fetches it."""

    group: str
    firewall: str
    family: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """The newest epoch that a firewall has, when it first fetched it, and the last settled one."""

    epoch: int
    at: str
    settled: int = 0


@dataclass(frozen=True, slots=True)
class Firewall:
    """A registered firewall; ``settle_s`` are the seconds that it takes to load a list."""

    name: str
    groups: tuple[str, ...]
    settle_s: float

    def reads(self, group: str) -> bool:
        """Whether it is registered for the group."""
        return group in self.groups or ALL in self.groups


def noted(before: Fetch | None, epoch: int, presented: int | None, at: str) -> Fetch:
    """The row after a list of this epoch was sent.

    ``presented`` is the epoch of the ETag that came with the request: a firewall that asks with it
    has loaded that list.
    """
    known = epoch if presented == epoch else before.epoch if before else 0
    settled = before.settled if before else 0
    if presented is not None and presented <= known:
        settled = max(settled, presented)
    if before and before.epoch == epoch:
        return replace(before, settled=settled)
    return Fetch(epoch, at, settled)


def settled(
    fetches: Mapping[FetchKey, Fetch],
    seen: Mapping[FetchKey, tuple[int, float]],
    firewalls: Mapping[str, Firewall],
    time_s: float,
) -> dict[FetchKey, Fetch]:
    """The rows that are settled by now because their time is over.

    ``seen`` says when this process first saw a row with this epoch, on the clock of ``time_s``,
    which nobody sets: after a restart the time begins anew.
    """
    found = {}
    for key, fetch in fetches.items():
        firewall, (epoch, since) = firewalls.get(key.firewall), seen.get(key, (0, 0.0))
        due = firewall and epoch == fetch.epoch and time_s - since >= firewall.settle_s
        if due and fetch.settled < fetch.epoch:
            found[key] = replace(fetch, settled=fetch.epoch)
    return found


def readers(firewalls: Iterable[Firewall], group: str) -> list[str]:
    """Names of the firewalls that are registered for a group."""
    return sorted(one.name for one in firewalls if one.reads(group))


def unfetched(
    address: IP,
    epoch: int,
    group: str,
    firewalls: Iterable[Firewall],
    fetches: Mapping[FetchKey, Fetch],
) -> list[str]:
    """Firewalls of the group that may still have the list from before this epoch."""
    return [
        name
        for name in readers(firewalls, group)
        if _fetch(fetches, group, name, address).epoch < epoch
    ]


_NEVER = Fetch(0, "")


def _fetch(fetches: Mapping[FetchKey, Fetch], group: str, firewall: str, address: IP) -> Fetch:
    return fetches.get(FetchKey(group, firewall, address.version), _NEVER)


def listed_rows(
    groups: Mapping[str, FeedGroup],
    firewalls: Collection[Firewall],
    fetches: Mapping[FetchKey, Fetch],
    overrides: Mapping[IP, Collection[str]],
    before: Mapping[IP, Listed],
) -> dict[IP, Listed]:
    """Each address that a feed lists, or that a firewall may still have: what it waits for.

    An address is *acknowledged* once all firewalls that are registered for its groups have settled
    an epoch that lists it, and stays so as long as it is listed. ``overrides`` names the firewalls
    that an operator does not want to wait for. Where no firewall is registered nobody can
    acknowledge it, and only an override does.
    """
    places: dict[IP, list[tuple[str, int]]] = {}
    resting: dict[IP, list[str]] = {}
    for name, group in sorted(groups.items()):
        for address, epoch in group.listed:
            if group.deleted:
                resting.setdefault(address, []).append(name)
            else:
                places.setdefault(address, []).append((name, epoch))
        for address, _ in group.left:
            resting.setdefault(address, []).append(name)
    rows = {
        address: _listed(address, where, firewalls, fetches, overrides, before.get(address))
        for address, where in places.items()
    }
    for address in resting.keys() - rows.keys():
        waits = _leaving(address, groups, firewalls, fetches)
        rows[address] = Listed(tuple(resting[address]), waits=waits, leaving=True)
    return dict(sorted(rows.items(), key=lambda row: address_order(row[0])))


def _listed(
    address: IP,
    where: list[tuple[str, int]],
    firewalls: Collection[Firewall],
    fetches: Mapping[FetchKey, Fetch],
    overrides: Mapping[IP, Collection[str]],
    before: Listed | None,
) -> Listed:
    groups = tuple(group for group, _ in where)
    lacking = {
        name
        for group, epoch in where
        for name in readers(firewalls, group)
        if _fetch(fetches, group, name, address).settled < epoch
    }
    skipped = {*overrides.get(address, ()), *(before.without if before else ())}
    waits = tuple(sorted(lacking - skipped))
    registered = any(readers(firewalls, group) for group in groups)
    known = before is not None and before.acknowledged and not before.leaving
    acknowledged = known or (not waits and (registered or address in overrides))
    without = tuple(sorted(lacking & skipped))
    return Listed(groups, acknowledged, () if acknowledged else waits, without)


def _leaving(
    address: IP,
    groups: Mapping[str, FeedGroup],
    firewalls: Collection[Firewall],
    fetches: Mapping[FetchKey, Fetch],
) -> tuple[str, ...]:
    """The firewalls that may still have an address that no list has any more."""
    names = {
        firewall
        for name, group in groups.items()
        for one, epoch in group.left
        if one == address
        for firewall in unfetched(address, epoch, name, firewalls, fetches)
    }
    return tuple(sorted(names))
