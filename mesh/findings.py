"""All codes of findings, from the rooms that declare them; prints ``docs/findings.md``.

``make docs`` writes the document. Each room declares its codes; this is the one place that lists
the rooms.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Final

from bgp import findings as bgp
from clustermesh import findings as clusters
from gateway import findings as egress
from mesh.core.findings import AREAS, Code
from mesh.datapath import findings as datapath
from mesh.nodes import findings as nodes
from mesh.objects import findings as objects
from mesh.observe import findings as observed
from mesh.pods import findings as pods
from mesh.services import findings as services

_HEAD = """# Findings

`meshgate status` prints what is wrong, each finding with a code. This page has all codes. It is
written by `make docs` from the rooms that declare them.
"""


def table(rooms: Iterable[ModuleType]) -> dict[str, Code]:
    """The codes that the rooms declare, in order; raises ValueError when two are the same."""
    codes: dict[str, Code] = {}
    for code in (one for room in rooms for one in vars(room).values() if isinstance(one, Code)):
        if code in codes:
            raise ValueError(f"{code} has two meanings: {codes[code].meaning} {code.meaning}")
        codes[code] = code
    return {code: codes[code] for code in sorted(codes)}


def document(codes: Mapping[str, Code]) -> str:
    """The codes as Markdown, a table for each area."""
    return "\n".join([_HEAD, *_areas(codes)])


def _areas(codes: Mapping[str, Code]) -> Iterator[str]:
    for start, area in AREAS.items():
        rows = [code for code in codes.values() if code.startswith(start)]
        if rows:
            yield f"## {area}\n\n| code | meaning | mend |\n|---|---|---|"
            yield from (f"| {code} | {code.meaning} | {code.mend} |" for code in rows)
            yield ""


CODES: Final[Mapping[str, Code]] = table(
    (objects, clusters, services, nodes, pods, datapath, egress, bgp, observed)
)

if __name__ == "__main__":
    sys.stdout.write(document(CODES))
