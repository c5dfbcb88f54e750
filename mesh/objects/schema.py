"""What every document has in common: its head, its place, its labels and selectors.

A document (a Kubernetes object as YAML or JSON) becomes one row. A room declares a ``Kind`` for
each document that it reads: apiVersion, kind, and the function that makes the row.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from ipaddress import IPv4Address
from sys import intern
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType

from mesh.core.findings import Code
from mesh.core.model import IP, Finding, Labels, Requirement, Selector
from mesh.core.strict import Wrong, convert, parse_address
from mesh.objects.definition import Definition, Rule
from mesh.objects.fields import Field, unused_in
from mesh.objects.tables import ObjectNoun

log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_BROADCAST = IPv4Address("255.255.255.255")
#: The API group of our own kinds.
OWN_GROUP = "meshgate.io"
#: From this likeness on, the name of a kind counts as another one's, misspelt.
_NEAR = 0.8


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
    """Where a document stands: it names the object in findings. The API server has no path."""

    cluster: str
    path: str
    key: ObjectKey

    def __str__(self) -> str:
        return f"{self.path} {self.key}".lstrip()

    def finding(self, code: Code, field: str, text: str) -> Finding:
        """A finding about this document."""
        return Finding(code, str(self), field, text)


@dataclass(frozen=True, slots=True)
class Parsed:
    """``row`` under ``key`` in the table of ``noun``; no row: valid, but none of ours.

    ``unused`` are fields that are not used, or not as written, and would change where traffic goes.
    ``space``: objects of one space share their names; without it that is the noun.
    """

    noun: str
    key: Any
    row: Any
    findings: tuple[Finding, ...] = ()
    unused: tuple[Field, ...] = ()
    space: str = ""


# --- Documents --------------------------------------------------------------------------------


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
    deletion_timestamp: str | None = None
    uid: str | None = None


class KindHead(Loose, frozen=True):
    """What says of which kind a document is; an object of a kind that is not read has no more."""

    api_version: str
    kind: str

    @property
    def group(self) -> str:
        """The API group; the core group has no name."""
        group, slash, _ = self.api_version.rpartition("/")
        return group if slash else ""


class Head(KindHead, frozen=True):
    """What says which object a document is."""

    metadata: Meta


class StrictMeta(Strict, frozen=True, kw_only=True):
    """``metadata`` of a cluster-scoped object that is read strictly: what the API server writes.

    The API server clears ``namespace`` of such an object; tools set it on everything.
    """

    name: str
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    creation_timestamp: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    generation: int | None = None
    generate_name: str | None = None
    self_link: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    finalizers: list[str] | None = None
    owner_references: list[Any] | None = None
    managed_fields: list[Any] | None = None


class StrictObject(Strict, frozen=True, kw_only=True):
    """An object whose unknown fields are refused; a subclass has ``spec``."""

    api_version: str
    kind: str
    metadata: StrictMeta
    status: Any = None


class _Expression(Strict, frozen=True, kw_only=True):
    rules: ClassVar = (
        Rule(
            "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : "
            "!has(self.values) || size(self.values) == 0",
            "required with operator In and NotIn, must be empty with Exists and DoesNotExist",
            ".values",
        ),
    )
    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()


class SelectorField(Strict, frozen=True, kw_only=True):
    """A LabelSelector as written."""

    match_labels: dict[str, str] = msgspec.field(default_factory=dict)
    match_expressions: tuple[_Expression, ...] = ()


# --- Kinds ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of document and the function that makes its row; ``parse`` raises ``Wrong``.

    ``fields`` say which fields are used, and what follows where one is not. Some documents of the
    kind make a row of another noun, one of ``also``. ``former`` are kinds of its group that had its
    purpose, and that nobody reads any more. ``definition`` says how the API server serves a kind of
    ours. At an API server, an ``optional`` kind may be absent, a ``mirrored`` one is not read since
    another kind has the same, and one that ``churns`` is written by programs all the time.
    """

    api_version: str
    kind: str
    noun: ObjectNoun[Any, Any]
    parse: Callable[[Place, object], Parsed]
    namespaced: bool = False
    fields: tuple[Field, ...] = ()
    also: tuple[ObjectNoun[Any, Any], ...] = ()
    former: tuple[str, ...] = ()
    definition: Definition | None = None
    optional: bool = False
    mirrored: bool = False
    churns: bool = False

    @property
    def group(self) -> str:
        """The API group; the core group has no name."""
        return KindHead(api_version=self.api_version, kind=self.kind).group


