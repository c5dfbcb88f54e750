"""Which rows with pod selectors select each pod, by an index of labels.

A selector belongs to the labels of one of its ``In`` requirements, the one with the fewest values;
to ANY when it has none. Pods that no selector can tell apart have the same *looks* and are judged
once, against the selectors of their labels and of ANY. So a pod costs the selectors of its labels,
and a changed selector costs the looks with its label.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from mesh.core.groups import By, Each, To
from mesh.core.model import Labels, Namespace, Node, NodeKey, Pod, PodKey, PodSelector, Selector
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.identity.labels import NAMESPACE_LABEL_PREFIX, namespace_of, pod_labels
from mesh.identity.selectors import matches, matches_pod
from mesh.objects.kubernetes import NAMESPACES, NODES
from mesh.objects.tables import Objects

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Pair = tuple[str, str]
#: The label of selectors that no single label narrows down.
ANY: Pair = ("", "")


@dataclass(frozen=True, slots=True)
class Looks:
    """A pod as selectors see it, but for its node."""

    namespace: str
    labels: Labels
    account: str


@dataclass(frozen=True, slots=True)
class Seen:
    """All labels of the pods with the same looks, with the parts that selectors ask for."""

    pod: Pod
    namespace: Namespace
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Chosen(Generic[V]):
    """A row that selects the looks; ``nodes`` are its node selectors, None: any node."""

    row: V
    nodes: tuple[Selector, ...] | None


class Matching(Generic[K, V]):
    """``chosen`` has the rows of ``table`` that select each pod of ``pods``, by key.

    ``selectors`` gives a row's pod selectors, of which one is enough.
    """

    def __init__(
        self,
        objects: Objects,
        pods: Table[PodKey, Pod],
        table: Table[K, V],
        selectors: Callable[[V], Iterable[PodSelector]],
    ) -> None:
        self.chosen: Table[PodKey, Mapping[K, V]] = Table(f"{table.name} of pod")
        self._objects, self._pods, self._table = objects, pods, table
        self._selectors = selectors
        self._by_pair: Table[Pair, Mapping[K, V]] = Table(f"{table.name} of label")
        self._seen: Table[Looks, Seen] = Table("looks of pods")
        self._of_looks: Table[Looks, Mapping[K, Chosen[V]]] = Table(f"{table.name} of looks")

    def derive(self, loop: Loop) -> None:
        """Add the derivations."""
        objects = self._objects
        loop.group(self._by_pair, _by_pair, By(self._table, self._pairs))
        loop.group(
            self._seen,
            _seen,
            By(self._pods, lambda _, pod: [looks_of(pod)]),
            To(objects[NAMESPACES], lambda looks, _: looks.namespace),
        )
        loop.group(
            self._of_looks, self._choose, By(self._seen), Each(self._by_pair, _pairs_of_seen)
        )
        loop.group(
            self.chosen,
            _of_pod,
            By(self._pods),
            To(self._of_looks, lambda _, pod: looks_of(pod) if pod else None),
            To(objects[NODES], lambda _, pod, __: NodeKey(pod.cluster, pod.node) if pod else None),
        )

    def _pairs(self, _: K, row: V) -> list[Pair]:
        return [pair for one in self._selectors(row) for pair in selector_pairs(one)]

    def _choose(
        self, looks: Looks, seen: Seen | None, by_pair: Mapping[Pair, Mapping[K, V]]
    ) -> dict[Looks, Mapping[K, Chosen[V]]]:
        if seen is None:
            return {}
        chosen: dict[K, Chosen[V]] = {}
        for rows in by_pair.values():
            for key, row in rows.items():
                if key not in chosen and (one := self._judged(row, seen)):
                    chosen[key] = one
        return {looks: chosen} if chosen else {}

    def _judged(self, row: V, seen: Seen) -> Chosen[V] | None:
        selecting = [
            one
            for one in self._selectors(row)
            if matches_pod(PodSelector(one.namespaces, one.pods), seen.pod, seen.namespace, {})
        ]
        if not selecting:
            return None
        if any(one.nodes is None for one in selecting):
            return Chosen(row, None)
        return Chosen(row, tuple(one.nodes for one in selecting if one.nodes))


def looks_of(pod: Pod) -> Looks:
    """What selectors see of a pod."""
    return Looks(pod.namespace, pod.labels, pod.service_account)


def selector_pairs(selector: PodSelector) -> list[Pair]:
    """The labels of one ``In`` requirement of the selector; ANY when it has none."""
    return label_pairs([("", selector.pods), (NAMESPACE_LABEL_PREFIX, selector.namespaces)])


def label_pairs(parts: Iterable[tuple[str, Selector | None]]) -> list[Pair]:
    """The labels of the ``In`` requirement with the fewest values; ANY when there is none.

    Each part has a prefix of its keys.
    """
    required = [
        [(prefix + rule.key, value) for value in rule.values]
        for prefix, part in parts
        for rule in (part.requirements if part else ())
        if rule.operator == "In"
    ]
    return min(required, key=len) if required else [ANY]


def _by_pair(pair: Pair, rows: Mapping[K, V]) -> dict[Pair, Mapping[K, V]]:
    return {pair: dict(rows)} if rows else {}


def _seen(
    looks: Looks, pods: Mapping[PodKey, Pod], namespace: Namespace | None
) -> dict[Looks, Seen]:
    if not pods:
        return {}
    pod = min(pods.values(), key=lambda pod: (pod.cluster, pod.name))
    whose = namespace or namespace_of(pod, {})
    return {looks: Seen(pod, whose, (*pod_labels(pod, whose).items(), ANY))}


def _pairs_of_seen(_: Looks, seen: Seen | None) -> tuple[Pair, ...]:
    return seen.pairs if seen else ()


def _of_pod(
    key: PodKey, pod: Pod | None, chosen: Mapping[K, Chosen[V]] | None, node: Node | None
) -> dict[PodKey, Mapping[K, V]]:
    if pod is None or not chosen:
        return {}
    labels = dict(node.labels) if node else {}
    rows = {
        name: one.row
        for name, one in chosen.items()
        if one.nodes is None or any(matches(nodes, labels) for nodes in one.nodes)
    }
    return {key: rows} if rows else {}
