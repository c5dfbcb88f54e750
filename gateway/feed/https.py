"""The HTTPS server of a feed: the door to aiohttp's server.

It stands here and not beside the client's door in ``mesh/k8s/api.py``: no other process loads it,
and a firewall's requests are no affair of the API server's client. ``answers.py`` says what is
answered; here are sockets, TLS and the moment at which a list has been sent.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from gateway.feed.answers import FeedAnswer, FeedRequest, Fetched
from gateway.feed.settings import FeedTLS, split_listen
from mesh.core.files import in_words

log = logging.getLogger(__name__)

#: Seconds between tries to listen, and between looks for changed certificates.
LOOK_S = 2.0
#: Seconds for which an idle connection stays open.
IDLE_S = 30.0
#: Seconds that running requests have when the server ends.
GRACE_S = 1.0


class Door:
    """Listens, and tells ``sent`` what a firewall has fetched, once the answer is written.

    ``problem`` says why nobody can fetch, by field of the configuration; empty when all is well.
    """

    def __init__(
        self,
        listen: str,
        tls: FeedTLS,
        answer: Callable[[FeedRequest], FeedAnswer],
        sent: Callable[[Fetched], None],
    ) -> None:
        self.problem: tuple[str, str] | None = None
        self._host, self._port = split_listen(listen)
        self._tls, self._answer, self._sent = tls, answer, sent
        self._context: ssl.SSLContext | None = None
        self._stamp: tuple[object, ...] = ()
        self._runner: web.ServerRunner | None = None

    async def run(self) -> None:
        """Serve until cancelled; what goes wrong is tried again."""
        try:
            while True:
                await self._look()
                await asyncio.sleep(LOOK_S)
        finally:
            if self._runner:
                await self._runner.cleanup()

    async def _look(self) -> None:
        """Take changed certificates, and listen if nobody does yet."""
        try:
            self._load()
        except (OSError, ssl.SSLError) as error:
            self.problem = ("tls", _words(error))
            return
        try:
            if self._runner is None:
                await self._listen()
        except OSError as error:
            self.problem = ("listen", in_words(error))
            return
        self.problem = None

    def _load(self) -> None:
        """Raises OSError, ssl.SSLError; then the former certificate goes on."""
        files = [one for one in (self._tls.cert, self._tls.key, self._tls.client_ca) if one]
        stamp = tuple(_stamp(file) for file in files)
        if stamp == self._stamp:
            return
        _context(self._tls)  # whether all of it can be used
        if self._context is None:
            self._context = _context(self._tls)
        else:
            _fill(self._context, self._tls)
        self._stamp = stamp

    async def _listen(self) -> None:
        runner = web.ServerRunner(
            web.Server(self._serve, keepalive_timeout=IDLE_S, access_log=None),
            shutdown_timeout=GRACE_S,
        )
        await runner.setup()
        try:
            bound = _bound(self._host, int(self._port))
            await web.SockSite(runner, bound, ssl_context=self._context).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        log.info("event=listening address=%s port=%s", self._host, self._port)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        found = self._answer(_asked(request))
        reply = web.Response(
            status=found.status.value,
            body=found.body or None,
            headers={"Content-Type": found.content, "X-Content-Type-Options": "nosniff"}
            | dict(found.headers),
        )
        await reply.prepare(request)
        await reply.write_eof()
        if found.fetched:
            self._sent(found.fetched)
        return reply


def _bound(host: str, port: int) -> socket.socket:
    """A listening socket; that of ``::`` takes both families, which asyncio's own would not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, dualstack_ipv6=host == "::")


def _asked(request: web.BaseRequest) -> FeedRequest:
    headers = request.headers
    return FeedRequest(
        request.method,
        request.path,
        headers.get("Authorization", ""),
        _common_name(request.transport),
        ", ".join(headers.getall("If-None-Match", [])),
        (request.remote or "").removeprefix("::ffff:"),  # a socket of both families says it so
    )


def _common_name(transport: asyncio.Transport | None) -> str:
    """The common name of a certificate that TLS has verified; empty without one."""
    certificate: dict[str, Any] = (transport and transport.get_extra_info("peercert")) or {}
    names = [
        str(value)
        for part in certificate.get("subject", ())
        for name, value in part
        if name == "commonName"
    ]
    return names[0] if len(names) == 1 else ""


def _context(tls: FeedTLS) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _fill(context, tls)
    return context


def _fill(context: ssl.SSLContext, tls: FeedTLS) -> None:
    context.load_cert_chain(tls.cert, tls.key)
    if tls.client_ca:
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL


def _stamp(file: Path) -> tuple[str, int, int, int]:
    found = file.stat()
    return str(file), found.st_mtime_ns, found.st_size, found.st_ino


def _words(error: OSError) -> str:
    """OpenSSL's words, and which file is not there."""
    with suppress(AttributeError):
        if error.filename:
            return f"{error.filename}: {in_words(error)}"
    return in_words(error)
