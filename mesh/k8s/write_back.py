"""What the leader writes to the API server: conditions of our kinds, and Events.

Writes are idempotent and stop with the leadership, so they need no fence: server-side apply with a
field manager of our own, and Events whose names follow from their cause.

Rule 1: nothing is written when nothing has changed. What stands in a status is what the informer
        has seen, so what others overwrite comes back.
Rule 2: a message whose words alone change (an age, a count) is written once a minute at most.
Rule 3: one Event for each object and cause, and at most so many a look.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import islice
from typing import Any

from mesh.core.model import Finding
from mesh.k8s.api import APPLY, Api, ApiError, Refused
from mesh.k8s.conditions import Owned, applied, differs, is_news, wanted
from mesh.k8s.findings import CANNOT_WRITE
from mesh.objects.sources import Lacking

#: Field manager of all that we write.
MANAGER = "meshgate"
#: Seconds between looks at what is to be said, and writes of a look.
LOOK_S, WRITES = 2.0, 50
#: Seconds between writes of an object that differ in the words of a message only.
WORDS_S = 60.0
_PARAMS = {"fieldManager": MANAGER, "force": "true"}
_JSON = "application/json"


class WriteBack:
    """Says what ``findings`` are about ``objects`` (by their name in findings).

    ``leads``: whether this process is to write now. ``lacking``: the nodes that do not hold a
    generation of an object.
    """

    def __init__(
        self,
        api: Api,
        objects: Mapping[str, Owned],
        findings: Callable[[], Iterable[Finding]],
        leads: Callable[[], bool],
        lacking: Lacking,
        look_s: float = LOOK_S,
    ) -> None:
        #: Why something could not be written, by verb and resource.
        self.problems: dict[str, str] = {}
        self._api, self._objects = api, objects
        self._findings, self._leads, self._look_s = findings, leads, look_s
        self._lacking = lacking
        self._written: dict[str, float] = {}  # when an object's words were written, by UID
        self._told: set[str] = set()  # names of Events

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(self._look_s)
            if self._leads():
                await self.look()
            else:
                self._told.clear()
                self.problems.clear()

    async def look(self) -> None:
        """Write what is to be written now."""
        about: dict[str, list[Finding]] = {}
        for finding in dict.fromkeys(self._findings()):
            if finding.object in self._objects:
                about.setdefault(finding.object, []).append(finding)
        for name, found in about.items():
            about[name] = sorted(set(found), key=lambda one: (one.code, one.field, one.text))
        for one, document in islice(self._statuses(about), WRITES):
            params = _PARAMS
            await self._send("PATCH", f"{one.path}/status", params, document, APPLY)
        for path, event in islice(self._events(about), WRITES):
            if await self._send("POST", path, {"fieldManager": MANAGER}, event, _JSON):
                self._told.add(event["metadata"]["name"])
        self._forget(about)

    def findings(self, place: str) -> Iterator[Finding]:
        """What could not be written."""
        for field, text in self.problems.items():
            yield Finding(CANNOT_WRITE, place, field, text)

    def _statuses(
        self, about: Mapping[str, list[Finding]]
    ) -> Iterator[tuple[Owned, dict[str, Any]]]:
        now, clock = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), time.monotonic()
        for name, one in list(self._objects.items()):
            lacking = self._lacking(name, one.generation)
            conditions = wanted(one, about.get(name, ()), lacking, now)
            rested = clock - self._written.get(one.uid, -WORDS_S) >= WORDS_S
            if differs(one, conditions) and (rested or is_news(one, conditions)):
                self._written[one.uid] = clock
                yield one, applied(one, conditions)

    def _events(self, about: Mapping[str, list[Finding]]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, found in about.items():
            one = self._objects.get(name)
            if one is None:
                continue
            for finding in found:
                event = _event(one, finding)
                if event["metadata"]["name"] not in self._told:
                    namespace = event["metadata"]["namespace"]
                    yield f"/api/v1/namespaces/{namespace}/events", event

    async def _send(
        self, method: str, path: str, params: Mapping[str, str], document: object, content: str
    ) -> bool:
        """Whether what was to be said is said; a failure is a finding, and is tried again."""
        field = f"{method.lower()} {path.rpartition('/')[2]}"
        try:
            await self._api.send(method, path, params, document, content)
        except Refused as error:
            # 404: the object has just gone; 409: the Event of a former leader stands.
            if error.status != 404 and (error.status != 409 or method != "POST"):
                self.problems[field] = str(error)
                return False
        except ApiError as error:
            self.problems[field] = str(error)
            return False
        self.problems.pop(field, None)
        return True

    def _forget(self, about: Mapping[str, list[Finding]]) -> None:
        """An Event whose cause has gone may be told again."""
        live = {
            _event_name(one, finding)
            for name, found in about.items()
            if (one := self._objects.get(name))
            for finding in found
        }
        self._told &= live
        uids = {one.uid for one in self._objects.values()}
        self._written = {uid: at for uid, at in self._written.items() if uid in uids}


def _event_name(one: Owned, finding: Finding) -> str:
    """The same name for the same cause: object, code and field."""
    cause = f"{one.uid} {finding.code} {finding.field}".encode()
    return f"{one.name}.{blake2b(cause, digest_size=8).hexdigest()}"


def _event(one: Owned, finding: Finding) -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    involved = {
        "apiVersion": one.api_version,
        "kind": one.kind,
        "name": one.name,
        "uid": one.uid,
    } | ({"namespace": one.namespace} if one.namespace else {})
    text = f"{finding.field}: {finding.text}".removeprefix(": ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": _event_name(one, finding),
            "namespace": one.namespace or "default",
        },
        "involvedObject": involved,
        "type": "Warning",
        "reason": str(finding.code),
        "message": text[:1024],
        "source": {"component": "meshgate-controller"},
        "reportingComponent": "meshgate.io/controller",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
