"""What the speaker knows of BFD: it reads the agent's maps and writes none.

The datapath judges, with every process dead or not; this is how the speaker hears of it. A look
costs one call of some microseconds, so it is taken often, and only while a BGPPeer wants BFD. An
agent that is updated may put new maps in the place of the old ones: a pin that has another inode
is opened again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bgp.bfd.maps import DOWN, PATH_MAP, SESSION_MAP, STATE_MAP, UP, decode_seen, decode_session
from bgp.bfd.packet import State
from bgp.bfd.rows import Session, SessionKey
from bgp.route import PeerKey
from bpf.maps import Map
from bpf.pinned import layout, opened
from mesh.core.files import in_words
from mesh.core.model import IP
from mesh.core.table import Table
from mesh.core.ticks import tick

log = logging.getLogger(__name__)

#: Which object has the maps.
OBJECT = "uplink"
#: Seconds between looks: a session that is down is closed within this time. It is at most a quarter
#: of the shortest detection time, but for the last one, so that looks at slow sessions are few.
LOOKS_S, LOOK_SHARE = (0.2, 0.1, 0.05), 4
#: Seconds between looks at which sessions there are, and at whether the pins are the same.
PINS_S = 1.0


class Standing(StrEnum):
    """Of a peer with BFD, as ``peer list`` has it."""

    UP = "up"
    DOWN = "down"
    UNKNOWN = "-"  # never up so far, or the router has switched BFD off


@dataclass(frozen=True, slots=True)
class Liveness:
    """The way to a peer, since when (Unix time), and the number that next hops name."""

    number: int
    path: Standing
    since: float


_PATHS = {UP: Standing.UP, DOWN: Standing.DOWN}


class Maps:
    """The three maps of BFD, opened by their pins; raises OSError while they are away."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: dict[str, tuple[int, Map]] = {}

    def close(self) -> None:
        """Give the descriptors back."""
        for _, map_ in self._open.values():
            map_.close()
        self._open = {}

    def check(self) -> None:
        """Open again what stands under another inode by now."""
        for name, (inode, map_) in list(self._open.items()):
            with suppress(FileNotFoundError):
                if (self._directory / name).stat().st_ino == inode:
                    continue
            map_.close()
            del self._open[name]

    def _map(self, name: str) -> Map:
        if name not in self._open:
            path = self._directory / name
            self._open[name] = path.stat().st_ino, self._opened(name)
        return self._open[name][1]

    def _opened(self, name: str) -> Map:
        """A map with the layout of our own object: the kernel's copy of it is for CAP_SYS_ADMIN."""
        return opened(self._directory / name, *layout(OBJECT, name), read_only=True)

    def sessions(self) -> dict[SessionKey, Session]:
        """Sessions that the agent wants."""
        keys, values = self._map(SESSION_MAP).dump()
        rows = (decode_session(key, value) for key, value in zip(keys, values, strict=True))
        return {key: row for key, row in rows if not row.ending}

    def paths(self, numbers: Iterable[int]) -> dict[int, int]:
        """``enum bfd_path`` of each of these numbers; a node has few peers with BFD."""
        found = {number: self._map(PATH_MAP).lookup(number) for number in numbers}
        return {number: int(path) for number, path in found.items() if path is not None}

    def since(self, number: int) -> float:
        """Unix time of the last change of a session's state."""
        value = self._map(STATE_MAP).lookup(number)
        seen = decode_seen(number, value)[1] if value is not None else None
        if seen is None or (not seen.since_ns and seen.state != State.UP):
            return 0.0
        return time.time() - (time.monotonic_ns() - seen.since_ns) / 1e9


class Watch:
    """Keeps ``liveness`` as long as ``wanted`` gives sessions.

    ``wanted`` are both ends of the sessions of peers with BFD. ``fallen`` gets each peer whose
    session goes down, or is down at the first look.
    """

    def __init__(
        self,
        directory: Path | None,
        wanted: Callable[[], Mapping[IP, SessionKey]],
    ) -> None:
        self.liveness: Table[IP, Liveness] = Table("BFD of a peer")
        self.liveness.mark_synced()
        #: The numbers alone, which paths of the datapath name.
        self.number: Table[IP, int] = Table("number of BFD session")
        self.number.mark_synced()
        #: Why nothing can be read, in words.
        self.problem = ""
        self.fallen: asyncio.Queue[IP] = asyncio.Queue()
        self._wanted = wanted
        self._directory = directory
        self.maps = Maps(directory) if directory else None
        self._sessions: Mapping[SessionKey, Session] = {}
        self._looked = 0.0
        self._paths, self._judged = dict[int, int](), dict[IP, SessionKey]()

    async def run(self) -> None:
        """Look for ever."""
        try:
            while True:
                wanted = self._wanted()
                if wanted:
                    self.look(wanted)
                elif self.liveness.rows:
                    self._judged = {}
                    self._keep({})
                await tick(self.pause_s() if wanted else PINS_S)
        finally:
            if self.maps:
                self.maps.close()

    def pause_s(self) -> float:
        """Until the next look, by the session that detects fastest."""
        ours = (one.interval_us * one.multiplier / 1e6 for one in self._sessions.values())
        most = min(ours, default=0.0) / LOOK_SHARE
        return next((one for one in LOOKS_S if one <= most), LOOKS_S[-1])

    def look(self, wanted: Mapping[IP, SessionKey]) -> None:
        """Take in what the maps say now; what cannot be read stays as it was."""
        if self.maps is None:
            self.problem = "the configuration names no bpffs"
            return
        try:
            found = self._found(self.maps, wanted)
        except OSError as error:
            self._judged = {}
            self.problem = f"{self._directory}: {in_words(error)}"
            self.maps.close()
            self._looked = 0.0
            return
        self.problem = ""
        if found is None:
            return
        fallen = [
            peer
            for peer, row in found.items()
            if row.path == Standing.DOWN and self._was(peer) != Standing.DOWN
        ]
        self._keep(found)
        for peer in fallen:
            log.warning("event=bfd_down peer=%s", peer)
            self.fallen.put_nowait(peer)

    def _keep(self, found: Mapping[IP, Liveness]) -> None:
        self.liveness.replace(found)
        self.number.replace({peer: row.number for peer, row in found.items()})

    def shown(self, peer: PeerKey) -> str:
        """The cell of ``peer list``; ``-`` too where a peer has no BFD."""
        row = next((row for key, row in self.liveness.rows.items() if key == peer), None)
        return str(row.path if row else Standing.UNKNOWN)

    def _was(self, peer: IP) -> Standing | None:
        row = self.liveness.rows.get(peer)
        return row.path if row else None

    def _found(self, maps: Maps, wanted: Mapping[IP, SessionKey]) -> dict[IP, Liveness] | None:
        """The rows; None: they are those of the last look."""
        now = time.monotonic()
        again = not self._looked or now - self._looked > PINS_S
        if again:
            maps.check()
            self._sessions = maps.sessions()
            self._looked = now
        known = self._sessions
        numbers = {peer: known[key].number for peer, key in wanted.items() if key in known}
        paths = maps.paths(numbers.values())
        if not again and paths == self._paths and wanted == self._judged:
            return None
        self._paths, self._judged = paths, dict(wanted)
        found: dict[IP, Liveness] = {}
        for peer, number in numbers.items():
            if number not in paths:
                continue
            path = _PATHS.get(paths[number], Standing.UNKNOWN)
            former = self.liveness.rows.get(peer)
            if former and (former.number, former.path) == (number, path):
                found[peer] = former
            else:
                found[peer] = Liveness(number, path, maps.since(number))
        return found
