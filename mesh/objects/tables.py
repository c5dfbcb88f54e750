"""Objects of a cluster as tables, and what every document has in common.

A document (a Kubernetes object as YAML or JSON) becomes one row: ``mesh/objects/kinds.py`` says
how, the same for every source of objects. The folder of manifests (``mesh/objects/manifests.py``)
is one source, the API server (to come) the other; both fill ``Objects``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from sys import intern
from typing import Any

import msgspec

from mesh.core.model import (
    BGPPeer,
    EgressPolicy,
    EndpointSlice,
    EndpointSliceKey,
    Finding,
    Labels,
    Namespace,
    Node,
    NodeKey,
    Pod,
    PodKey,
    ServiceKey,
    ServiceObject,
)
from mesh.core.strict import Wrong, convert
from mesh.core.table import Table

#: Finding codes: an object that was refused; one that is used, but not as its author expects.
REFUSED = "M103"
UNSUPPORTED = "M106"

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


class Objects:
    """The objects of one cluster; ``findings`` are about objects that are not used as written."""

    def __init__(self) -> None:
        self.nodes: Table[NodeKey, Node] = Table("object node")
        self.namespaces: Table[str, Namespace] = Table("object namespace")
        self.pods: Table[PodKey, Pod] = Table("object pod")
        self.services: Table[ServiceKey, ServiceObject] = Table("object service")
        self.slices: Table[EndpointSliceKey, EndpointSlice] = Table("object slice")
        self.egress: Table[str, EgressPolicy] = Table("object egress")
        self.peers: Table[str, BGPPeer] = Table("object peer")
        self.findings: Table[str, Finding] = Table("object finding")

    def tables(self) -> Mapping[str, Table[Any, Any]]:
        """The tables of rows, by ``Parsed.noun``."""
        return {
            "node": self.nodes,
            "namespace": self.namespaces,
            "pod": self.pods,
            "service": self.services,
            "slice": self.slices,
            "egress": self.egress,
            "peer": self.peers,
        }


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """Which object a document is; ``namespace`` is empty for cluster-scoped kinds."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return "/".join(part for part in (self.kind, self.namespace, self.name) if part)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a document stands: it names the object in findings."""

    cluster: str
    path: str
    key: ObjectKey

    def __str__(self) -> str:
        return f"{self.path} {self.key}"

    def finding(self, code: str, field: str, text: str) -> Finding:
        """A finding about this document."""
        return Finding(code, str(self), field, text)


@dataclass(frozen=True, slots=True)
class Parsed:
    """``row`` under ``key`` in the table of ``noun``; no row: valid, but none of ours."""

    noun: str
    key: Any
    row: Any
    findings: tuple[Finding, ...] = ()


class Loose(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Part of a Kubernetes object: unknown fields are ignored."""


class Strict(msgspec.Struct, frozen=True, rename="camel", kw_only=True, forbid_unknown_fields=True):
    """Part of an object whose unknown fields are refused."""


class Meta(Loose, frozen=True):
    """``metadata``, of which we use little."""

    name: str
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Head(Loose, frozen=True):
    """What says which object a document is."""

    api_version: str
    kind: str
    metadata: Meta


def head(document: object) -> Head:
    """Which object a document is. Raises ``Wrong``."""
    found = convert(document, Head)
    _check_name("metadata.name", found.metadata.name)
    if found.metadata.namespace is not None:
        _check_name("metadata.namespace", found.metadata.namespace)
    return found


def _check_name(path: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Wrong(path, f"expected a name of a-z, 0-9, '-' and '.', got {name!r}")


def name_of(path: str, name: str | None, default: str = "") -> str:
    """The name of another object, or the default. Raises ``Wrong``."""
    if not (name or default):
        raise Wrong(path, "required")
    _check_name(path, name or default)
    return name or default


def labels_of(path: str, labels: Mapping[str, str] | None) -> Labels:
    """Sorted labels, each of which fits into an identity's text. Raises ``Wrong``."""
    for key, value in (labels or {}).items():
        prefix, slash, name = key.rpartition("/")
        if not _LABEL_NAME.fullmatch(name) or (slash and not _NAME.fullmatch(prefix)):
            raise Wrong(f"{path}.{key}", "not a label key")
        if not _LABEL_VALUE.fullmatch(value):
            raise Wrong(f"{path}.{key}", f"not a label value: {value!r}")
    # One object of many has the same labels as its neighbours: their texts are kept once.
    return tuple(sorted((intern(key), intern(value)) for key, value in (labels or {}).items()))
