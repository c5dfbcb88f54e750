"""What targets are: rows go to them, and only they know how."""

from __future__ import annotations

import errno
from collections.abc import Collection, Hashable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy.typing as npt

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: How the kernel says that a map is full.
MAP_FULL = (errno.E2BIG, errno.ENOSPC)

Errors = Mapping[K, Exception]


class Target(Protocol[K, V]):
    """Something outside the process that holds rows: RTNETLINK, etcd, a BGP session, a map.

    ``upsert`` and ``delete`` return the rows that failed, with the reason; they raise OSError
    when the target as a whole is out of reach. Deleting an absent row is no error.
    """

    @property
    def name(self) -> str:
        """How reports call it; a map has its own name, by which it is given a size."""

    async def read(self) -> Mapping[K, V]:
        """Return the rows that are really there."""

    async def upsert(self, rows: Mapping[K, V]) -> Errors[K]:
        """Write rows; idempotent."""

    async def delete(self, keys: Collection[K]) -> Errors[K]:
        """Remove rows."""


@runtime_checkable
class Comparing(Protocol[K, V]):
    """A target that finds out more cheaply which rows are there when it is told which may be."""

    async def read_known(self, known: Mapping[K, V]) -> Mapping[K, V]:
        """``read``; rows that are equal to those of ``known`` are the same objects."""


@runtime_checkable
class Telling(Protocol):
    """A target in which some rows tell readers that all others are there.

    ``tells`` says whether a row does. Such a row is written when no other one is owed.
    """

    def tells(self, key: Any) -> bool:
        """Whether the row goes last."""


class RowsFailed(OSError):
    """Some rows of a column target failed: ``failed`` has the errno by index."""

    def __init__(self, number: int, text: str, failed: Mapping[int, int]) -> None:
        super().__init__(number, text)
        self.failed = failed


class ColumnTarget(Protocol):
    """A target for column tables: a BPF map written in batches.

    ``upsert`` raises RowsFailed when the other rows are written; OSError means out of reach.
    """

    @property
    def name(self) -> str:
        """The map's name."""

    async def read(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Keys and values that are really there, in the table's dtypes."""

    async def upsert(self, keys: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        """Write rows; idempotent."""

    async def delete(self, keys: npt.NDArray[Any]) -> None:
        """Remove rows."""
