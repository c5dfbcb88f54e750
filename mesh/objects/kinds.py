"""Every kind of object that is read: one place that turns a document into a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mesh.objects import kubernetes as kinds_kubernetes
from mesh.objects import own as kinds_own
from mesh.objects.tables import Head, ObjectKey, Parsed, Place

_KINDS = {**kinds_kubernetes.KINDS, **kinds_own.KINDS}


def items(document: Any) -> Iterator[Any]:
    """The document itself, or the items of a ``List`` as kubectl prints it."""
    if isinstance(document, dict) and document.get("kind") == "List":
        yield from document.get("items") or ()
    else:
        yield document


def known(head: Head) -> bool:
    """Whether there is a parser for the document."""
    return (head.api_version, head.kind) in _KINDS


def key_of(head: Head) -> ObjectKey:
    """Which object it is; a kind with namespaces has ``default`` where none is given."""
    namespaced, _ = _KINDS.get((head.api_version, head.kind), (bool(head.metadata.namespace), None))
    namespace = (head.metadata.namespace or "default") if namespaced else ""
    return ObjectKey(head.kind, namespace, head.metadata.name)


def parse(head: Head, place: Place, document: object) -> Parsed:
    """The row of a document of a known kind. Raises ``Wrong``."""
    _, make = _KINDS[head.api_version, head.kind]
    return make(place, document)
