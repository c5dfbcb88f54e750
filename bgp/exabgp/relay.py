"""The process that ExaBGP starts: its stdin and stdout on one side, a unix socket on the other.

Usage: ``python -I -S -u relay.py SOCKET PIDFILE``. ExaBGP writes to it with blocking writes, so it
reads whatever happens and never blocks itself: stdout is non-blocking, clients are not read while
stdout is behind, and a client that does not read is dropped (it reconnects and asks again). Whole
lines are forwarded, so lines of two clients never mix, and only ASCII, because ExaBGP ends a helper
that says anything else. It knows no BGP and imports the standard
library only: every death of it counts against ExaBGP's respawn limit (5 in 64 s). It ends when
ExaBGP does, by the end of its stdin.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import sys
from contextlib import suppress
from pathlib import Path

CHUNK = 1 << 16
#: Bytes that a client may be behind before it is dropped; more than one command line (1 MiB).
MOST_BEHIND = 8 << 20


class Client:
    """One connection: bytes from it without a newline yet, bytes for it not taken yet."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(0)
        self.connection = connection
        self.inbox = b""
        self.outbox = b""


class Relay:
    """Forwards until ExaBGP closes stdin."""

    def __init__(self, path: Path) -> None:
        self.clients: dict[int, Client] = {}
        self.behind = b""  # commands that ExaBGP has not taken yet
        fresh = path.with_suffix(".new")  # the name is given to a socket that listens
        fresh.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        # Whoever can write here can announce routes: the owner, and the group that may enter the
        # folder, which is the speaker's.
        old = os.umask(0o117 if path.parent.stat().st_mode & stat.S_IXGRP else 0o177)
        self.listener.bind(str(fresh))
        os.umask(old)
        self.listener.listen(8)
        fresh.replace(path)
        os.set_blocking(1, False)

    def run(self) -> None:
        """Forward; returns at the end of stdin."""
        while True:
            for fd, event in self._ready():
                if fd == 0:
                    if not self._from_exabgp():
                        return
                elif fd == 1:
                    self._to_exabgp(b"")
                elif fd == self.listener.fileno():
                    connection, _ = self.listener.accept()
                    self.clients[connection.fileno()] = Client(connection)
                elif fd in self.clients:
                    self._with_client(fd, event)

    def _ready(self) -> list[tuple[int, int]]:
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(self.listener, select.POLLIN)
        if self.behind:
            poll.register(1, select.POLLOUT)
        for fd, client in self.clients.items():
            read = 0 if self.behind else select.POLLIN
            poll.register(fd, read | (select.POLLOUT if client.outbox else 0))
        return poll.poll()

    def _from_exabgp(self) -> bytes:
        part = os.read(0, CHUNK)
        for fd, client in list(self.clients.items()):
            client.outbox += part
            if len(client.outbox) > MOST_BEHIND:
                self._drop(fd)
        return part

    def _to_exabgp(self, lines: bytes) -> None:
        self.behind += lines
        with suppress(BlockingIOError):
            self.behind = self.behind[os.write(1, self.behind) :]

    def _with_client(self, fd: int, event: int) -> None:
        client = self.clients[fd]
        try:
            if event & select.POLLOUT:
                client.outbox = client.outbox[client.connection.send(client.outbox) :]
            if event & (select.POLLIN | select.POLLHUP):
                self._from_client(fd, client)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(fd)

    def _from_client(self, fd: int, client: Client) -> None:
        part = client.connection.recv(CHUNK)
        if not part or len(client.inbox) > MOST_BEHIND:
            self._drop(fd)
            return
        lines, newline, client.inbox = (client.inbox + part).rpartition(b"\n")
        if newline:
            whole = (lines + newline).splitlines(keepends=True)
            self._to_exabgp(b"".join(line for line in whole if line.isascii()))

    def _drop(self, fd: int) -> None:
        self.clients.pop(fd).connection.close()


def main(socket_path: str, pid_path: str) -> None:
    """Serve; the pid is written once the socket is there."""
    relay = Relay(Path(socket_path))
    fresh = Path(f"{pid_path}.new")
    fresh.unlink(missing_ok=True)
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640)
    os.write(file, f"{os.getpid()}\n".encode())
    os.close(file)
    fresh.replace(pid_path)
    relay.run()


if __name__ == "__main__":
    main(*sys.argv[1:3])
