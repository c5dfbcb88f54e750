"""Other clusters on a node: rows that the import firewall accepts, judged against our own facts."""

from __future__ import annotations

from collections.abc import Iterable

from clustermesh.contract import Contract
from clustermesh.etcd.client import EtcdAddress
from clustermesh.remote.ours import Ours, OwnTables
from clustermesh.remote.tables import RemoteTables
from mesh.core.feature import AgentFeature
from mesh.core.model import Finding, Network
from mesh.core.reconcile import Loop
from mesh.core.table import Table


class RemoteAgent(AgentFeature):
    """``features`` are all others of the process: they declare our own facts."""

    def __init__(
        self,
        remote: RemoteTables,
        contracts: Table[str, Contract],
        store: EtcdAddress,
        features: Iterable[AgentFeature],
    ) -> None:
        self.barred = (Table[Network, None]("where the store is"),)
        self.barred[0].replace(store.networks)
        self._remote = remote
        self._ours = Ours(remote, OwnTables.of([*features, self], contracts))

    def derive(self, loop: Loop) -> None:
        self._ours.derive(loop)

    def findings(self) -> Iterable[Finding]:
        return self._remote.findings.values()
