"""Addresses of the pods of this node, from the node's CIDRs. Pure.

Which addresses are free depends on the other pods. ``assign`` looks at all of them; ``Assigned``
gives the same addresses and looks at the pods that came and went.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from itertools import chain

from mesh.core.model import IP, LinkKey, Network, Sandbox

#: The network address and the first host of a CIDR stay free (the latter is the usual gateway).
_FIRST = 2
_NOWHERE = -1


def assign(
    pods: Collection[LinkKey],
    cidrs: tuple[Network, ...],
    held: Mapping[LinkKey, tuple[IP, ...]],
) -> dict[LinkKey, tuple[IP, ...]]:
    """Addresses of each pod, one from every CIDR, the same offset in each.

    A pod keeps what it holds, and its offset when there is one more CIDR; so it does while a CIDR
    is not known. New pods get offsets above the highest one in use, and start again from the
    bottom at the end, so that a freed address rests. Pods without a free offset are left out: the
    caller finds them missing.
    """
    spans = [_Span(cidr) for cidr in cidrs]
    mine = sorted(held.keys() & set(pods), key=_name)
    kept = {key: held[key] for key in mine if _fits(held[key], spans)}
    if not cidrs:
        return kept
    taken: dict[int, LinkKey] = {}
    for key, addresses in kept.items():
        taken.setdefault(_offset(addresses, spans), key)
    taken.pop(_NOWHERE, None)
    new = sorted(set(pods).difference(taken.values()), key=_name)
    taken |= tuple(zip(_free(taken, cidrs), new, strict=False))
    return {key: _addresses(at, kept.get(key, ()), spans) for at, key in taken.items()}


class Assigned:
    """``held`` is what ``assign`` gave for these CIDRs; it is kept up to date in place.

    Not while ``unplaced``: a pod then has addresses of other CIDRs only, and ``assign`` decides.
    """

    def __init__(
        self,
        pods: Iterable[LinkKey],
        cidrs: tuple[Network, ...],
        held: dict[LinkKey, tuple[IP, ...]],
    ) -> None:
        self._cidrs, self._held = cidrs, held
        self._spans = [_Span(cidr) for cidr in cidrs]
        self._taken = {_offset(addresses, self._spans): key for key, addresses in held.items()}
        self.unplaced = self._taken.pop(_NOWHERE, None) is not None
        self._without = {key for key in pods if key not in held}

    @property
    def full(self) -> bool:
        """Whether no further pod can have an address."""
        return not self._cidrs or next(_free(self._taken, self._cidrs), None) is None

    def change(self, came: Iterable[LinkKey], gone: Iterable[LinkKey]) -> list[LinkKey]:
        """Pods that have addresses now and had none; ``came`` may have pods that have some."""
        for key in gone:
            self._without.discard(key)
            if addresses := self._held.pop(key, ()):
                del self._taken[_offset(addresses, self._spans)]
        self._without.update(key for key in came if key not in self._held)
        if not self._cidrs or not self._without:
            return []
        free = _free(self._taken, self._cidrs)
        given = dict(zip(free, sorted(self._without, key=_name), strict=False))
        self._taken |= given
        self._without.difference_update(given.values())
        for at, key in given.items():
            self._held[key] = _addresses(at, (), self._spans)
        return list(given.values())


def _free(taken: Collection[int], cidrs: Sequence[Network]) -> Iterator[int]:
    """Offsets above the highest one in use, then those below that are free."""
    size = min(*(cidr.num_addresses for cidr in cidrs), 1 << 16) - 1
    last = max(taken, default=_FIRST - 1)
    order = chain(range(last + 1, size), range(_FIRST, last))
    return (offset for offset in order if offset not in taken)


class _Span:
    """A CIDR in numbers: all pods of a node are compared with it whenever one comes."""

    __slots__ = ("first", "size", "version")

    def __init__(self, cidr: Network) -> None:
        self.version: int = cidr.version
        self.first, self.size = int(cidr.network_address), cidr.num_addresses

    def offset(self, address: IP) -> int:
        """Where the address is in the CIDR, if it is."""
        at = int(address) - self.first
        return at if address.version == self.version and 0 <= at < self.size else _NOWHERE

    def address(self, offset: int) -> IP:
        """The address at an offset."""
        number = self.first + offset
        return IPv4Address(number) if self.version == 4 else IPv6Address(number)


def _name(key: LinkKey) -> tuple[str, ...]:
    return key.cluster, key.namespace, key.name, key.tag if isinstance(key, Sandbox) else ""


def _offset(addresses: tuple[IP, ...], spans: Sequence[_Span]) -> int:
    """The offset of the first address that is in a CIDR."""
    for address in addresses:
        for span in spans:
            if (at := span.offset(address)) != _NOWHERE:
                return at
    return _NOWHERE


def _fits(addresses: tuple[IP, ...], spans: Sequence[_Span]) -> bool:
    """Whether each address is in a CIDR of its family, if there is one, with room for it in all."""
    for address in addresses:
        same = [span for span in spans if span.version == address.version]
        if same and all(span.offset(address) == _NOWHERE for span in same):
            return False
    at = _offset(addresses, spans)
    return all(at < span.size for span in spans)


def _addresses(at: int, kept: tuple[IP, ...], spans: Sequence[_Span]) -> tuple[IP, ...]:
    """The addresses at an offset of every CIDR; those kept when they are the same, or more."""
    same = [span.offset(address) == at for address, span in zip(kept, spans, strict=False)]
    if len(kept) > len(spans) or (len(kept) == len(spans) and all(same)):
        return kept
    return tuple(span.address(at) for span in spans)
