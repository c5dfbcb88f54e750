"""Objects of the pods of one node: what a node's features look at."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.core.feature import AgentFeature
from mesh.core.groups import By
from mesh.core.model import Attachment, Pod, PodKey, Sandbox
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.kubernetes import PODS
from mesh.objects.tables import Objects
from mesh.pods.links import POD_DEVICE


class LocalPods(AgentFeature):
    """``table`` has the objects of the pods of ``node``.

    While a runtime has a pod attached, its last object stays: a pod whose object was deleted by
    force, or that has ended, runs until its sandbox is gone.
    """

    def __init__(
        self, node: str, objects: Objects, attached: Table[Sandbox, Attachment] | None = None
    ) -> None:
        self.table: Table[PodKey, Pod] = Table("pod object of this node")
        self._node, self._objects = node, objects
        self._attached = attached if attached is not None else no_attachments()

    def derive(self, loop: Loop) -> None:
        loop.group(
            self.table,
            self._one,
            By(self._objects[PODS], self._if_here),
            By(self._attached, lambda key, _: [key.pod]),
        )

    def _if_here(self, key: PodKey, pod: Pod) -> list[PodKey]:
        return [key] if pod.node == self._node else []

    def _one(
        self, key: PodKey, pods: Mapping[PodKey, Pod], attached: Mapping[Sandbox, Attachment]
    ) -> dict[PodKey, Pod]:
        """The row of before is an input, too. Nothing but this group writes it."""
        if pods:
            return {key: pods[key]}
        if last := self.table.rows.get(key):
            return {key: last}
        return {key: self._as_attached(key, newest(attached))}

    def _as_attached(self, key: PodKey, row: Attachment) -> Pod:
        """The pod as it was when it was attached; for an agent that has not seen its object."""
        return Pod(
            key.cluster,
            key.namespace,
            key.name,
            self._node,
            row.labels,
            service_account=row.service_account,
            terminating=True,
            uid=row.uid,
        )


def no_attachments() -> Table[Sandbox, Attachment]:
    """The attachments of a node without a container runtime."""
    table: Table[Sandbox, Attachment] = Table("attachment")
    table.mark_synced()
    return table


def newest(attached: Mapping[Sandbox, Attachment]) -> Attachment:
    """The attachment of a pod that its address in the mesh is: of ``eth0``, the newest."""
    return max(attached.values(), key=rank)


def rank(row: Attachment) -> tuple[bool, int]:
    """By which attachments of one pod are compared; the greatest counts."""
    return row.interface == POD_DEVICE, row.number
