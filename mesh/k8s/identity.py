"""Which API server it is: the UID of its namespace kube-system, which lives as long as its etcd.

A replaced API server does not refuse a watch of the former one: it takes the resource version as
one of the future and is silent. So every list and every watch is verified after it has been opened
and before anything of it is used. One request says both: the UID, and the version that the store
has reached. A lower version than at the request before is a store that was set back. Only versions
of namespaces are compared: an API server may keep other kinds in another etcd.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path

import msgspec

from mesh.core.files import in_words, private_folder, replace_file
from mesh.k8s.api import Api, ApiError, Away, Garbled

_PATH = "/api/v1/namespaces"
_PARAMS = {"fieldSelector": "metadata.name=kube-system"}
#: Name of the file with the UID in the state directory.
FILE = "apiserver.json"


class Another(ApiError):
    """Another API server than before, which nobody has accepted."""

    def __init__(self, uid: str, known: str) -> None:
        text = f"its namespace kube-system has the UID {uid}, the former one had {known}"
        super().__init__(text)
        self.uid = uid


class _Metadata(msgspec.Struct):
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815 - as it is written


class _Namespace(msgspec.Struct):
    metadata: _Metadata


class _Namespaces(msgspec.Struct):
    metadata: _Metadata
    items: list[_Namespace] = []


_decode = msgspec.json.Decoder(_Namespaces).decode


class Identity:
    """The API server that is used; the first one that answers, when none is known.

    ``file`` outlives the process. ``accepted`` are UIDs that an operator has accepted.
    """

    def __init__(self, api: Api, file: Path | None, accepted: Callable[[], Container[str]]) -> None:
        #: UID of the namespace kube-system; empty: none was seen yet.
        self.uid = _read(file)
        #: Another number whenever what was listed before counts no longer.
        self.epoch = 0
        #: Why it cannot be kept, in words.
        self.problem = ""
        self._api, self._file, self._accepted = api, file, accepted
        self._lock = asyncio.Lock()
        self._began = -1.0  # of the last request
        self._outcome: ApiError | None = None
        self._reached = 0  # version of the store at the last request

    async def verify(self) -> None:
        """Ask which API server it is, by a request that begins after this call.

        Several callers share a request. Raises ApiError, Another among them.
        """
        loop = asyncio.get_running_loop()
        asked = loop.time()
        async with self._lock:
            if self._began < asked:
                began = loop.time()
                outcome: ApiError | None = None
                try:
                    await self._ask()
                except ApiError as error:
                    outcome = error
                self._began, self._outcome = began, outcome
        if self._outcome is not None:
            raise self._outcome

    async def _ask(self) -> None:
        uid, version = await who(self._api)
        if self.uid and uid != self.uid and uid not in self._accepted():
            raise Another(uid, self.uid)
        if uid != self.uid or version < self._reached:
            self.epoch += 1
        self._reached = version
        if uid != self.uid or self.problem:
            self.uid = uid
            await asyncio.to_thread(self._keep)

    def _keep(self) -> None:
        self.problem = ""
        if self._file is None:
            return
        try:
            private_folder(self._file.parent)
            replace_file(self._file, json.dumps({"uid": self.uid}), durable=True)
        except OSError as error:
            self.problem = f"{self._file}: {in_words(error)}"


async def who(api: Api) -> tuple[str, int]:
    """The UID of the namespace kube-system, and the version of the store. Raises ApiError."""
    try:
        found = _decode(await api.get(_PATH, _PARAMS))
        version = int(found.metadata.resourceVersion)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Garbled(f"the list of namespaces: {error}") from error
    if not found.items or not found.items[0].metadata.uid:
        raise Away("it has no namespace kube-system yet")
    return found.items[0].metadata.uid, version


def _read(file: Path | None) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        if file is not None:
            return str(json.loads(file.read_text())["uid"])
    return ""
