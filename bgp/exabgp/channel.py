"""Questions to ExaBGP through the relay, answered in order.

ExaBGP gives one ``done`` or ``error`` a command and no number, so answers are matched by counting:
one conversation at a time, at most ``WINDOW`` commands ahead. ``done`` means parsed and queued,
never sent. An answer that nobody asked for, or none in time, ends the channel: the session then
starts over and reads what is there.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from bgp.exabgp.commands import RESET, VERSION, checked
from bgp.exabgp.lines import Heard, OddLine, OnOdd, SessionEvent, event, is_event

#: Commands, and octets of them, that are sent ahead of their acknowledgement: a command has up to
#: 500 routes, and the first of them is to reach the router before the last is read.
WINDOW, WINDOW_OCTETS = 50, 64 << 10
#: Longest wait for an acknowledgement.
PATIENCE_S = 20.0
#: Longest line: an answer about all sessions comes as one.
LONGEST = 8 << 20

ACKS = ("done", "error")


class CommandRefused(OSError):
    """ExaBGP answered ``error``."""


class Channel:
    """One connection to the relay."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_event: Callable[[SessionEvent | Heard], None],
        on_odd: OnOdd = lambda _: None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._on_event, self._on_odd = on_event, on_odd
        self._answers: asyncio.Queue[str | None] = asyncio.Queue()
        self._turn = asyncio.Lock()

    @classmethod
    async def open(
        cls,
        path: Path,
        on_event: Callable[[SessionEvent | Heard], None],
        on_odd: OnOdd = lambda _: None,
        *,
        user: int | None = None,
    ) -> Channel:
        """Connect; raises OSError, also when another user than ``user`` listens there."""
        reader, writer = await asyncio.open_unix_connection(str(path), limit=LONGEST)
        found = _listener(writer.get_extra_info("socket"))
        if user is not None and found != user:
            writer.transport.abort()
            raise PermissionError(f"user {found} listens at {path}, and is not user {user}")
        return cls(reader, writer, on_event, on_odd)

    async def listen(self) -> None:
        """Read until the relay or ExaBGP ends; events go out, answers to whoever asked."""
        try:
            while line := (await self._reader.readline()).decode(errors="replace"):
                if is_event(line):
                    self._heard(line)
                else:
                    self._answers.put_nowait(line.rstrip("\n"))
        except ValueError:  # a line longer than LONGEST
            pass
        finally:
            self._answers.put_nowait(None)
            self._writer.close()

    def close(self) -> None:
        """End the connection; ``listen`` returns."""
        self._writer.transport.abort()

    async def attach(self) -> None:
        """Forget what an earlier speaker had asked for and not read.

        ``reset`` is carried out at once and unschedules it; the version is then the last thing
        that can be said before an answer to us.
        """
        async with self._turn:
            self._writer.write(f"{RESET}\n{VERSION}\n".encode())
            while not (await self._answer()).startswith("exabgp "):
                pass
            await self._answer()

    async def ask(self, line: str) -> list[str]:
        """The lines of the answer; raises ``CommandRefused`` or OSError."""
        async with self._turn:
            answers, acks = await self._exchange([line])
        if acks != ["done"]:
            raise CommandRefused(line)
        return answers

    async def tell(self, lines: Iterable[str]) -> dict[str, CommandRefused]:
        """Say all lines; the refused ones come back."""
        refused: dict[str, CommandRefused] = {}
        for batch in _batches(lines):
            async with self._turn:
                _, acks = await self._exchange(batch)
            if "error" in acks:
                refused |= await self._culprits(batch)
        return refused

    async def _culprits(self, lines: Sequence[str]) -> dict[str, CommandRefused]:
        """Say them again one by one: within a batch errors may overtake."""
        refused: dict[str, CommandRefused] = {}
        for line in lines:
            try:
                await self.ask(line)
            except CommandRefused as error:
                refused[line] = error
        return refused

    async def _exchange(self, lines: Sequence[str]) -> tuple[list[str], list[str]]:
        if not self._answers.empty():
            self.close()
            raise ConnectionError("ExaBGP answers what nobody asked")
        self._writer.write("".join(f"{checked(line)}\n" for line in lines).encode())
        answers: list[str] = []
        acks: list[str] = []
        while len(acks) < len(lines):
            answer = await self._answer()
            (acks if answer in ACKS else answers).append(answer)
        return answers, acks

    async def _answer(self) -> str:
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await self._answers.get()
        except TimeoutError as error:
            self.close()
            raise TimeoutError(f"ExaBGP gives no answer for {PATIENCE_S:.0f} s") from error
        except asyncio.CancelledError:  # the answer would be taken for another's
            self.close()
            raise
        if answer is None:
            self._answers.put_nowait(None)
            raise ConnectionError("the relay is gone")
        return answer

    def _heard(self, line: str) -> None:
        try:
            seen = event(line)
        except OddLine as odd:
            self._on_odd(odd)
            return
        if seen is not None:
            self._on_event(seen)


def _batches(lines: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    octets = 0
    for line in lines:
        batch.append(line)
        octets += len(line)
        if len(batch) == WINDOW or octets >= WINDOW_OCTETS:
            yield batch
            batch, octets = [], 0
    if batch:
        yield batch


def _listener(connected: socket.socket) -> int:
    """The user that listens at the other end (unix(7), SO_PEERCRED: pid, uid, gid)."""
    size = struct.calcsize("iII")
    _, uid, _ = struct.unpack(
        "iII", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return int(uid)
