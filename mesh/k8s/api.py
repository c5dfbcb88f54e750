"""Requests to one API server: the door to aiohttp.

Each failure has a class: ``Gone`` (410: list again), ``Refused`` (401, 403, 404: a state that an
operator mends), ``Away`` (no answer, or one that says to ask later), ``Garbled`` (no answer of an
API server). Every request has its own bound of silence.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import msgspec

from mesh.k8s.access import Access, NoAccessError, Way

#: A page comes within this time, or the next attempt asks anew.
_REQUEST = aiohttp.ClientTimeout(total=30, sock_connect=5)
#: Bookmarks come about once a minute: so long a silence is a dead connection.
SILENCE_S = 90.0
#: Bytes of one event: an object has at most 1.5 MiB in etcd, and more as JSON.
_LONGEST_LINE = 32 << 20
_HEADERS = {
    "Accept": "application/json",
    "User-Agent": "meshgate",
    # aiohttp would unpack a page on the event loop.
    "Accept-Encoding": "identity",
}
APPLY = "application/apply-patch+yaml"


class ApiError(Exception):
    """A request that did not succeed; the text says why, in a sentence without a full stop."""


class Away(ApiError):
    """No answer, or one that says to ask again later; ``after_s``: not before."""

    def __init__(self, text: str, after_s: float = 0.0) -> None:
        super().__init__(text)
        self.after_s = after_s


class NoAccess(ApiError):
    """The credentials cannot be read."""


class Garbled(ApiError):
    """An answer that is none of an API server."""


class Gone(ApiError):
    """The resource version is too old: 410."""


class Refused(ApiError):
    """The API server refuses the request."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Status(msgspec.Struct, gc=False):
    """What the API server says in place of an answer."""

    code: int = 0
    reason: str = ""
    message: str = ""


_decode_status = msgspec.json.Decoder(Status).decode


class Api:
    """One API server. All methods raise ApiError."""

    def __init__(self, access: Access, silence_s: float = SILENCE_S) -> None:
        self.access = access
        self._stream = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=silence_s)
        self._open: _Open | None = None

    async def get(self, path: str, params: Mapping[str, str]) -> bytes:
        """The body of the answer."""
        async with self._request("GET", path, params, _REQUEST) as reply:
            return await reply.read()

    async def send(
        self, method: str, path: str, params: Mapping[str, str], body: object, content: str
    ) -> bytes:
        """Write a document of this content type; the body of the answer."""
        text = json.dumps(body).encode()
        async with self._request(method, path, params, _REQUEST, text, content) as reply:
            return await reply.read()

    @asynccontextmanager
    async def lines(self, path: str, params: Mapping[str, str]) -> AsyncIterator[Lines]:
        """The lines of an answer that goes on, as they come, as many at a time as there are."""
        async with self._request("GET", path, params, self._stream) as reply:
            yield Lines(reply.content)

    async def aclose(self) -> None:
        """Close all connections that nobody uses; the others close with their last answer."""
        former, self._open = self._open, None
        if former is not None and not former.users:
            await former.session.close()

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        bounds: aiohttp.ClientTimeout,
        body: bytes | None = None,
        content: str = "",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            way, token = await self.access.way()
        except NoAccessError as error:
            raise NoAccess(str(error)) from error
        headers = {**_HEADERS, **({"Content-Type": content} if content else {})}
        if token:
            headers["Authorization"] = token
        used = await self._session_of(way)
        used.users += 1
        try:
            async with used.session.request(
                method,
                way.host + path,
                params=params,
                headers=headers,
                data=body,
                timeout=bounds,
                server_hostname=way.server_name,
                proxy=way.proxy,
                allow_redirects=False,  # the token must not follow
            ) as reply:
                await self._check(reply)
                yield reply
        except TimeoutError as error:
            raise Away("no answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Away(_words(error)) from error
        finally:
            used.users -= 1
            if not used.users and used is not self._open:
                await used.session.close()

    async def _check(self, reply: aiohttp.ClientResponse) -> None:
        if reply.status < 300:
            return
        said = _said(await reply.content.read(1 << 16))
        if reply.status == 401:
            self.access.renew()
        if reply.status == 410:
            raise Gone(said)
        if reply.status == 429 or reply.status >= 500:
            raise Away(f"answers {reply.status}: {said}", _seconds(reply.headers))
        if 300 <= reply.status < 400:
            raise Garbled(f"answers {reply.status}, a redirection")
        raise Refused(reply.status, said)

    async def _session_of(self, way: Way) -> _Open:
        """Connections of this way."""
        if self._open is None or self._open.way is not way:
            await self.aclose()
            connector = aiohttp.TCPConnector(ssl=way.tls, limit=0)
            self._open = _Open(way, aiohttp.ClientSession(connector=connector))
        return self._open


@dataclass(slots=True)
class _Open:
    """Connections of one way, and how many requests use them."""

    way: Way
    session: aiohttp.ClientSession
    users: int = 0


class Lines:
    """Lines of a stream; an event is one line, however long."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[list[bytes]]:
        rest: list[bytes] = []
        length = 0
        async for chunk in self._content.iter_any():
            *whole, last = chunk.split(b"\n")
            if whole:
                whole[0] = b"".join((*rest, whole[0]))
                rest, length = [], 0
                yield [line for line in whole if line]
            rest.append(last)
            length += len(last)
            if length > _LONGEST_LINE:
                raise Garbled(f"an event is longer than {_LONGEST_LINE >> 20} MiB")


def status_of(raw: bytes | msgspec.Raw) -> Status:
    """The Status in an event of type ERROR; raises Garbled."""
    try:
        return _decode_status(raw)
    except msgspec.MsgspecError as error:
        raise Garbled(f"an error that is no Status: {error}") from error


def _said(body: bytes) -> str:
    """The message of a Status, or the beginning of whatever it is."""
    try:
        status = _decode_status(body)
    except msgspec.MsgspecError:
        return body[:200].decode(errors="replace").strip() or "no text"
    return status.message or status.reason or "no text"


def _seconds(headers: Mapping[str, str]) -> float:
    text = headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0.0


def _words(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text[:1].lower() + text[1:]
