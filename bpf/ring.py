"""A ring buffer drained as arrays: one copy per span, no Python per record.

The ring and the reader's position live in the map, so a new process continues where the last one
stopped. One reader at a time, one record type per ring. x86-64 orders these loads and stores as
they stand; other machines would need barriers that Python has not.
"""

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from bpf.btf import Dtype
from bpf.maps import Map

_BUSY, _DISCARD = 1 << 31, 1 << 30
_HEADER = 8
_PAGE = mmap.PAGESIZE

Array = npt.NDArray[Any]


class Ring:
    """Records of ``dtype`` in the order in which they were reserved.

    ``fd`` is readable when there are records: give it to ``loop.add_reader``. ``foreign`` counts
    records of another size, which are skipped.
    """

    def __init__(self, ring: Map, dtype: Dtype) -> None:
        self.fd = ring.fd
        self.dtype = np.dtype(dtype)
        self.foreign = 0
        self._mask = ring.max_entries - 1
        step = _HEADER + -(-self.dtype.itemsize // 8) * 8
        self._record = np.dtype(
            {
                "names": ["length", "content"],
                "formats": ["u4", self.dtype],
                "offsets": [0, _HEADER],
                "itemsize": step,
            }
        )
        self._position = mmap.mmap(ring.fd, _PAGE)
        self._data = mmap.mmap(  # the writer's position, then the ring twice: no wrap to care for
            ring.fd, _PAGE + 2 * ring.max_entries, prot=mmap.PROT_READ, offset=_PAGE
        )
        self._consumer = np.frombuffer(self._position, np.uint64, 1)
        self._producer = np.frombuffer(self._data, np.uint64, 1)

    def close(self) -> None:
        """Unmap; the descriptor belongs to the map."""
        del self._consumer, self._producer
        self._position.close()
        self._data.close()

    def drain(self, limit: int = 65536) -> Array:
        """At most ``limit`` finished records, which are then gone from the ring."""
        parts: list[Array] = []
        left = limit
        while left > 0:
            part = self._span(left)
            parts.append(part)
            left -= len(part)
            if not self._skip():
                break
        return parts[0] if len(parts) == 1 else np.concatenate(parts, dtype=self.dtype)

    def _span(self, limit: int) -> Array:
        start, step = int(self._consumer[0]), self._record.itemsize
        count = min((int(self._producer[0]) - start) // step, limit)
        at = _PAGE + (start & self._mask)
        good = np.frombuffer(self._data, self._record, count, at)["length"] == self.dtype.itemsize
        if not good.all():
            count = int(np.argmin(good))
        span = np.frombuffer(self._data, f"V{step}", count, at).copy()
        self._consumer[0] = start + count * step
        records: Array = span.view(self._record)["content"]
        return records

    def _skip(self) -> bool:
        """Step over one discarded or foreign record; False when there is none (or a busy one)."""
        start = int(self._consumer[0])
        if int(self._producer[0]) <= start:
            return False
        at = _PAGE + (start & self._mask)
        length = int(np.frombuffer(self._data, np.uint32, 1, at)[0])
        if length & _BUSY or length == self.dtype.itemsize:
            return False
        self.foreign += not length & _DISCARD
        self._consumer[0] = start + _HEADER + -(-(length & ~_DISCARD) // 8) * 8
        return True
