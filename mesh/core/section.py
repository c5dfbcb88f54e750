"""A part of a configuration file; a room declares the part that is about the room."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from mesh.core.strict import Wrong


class Section(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True
):
    """Fields of a section; keys are camelCase in the file."""

    def problems(self, path: str) -> Iterator[Wrong]:  # noqa: ARG002 - for subclasses
        """What single fields cannot say; ``path`` is the section's own."""
        yield from ()
