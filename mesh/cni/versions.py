"""Versions of the CNI specification: which are spoken, and which one a chain of plugins has. Pure.

Source: CNI SPEC.md of 0.3.1, 0.4.0, 1.0.0 and 1.1.0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

SUPPORTED = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
#: The first version that has a command.
SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
#: What a configuration without a version has (SPEC.md of 0.3.1: "if absent").
NONE = "0.1.0"


def number(version: str) -> tuple[int, ...]:
    """The version as numbers, by which versions are compared. Raises ValueError."""
    parts = version.split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise ValueError(f"expected a version as {SUPPORTED[-1]}, got {version!r}")
    return tuple(map(int, parts))


def at_least(version: str, other: str) -> bool:
    """Whether a version is ``other`` or a later one."""
    return number(version) >= number(other)


def highest(answers: Iterable[Collection[str]]) -> str:
    """The highest version that every plugin of a chain has named, empty when there is none."""
    common = set(SUPPORTED).intersection(*answers)
    return max(common, key=number, default="")
