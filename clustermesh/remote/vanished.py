"""Clusters that were accepted and have gone: by lease or counter, or with their keys.

A cluster that vanishes leaves no row that could be wrong. So it is remembered here, for as long as
the process lives and the cluster does not come back.
"""

from __future__ import annotations

from collections.abc import Iterable

from clustermesh.findings import VANISHED
from mesh.core.model import Finding
from mesh.core.table import Changes


class Vanished:
    """The clusters that were here and are not; ``own`` is never one of them."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._gone: set[str] = set()

    def take(self, changes: Changes[str, int]) -> None:
        """Take in which clusters came and went."""
        self._gone |= set(changes.delete) - {self._own}
        self._gone -= changes.upsert.keys()

    def forget(self, clusters: Iterable[str]) -> None:
        """An operator has given these up."""
        self._gone -= set(clusters)

    def findings(self) -> Iterable[Finding]:
        """One for each of them."""
        for name in sorted(self._gone):
            text = (
                f"cluster {name} was here and has gone: its lease has ended, its keys were "
                "deleted, or its counter stands; its services, identities and addresses are "
                "withdrawn here; start a "
                f"controller of that cluster, or say `meshgate cluster forget {name}` if it is "
                "gone for good"
            )
            yield Finding(VANISHED, f"Cluster/{name}", "", text, (f"cluster/{name}",))
