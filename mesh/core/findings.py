"""What a finding's code is: text with a meaning and a mend.

A room declares its codes in its ``findings.py``, and nowhere else; ``mesh/findings.py`` lists the
rooms and writes ``docs/findings.md``. A code means one thing and never changes its meaning. A code
that is no longer used is not given away again.
"""

from __future__ import annotations

import re
from typing import Self

#: First letter of a code, and what it is about.
AREAS = {
    "M": "Mesh",
    "B": "BGP",
    "E": "Egress",
    "S": "SRv6",
    "P": "Policy",
    "D": "Datapath and node",
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
        if not re.fullmatch(r"[A-Z]\d{3}", code) or code[0] not in AREAS:
            raise ValueError(
                f"{code!r} is no code: expected one of {', '.join(AREAS)} and 2 digits"
            )
        one = super().__new__(cls, code)
        one.meaning, one.mend = meaning, mend
        return one
