"""What a finding's code is: text with a meaning and a mend.

A room declares its codes in its ``findings.py``, and nowhere else; ``mesh/findings.py`` lists the
rooms and writes ``docs/findings.md``. A code means one thing and never changes its meaning. A code
that is no longer used is not given away again.
"""

from __future__ import annotations

import re
from typing import Self

#: First letter and first digit of a code, and what it is about.
AREAS = {
    "M1": "Mesh",
    "B2": "BGP",
    "E3": "Egress",
    "S4": "SRv6",
    "P5": "Policy",
    "D6": "Datapath and node",
}


class Code(str):
    """A code as text, so that it compares and travels as text does.

    ``meaning`` says what is so, and what follows from it for whom. ``mend`` says what an operator
    does about it.
    """

    __slots__ = ("meaning", "mend")

    meaning: str
    mend: str

    def __new__(cls, code: str, meaning: str, mend: str) -> Self:
        if not re.fullmatch(r"[A-Z]\d{3}", code) or code[:2] not in AREAS:
            raise ValueError(
                f"{code!r} is no code: expected one of {', '.join(AREAS)} and 2 digits"
            )
        one = super().__new__(cls, code)
        one.meaning, one.mend = meaning, mend
        return one
