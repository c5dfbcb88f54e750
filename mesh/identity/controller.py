"""Identities in a cluster: a number for each label text of its pods, and who has which.

    pods, namespaces              -> label text -> numbers that are wanted
    pods, numbers                 -> what is confirmed of each pod (D66)
    pod entries, confirmations    -> pods that count (``counted.py``)

Numbers are never given back (D20).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from mesh.core.feature import Claimable, ControllerFeature, Want
from mesh.core.groups import By, To
from mesh.core.model import (
    Confirmed,
    Finding,
    Identity,
    Namespace,
    Network,
    Node,
    NodeKey,
    Pod,
    PodKey,
    PodRef,
)
from mesh.core.noun import Listing, Row, Rows
from mesh.core.reconcile import Loop
from mesh.core.sources import OwnStore, Remote
from mesh.core.table import Table
from mesh.identity.counted import CountedPods
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
#: In place of a number: the labels are too long for an identity.
NO_IDENTITY = -1


class IdentityController(ControllerFeature):
    """``id_`` is the id of the cluster: the upper bits of its identities."""

    def __init__(
        self,
        cluster: str,
        id_: int,
        pools: Sequence[Network],
        objects: Objects,
        store: OwnStore,
        remote: Remote,
        node: Table[NodeKey, Node],
    ) -> None:
        self._objects, self._remote, self._node = objects, remote, node
        self._pools = tuple(pools)
        self._numbers = Numbers(cluster, id_, store.claims_of(NOUN).held)
        self.identity: Table[int, Identity] = self._numbers.identity
        self.number: Table[str, int] = self._numbers.number
        self.wants = (Table[Want, bool]("identity wanted"),)
        self.claims = (Claimable(NOUN, lambda _: numbers_of(id_)),)
        self._too_long: Table[Looks, Sequence[PodKey]] = Table("labels too long for an identity")
        #: What this controller says of pods, whether or not it leads.
        self.confirmed: Table[PodRef, Confirmed] = Table("confirmed pod")
        self._confirms: Table[str, None] = Table("pods are confirmed")
        self._confirms.replace({cluster: None})
        self.counted = CountedPods(
            cluster, store.pods, self.confirmed, self._confirms, self.identity, self.number
        )
        self._number_of: Table[Looks, int] = Table("number of pods that look alike")
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
        by_looks = By(self._texts, lambda key, _: [key[1]])
        loop.group(self._number_of, _number_of, by_looks, To(self.number, _only_text))
        loop.group(
            self.confirmed, self._confirm, By(objects[PODS], _ref_of), To(self._number_of, _looks)
        )
        self.counted.derive(loop, self._node)

    def _confirm(
        self, ref: PodRef, pods: Mapping[PodKey, Pod], number: int | None
    ) -> dict[PodRef, Confirmed]:
        """The identity of a pod. A changed one stays until the new one is claimed (D23).

        So the row of before is an input, too. Nothing but this group writes it.
        """
        if not pods or number == NO_IDENTITY:
            return {}
        last = self.confirmed.rows.get(ref)
        if not number and last is None:
            return {}
        reported = next(iter(pods.values())).reported
        others = tuple(one for one in reported if not any(one in pool for pool in self._pools))
        return {ref: Confirmed(number or (last.identity if last else 0), others)}

    def findings(self) -> Iterable[Finding]:
        yield from self.counted.findings()
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


def _only_text(_: Looks, texts: Mapping[tuple[str, Looks], Sequence[PodKey]]) -> str | None:
    return next(iter(texts))[0] if texts else None


def _number_of(
    looks: Looks, texts: Mapping[tuple[str, Looks], Sequence[PodKey]], number: int | None
) -> dict[Looks, int]:
    """The identity of pods that look alike, once it is claimed."""
    if not texts:
        return {}
    known = NO_IDENTITY if not _only_text(looks, texts) else number
    return {looks: known} if known else {}


def _ref_of(_: PodKey, pod: Pod) -> list[PodRef]:
    return [PodRef(pod.node, pod.namespace, pod.name)]


def _looks(_: PodRef, pods: Mapping[PodKey, Pod]) -> Looks | None:
    return looks_of(next(iter(pods.values()))) if pods else None


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
