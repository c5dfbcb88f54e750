"""What this node says of draining addresses: how many of their ports are in use.

An address that no policy wants keeps its row, gateways and blocks until every node has said that
nothing of it is in use here (``claims.DRAINING``). A node says so only when no row of its map leads
to the address any more, from the second count on: what one count began with, a new connection may
have been added to. Of an address that was cut nothing counts once its gateways send nothing for it
(``ended.py``): an idle connection stays in the table for hours, so that its pod hears of the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from gateway import claims
from mesh.core.groups import By
from mesh.core.model import IP, Claim, ClaimKey, Draining, PortsInUse
from mesh.core.reconcile import Loop
from mesh.core.table import Source, Table


class Reports:
    """``table`` is what the agent writes into the store; ``in_use`` has one row, the last count."""

    def __init__(self, held: Table[ClaimKey, Claim], in_use: Table[str, PortsInUse]) -> None:
        self.table: Table[IP, Draining] = Table("draining on this node")
        #: Epoch of the drain by address.
        self.draining: Table[IP, int] = Table("draining egress address")
        #: The addresses that new connections of this node may take; None: not known now.
        self.leads: Callable[[], Collection[IP] | None] = lambda: None
        #: Addresses that were cut so long ago that nothing leaves with them any more.
        self.silent: Callable[[], Collection[IP]] = tuple
        self._held, self._in_use = held, in_use
        self._counts: dict[tuple[IP, int], int] = {}
        self._counted = 0

    def derive(self, loop: Loop) -> None:
        """Add the derivations."""
        loop.group(self.draining, _epoch, By(self._held, claims.addresses_of_key))
        inputs: list[Source] = [self._in_use, self.draining]
        loop.derive(inputs, self._report)

    def evicted(self, named: Table[str, None]) -> Iterator[IP]:
        """The draining addresses whose drain an operator has ended."""
        for address, epoch in self.draining.rows.items():
            if f"{address}/{epoch}" in named.rows:
                yield address

    def _report(self) -> None:
        for last in self._in_use.rows.values():
            if self._counted != last.count:  # else only the drains have changed
                self._counted = last.count
                self._counts = quiet_counts(self._counts, self.draining.rows, self.leads())
            silent = self.silent()
            ports = {address: n for address, n in last.ports.items() if address not in silent}
            self.table.replace(reports(self.draining.rows, self._counts, ports))


def _epoch(address: IP, held: Mapping[ClaimKey, Claim]) -> dict[IP, int]:
    return {address: max(claim.epoch for claim in held.values())} if held else {}


def quiet_counts(
    counts: Mapping[tuple[IP, int], int],
    draining: Mapping[IP, int],
    leads: Collection[IP] | None,
) -> dict[tuple[IP, int], int]:
    """How many counts were made of each drain since no row of the map led to the address."""
    if leads is None:
        return {}
    return {drain: counts.get(drain, 0) + 1 for drain in draining.items() if drain[0] not in leads}


def reports(
    draining: Mapping[IP, int],
    counts: Mapping[tuple[IP, int], int],
    in_use: Mapping[IP, int],
) -> dict[IP, Draining]:
    """What is said: ports in use, from the second count on."""
    return {
        address: Draining(in_use.get(address, 0), epoch)
        for address, epoch in draining.items()
        if counts.get((address, epoch), 0) > 1
    }
