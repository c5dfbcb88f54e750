"""Events that were left out because a sender had used up its share, by sender.

``mg_event_rate`` counts by sender: a device of this node in its first half, an address elsewhere
in the second one (``event_sender`` in ``bpf/include/event.h``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mesh.core.noun import Row

#: Seconds over which events are counted, and between two looks.
WINDOW_S, LOOK_S = 60.0, 5.0
#: Senders that are not known by a device.
ELSEWHERE = "elsewhere"

Totals = npt.NDArray[np.uint64]


class Unshown:
    """Totals of each sender as they were; ``senders`` are the rows that devices have."""

    def __init__(self, senders: int) -> None:
        self._senders = senders
        self._samples: deque[tuple[float, Totals]] = deque()

    def note(self, at: float, totals: Totals) -> None:
        """The totals at a time; of those before, one that is a window old stays."""
        self._samples.append((at, totals))
        while len(self._samples) > 1 and self._samples[1][0] <= at - WINDOW_S:
            self._samples.popleft()

    def rows(self, node: str, devices: Mapping[int, str]) -> list[Row]:
        """``sender``, ``events`` and ``node``, most first; ``devices`` are names by ifindex."""
        if not self._samples:
            return []
        added = self._samples[-1][1] - self._samples[0][1]
        names = {ifindex % self._senders: name for ifindex, name in devices.items()}
        events: dict[str, int] = {}
        for number in np.flatnonzero(added).tolist():
            name = names.get(number, ELSEWHERE) if number < self._senders else ELSEWHERE
            events[name] = events.get(name, 0) + int(added[number])
        return [
            {"sender": name, "events": count, "node": node}
            for name, count in sorted(events.items(), key=lambda pair: (-pair[1], pair[0]))
        ]


def totals(values: npt.NDArray[Any]) -> Totals:
    """Of a dump of ``mg_event_rate``."""
    return np.ascontiguousarray(values["total"], np.uint64)
