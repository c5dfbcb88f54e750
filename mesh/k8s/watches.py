"""Which kinds a process reads from the API server, and with which selector.

A process declares them: an agent of a big cluster must not hear of the pods of all nodes. An
optional kind comes in when its definition does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mesh.objects.kubernetes import PODS
from mesh.objects.schema import Kind
from mesh.objects.tables import ObjectNoun


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """A kind, and which of its objects."""

    kind: Kind
    fields: str = ""
    namespace: str = ""  # of the whole cluster without one

    @property
    def path(self) -> str:
        """Path of the collection."""
        version = self.kind.api_version
        within = f"namespaces/{self.namespace}/" if self.namespace else ""
        return f"/{'apis' if '/' in version else 'api'}/{version}/{within}{plural(self.kind)}"

    def path_of(self, name: tuple[str, str]) -> str:
        """Path of one object, by namespace and name."""
        if not name[0] or self.namespace:
            return f"{self.path}/{name[1]}"
        head, _, resource = self.path.rpartition("/")
        return f"{head}/namespaces/{name[0]}/{resource}/{name[1]}"

    @property
    def resource(self) -> str:
        """The resource as RBAC names it: ``pods``, ``egresspolicies.meshgate.io``."""
        return ".".join(filter(None, (plural(self.kind), self.kind.group)))


def plural(kind: Kind) -> str:
    """The resource's name: as our definition says it, else by the rule of Kubernetes."""
    if kind.definition:
        return kind.definition.plural
    lower = kind.kind.lower()
    if lower.endswith("s"):
        return f"{lower}es"
    return f"{lower[:-1]}ies" if lower.endswith("y") else f"{lower}s"


def of_controller(kinds: Iterable[Kind]) -> tuple[Watch, ...]:
    """Every kind, of the whole cluster."""
    return tuple(_watches(kinds))


def of_agent(kinds: Iterable[Kind], node: str) -> tuple[Watch, ...]:
    """Every kind; of pods only those of ``node``: the store has what others' agents have wired."""
    return tuple(_watches(kinds, pods=f"spec.nodeName={node}"))


def of_nouns(
    kinds: Iterable[Kind],
    nouns: Collection[ObjectNoun[Any, Any]],
    only: Mapping[ObjectNoun[Any, Any], tuple[str, str]] = MappingProxyType({}),
) -> tuple[Watch, ...]:
    """The kinds that make rows of these nouns.

    ``only``: of a noun, a namespace and a field selector beyond which nothing is read.
    """
    return tuple(
        Watch(watch.kind, fields, namespace)
        for watch in _watches(kinds)
        for namespace, fields in (only.get(watch.kind.noun, ("", watch.fields)),)
        if watch.kind.noun in nouns
    )


def _watches(kinds: Iterable[Kind], pods: str = "") -> Iterator[Watch]:
    for kind in kinds:
        if not kind.mirrored:
            yield Watch(kind, pods if kind.noun == PODS else "")
