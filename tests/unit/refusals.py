"""What a test expects of a refused configuration or object."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.core.strict import Misfit, Wrong


@dataclass(frozen=True, slots=True)
class Refused:
    """A value that msgspec refuses in words of its own, and the path of the value."""

    path: str
    value: object


def agrees(error: BaseException | None, expected: str | Refused) -> bool:
    """Whether our sentence begins as expected, or msgspec refused the expected value."""
    if isinstance(expected, str):
        return isinstance(error, Wrong) and str(error).startswith(expected)
    found = Refused(error.path, error.value) if isinstance(error, Misfit) else None
    return found == expected and type(found.value) is type(expected.value)
