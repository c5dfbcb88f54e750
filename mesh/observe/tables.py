"""The process socket: every process serves its tables read-only here, and the CLI asks all of them.

One gRPC server on a unix socket. ``/meshgate.Tables/List`` takes ``{"noun": "node"}`` and answers
the rows as a JSON array; ``/meshgate.Tables/Status`` answers the process's own view of its health.
Messages are plain JSON bytes, so no stub has to be generated. An agent registers its Hubble
observer on the same server. Nothing here writes to a table.

A process calls ``Server``; the CLI and the lab call ``processes`` and ``ask``.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import grpc
import msgspec
from grpc import aio

log = logging.getLogger(__name__)

Row = dict[str, Any]
T = TypeVar("T")

SERVICE = "meshgate.Tables"
#: Roles whose configuration file alone says that the process is meant to run.
ROLES = ("agent", "controller", "speaker")
#: Seconds that a process has to answer.
DEADLINE_S = 2.0
#: A stopping server lets running calls finish for this long.
GRACE_S = 0.2

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # 65,536 addresses are about 8 MB of JSON
    ("grpc.enable_http_proxy", 0),
)


class Registered(Protocol):
    """Something that brings gRPC services of its own (``mesh.observe.hubble.Observer``)."""

    def handlers(self) -> Sequence[grpc.GenericRpcHandler]:
        """The handlers to add to the process socket."""


class Server:
    """The process socket of one process.

    ``nouns`` gives the rows of each noun with exactly the keys that ``meshgate NOUN list``
    prints; ``status`` gives ``{role, host, cluster, findings: [...], ...}``. Both are called on
    the event loop, at the moment of the question. Addresses, networks and sets may stand in rows.
    """

    def __init__(
        self,
        path: Path | str,
        nouns: Mapping[str, Callable[[], Sequence[Mapping[str, Any]]]],
        status: Callable[[], Mapping[str, Any]],
        observer: Registered | None = None,
    ) -> None:
        self.path = Path(path)
        self._nouns = nouns
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
            "List": grpc.unary_unary_rpc_method_handler(self._list),
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

    async def _list(self, request: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            noun = msgspec.json.decode(request, type=_Question).noun
        except msgspec.DecodeError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"List: {error}")
        rows = self._nouns.get(noun)
        if rows is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no table of {noun!r} here")
        return encode(list(rows()))

    async def _answer_status(
        self, _request: bytes, _context: aio.ServicerContext[bytes, bytes]
    ) -> bytes:
        return encode(self._status())


class _Question(msgspec.Struct):
    noun: str


def encode(value: object) -> bytes:
    """``value`` as JSON; addresses, networks and paths become text."""
    return msgspec.json.encode(value, enc_hook=str)


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
    """What one process said; ``error`` is empty unless the whole process did not answer.

    ``rows`` holds only the nouns that the process serves. ``refused`` holds the nouns that it
    serves but could not list, with the reason.
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
    found = {
        Process(_host(path, run), path.stem, path)
        for pattern in ("*.sock", "*/*.sock")
        for path in run.glob(pattern)
        if path.is_socket()
    }
    found |= {
        Process(path.parent.name, path.stem, path.with_suffix(".sock"))
        for path in run.glob("*/*.yaml")
        if path.stem in ROLES
    }
    return sorted(found)


def _host(path: Path, run: Path) -> str:
    return "" if path.parent == run else path.parent.name


def ask(
    asked: Iterable[Process], nouns: Sequence[str] = (), deadline_s: float = DEADLINE_S
) -> list[Answer]:
    """Status and the rows of ``nouns`` from all processes at once, in the order asked.

    Takes at most ``deadline_s``, however many do not answer.
    """
    calls = [_Calls(process, nouns, deadline_s) for process in asked]
    return [call.answer() for call in calls]


class _Call(Protocol):
    """One running question; grpc has no public name for it."""

    def result(self) -> bytes: ...
    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...


class _Calls:
    """The running questions to one process."""

    def __init__(self, process: Process, nouns: Sequence[str], deadline_s: float) -> None:
        self.process = process
        self.channel = channel(process.path)
        self.deadline_s = deadline_s
        self.status = self._ask("Status", {})
        self.rows = {noun: self._ask("List", {"noun": noun}) for noun in nouns}

    def _ask(self, method: str, question: Row) -> _Call:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        call = self.channel.unary_unary(f"/{SERVICE}/{method}")
        return call.future(encode(question), timeout=self.deadline_s)

    def answer(self) -> Answer:
        try:
            return self._answer()
        finally:
            self.channel.close()

    def _answer(self) -> Answer:
        status, error = _result(self.status, Row)
        rows: dict[str, Sequence[Row]] = {}
        refused: dict[str, str] = {}
        for noun, call in self.rows.items():
            listed, why = _result(call, list[Row])
            if listed is not None:
                rows[noun] = listed
            elif call.code() is not grpc.StatusCode.NOT_FOUND:
                refused[noun] = why
        if status is None and not rows:
            why = failure(self.process, self.status.code(), error, self.deadline_s)
            return Answer(self.process, error=why)
        if status is None:
            refused["status"] = error
        return Answer(self.process, status or {}, rows, refused=refused)


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
