"""CNI on a node: calls of the plugin become attachments, and wait until the datapath has them.

    call -> attachment (file, table) -> the room of pods: address, device, identity, rows of maps
                                     -> answer, once nothing is lacking (``Connected``)

A call that ends with an error leaves no attachment behind. An agent that is killed in between
leaves one in the file: the next agent connects it, and the runtime deletes it or asks again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol

from mesh.cni import attachments, inside, results
from mesh.cni.attachments import Attachments, tag_of
from mesh.cni.findings import SOCKET
from mesh.cni.frames import Frame, Reply
from mesh.cni.lists import Lists
from mesh.cni.requests import Code, RefusedError, RuntimeCall, call_of, version_of
from mesh.cni.server import listening
from mesh.cni.settings import CNISettings
from mesh.cni.waiting import Bell
from mesh.core.feature import AgentFeature, Maps
from mesh.core.files import in_words
from mesh.core.model import IP, Attachment, Connection, Finding, Pod, PodKey, Sandbox
from mesh.core.passes import Gate
from mesh.core.table import Table
from mesh.core.ticks import tick
from mesh.objects.fields import FieldServer

log = logging.getLogger(__name__)

#: Seconds that ADD waits for what is missing: the plugin waits for 30, and the kubelet longer.
ADD_S = 20.0
#: Seconds that ADD waits for what a pod can start without, and between two looks.
MOMENT_S, _POLL_S = 2.0, 0.02
#: Seconds that DEL waits until the device is gone: it goes with its namespace anyway.
DEL_S = 5.0
#: Seconds between looks at the namespaces of attachments.
LOOK_S = 0.5


class Connected(Protocol):
    """The room of pods, as this room sees it."""

    def listen(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` whenever one of the others may say something else."""

    def lacks(self, key: Sandbox) -> str:
        """What an attachment lacks until its packets pass; empty: nothing."""

    def connection(self, key: Sandbox) -> Connection | None:
        """How an attachment is connected, if it is."""

    def stands(self, key: Sandbox) -> bool:
        """Whether the kernel has a device of the attachment."""

    @property
    def unready(self) -> str:
        """Why no pod can be connected; empty: one can."""


