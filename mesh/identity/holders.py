"""Who holds an address: of those that ask for it, the one that came first."""

from __future__ import annotations

from mesh.core.model import IP, PodRef


class Holders:
    """The holder of each address, and who waits behind it, in the order of coming."""

    def __init__(self) -> None:
        self._first: dict[IP, PodRef] = {}
        self._behind: dict[IP, dict[PodRef, None]] = {}  # few: two pods have one by mistake only

    def of(self, address: IP) -> PodRef | None:
        """The pod that holds an address."""
        return self._first.get(address)

    def ask(self, address: IP, ref: PodRef) -> None:
        """Hold the address, or wait for it."""
        first = self._first.setdefault(address, ref)
        if first != ref:
            self._behind.setdefault(address, {})[ref] = None

    def leave(self, address: IP, ref: PodRef) -> PodRef | None:
        """Ask for it no longer. Return the pod that holds it from now on in place of this one."""
        behind, following = self._behind.get(address, {}), None
        if self._first.get(address) != ref:
            behind.pop(ref, None)
        elif behind:
            following = self._first[address] = next(iter(behind))
            del behind[following]
        else:
            del self._first[address]
        if not behind:
            self._behind.pop(address, None)
        return following
