"""Identities in a cluster: a number for each label text of its pods.

Numbers are never given back (D20).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from mesh.core.feature import Claimable, ControllerFeature, Want
from mesh.core.groups import By, To
from mesh.core.model import Finding, Identity, Namespace, Pod, PodKey
from mesh.core.noun import Listing, Row, Rows
from mesh.core.reconcile import Loop
from mesh.core.sources import OwnStore, Remote
from mesh.core.table import Table
from mesh.identity.findings import LABELS_TOO_LONG
from mesh.identity.labels import (
    LONGEST_TEXT,
    NOUN,
    POOL,
    identity_labels,
    identity_range,
    namespace_of,
)
from mesh.identity.matching import Looks, looks_of
from mesh.identity.nouns import identity_row
from mesh.identity.numbers import Numbers
from mesh.objects.kubernetes import NAMESPACES, PODS
from mesh.objects.tables import Objects

_LABELS = "metadata.labels"


class IdentityController(ControllerFeature):
    """``id_`` is the id of the cluster: the upper bits of its identities."""

    def __init__(
        self, cluster: str, id_: int, objects: Objects, store: OwnStore, remote: Remote
    ) -> None:
        self._objects, self._remote = objects, remote
        self._numbers = Numbers(cluster, id_, store.claims_of(NOUN).held)
        self.identity: Table[int, Identity] = self._numbers.identity
        self.number: Table[str, int] = self._numbers.number
        self.wants = (Table[Want, bool]("identity wanted"),)
        self.claims = (Claimable(NOUN, lambda _: numbers_of(id_)),)
        self._too_long: Table[Looks, Sequence[PodKey]] = Table("labels too long for an identity")
        self._texts: Table[tuple[str, Looks], Sequence[PodKey]] = Table("label text of pods")

    def derive(self, loop: Loop) -> None:
        objects = self._objects
        self._numbers.derive(loop)
        loop.group(
            self._texts,
            _text,
            By(objects[PODS], lambda _, pod: [looks_of(pod)]),
            To(objects[NAMESPACES], lambda looks, _: looks.namespace),
        )
        loop.group(self.wants[0], _wanted, By(self._texts, _text_of))
        loop.group(self._too_long, _too_long, By(self._texts, _looks_too_long))

    def findings(self) -> Iterable[Finding]:
        for looks, pods in self._too_long.rows.items():
            first, size = min(pods), sum(len(part) for pair in looks.labels for part in pair)
            more = f", and {len(pods) - 1} more pods with the same labels" if pods[1:] else ""
            text = f"{size} characters of labels, more than {LONGEST_TEXT} with their keys{more}"
            yield Finding(LABELS_TOO_LONG, f"Pod/{first.namespace}/{first.name}", _LABELS, text)

    def listings(self) -> Mapping[str, Listing]:
        return {"identity": self._rows}

    def _rows(self) -> Sequence[Row]:
        rows = chain(self.identity.rows.values(), self._remote.identities.rows.values())
        return Rows.of(rows, identity_row)


def numbers_of(cluster_id: int) -> Sequence[int]:
    """The identities that a cluster may give away; 0 of the lower bits is not used."""
    return identity_range(cluster_id)[1:]


def _text(
    looks: Looks, pods: Mapping[PodKey, Pod], namespace: Namespace | None
) -> dict[tuple[str, Looks], Sequence[PodKey]]:
    if not pods:
        return {}
    pod = next(iter(pods.values()))
    text = identity_labels(pod, namespace or namespace_of(pod, {}))
    if len(text.encode()) > LONGEST_TEXT:
        return {("", looks): tuple(pods)}
    return {(text, looks): ()}


def _text_of(key: tuple[str, Looks], _: Sequence[PodKey]) -> list[str]:
    return [key[0]] if key[0] else []


def _looks_too_long(key: tuple[str, Looks], _: Sequence[PodKey]) -> list[Looks]:
    return [] if key[0] else [key[1]]


def _too_long(
    looks: Looks, texts: Mapping[tuple[str, Looks], Sequence[PodKey]]
) -> dict[Looks, Sequence[PodKey]]:
    return dict.fromkeys([looks] if texts else [], *texts.values())


def _wanted(text: str, looks: Mapping[tuple[str, Looks], Sequence[PodKey]]) -> dict[Want, bool]:
    return {Want(NOUN, POOL, text): True} if looks else {}
