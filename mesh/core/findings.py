"""What a finding's code is: text with a meaning and a mend.

A room declares its codes in its ``findings.py``, and nowhere else; ``mesh/findings.py`` lists the
rooms and writes ``docs/findings.md``. A code means one thing and never changes its meaning. A code
that is no longer used is not given away again.
"""

from __future__ import annotations

import re
from typing import Self

#: What a finding is ``about`` when the store does not answer its process.
STORE = "store"


class Code(str):
    """A code as text, so that it compares and travels as text does.

    ``meaning`` says what is so, and what follows from it for whom. ``mend`` says what an operator
    does about it.
    """

    __slots__ = ("meaning", "mend")

    meaning: str
    mend: str

    def __new__(cls, code: str, meaning: str, mend: str) -> Self:
        if not re.fullmatch(r"[A-Z]\d{3}", code):
            raise ValueError(f"{code!r} is no code: expected the letter of an area and 3 digits")
        one = super().__new__(cls, code)
        one.meaning, one.mend = meaning, mend
        return one
