"""Objects of the pods of one node: what a node's features look at."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.core.feature import AgentFeature
from mesh.core.groups import By
from mesh.core.model import Pod, PodKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.kubernetes import PODS
from mesh.objects.tables import Objects


class LocalPods(AgentFeature):
    """``table`` has the objects of the pods of ``node``."""

    def __init__(self, node: str, objects: Objects) -> None:
        self.table: Table[PodKey, Pod] = Table("pod object of this node")
        self._node, self._objects = node, objects

    def derive(self, loop: Loop) -> None:
        loop.group(self.table, _one, By(self._objects[PODS], self._if_here))

    def _if_here(self, key: PodKey, pod: Pod) -> list[PodKey]:
        return [key] if pod.node == self._node else []


def _one(key: PodKey, pods: Mapping[PodKey, Pod]) -> dict[PodKey, Pod]:
    return {key: pods[key]} if pods else {}
