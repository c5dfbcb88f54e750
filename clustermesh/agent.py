"""Other clusters on a node: what the import firewall accepts, judged against what is ours."""

from __future__ import annotations

from collections.abc import Iterable

from clustermesh.remote.ours import Ours
from clustermesh.remote.tables import RemoteTables
from mesh.core.feature import AgentFeature
from mesh.core.model import Finding
from mesh.core.reconcile import Loop


class RemoteAgent(AgentFeature):
    """``features`` are all others of the process: what is ours is what they declare."""

    def __init__(self, remote: RemoteTables, features: Iterable[AgentFeature]) -> None:
        others = list(features)
        networks = [table for one in others for table in one.ours]
        addresses = [table for one in others for table in one.own_addresses]
        self._remote = remote
        self._ours = Ours(remote, networks, addresses)

    def derive(self, loop: Loop) -> None:
        self._ours.derive(loop)

    def findings(self) -> Iterable[Finding]:
        return self._remote.findings.values()
