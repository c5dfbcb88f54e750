"""Objects of a cluster as tables, one for each noun.

A source (``mesh/objects/manifests.py``, ``mesh/k8s/source.py``) fills the tables. A room reads the
tables of its nouns, ``objects[POLICIES]``, and does not see which source filled them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mesh.core.model import Finding
from mesh.core.table import Table

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class ObjectNoun(Generic[K, V]):
    """What objects of one or several kinds become: rows of ``V`` by ``K``."""

    name: str


class Objects:
    """The objects of one cluster; ``findings`` are about objects that are not used as written."""

    def __init__(self, nouns: Iterable[ObjectNoun[Any, Any]]) -> None:
        self._tables: dict[str, Table[Any, Any]] = {
            noun.name: Table(f"object {noun.name}") for noun in nouns
        }
        self.findings: Table[str, Finding] = Table("object finding")

        self._shown: dict[str, Table[Any, Any]] = {}

    def __getitem__(self, noun: ObjectNoun[K, V]) -> Table[K, V]:
        return self._shown.get(noun.name, self._tables[noun.name])

    def show(self, noun: ObjectNoun[K, V], table: Table[K, V]) -> None:
        """Let rooms read ``table``, which holds further rows, in place of what sources fill."""
        self._shown[noun.name] = table

    def tables(self) -> Mapping[str, Table[Any, Any]]:
        """The tables of rows, by ``Parsed.noun``."""
        return self._tables
