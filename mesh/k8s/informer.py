"""One kind at the API server: a list, then a watch that goes on where the list ended.

Rule 1: a list comes in pages; an object whose version is known costs nothing. Objects that a
        complete list lacks are gone: so deletes that nobody saw are found.
Rule 2: every event and bookmark moves the version, from which the next watch goes on.
Rule 3: 410 has three places (a status, an event of type ERROR, a page's ``continue``): list again.
Rule 4: nothing is used before the API server is verified (``identity.py``); another one that was
        accepted, or a store that was set back, is listed anew.
Rule 5: a failure is a state (``problem``) until the next success; attempts are paced.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from mesh.k8s.api import Api, ApiError, Away, Garbled, Gone, Refused, status_of
from mesh.k8s.identity import Identity
from mesh.k8s.turns import Turns
from mesh.k8s.watches import Watch

#: Objects of a page.
PAGE = 500
#: Seconds until a watch ends by itself; one number for all kinds of a process, so that they share
#: the request that verifies the API server.
LIFE_S = (300, 600)
#: Seconds between attempts: first, and longest.
PAUSE_S = (0.2, 5.0)
#: Seconds between looks for a kind that the API server need not serve.
ABSENT_S = 30.0

Version = str
#: Namespace and name.
Name = tuple[str, str]


class _Metadata(msgspec.Struct, gc=False):
    name: str
    resourceVersion: str  # noqa: N815 - as it is written
    namespace: str = ""


class _Object(msgspec.Struct, gc=False):
    metadata: _Metadata


class _Event(msgspec.Struct, gc=False):
    type: str
    object: msgspec.Raw


class _ListMetadata(msgspec.Struct, gc=False):
    resourceVersion: str = ""  # noqa: N815 - as it is written
    continue_: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct, gc=False):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None


class _Bookmark(msgspec.Struct, gc=False):
    metadata: _ListMetadata


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_object = msgspec.json.Decoder(_Object).decode
_decode_page = msgspec.json.Decoder(_Page).decode
_decode_bookmark = msgspec.json.Decoder(_Bookmark).decode
_decode_document = msgspec.json.Decoder(dict[str, Any]).decode


class Sink(Protocol):
    """Who takes what the API server says. Called on the event loop, one short call an object."""

    def put(self, watch: Watch, name: Name, document: dict[str, Any]) -> None:
        """An object is new or has changed."""

    def gone(self, watch: Watch, name: Name) -> None:
        """An object is no more."""

    def complete(self, watch: Watch) -> None:
        """A complete list has been told."""


class Informer:
    """Tells ``sink`` about the objects of ``watch``, for ever. ``pauses`` are for tests."""

    def __init__(
        self,
        api: Api,
        watch: Watch,
        identity: Identity,
        turns: Turns,
        sink: Sink,
        *,
        life_s: int = LIFE_S[0],
        pauses: tuple[float, float] = PAUSE_S,
        absent_s: float = ABSENT_S,
    ) -> None:
        self.watch = watch
        #: Why it does not follow; None: it does, or has not tried yet.
        self.problem: ApiError | None = None
        #: The verb that has failed.
        self.verb = "list"
        #: Since when it does not follow, by the monotonic clock; None: it does.
        self.failing_since: float | None = None
        #: When a list last lacked an object that had been there, by the monotonic clock.
        self.absent_at = -math.inf
        self._api, self._identity, self._turns, self._sink = api, identity, turns, sink
        self._life_s, self._pauses, self._absent_s = life_s, pauses, absent_s
        #: Objects of a list do not say of which kind they are.
        self._said = {"apiVersion": watch.kind.api_version, "kind": watch.kind.kind}
        self._versions: dict[Name, Version] = {}
        self._version: Version | None = None  # None: list
        self._epoch = -1  # of the list
        self._absent_since: float | None = None
        self._complete = False  # whether a complete list was told

    async def run(self) -> None:
        """Follow until cancelled."""
        first, longest = self._pauses
        pause = first
        while True:
            began = time.monotonic()
            after_s = await self._attempt()
            if time.monotonic() - began > longest:
                pause = first
            wait = pause * random.uniform(0.5, 1)  # noqa: S311 - spreads requests
            await asyncio.sleep(max(wait, after_s))
            pause = min(2 * pause, longest)

    async def _attempt(self) -> float:
        """Follow until something ends it; seconds after which to follow again at the earliest."""
        try:
            await self._once()
        except Gone:
            self._version = None
        except Refused as error:
            if error.status == 404 and self.watch.kind.optional:
                return await self._attempt_without()
            self._fail(error)
        except ApiError as error:
            self._fail(error)
            return error.after_s if isinstance(error, Away) else 0.0
        return 0.0

    async def _once(self) -> None:
        """List if need be, then watch until the watch ends."""
        version = self._version
        if version is None:
            self.verb = "list"
            version = self._version = await self._list()
        self.verb = "watch"
        await self._follow(version)

    async def _attempt_without(self) -> float:
        """The kind is not served; seconds until the next look for it."""
        self._version, now = None, time.monotonic()
        if self._absent_since is None:
            self._absent_since = now
        # An API server that starts may not know its kinds yet: objects stay until it is sure.
        if self._versions and now - self._absent_since < self._absent_s:
            return self._absent_s
        try:
            if self._versions or not self._complete:
                await self._identity.verify()
        except ApiError as error:
            self._fail(error)
            return 0.0
        for name in list(self._versions):
            await self._turns.pause()
            self.absent_at = time.monotonic()
            del self._versions[name]
            self._sink.gone(self.watch, name)
        self._well()
        self._told_all()
        return self._absent_s

    def _told_all(self) -> None:
        self._complete = True
        self._sink.complete(self.watch)

    def _fail(self, error: ApiError) -> None:
        self.problem = error
        if self.failing_since is None:
            self.failing_since = time.monotonic()

    def _well(self) -> None:
        self.problem = self.failing_since = None

    # The list

    async def _list(self) -> Version:
        """Tell everything; the version from which to watch."""
        seen: set[Name] = set()
        token, epoch = "", -1
        while True:
            params = {"limit": str(PAGE)} | ({"continue": token} if token else {})
            page = _page(await self._api.get(self.watch.path, params | self._selector()))
            await self._identity.verify()
            if epoch not in {-1, self._identity.epoch}:
                raise Gone("the API server was replaced during the list")
            epoch = self._identity.epoch
            self._absent_since = None
            self._well()
            await self._take_page(page.items or (), seen)
            token = page.metadata.continue_
            if not token:
                break
        for name in [name for name in self._versions if name not in seen]:
            await self._turns.pause()
            self.absent_at = time.monotonic()
            del self._versions[name]
            self._sink.gone(self.watch, name)
        self._epoch = epoch
        self._told_all()
        return page.metadata.resourceVersion

    def _selector(self) -> dict[str, str]:
        return {"fieldSelector": self.watch.fields} if self.watch.fields else {}

    async def _take_page(self, items: Iterable[msgspec.Raw], seen: set[Name]) -> None:
        for raw in items:
            await self._turns.pause()
            name, version = _head(raw)
            seen.add(name)
            if self._versions.get(name) != version:
                self._put(name, version, raw)

    # The watch

    async def _follow(self, version: Version) -> None:
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(self._life_s),
            **self._selector(),
        }
        async with self._api.lines(self.watch.path, params) as lines:
            await self._identity.verify()
            if self._identity.epoch != self._epoch:
                raise Gone("another store than the one that was listed")
            self._well()
            async for part in lines:
                for line in part:
                    await self._turns.pause()
                    self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            event = _decode_event(line)
        except msgspec.MsgspecError as error:
            raise Garbled(f"an event: {error}") from error
        if event.type == "ERROR":
            status = status_of(event.object)
            if status.code == 410:
                raise Gone(status.message)
            raise Away(f"ends the watch with {status.code}: {status.message or status.reason}")
        if event.type == "BOOKMARK":
            self._version = _bookmark(event.object)
            return
        name, version = _head(event.object)
        if event.type == "DELETED":
            if self._versions.pop(name, None) is not None:
                self._sink.gone(self.watch, name)
        else:
            self._put(name, version, event.object)
        self._version = version

    def _put(self, name: Name, version: Version, raw: msgspec.Raw) -> None:
        self._sink.put(self.watch, name, self._said | _decode_document(raw))
        self._versions[name] = version


def _page(body: bytes) -> _Page:
    try:
        return _decode_page(body)
    except msgspec.MsgspecError as error:
        raise Garbled(f"a list: {error}") from error


def _head(raw: msgspec.Raw) -> tuple[Name, Version]:
    try:
        metadata = _decode_object(raw).metadata
    except msgspec.MsgspecError as error:
        raise Garbled(f"an object: {error}") from error
    return (metadata.namespace, metadata.name), metadata.resourceVersion


def _bookmark(raw: msgspec.Raw) -> Version:
    try:
        return _decode_bookmark(raw).metadata.resourceVersion
    except msgspec.MsgspecError as error:
        raise Garbled(f"a bookmark: {error}") from error
