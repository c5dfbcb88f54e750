"""The list of all nouns of the command line, in the order of ``meshgate --help``.

Each room declares its own; this is the one place that lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mesh.core.noun import Noun
from mesh.observe import nouns as observed

NOUNS: Final[Mapping[str, Noun]] = {
    noun.name: noun
    for noun in (
        observed.NODE,
        observed.POD,
        observed.IDENTITY,
        observed.ADDRESS,
        observed.SERVICE,
        observed.EGRESS,
        observed.BLOCK,
        observed.PEER,
        observed.FLOW,
        observed.DROP,
        observed.CLUSTER,
        observed.ROUTE,
    )
}
