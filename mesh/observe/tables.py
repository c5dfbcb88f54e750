"""The process socket: every process serves its tables read-only here, and the CLI asks all of them.

One gRPC server on a unix socket. ``/meshgate.Tables/Rows`` takes ``{"noun": "node"}`` and streams
the rows, each message a JSON array of some of them; a stream that ends with an error is not whole.
``/meshgate.Tables/Status`` answers the process's own view of its health. Messages are plain JSON
bytes, so no stub has to be generated. An agent registers its Hubble observer on the same server.
Nothing here writes to a table.

A process calls ``Server``; the command line and the lab call ``processes`` and ``ask``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import grpc
import msgspec
from grpc import aio

from mesh.core.noun import Listing, Row

log = logging.getLogger(__name__)

T = TypeVar("T")

SERVICE = "meshgate.Tables"
#: Roles whose configuration file alone says that the process is meant to run.
ROLES = ("agent", "controller", "speaker", "feed")
#: Sockets in the run directory that speak another protocol: the CNI plugin asks the agent there.
OTHERS = ("cni",)
#: The environment's word for it: on a machine that is short of processors, answers take longer.
ANSWER_VARIABLE = "MESHGATE_ANSWER_S"


def answer_s(text: str | None) -> float:
    """Seconds that a process has to answer; ends the command where the text is no such number."""
    try:
        seconds = float(text or 2.0)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= 600.0:
        sys.exit(f"{ANSWER_VARIABLE}={text}: seconds above 0, 600 at most, are wanted")
    return seconds


#: Seconds that a process has to answer: for its status, and for each chunk of rows.
DEADLINE_S = answer_s(os.environ.get(ANSWER_VARIABLE))
#: Rows of a chunk at most, and seconds after which it is sent with fewer.
CHUNK = 1000
SLICE_S = 0.005
#: Rows that are made at a time, with no look at the clock in between.
_STEP = 20
#: A stopping server lets running calls finish for this long.
GRACE_S = 0.2

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # 65,536 addresses are about 8 MB of JSON
    ("grpc.enable_http_proxy", 0),
)


class Registered(Protocol):
    """A part that has gRPC services of its own (``mesh.observe.hubble.Observer``)."""

    def handlers(self) -> Sequence[grpc.GenericRpcHandler]:
        """The handlers to add to the process socket."""


class Server:
    """The process socket of one process.

    ``listings`` gives the rows of each noun with exactly the keys that ``meshgate NOUN list``
    prints; ``status`` gives ``{role, host, cluster, findings: [...], ...}``. Both are called on
    the event loop, at the moment of the question; the rows are encoded in slices later, so a long
    listing gives a snapshot (``mesh.core.noun.Rows``). Addresses and networks may stand in rows.
    """

    def __init__(
        self,
        path: Path | str,
        listings: Mapping[str, Listing],
        status: Callable[[], Mapping[str, Any]],
        observer: Registered | None = None,
    ) -> None:
        self.path = Path(path)
        self._listings = listings
        self._status = status
        self._observer = observer
        self._server: aio.Server | None = None

    async def start(self) -> None:
        """Serve; a socket left behind by a dead process is replaced.

        Raises OSError when a living process answers on the path, or it cannot be bound.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(self.path)
        server = aio.server(options=_OPTIONS)
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Rows": grpc.unary_stream_rpc_method_handler(self._rows),
            "Status": grpc.unary_unary_rpc_method_handler(self._answer_status),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        if self._observer:
            server.add_generic_rpc_handlers(tuple(self._observer.handlers()))
        try:
            server.add_insecure_port(f"unix:{self.path}")
        except RuntimeError as error:
            raise OSError(f"{self.path}: the process socket cannot be bound") from error
        await server.start()
        self.path.chmod(0o660)
        self._server = server

    async def stop(self) -> None:
        """Stop serving; the socket goes."""
        if self._server:
            await self._server.stop(GRACE_S)
            self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _rows(
        self, request: bytes, context: aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        try:
            noun = msgspec.json.decode(request, type=_Question).noun
        except msgspec.DecodeError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Rows: {error}")
        listing = self._listings.get(noun)
        if listing is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no table of {noun!r} here")
        for chunk in _chunks(listing()):
            yield chunk
            await asyncio.sleep(0)

    async def _answer_status(
        self, _request: bytes, _context: aio.ServicerContext[bytes, bytes]
    ) -> bytes:
        return encode(self._status())


class _Question(msgspec.Struct):
    noun: str


def encode(value: object) -> bytes:
    """``value`` as JSON; addresses, networks and paths become text."""
    return msgspec.json.encode(value, enc_hook=str)


def _chunks(rows: Sequence[Row]) -> Iterator[bytes]:
    """The rows as JSON arrays, each made in about ``SLICE_S``."""
    at = 0
    while at < len(rows):
        end, until = min(at + CHUNK, len(rows)), time.monotonic() + SLICE_S
        texts: list[bytes] = []
        while at < end and (not texts or time.monotonic() < until):
            texts.append(encode(list(rows[at : min(at + _STEP, end)]))[1:-1])
            at = min(at + _STEP, end)
        yield b"[" + b",".join(texts) + b"]"


def _remove_stale(path: Path) -> None:
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(DEADLINE_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            with suppress(FileNotFoundError):
                path.unlink()
            return
    raise OSError(f"{path}: another process already answers on this socket")


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """A process by its place in the run directory; ``host`` is empty in the flat layout."""

    host: str
    role: str
    path: Path

    @property
    def name(self) -> str:
        """``east-1/agent``, or ``agent`` in the flat layout."""
        return f"{self.host}/{self.role}" if self.host else self.role


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of one process; ``error`` is empty unless the whole process did not answer.

    ``rows`` holds only the nouns that the process serves. ``refused`` holds the nouns that it
    serves but did not list to the end, with the reason; the rows until then are in ``rows``.
    """

    process: Process
    status: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    error: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def cluster(self) -> str:
        """The cluster that the process works for, empty when unknown."""
        return str(self.status.get("cluster") or "")


def run_directory() -> Path:
    """``MESHGATE_RUN``, or ``/run/meshgate``."""
    return Path(os.environ.get("MESHGATE_RUN") or "/run/meshgate")


def processes(run: Path) -> list[Process]:
    """Every process that has a socket, or a configuration file and ought to have one."""
    running = {
        (_host(path, run), path.stem): path
        for pattern in ("*.sock", "*/*.sock", "*/*/*.sock")
        for path in run.glob(pattern)
        if path.is_socket() and (path.parent.parent in (run, run.parent) or _is_own(path))
        if path.stem not in OTHERS
    }
    configured = {
        (path.parent.name, path.stem): path.with_suffix(".sock")
        for path in run.glob("*/*.yaml")
        if path.stem in ROLES
    }
    return sorted(Process(*name, path) for name, path in (configured | running).items())


def _host(path: Path, run: Path) -> str:
    place = path.parent.parent if _is_own(path) else path.parent
    return "" if place == run else place.name


def _is_own(path: Path) -> bool:
    """Whether a socket lies in a folder of its process alone, as where each has its own user."""
    return path.parent.name == path.stem


def ask(
    asked: Iterable[Process],
    nouns: Sequence[str] = (),
    deadline_s: float = DEADLINE_S,
    *,
    patient: bool = False,
) -> list[Answer]:
    """Status and the rows of ``nouns`` from all processes at once, in the order asked.

    Takes at most ``deadline_s``, however many do not answer. ``patient``: a process that sends
    rows may go on as long as it sends more of them within ``deadline_s``.
    """
    calls = [_Calls(process, nouns, deadline_s, patient=patient) for process in asked]
    return [call.answer() for call in calls]


class _Call(Protocol):
    """One running question; grpc has no public name for it."""

    def result(self) -> bytes: ...
    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...


class _Stream(Protocol):
    """One running question whose answer comes in chunks."""

    def __iter__(self) -> Iterator[bytes]: ...
    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def cancel(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows of one noun as they arrived, or the end of its list; ``code``: how it ended."""

    noun: str
    chunk: bytes = b""
    code: grpc.StatusCode | None = None
    details: str = ""


class _Calls:
    """The running questions to one process; a thread reads the rows, so that waiting can end."""

    def __init__(
        self, process: Process, nouns: Sequence[str], deadline_s: float, *, patient: bool
    ) -> None:
        self.process = process
        self.channel = channel(process.path)
        self.deadline_s = deadline_s
        self.patient = patient
        ask_status: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        ask_status = self.channel.unary_unary(f"/{SERVICE}/Status")
        self.status: _Call = ask_status.future(encode({}), timeout=deadline_s)
        ask_rows: grpc.UnaryStreamMultiCallable[bytes, bytes]
        ask_rows = self.channel.unary_stream(f"/{SERVICE}/Rows")
        self.streams: dict[str, _Stream] = {
            noun: ask_rows(encode({"noun": noun})) for noun in nouns
        }
        self.pieces: queue.SimpleQueue[_Piece] = queue.SimpleQueue()
        self.heard = time.monotonic()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for noun, stream in self.streams.items():
            try:
                for chunk in stream:
                    self._hear(_Piece(noun, chunk))
                self._hear(_Piece(noun, code=grpc.StatusCode.OK))
            except grpc.RpcError:
                if stream.code() is grpc.StatusCode.UNIMPLEMENTED:
                    self._read_former(noun)
                else:
                    self._hear(_Piece(noun, code=stream.code(), details=str(stream.details())))

    def _read_former(self, noun: str) -> None:
        """Ask a process from before ``Rows``: during an update some still run."""
        ask_list: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        ask_list = self.channel.unary_unary(f"/{SERVICE}/List")
        try:
            call: _Call = ask_list.future(encode({"noun": noun}), timeout=self.deadline_s)
        except ValueError:  # the channel is closed: the answer was given without these rows
            return
        try:
            self._hear(_Piece(noun, call.result()))
            self._hear(_Piece(noun, code=grpc.StatusCode.OK))
        except grpc.RpcError:
            self._hear(_Piece(noun, code=call.code(), details=str(call.details())))

    def _hear(self, piece: _Piece) -> None:
        if self.patient:
            self.heard = time.monotonic()
        self.pieces.put(piece)

    def answer(self) -> Answer:
        try:
            return self._answer()
        finally:
            for stream in self.streams.values():
                stream.cancel()
            self.channel.close()

    def _answer(self) -> Answer:
        rows: dict[str, list[Row]] = {}
        refused: dict[str, str] = {}
        missing = dict.fromkeys(self.streams)
        while missing and (piece := self._next()):
            if piece.code:
                missing.pop(piece.noun)
            self._take(piece, rows, refused)
        late = f"no answer within {self.deadline_s:g} s"
        refused |= dict.fromkeys(missing, late)
        status, error = _result(self.status, Row)
        if status is None and not rows:
            why = failure(self.process, self.status.code(), error, self.deadline_s)
            return Answer(self.process, error=why)
        if status is None:
            refused["status"] = error
        return Answer(self.process, status or {}, rows, refused=refused)

    def _next(self) -> _Piece | None:
        """The next piece; None when it is late."""
        while (left_s := self.heard + self.deadline_s - time.monotonic()) > 0:
            with suppress(queue.Empty):  # another piece may have been heard meanwhile
                return self.pieces.get(timeout=left_s)
        with suppress(queue.Empty):
            return self.pieces.get_nowait()
        return None

    def _take(self, piece: _Piece, rows: dict[str, list[Row]], refused: dict[str, str]) -> None:
        if piece.chunk:
            try:
                more = msgspec.json.decode(piece.chunk, type=list[Row])
            except msgspec.DecodeError as error:
                refused[piece.noun] = f"its answer is unreadable: {error}"
            else:
                rows.setdefault(piece.noun, []).extend(more)
        elif piece.code is grpc.StatusCode.OK:
            rows.setdefault(piece.noun, [])
        elif piece.code and piece.code is not grpc.StatusCode.NOT_FOUND:
            why = failure(self.process, piece.code, piece.details, self.deadline_s)
            refused[piece.noun] = why


def failure(process: Process, code: grpc.StatusCode, details: str, deadline_s: float) -> str:
    """Why a process did not answer, in words."""
    if not process.path.exists():
        return "it is not running (no socket)"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {deadline_s:g} s"
    if code is grpc.StatusCode.UNAVAILABLE:
        return "nobody listens on its socket: the process is dead"
    return details


def channel(path: Path) -> grpc.Channel:
    """A channel to one process socket."""
    return grpc.insecure_channel(f"unix:{path}", options=_OPTIONS)


def _result(call: _Call, kind: type[T]) -> tuple[T | None, str]:
    try:
        return msgspec.json.decode(call.result(), type=kind), ""
    except grpc.RpcError:
        return None, str(call.details())
    except msgspec.DecodeError as error:
        return None, f"its answer is unreadable: {error}"
