"""Who holds an address: of those that ask for it, the one that came first."""

from __future__ import annotations

from mesh.core.model import IP, PodRef


class Holders:
    """The holder of each address, and who waits behind it, in the order of coming."""

    def __init__(self) -> None:
        self._first: dict[IP, PodRef] = {}
        self._behind: dict[IP, list[PodRef]] = {}  # few: two pods have one address by mistake only

    def of(self, address: IP) -> PodRef | None:
        """The pod that holds an address."""
        return self._first.get(address)

    def ask(self, address: IP, ref: PodRef) -> None:
        """Hold the address, or wait for it."""
        first = self._first.setdefault(address, ref)
        if first != ref:
            behind = self._behind.setdefault(address, [])
            if ref not in behind:
                behind.append(ref)

    def leave(self, address: IP, ref: PodRef) -> PodRef | None:
        """Ask for it no longer. Return the pod that holds it from now on in place of this one."""
        behind = self._behind.get(address, [])
        if self._first.get(address) != ref:
            if ref in behind:
                behind.remove(ref)
            following = None
        elif behind:
            following = self._first[address] = behind.pop(0)
        else:
            del self._first[address]
            following = None
        if not behind:
            self._behind.pop(address, None)
        return following