class CNIAgent(AgentFeature):
    """``pods`` are the objects of this node's pods. ``lacks`` are the features' (``AgentFeature``).

    ``beside``: another CNI connects pods. A pod's addresses are those of ``prevResult`` then, which
    is handed on as it came.
    """

    def __init__(
        self,
        cluster: str,
        settings: CNISettings,
        attached: Attachments,
        pods: Table[PodKey, Pod],
        connected: Connected,
        lacks: Sequence[Callable[[PodKey], str]] = (),
        *,
        beside: bool = False,
        add_s: float = ADD_S,
    ) -> None:
        self._cluster, self._settings, self._add_s = cluster, settings, add_s
        self._beside, self._lacks = beside, lacks
        self._attached, self._pods, self._connected = attached, pods, connected
        self._bell = Bell()
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._problem = ""
        self.lists = Lists(settings, lambda: self._connected.unready, beside=beside)
        self._commands: Mapping[str, Callable[[RuntimeCall], Coroutine[Any, Any, Reply]]] = {
            "ADD": self._add,
            "DEL": self._delete,
            "CHECK": self._check,
            "GC": self._collect,
            "STATUS": self._status,
        }

    async def recover(self, _: Maps) -> None:
        self._attached.load()

    def begin(self, gate: Gate) -> None:
        """Look at the other rooms' tables through the gate of their loop from now on."""
        self._bell.gate = gate
        for table in (self._pods, self._attached.table):
            table.listen(self._bell.ring)
        self._connected.listen(self._bell.ring)

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self.serve, self.follow_namespaces, self.lists.run)

    def served(self) -> Iterable[str]:
        """Nothing is known before the list is written."""
        return () if self.lists.portmap is False else (FieldServer.PORTMAP,)

    def findings(self) -> Iterable[Finding]:
        yield from self._attached.findings()
        yield from self.lists.findings()
        if self._problem:
            yield Finding(SOCKET, str(self._settings.socket), "", self._problem)

    # --- The life -----------------------------------------------------------------------------

    async def serve(self) -> None:
        """Answer calls until cancelled; a socket that cannot be made is tried again."""
        while True:
            try:
                async with listening(self._settings.socket, self.answer):
                    self._problem = ""
                    await asyncio.Event().wait()
            except OSError as error:
                self._problem = in_words(error)
            await asyncio.sleep(LOOK_S)

    async def follow_namespaces(self) -> None:
        """End attachments whose namespace is gone, until cancelled: no DEL may have reached us."""
        while True:
            if gone := list(attachments.ended(self._attached.table.rows)):
                try:
                    self._attached.end(gone)
                except OSError as error:  # a finding of theirs
                    log.warning("event=not_ended error=%s", in_words(error))
            await tick(LOOK_S)

    async def answer(self, frame: Frame) -> Reply:
        """What the plugin prints."""
        version = version_of(frame)
        try:
            return await self._served(frame)
        except RefusedError as error:
            return results.refused(version, error)
        except Exception as error:  # a mistake of ours costs this call
            log.exception("event=call_failed")
            return results.refused(version, RefusedError(Code.AGAIN, repr(error)))

    async def _served(self, frame: Frame) -> Reply:
        asked = call_of(frame)
        if asked.command == "VERSION":
            return results.spoken(asked.version)
        name = asked.container, asked.interface
        lock = self._locks.setdefault(name, asyncio.Lock())
        try:
            if asked.command == "DEL":  # ends an ADD that still waits
                return await self._delete(asked)
            async with lock:
                return await self._commands[asked.command](asked)
        finally:
            if not lock.locked():
                self._locks.pop(name, None)

    # --- Commands -----------------------------------------------------------------------------

    async def _add(self, asked: RuntimeCall) -> Reply:
        until = asyncio.get_running_loop().time() + self._add_s
        pod = self._pod_of(asked)
        inode = _namespace(asked.netns)
        known = self._attached.find(asked.container, asked.interface)
        if known and (known[0].pod != pod or known[1].inode != inode):
            other = _text(known[0].pod)
            text = f"{asked.interface} of container {asked.container} is pod {other}'s"
            raise RefusedError(Code.TAKEN, text)
        if known:
            return await self._wait(asked, known[0], until, new=False)
        addresses = self._addresses(asked)
        row = await self._object(asked, pod, until)
        tag = tag_of(asked.container, asked.interface)
        key = Sandbox(pod.cluster, pod.namespace, pod.name, tag)
        attachment = Attachment(
            asked.container, asked.interface, asked.network, asked.netns, inode,
            self._attached.next_number, row.uid, row.labels, row.service_account, addresses,
        )  # fmt: skip
        self._keep(key, attachment)
        return await self._wait(asked, key, until, new=True)

    def _addresses(self, asked: RuntimeCall) -> tuple[IP, ...]:
        """Addresses that another CNI has given; none: the interface is ours to make."""
        there = inside.has(asked.netns, asked.interface)
        if self._beside:
            given = results.addresses_in(asked.previous or {}, asked.interface, asked.netns)
            if not given or not there:
                text = (
                    f"prevResult: the plugins before ours have left no address of {asked.interface}"
                )
                raise RefusedError(Code.CONFIG, text)
            return tuple(results.hosts(given))
        if there:
            text = f"{asked.netns} has an interface {asked.interface} that is not ours"
            raise RefusedError(Code.TAKEN, text)
        return ()

    def _pod_of(self, asked: RuntimeCall) -> PodKey:
        for name in ("K8S_POD_NAMESPACE", "K8S_POD_NAME"):
            if not asked.arguments.get(name):
                raise RefusedError(Code.ENVIRONMENT, f"CNI_ARGS: {name} is required")
        arguments = asked.arguments
        return PodKey(self._cluster, arguments["K8S_POD_NAMESPACE"], arguments["K8S_POD_NAME"])

    async def _object(self, asked: RuntimeCall, key: PodKey, until: float) -> Pod:
        """The Pod object; one of the same name that went before is another one."""
        uid = asked.arguments.get("K8S_POD_UID", "")

        def found() -> Pod | None:
            pod = self._pods.rows.get(key)
            return pod if pod and (not uid or not pod.uid or pod.uid == uid) else None

        if pod := await self._bell.until(found, until):
            return pod
        text = f"pod {_text(key)}: its Pod object is not known on this node"
        if key in self._pods.rows:
            text += f" (an earlier one of its name is; the UID asked for is {uid})"
        raise RefusedError(Code.AGAIN, text)

    def _keep(self, key: Sandbox, row: Attachment) -> None:
        try:
            self._attached.put(key, row)
        except OSError as error:
            raise RefusedError(Code.AGAIN, "attachments cannot be kept", in_words(error)) from error

    async def _wait(self, asked: RuntimeCall, key: Sandbox, until: float, *, new: bool) -> Reply:
        """The result, once nothing is lacking."""
        lack = ""

        def look() -> Connection | str | None:
            nonlocal lack
            if key not in self._attached.table.rows:
                return "it was deleted meanwhile"
            lack = self._connected.lacks(key)
            return None if lack else self._connected.connection(key)

        found = await self._bell.until(look, until)
        if isinstance(found, Connection):
            await self._moment(key.pod)
            return results.passed_on(asked) if self._beside else results.added(asked, found)
        if new and found is None:
            self._forget([key])
        text = f"pod {_text(key.pod)} is not connected within {self._add_s:g} s, as it lacks this"
        raise RefusedError(Code.AGAIN, f"{text}: {found or lack}")

    async def _moment(self, pod: PodKey) -> None:
        """Wait for what the pod should have when it starts, but not for long."""
        end = asyncio.get_running_loop().time() + MOMENT_S
        while any(await self._bell.gate.look(lambda: [one(pod) for one in self._lacks])):
            if asyncio.get_running_loop().time() > end:
                return
            await asyncio.sleep(_POLL_S)

    def _forget(self, keys: Iterable[Sandbox]) -> None:
        try:
            self._attached.end(list(keys))
        except OSError as error:
            raise RefusedError(Code.IO, "attachments cannot be kept", in_words(error)) from error

    async def _delete(self, asked: RuntimeCall) -> Reply:
        if known := self._attached.find(asked.container, asked.interface):
            self._forget([known[0]])
            await self._gone(known[0])
        return Reply()

    async def _gone(self, key: Sandbox) -> None:
        if self._beside:
            return  # the device is the other CNI's
        until = asyncio.get_running_loop().time() + DEL_S
        await self._bell.until(lambda: not self._connected.stands(key), until)

    async def _check(self, asked: RuntimeCall) -> Reply:
        known = self._attached.find(asked.container, asked.interface)
        if known is None:
            text = f"container {asked.container} has no {asked.interface} of this network"
            raise RefusedError(Code.UNKNOWN_CONTAINER, text)
        if asked.previous is None:
            raise RefusedError(Code.CONFIG, "prevResult: required for CHECK")
        key, row = known
        if _namespace(asked.netns) != row.inode or not inside.has(asked.netns, asked.interface):
            text = f"{asked.netns} has no {asked.interface} of ours any more"
            raise RefusedError(Code.CHANGED, text)
        lack = await self._bell.gate.look(lambda: self._connected.lacks(key))
        connection = self._connected.connection(key)
        if lack or connection is None:
            raise RefusedError(Code.AGAIN, f"pod {_text(key.pod)} lacks this: {lack}")
        if changed := _changed(asked, connection, beside=self._beside):
            text = f"pod {_text(key.pod)} is not as ADD has made it: it lacks {', '.join(changed)}"
            raise RefusedError(Code.CHANGED, text)
        return Reply()

    async def _collect(self, asked: RuntimeCall) -> Reply:
        """A runtime that has no attachment at all leaves the list out: nothing is deleted then."""
        if asked.valid is None:
            return Reply()
        gone = attachments.unlisted(self._attached.table.rows, asked.network, asked.valid)
        self._forget(gone)
        for key in gone:
            await self._gone(key)
        return Reply()

    async def _status(self, _: RuntimeCall) -> Reply:
        unready = await self._bell.gate.look(lambda: self._connected.unready)
        problems = [one.text for one in self._attached.findings()]
        if why := "; ".join([*problems, unready] if unready else problems):
            raise RefusedError(Code.NOT_AVAILABLE, f"no pod can be connected: {why}")
        return Reply()


def _text(pod: PodKey) -> str:
    return f"{pod.namespace}/{pod.name}"


def _namespace(path: str) -> int:
    """The namespace behind a path. Raises RefusedError."""
    try:
        found = attachments.inode(path)
    except OSError as error:
        raise RefusedError(Code.IO, f"CNI_NETNS {path}: {in_words(error)}") from error
    if not found:
        raise RefusedError(Code.UNKNOWN_CONTAINER, f"CNI_NETNS {path}: no network namespace")
    return found


def _changed(asked: RuntimeCall, connection: Connection, *, beside: bool) -> list[str]:
    """What the pod lacks of what the result of ADD says, and of what its kernel was given.

    Beside another CNI lengths of addresses and routes are that one's affair.
    """
    given = results.addresses_in(asked.previous or {}, asked.interface, asked.netns)
    have = [f"{one}/{one.max_prefixlen}" for one in connection.addresses]
    if beside:
        given, have = [[one.partition("/")[0] for one in listed] for listed in (given, have)]
    others = [f"address {one} of prevResult" for one in given if one not in have]
    return others + inside.lacks(asked.netns, connection.addresses, routes=not beside)