class Kinds:
    """The kinds of document that a process reads."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._kinds = {(kind.api_version, kind.kind): kind for kind in kinds}
        self._of_group: dict[str, list[str]] = {}
        for kind in self._kinds.values():
            self._of_group.setdefault(kind.group, []).append(kind.kind)
        self._former = {(kind.group, name) for kind in self for name in kind.former}

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._kinds.values())

    def with_kinds(self, kinds: Iterable[Kind]) -> Kinds:
        """These kinds and further ones."""
        return Kinds((*self._kinds.values(), *kinds))

    @property
    def nouns(self) -> list[ObjectNoun[Any, Any]]:
        """The nouns of the kinds, each once."""
        return list(dict.fromkeys(n for kind in self for n in (kind.noun, *kind.also)))

    def known(self, head: KindHead) -> bool:
        """Whether one of the kinds reads the document."""
        return (head.api_version, head.kind) in self._kinds

    def meant(self, head: KindHead) -> bool:
        """Whether a document that is not read was most likely meant to be.

        That is one of our own API group, one of another version of a kind that is read, one of a
        former kind, and one whose kind is spelt nearly as one of its group.
        """
        ours = head.group == OWN_GROUP or head.group.endswith(f".{OWN_GROUP}")
        former = (head.group, head.kind) in self._former
        near = get_close_matches(head.kind, self._of_group.get(head.group, ()), 1, _NEAR)
        return ours or former or bool(near)

    def key_of(self, head: Head) -> ObjectKey:
        """Which object a document is; a namespaced kind has ``default`` where none is given."""
        kind = self._kinds.get((head.api_version, head.kind))
        namespaced = kind.namespaced if kind else bool(head.metadata.namespace)
        namespace = (head.metadata.namespace or "default") if namespaced else ""
        return ObjectKey(head.kind, namespace, head.metadata.name)

    def parse(self, head: Head, place: Place, document: object) -> Parsed:
        """The row of a document of a known kind. Raises ``Wrong``, for a mistake of ours, too."""
        kind = self._kinds[head.api_version, head.kind]
        try:
            parsed = kind.parse(place, document)
            unused = unused_in(kind.fields, document) if parsed.row is not None else ()
        except Wrong:
            raise
        except Exception as error:
            log.exception("event=not_parsed object=%s", place.key)
            raise Wrong("", f"meets a mistake in Meshgate: {error!r}") from error
        return replace(parsed, unused=(*parsed.unused, *unused)) if unused else parsed


class _List(Loose, frozen=True):
    items: list[Any] | None = None


def items(document: Any) -> Sequence[Any]:
    """The document itself, or the items of a list, which may be lists. Raises ``Wrong``.

    kubectl prints a ``List``, the API server a ``ServiceList`` whose items do not say their kind.
    """
    if not isinstance(document, dict) or not _is_list(document):
        return (document,)
    listed = convert(document, _List).items or ()
    kind = document["kind"].removesuffix("List")
    said = {"apiVersion": document.get("apiVersion"), "kind": kind} if kind else {}
    return [{**said, **item} if isinstance(item, dict) else item for item in listed]


def _is_list(document: dict[Any, Any]) -> bool:
    kind = document.get("kind")
    if kind == "List":
        return True
    has_items = isinstance(document.get("items", ""), list | None)
    return isinstance(kind, str) and kind.endswith("List") and has_items


def kind_of(document: object) -> KindHead:
    """Of which kind a document is. Raises ``Wrong``."""
    return convert(document, KindHead)


def head(document: object) -> Head:
    """Which object a document is. Raises ``Wrong``."""
    parsed = convert(document, Head)
    _check_name("metadata.name", parsed.metadata.name)
    if parsed.metadata.namespace is not None:
        _check_name("metadata.namespace", parsed.metadata.namespace)
    return parsed


# --- Fields -----------------------------------------------------------------------------------


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


def address_of(path: str, text: str) -> IP:
    """An address. Raises ``Wrong``."""
    try:
        return parse_address(text)
    except ValueError:
        raise Wrong(path, f"expected an IP address, got {text!r}") from None


def unicast_of(path: str, text: str) -> IP:
    """An address that other hosts can reach. Raises ``Wrong``.

    Each host takes the others for its own: a service there would get what its processes say to
    themselves.
    """
    address = address_of(path, text)
    if address.is_loopback or address.is_unspecified:
        raise Wrong(path, f"{text} means each host itself, so no other host reaches it")
    if address.is_multicast or address == _BROADCAST:
        raise Wrong(path, f"{text} is the address of several hosts, expected that of one")
    return address


def selector_of(path: str, selector: SelectorField) -> Selector:
    """A LabelSelector. Raises ``Wrong``."""
    labels = sorted(selector.match_labels.items())
    requirements = [Requirement(key, "In", (value,)) for key, value in labels]
    for number, one in enumerate(selector.match_expressions):
        values = tuple(sorted(set(one.values)))
        place = f"{path}.matchExpressions[{number}].values"
        if one.operator in ("In", "NotIn") and not values:
            raise Wrong(place, f"required with operator {one.operator}")
        if one.operator in ("Exists", "DoesNotExist") and values:
            raise Wrong(place, f"must be empty with operator {one.operator}")
        requirements.append(Requirement(one.key, one.operator, values))
    return Selector(tuple(requirements))


def optional_selector(path: str, selector: SelectorField | UnsetType) -> Selector | None:
    """A LabelSelector, or None where the field is absent. Raises ``Wrong``."""
    return None if selector is UNSET else selector_of(path, selector)


def created_at(meta: StrictMeta) -> str:
    """Creation time in one form that sorts, or empty. Raises ``Wrong``."""
    if not meta.creation_timestamp:
        return ""
    try:
        time = datetime.fromisoformat(meta.creation_timestamp)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        text = f"expected a time (RFC 3339), got {meta.creation_timestamp!r}"
        raise Wrong("metadata.creationTimestamp", text) from None
