"""All codes of findings, from the rooms that declare them; prints ``docs/findings.md``.

``make docs`` writes the document. A room declares its codes in its ``findings.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType

from mesh.core.findings import Code

#: First letter of a code, and what it is about.
AREAS = {
    "M": "Mesh",
    "B": "BGP",
    "E": "Egress",
    "S": "SRv6",
    "V": "VRFs and SRv6",
    "P": "Policy",
    "D": "Datapath and node",
}
_TOP = Path(__file__).parents[1]
#: Where rooms are.
_PLACES = ("*/findings.py", "*/*/findings.py")
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


def rooms() -> list[ModuleType]:
    """The modules in which rooms declare codes."""
    ours = {Path(__file__), _TOP / "mesh/core/findings.py"}
    paths = {path for place in _PLACES for path in _TOP.glob(place)} - ours
    return [
        import_module(".".join(p.relative_to(_TOP).with_suffix("").parts)) for p in sorted(paths)
    ]


if __name__ == "__main__":
    sys.stdout.write(document(table(rooms())))
