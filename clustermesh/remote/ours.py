"""What no other cluster may claim: the union of what the features of this process declare.

A feature that forgets to declare its addresses leaves them to whoever claims them first, so the
union is made from the list of features and from nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from clustermesh.remote.holdings import OwnFacts
from clustermesh.remote.tables import RemoteTables
from mesh.core.model import IP, Network
from mesh.core.reconcile import Loop
from mesh.core.table import Table


class Ours:
    """Hands the union to the import firewall; nothing is judged before all tables are synced."""

    def __init__(
        self,
        cluster: str,
        id_: int,
        remote: RemoteTables,
        networks: Sequence[Table[Network, None]],
        addresses: Sequence[Table[IP, None]],
    ) -> None:
        self._cluster, self._id, self._remote = cluster, id_, remote
        self._networks, self._addresses = tuple(networks), tuple(addresses)
        self._last: OwnFacts | None = None

    def derive(self, loop: Loop) -> None:
        """Add the derivation."""
        loop.derive([*self._networks, *self._addresses], self._update)

    def _update(self) -> None:
        networks = dict.fromkeys(one for table in self._networks for one in table.rows)
        addresses = frozenset(one for table in self._addresses for one in table.rows)
        facts = OwnFacts(self._cluster, self._id, tuple(networks), addresses)
        if facts != self._last:
            self._last = facts
            self._remote.update_own(facts)
