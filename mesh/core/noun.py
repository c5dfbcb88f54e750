"""Nouns of the command line: the columns of ``meshgate NOUN list``, and the rows that fill them.

A room declares its nouns beside its rows, in ``<room>/nouns.py``; ``mesh/nouns.py`` lists them all.
The columns are the interface that others script against: each row that is printed has exactly
these keys. Nothing here, and no module of nouns, imports gRPC or numpy: the command line starts
with all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar, overload

from mesh.core.findings import Code

Row = dict[str, Any]
#: Rows of one noun, as one process has them now. Called on its event loop.
Listing = Callable[[], Sequence[Row]]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Problem:
    """What an outsider sees wrong with a row; ``about`` is as in a ``Finding``."""

    code: Code
    object: str
    field: str
    text: str
    about: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """The section of a noun in ``meshgate status``.

    ``title`` is its first line. ``columns`` are those that are shown, ``row`` makes the row that is
    shown; ``kept`` says which rows are. ``problem`` is what is wrong with a row, where no process
    says so itself.
    """

    title: Callable[[Sequence[Row]], str]
    columns: tuple[str, ...]
    problem: Callable[[Row], Problem | None]
    row: Callable[[Row], Row] = dict
    kept: Callable[[Row], bool] = lambda _: True


@dataclass(frozen=True, slots=True)
class Noun:
    """``key`` are the columns that identify a row; one that is no column is not shown.

    ``verbs`` are modules, separated by spaces, whose ``add`` registers verbs beside ``list``.
    ``details`` is the noun whose rows ``show`` prints, where it says more than ``list``.
    ``noted`` makes the row that people see in a table, where a cell says more than its value; it is
    given what is known against a node, by name.
    ``joined`` are columns of which each process knows a part: two values make one.
    """

    name: str
    text: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    shown: Shown | None = None
    verbs: str = ""
    noted: Callable[[Row, Callable[[object], str]], Row] | None = None
    details: Noun | None = None
    joined: Mapping[str, Callable[[Any, Any], Any]] = field(default_factory=dict, compare=False)

    def unknown(self, rows: Iterable[Row]) -> set[str]:
        """Columns of rows that the noun does not have: misspelt ones, which nobody would see."""
        return set().union(*rows).difference(self.columns, self.key)


def noun(
    name: str,
    text: str,
    columns: str,
    key: str,
    shown: Shown | None = None,
    noted: Callable[[Row, Callable[[object], str]], Row] | None = None,
    verbs: str = "",
    details: Noun | None = None,
    joined: Mapping[str, Callable[[Any, Any], Any]] = MappingProxyType({}),
) -> Noun:
    """A noun; ``columns`` and ``key`` are words with spaces in between."""
    names = tuple(columns.split()), tuple(key.split())
    return Noun(name, text, *names, shown, verbs, noted, details, joined)


class Rows(Sequence[Row]):
    """Rows of a snapshot that are made when they are read.

    A list of hundreds of thousands of rows is taken at one time, which costs little, and sent in
    slices, with the event loop free in between. ``part`` makes the rows from one index to another;
    it must not read what changes meanwhile.
    """

    def __init__(self, count: int, part: Callable[[int, int], Sequence[Row]]) -> None:
        self._count = count
        self._part = part

    @classmethod
    def of(cls, items: Iterable[T], shown: Callable[[T], Row]) -> Rows:
        """One row for each of the (frozen) items."""
        taken = tuple(items)
        return cls(len(taken), lambda begin, end: [shown(item) for item in taken[begin:end]])

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | Sequence[Row]:
        if isinstance(at, int):
            index = range(self._count)[at]
            return self._part(index, index + 1)[0]
        begin, end, step = at.indices(self._count)
        if step != 1:
            return [self[index] for index in range(begin, end, step)]
        return self._part(begin, max(begin, end))
