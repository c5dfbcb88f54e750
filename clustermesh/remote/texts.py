"""A column of short texts: their bytes stand behind one another, so a text costs 6 bytes more."""

from __future__ import annotations

from array import array

#: Bytes of texts that are gone, beyond which a column is written anew.
_GARBAGE = 4096
_LONGEST = (1 << 16) - 1


class Texts:
    """A text by row number; rows are added at the end."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._start = array("I")
        self._length = array("H")
        self._garbage = 0

    def __len__(self) -> int:
        return len(self._start)

    @property
    def size(self) -> int:
        """Bytes of all texts, with those that are gone and not yet cleared."""
        return len(self._bytes)

    def __getitem__(self, row: int) -> str:
        return self._read(row).decode()

    def __setitem__(self, row: int, text: str) -> None:
        """Replace a text; one of more than 65,535 bytes counts as none."""
        raw = text.encode()
        if len(raw) > _LONGEST:
            raw = b""
        self._garbage += self._length[row]
        self._write(row, raw)
        if self._garbage > max(_GARBAGE, len(self._bytes) // 2):
            self._tidy()

    def append(self, text: str) -> None:
        """Add a row."""
        self._start.append(0)
        self._length.append(0)
        self[len(self) - 1] = text

    def _read(self, row: int) -> bytes:
        start = self._start[row]
        return bytes(self._bytes[start : start + self._length[row]])

    def _write(self, row: int, raw: bytes) -> None:
        self._start[row], self._length[row] = len(self._bytes), len(raw)
        self._bytes += raw

    def _tidy(self) -> None:
        texts = [self._read(row) for row in range(len(self))]
        self._bytes, self._garbage = bytearray(), 0
        for row, raw in enumerate(texts):
            self._write(row, raw)
