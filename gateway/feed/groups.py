"""Groups of a feed: which addresses are listed, since which epoch. Pure.

An *epoch* of a group is one list, and never another one. Rules (``reference/egress.md`` 14.2):
a list is never empty, a group that has gone keeps its last list, unserved (410), and an address
that some firewall may still have stays known (``left``) until every firewall has fetched a list
without it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from gateway.policy import EgressPolicy
from mesh.core.model import IP

#: Addresses with the epoch of a change, sorted.
Epochs = tuple[tuple[IP, int], ...]


@dataclass(frozen=True, slots=True)
class FeedGroup:
    """A group as it is written down.

    ``listed`` says for each address since which epoch it is in the list, ``left`` since which one
    it is not. ``generated`` is when the epoch was made (RFC 3339). ``deleted``: nothing is of this
    group any more.
    """

    epoch: int
    generated: str
    listed: Epochs
    left: Epochs = ()
    deleted: bool = False

    @property
    def addresses(self) -> tuple[IP, ...]:
        """The list, sorted."""
        return tuple(address for address, _ in self.listed)


def address_order(address: IP) -> tuple[int, int]:
    """IPv4 first, then by number."""
    return address.version, int(address)


def groups_of(policy: EgressPolicy) -> tuple[str, ...]:
    """The groups that list the addresses of a policy: its pool's, or its own."""
    if "/" in policy.pool:
        return ()  # the cluster that has the pool lists it
    return (policy.pool or policy.name,)


def advanced(
    former: FeedGroup | None,
    wanted: Collection[IP],
    draining: Collection[IP],
    *,
    exists: bool,
    now: str,
) -> FeedGroup | None:
    """The group after what is wanted has changed; None: there is nothing that could be listed.

    ``draining`` addresses stay where they are listed. ``exists``: a policy or a pool is of the
    group, also while it has no address.
    """
    before = dict(former.listed) if former else {}
    addresses = {*wanted, *(one for one in before if one in draining)}
    if not addresses:
        return replace(former, deleted=not exists) if former else None
    revived = former is not None and former.deleted
    if former and addresses == before.keys() and not revived:
        return former
    epoch = former.epoch + 1 if former else 1
    since = {} if revived else before
    left = {one: at for one, at in (former.left if former else ()) if one not in addresses}
    left |= {one: epoch for one in before if one not in addresses}
    return FeedGroup(
        epoch,
        now,
        _sorted({one: since.get(one, epoch) for one in addresses}),
        _sorted(left),
    )


def forgotten(group: FeedGroup, is_fetched: Callable[[IP, int], bool]) -> FeedGroup:
    """Without the addresses that have left and that ``is_fetched`` says no firewall has."""
    left = tuple((one, epoch) for one, epoch in group.left if not is_fetched(one, epoch))
    return group if left == group.left else replace(group, left=left)


def released(group: FeedGroup) -> FeedGroup | None:
    """What is left of a group when an operator has given its resting addresses up."""
    return None if group.deleted else replace(group, left=())


def _sorted(epochs: Mapping[IP, int]) -> Epochs:
    return tuple(sorted(epochs.items(), key=lambda row: address_order(row[0])))
