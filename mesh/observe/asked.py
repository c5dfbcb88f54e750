"""The service that a connection asked for, in the rows of all nodes that saw it. Pure.

Only the node of the sender knows which service its socket had asked for (D78). Another node saw the
same connection: protocol and both ends are equal, within ``SAME_S``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime

from mesh.core.noun import Row

#: Seconds between two nodes' sights of one connection at most: their clocks may differ. A port of
#: a host is used again for the same remote after a minute.
SAME_S = 10.0
#: Seconds for which a row that has just come waits for that of the sender's node. Agents give a
#: flow within milliseconds; half a second is not yet felt by who watches.
WAIT_S = 0.5
#: Connections whose service is remembered while flows are followed: at 1,000 flows a second those
#: of ``SAME_S``, whatever their number per second in a flood.
_REMEMBERED = 10_000
_MICROSECONDS = len("2026-11-30T08:00:00.000000")

_Connection = tuple[object, ...]


def with_services(rows: Sequence[Row]) -> list[Row]:
    """The rows, with the service in those of other nodes, too."""
    asked = _Asked()
    for row in rows:
        asked.note(row)
    return [asked.named(row) for row in rows]


class Following:
    """Rows of all nodes as they come: each waits ``WAIT_S`` and goes on with its service."""

    def __init__(self) -> None:
        self._asked = _Asked(_REMEMBERED)
        self._waiting: deque[tuple[float, Row]] = deque()

    def put(self, row: Row, now: float) -> None:
        """A row has come; ``now`` is monotonic, in seconds."""
        self._asked.note(row)
        self._waiting.append((now + WAIT_S, row))

    def rest_s(self, now: float) -> float | None:
        """Seconds until the next row goes on; None while none waits."""
        return max(0.0, self._waiting[0][0] - now) if self._waiting else None

    def due(self, now: float) -> list[Row]:
        """The rows that have waited, by the time of their event."""
        rows = []
        while self._waiting and self._waiting[0][0] <= now:
            rows.append(self._asked.named(self._waiting.popleft()[1]))
        return sorted(rows, key=_time)


class _Asked:
    """Rows that name a service, by connection: all, or those of the last ``most`` connections."""

    def __init__(self, most: int | None = None) -> None:
        self._rows: dict[_Connection, list[Row]] = {}
        self._most = most

    def note(self, row: Row) -> None:
        """Remember the service of a row that has one."""
        if not row["service"]:
            return
        connection = _connection(row)
        near = [
            one for one in self._rows.pop(connection, ()) if self._most is None or _same(one, row)
        ]
        self._rows[connection] = [*near, row]
        if self._most is not None and len(self._rows) > self._most:
            del self._rows[next(iter(self._rows))]

    def named(self, row: Row) -> Row:
        """The row with the service that is known of its connection."""
        if row["service"]:
            return row
        near = [one["service"] for one in self._rows.get(_connection(row), ()) if _same(one, row)]
        return {**row, "service": near[0]} if near else row


def _connection(row: Row) -> _Connection:
    ends = (row["source"], row["destination"])
    return (row["protocol"], *((end["address"], end["port"]) for end in ends))


def _same(one: Row, other: Row) -> bool:
    return abs(_seconds(one) - _seconds(other)) <= SAME_S


def _seconds(row: Row) -> float:
    return datetime.fromisoformat(str(row["time"])[:_MICROSECONDS]).timestamp()


def _time(row: Row) -> str:
    return str(row["time"])
