"""One manifest: its text becomes objects, document by document.

A text that changed costs its changed documents: the others are known by a digest of their text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from typing import Any

from mesh.core.model import Finding
from mesh.core.strict import Wrong, parse_json, parse_yaml
from mesh.objects.findings import DUPLICATE, REFUSED, UNKNOWN_KIND
from mesh.objects.schema import (
    Head,
    KindHead,
    Kinds,
    ObjectKey,
    Parsed,
    Place,
    head,
    items,
    kind_of,
)

#: A line that begins a YAML document, wherever it stands.
_MARK = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)

Part = tuple[tuple[ObjectKey, Parsed], ...]


@dataclass(frozen=True, slots=True)
class Content:
    """Objects of one manifest, and findings about its documents.

    ``kept`` are objects of an earlier text. ``parts`` are the objects of each part of the text, by
    the part's digest; only parts without a finding, and only in a text of several parts.
    """

    held: Mapping[ObjectKey, Parsed] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    kept: frozenset[ObjectKey] = frozenset()
    parts: Mapping[bytes, Part] = field(default_factory=dict)


NOTHING = Content()


def digest_of(text: str) -> bytes:
    """Names a text, for comparison."""
    return blake2b(text.encode(), digest_size=16).digest()


def read(kinds: Kinds, cluster: str, path: str, text: str, last: Content = NOTHING) -> Content:
    """Objects of a text; those of ``last`` stand in for refused ones. Raises ``Wrong``."""
    reading = _read_parts(kinds, cluster, path, text, last)
    reading = reading or _read_whole(kinds, cluster, path, text, last)
    if last.held and not reading.documents:
        raise Wrong("", "no object in it; remove the file to delete its objects")
    reading.keep_doubtful()
    return Content(reading.held, tuple(reading.findings), frozenset(reading.kept), reading.parts)


def read_documents(kinds: Kinds, cluster: str, path: str, documents: Iterable[Any]) -> Content:
    """Objects of documents that were in use before; what is wrong with the others is known."""
    reading = _Reading(kinds, cluster, path, NOTHING)
    reading.add(documents)
    return Content(reading.held)


def by_object(
    kinds: Kinds, cluster: str, path: str, documents: Iterable[Any]
) -> dict[ObjectKey, Any]:
    """Usable documents by object, the first one of each."""
    found: dict[ObjectKey, Any] = {}
    for document in documents:
        for item in (item for item, wrong in _listed(document) if not wrong):
            with suppress(Wrong):
                named = head(item)
                place = Place(cluster, path, kinds.key_of(named))
                if kinds.known(named) and place.key not in found:
                    kinds.parse(named, place, item)
                    found[place.key] = item
    return found


def parse(name: str, text: str) -> list[Any]:
    """The documents of a text, by the suffix of its file. Raises ``Wrong``."""
    return parse_json(text) if name.endswith(".json") else parse_yaml(text)


def _listed(document: Any) -> Iterator[tuple[Any, Wrong | None]]:
    """The objects of a document, and lists that are none; each of them costs itself."""
    try:
        listed = items(document)
    except Wrong as error:
        yield document, error
        return
    for item in listed:
        if item is document:
            yield item, None
        else:
            yield from _listed(item)


def _read_whole(kinds: Kinds, cluster: str, path: str, text: str, last: Content) -> _Reading:
    reading = _Reading(kinds, cluster, path, last)
    reading.add(parse(path, text))
    return reading


def _read_parts(kinds: Kinds, cluster: str, path: str, text: str, last: Content) -> _Reading | None:
    """A text of several YAML documents, each parsed only if it is new; None: read it as a whole.

    A part may be wrong alone and right in its place (directives), or its error have another line.
    """
    marks = [] if path.endswith(".json") else [mark.start() for mark in _MARK.finditer(text)]
    bounds = sorted({0, *marks, len(text)})
    if len(bounds) <= 2:
        return None
    reading = _Reading(kinds, cluster, path, last)
    try:
        for begin, end in pairwise(bounds):
            reading.add_part(text[begin:end])
    except Wrong:
        return None
    return reading


class _Reading:
    """The documents of one manifest, one after the other."""

    def __init__(self, kinds: Kinds, cluster: str, path: str, last: Content) -> None:
        self.kinds = kinds
        self.cluster = cluster
        self.path = path
        self.last = last
        self.held: dict[ObjectKey, Parsed] = {}
        self.findings: list[Finding] = []
        self.kept: set[ObjectKey] = set()
        self.parts: dict[bytes, Part] = {}
        self.documents = 0
        self._number = 0
        self._fresh: list[tuple[ObjectKey, Parsed]] = []
        self._doubtful: set[str] = set()
        self._nameless = False

    def add_part(self, text: str) -> None:
        """One part of a text. Raises ``Wrong`` when it cannot be parsed alone."""
        digest = digest_of(text)
        part = self.last.parts.get(digest)
        if part is None:
            part = self._new_part(text)
        else:
            self._add_again(part)
        if part:
            self.parts[digest] = part

    def _new_part(self, text: str) -> Part:
        """Parse a part; its objects, none if anything in it is worth a finding."""
        self._fresh, wrong = [], len(self.findings)
        self.add(parse_yaml(text))
        return () if len(self.findings) > wrong else tuple(self._fresh)

    def _add_again(self, part: Part) -> None:
        self.documents += 1
        for key, parsed in part:
            self._number += 1
            if key in self.held:
                self._add_twice(Place(self.cluster, self.path, key))
            else:
                self.held[key] = parsed

    def add(self, documents: Iterable[Any]) -> None:
        """Parsed documents."""
        for document in documents:
            self.documents += 1
            for item, wrong in _listed(document):
                self._number += 1
                if wrong:
                    self._refuse(wrong)
                else:
                    self._add_item(item)

    def _refuse(self, error: Wrong) -> None:
        """A finding about a document that has no name."""
        self._nameless = True
        where = f"document {self._number}: {error.path}".rstrip(": ")
        self.findings.append(Finding(REFUSED, self.path, where, error.text))

    def _add_item(self, document: object) -> None:
        try:
            if self._is_of_no_concern(kind_of(document)):
                return
            found = head(document)
        except Wrong as error:
            self._refuse(error)
            return
        place = Place(self.cluster, self.path, self.kinds.key_of(found))
        if not self.kinds.known(found):
            self._doubtful.add(found.metadata.name)
            text = f"{found.kind} of {found.api_version} is not read"
            self.findings.append(place.finding(UNKNOWN_KIND, "kind", text))
        elif place.key in self.held:
            self._add_twice(place)
        else:
            self._add_object(found, place, document)

    def _is_of_no_concern(self, kind: KindHead) -> bool:
        """Whether a document is of a kind that is neither read nor meant to be."""
        return not self.kinds.known(kind) and not self.kinds.meant(kind)

    def _add_twice(self, place: Place) -> None:
        text = f"the object is in {self.path} twice: the first one counts"
        self.findings.append(place.finding(DUPLICATE, "metadata.name", text))

    def _add_object(self, found: Head, place: Place, document: object) -> None:
        old = self.last.held.get(place.key)
        try:
            parsed = self.kinds.parse(found, place, document)
        except Wrong as error:
            kept = "; it stays as it was" if old else ""
            self.findings.append(place.finding(REFUSED, error.path, error.text + kept))
            if old:
                self._keep(place.key, old)
            return
        self.held[place.key] = parsed
        self._fresh.append((place.key, parsed))

    def keep_doubtful(self) -> None:
        """Keep a missing object that an unreadable document may be.

        That is one of a misspelt kind with its name, or one without a name.
        """
        if not self._nameless and not self._doubtful:
            return
        for key, old in self.last.held.items():
            if key not in self.held and (self._nameless or key.name in self._doubtful):
                self._keep(key, old)

    def _keep(self, key: ObjectKey, old: Parsed) -> None:
        self.held[key] = old
        self.kept.add(key)
