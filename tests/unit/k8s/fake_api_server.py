"""A fake API server for faults that a real one does not show on demand. No test of success uses it.

It serves collections of objects over plain HTTP: lists in pages, watches with bookmarks, and the
errors that a test asks for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from mesh.k8s.access import Access
from mesh.k8s.api import Api
from mesh.k8s.settings import Kubernetes

NAMESPACES = "/api/v1/namespaces"
PODS = "/api/v1/pods"
Document = dict[str, Any]


class FakeApiServer:
    """``collections`` are the paths that are served. All changes are made through methods."""

    def __init__(self, collections: tuple[str, ...] = (NAMESPACES, PODS)) -> None:
        self.uid = "uid-1"
        self.token = ""
        self.revision = 100
        self.oldest = 0  # the first revision of which events are known
        self.gone_as_status = False
        self.silent = False
        self.objects: dict[str, dict[str, Document]] = {path: {} for path in collections}
        self.refused: dict[str, int] = {}
        #: Answers given once, in turn, in place of a page with ``continue``.
        self.gone_pages = 0
        #: ``list PATH``, ``continue PATH``, ``watch PATH``, ``who``, in the order of their coming.
        self.asked: list[str] = []
        #: Last revision that a watch has come to.
        self.told = 0
        self._events: list[tuple[int, str, Document]] = []
        self._changed = asyncio.Event()
        self._streams: set[web.StreamResponse] = set()
        self._cut = 0
        self._port = 0

    # What tests do

    def put(self, path: str, document: Document) -> None:
        metadata = document["metadata"]
        name = f"{metadata.get('namespace', '')}/{metadata['name']}"
        kind = "MODIFIED" if name in self.objects[path] else "ADDED"
        self.revision += 1
        document = {**document, "metadata": metadata | {"resourceVersion": str(self.revision)}}
        self.objects[path][name] = document
        self._tell(path, kind, document)

    def delete(self, path: str, name: str, *, unseen: bool = False) -> None:
        document = self.objects[path].pop(name)
        self.revision += 1
        metadata = document["metadata"] | {"resourceVersion": str(self.revision)}
        if unseen:
            self.oldest = self.revision
        else:
            self._tell(path, "DELETED", {**document, "metadata": metadata})

    def bookmark(self, path: str) -> None:
        self._tell(path, "BOOKMARK", {"metadata": {"resourceVersion": str(self.revision)}})

    def cut(self) -> None:
        """End all connections of watches."""
        self._cut += 1
        self._wake()

    def replace(self, uid: str) -> None:
        """Be another, empty API server."""
        self.uid, self.revision = uid, 5
        self.objects = {path: {} for path in self.objects}
        self._events.clear()
        self.cut()

    def set_back(self, revision: int) -> None:
        """Be restored from a backup of that revision."""
        self.revision = revision
        self._events.clear()
        self.cut()

    def forget(self) -> None:
        """Lose the history of events, as after a compaction, and end all watches."""
        self.revision += 1
        self.oldest = self.revision
        self._events.clear()
        self.cut()

    def _tell(self, path: str, kind: str, document: Document) -> None:
        self._events.append((self.revision, path, {"type": kind, "object": document}))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # The server

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator[FakeApiServer]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._get)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port or self._port)
        await site.start()
        assert runner.addresses
        self._port = runner.addresses[0][1]
        try:
            yield self
        finally:
            self.cut()
            await runner.cleanup()

    def api(self, folder: Path, silence_s: float = 5.0) -> Api:
        """Requests to it, by a kubeconfig whose token is read from the file ``token``."""
        token = folder / "token"
        token.write_text(self.token or "any")
        kubeconfig = folder / "kubeconfig"
        tree = {
            "current-context": "one",
            "clusters": [
                {"name": "one", "cluster": {"server": f"http://127.0.0.1:{self._port}"}},
            ],
            "contexts": [{"name": "one", "context": {"cluster": "one", "user": "one"}}],
            "users": [{"name": "one", "user": {"tokenFile": str(token)}}],
        }
        kubeconfig.write_text(yaml.safe_dump(tree))
        return Api(Access(Kubernetes(kubeconfig=kubeconfig)), silence_s)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        path, query = request.path, request.query
        if refusal := self._refusal(request):
            return refusal
        if query.get("fieldSelector") == "metadata.name=kube-system":
            self.asked.append("who")
            return self._list([{"metadata": {"name": "kube-system", "uid": self.uid}}])
        verb = "watch" if "watch" in query else "continue" if "continue" in query else "list"
        self.asked.append(f"{verb} {path}")
        if verb == "watch":
            return await self._watch(request)
        if verb == "continue" and self.gone_pages:
            self.gone_pages -= 1
            return _status(410, "The provided continue parameter is too old")
        items = [one for one in self.objects[path].values() if _selected(one, query)]
        begin = int(query.get("continue", "0"))
        end = begin + int(query["limit"])
        return self._list(items[begin:end], str(end) if end < len(items) else "")

    def _refusal(self, request: web.Request) -> web.Response | None:
        path = request.path
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        if path in self.refused:
            return _status(self.refused[path], f"{path} is refused")
        if path not in self.objects:
            return _status(404, "the server could not find the requested resource")
        return None

    def _list(self, items: list[Document], token: str = "") -> web.Response:
        metadata = {"resourceVersion": str(self.revision), "continue": token}
        return web.json_response({"kind": "List", "metadata": metadata, "items": items})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        at, number = int(request.query["resourceVersion"]), self._cut
        if at < self.oldest and self.gone_as_status:
            return _status(410, "too old resource version")
        reply = web.StreamResponse()
        await reply.prepare(request)
        if at < self.oldest:
            status = {"kind": "Status", "code": 410, "message": "too old resource version"}
            await reply.write(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
            return reply
        told = 0
        while number == self._cut:
            changed = self._changed
            for revision, path, event in self._events[told:]:
                visible = _selected(event["object"], request.query)
                if revision > at and path == request.path and visible and not self.silent:
                    await reply.write(json.dumps(event).encode() + b"\n")
            told, self.told = len(self._events), self.revision
            await changed.wait()
        return reply


def _selected(document: Document, query: Mapping[str, str]) -> bool:
    _, _, node = query.get("fieldSelector", "").partition("spec.nodeName=")
    return not node or document.get("spec", {}).get("nodeName", node) == node


def _status(code: int, text: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "message": text}, status=code)
