"""Counters over time: packets dropped during the last minute, by origin. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

#: Seconds over which packets are counted.
WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Dropped:
    """Packets of one reason: those of pods of this node, of other nodes, and of the outside."""

    pod: int = 0
    overlay: int = 0
    outside: int = 0

    @property
    def packets(self) -> int:
        """All of them."""
        return self.pod + self.overlay + self.outside

    def since(self, before: Dropped) -> Dropped:
        """The packets added since; a counter that went back has begun anew."""
        if any(a < b for a, b in zip(self._all(), before._all(), strict=True)):
            return self
        return Dropped(*(a - b for a, b in zip(self._all(), before._all(), strict=True)))

    def _all(self) -> tuple[int, int, int]:
        return self.pod, self.overlay, self.outside


#: By the number of the reason.
Drops = Mapping[int, Dropped]


@dataclass(slots=True)
class History:
    """Counters as they were; ``note`` is called every few seconds."""

    _samples: deque[tuple[float, Drops]] = field(default_factory=deque)

    def note(self, at: float, counters: Drops) -> None:
        """The counters at a time; of those before, one that is a window old stays."""
        self._samples.append((at, counters))
        while len(self._samples) > 1 and self._samples[1][0] <= at - WINDOW_S:
            self._samples.popleft()

    def lately(self) -> dict[int, Dropped]:
        """Reasons that have dropped packets in the window before the last note."""
        if not self._samples:
            return {}
        first, last = self._samples[0][1], self._samples[-1][1]
        found = {number: now.since(first.get(number, Dropped())) for number, now in last.items()}
        return {number: dropped for number, dropped in found.items() if dropped.packets}
