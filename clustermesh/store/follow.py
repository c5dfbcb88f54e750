"""Follow a prefix of etcd for ever: one list, one watch, and batches of what changed.

A list comes page by page, at one revision: pages only put, and the absence of a key in a page says
nothing. Several prefixes of one store are followed together by ``StoreView`` (``view.py``).

Rule 1: nothing is deleted before a complete list was seen, and a key that a list lacks is deleted
        only if the same store had it (the store's marker is unchanged), or if the key's *canary*
        stands in it: what its writer puts after all others. Until then the key is held.
Rule 2: explicit DELETE events of a watch are passed on, those of expired leases too.
Rule 3: etcd lets any user cut its history (compact), again and again. When two lists in a row were
        cut, the next one is read below an open watch, which needs no history: each page as it is
        now, and then the events that are newer than the page of their key. The watch is read
        meanwhile (``ahead.py``).
Rule 4: a store that was wiped and started again keeps its address and cluster id, and may even
        have overtaken our revision. So every connection checks history before events count: at the
        last revision we saw, the prefix must hold as many keys as we know, the newest of them and
        the store's markers unchanged. Anything else is another store: list again from nothing.
Rule 4: a key costs itself. One that is no UTF-8 is a finding and is handed to nobody; one that the
        callback cannot take in is handed on alone, so that the others of its batch arrive.
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple

from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.client import (
    Client,
    Compacted,
    EtcdError,
    FutureRevision,
    KeyList,
    Pause,
    Replaced,
    Watched,
)
from clustermesh.etcd.names import is_readable, key_text, shown
from clustermesh.etcd.requests import prefix_range
from clustermesh.findings import NOT_TAKEN, NOT_UTF8
from clustermesh.remote.wire import plain
from clustermesh.store.ahead import ahead
from mesh.core.model import Finding

log = logging.getLogger(__name__)

#: Seconds between looks for a canary that lies outside the followed prefix.
CANARY_S = 2.0
#: Lists in a row that history was cut under before one is read below an open watch.
CUTS = 2
#: Seconds until everything is listed again after a mistake of ours.
AFTER_MISTAKE_S = 5.0
#: Keys of a prefix that are shown one by one, of each kind of finding.
_SHOWN = 20


class Entry(NamedTuple):
    """One key; ``created`` and ``modified`` are revisions."""

    key: str
    value: bytes
    created: int
    modified: int
    lease: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What changed up to ``revision``.

    ``page``: the puts are a part of a list, more follows. ``listed``: with this batch the list is
    complete, and ``deletes`` holds what it lacks.
    """

    revision: int
    puts: Sequence[Entry] = ()
    deletes: Sequence[str] = ()
    listed: bool = False
    page: bool = False


@dataclass(slots=True)
class _State:
    """The prefix as one store has it: its keys, and what proves the store.

    No more than that is held: there may be a million keys.
    """

    revision: int = 0
    keys: set[str] = field(default_factory=set)
    newest: Entry | None = None
    markers: dict[str, Entry] = field(default_factory=dict)  # their values are unique to a store
    #: Of a list below an open watch: canaries that stood before its first page.
    stood: set[str] | None = None

    def put(self, entry: Entry) -> None:
        self.keys.add(entry.key)
        if self.newest is None or entry.modified >= self.newest.modified:
            self.newest = entry
        if is_marker(entry.key):
            self.markers[entry.key] = entry

    def drop(self, key: str) -> None:
        self.keys.discard(key)
        self.markers.pop(key, None)
        if self.newest and self.newest.key == key:
            self.newest = None  # until the next put the count and the markers prove the store

    def witnesses(self) -> Sequence[Entry]:
        """Keys that another store would hardly have with these values at these revisions."""
        return [*self.markers.values(), *([self.newest] if self.newest else [])]

    def is_store_of(self, other: _State) -> bool:
        """A marker stands unchanged: what ``other`` lacks was deleted, not lost with a store."""
        return any(other.markers.get(key) == entry for key, entry in self.markers.items())


def is_marker(key: str) -> bool:
    """The key's value holds the random id of the store: ``meshgate/v1/<cluster>/synced``."""
    match key.split("/"):
        case ["meshgate", "v1", _, "synced"]:
            return True
    return False


def canary_of(key: str) -> str:
    """The key that ``key``'s writer puts when everything of its group is there.

    ``meshgate/v1/<cluster>/…`` has ``…/synced`` (the leader's), but pods have their agent's
    ``…/pod/<node>/synced``, and what a controller says of them has ``…/confirmed/synced``;
    ``cilium/cache/<type>/v1/<cluster>/…`` has
    ``cilium/synced/<cluster>/cilium/cache/<type>/v1``. Any other key has none but itself, so the
    lack of it in a list deletes nothing.
    """
    match key.split("/"):
        case ["meshgate", "v1", cluster, "pod", node, _, *_]:
            return f"meshgate/v1/{cluster}/pod/{node}/synced"
        case ["meshgate", "v1", cluster, "confirmed", _, *_]:
            return f"meshgate/v1/{cluster}/confirmed/synced"
        case ["meshgate", "v1", cluster, _, *_]:
            return f"meshgate/v1/{cluster}/synced"
        case ["cilium", "cache", kind, "v1", cluster, _, *_]:
            return f"cilium/synced/{cluster}/cilium/cache/{kind}/v1"
    return key


@dataclass(slots=True)
class _Pages:
    """At which revisions the pages of a list were read, by their last keys; the last has no end."""

    ends: list[bytes] = field(default_factory=list)
    revisions: list[int] = field(default_factory=list)

    def add(self, end: bytes, revision: int) -> None:
        self.ends.append(end)
        self.revisions.append(revision)

    def have(self, kv: pb.KeyValue) -> bool:
        """Whether the page of the key was read after this event."""
        at = min(bisect_left(self.ends, kv.key), len(self.ends) - 1)
        return kv.mod_revision <= self.revisions[at]

    def end_at(self, revision: int) -> bool:
        """Whether all pages were read before."""
        return revision >= self.revisions[-1]


@dataclass(slots=True)
class _Changes:
    """What the events of one message change; ``told`` says whether the caller knows of the key."""

    puts: dict[str, Entry] = field(default_factory=dict)
    deletes: dict[str, None] = field(default_factory=dict)
    _new: set[str] = field(default_factory=set)

    def put(self, entry: Entry, *, told: bool) -> None:
        if not told and entry.key not in self.deletes:
            self._new.add(entry.key)
        self.puts[entry.key] = entry
        self.deletes.pop(entry.key, None)

    def delete(self, key: str, *, told: bool) -> None:
        """A key that came and went meanwhile was never there for the caller."""
        self.puts.pop(key, None)
        if told and key not in self._new:
            self.deletes[key] = None
        self._new.discard(key)


class Follow:
    """One prefix into one callback.

    ``on_batch`` is called in order, from one task; what it is given once stays true until a later
    batch says otherwise. ``on_synced`` is called once, when the first list (and, if the prefix
    itself has a canary, that) is in.
    """

    def __init__(
        self,
        client: Client,
        prefix: str,
        on_batch: Callable[[Batch], None],
        *,
        canary: Callable[[str], str] = canary_of,
        on_synced: Callable[[], None] | None = None,
    ) -> None:
        self.prefix = prefix
        self.synced = False
        #: How many times another store was found behind the address.
        self.replacements = 0
        #: How many times history that was not read yet was compacted, and when the last time.
        self.compactions = 0
        self.compacted = 0.0
        #: Called when another store was found: what we wrote into the old one is gone.
        self.on_replaced: Callable[[], None] | None = None
        #: Keys that are no UTF-8, and keys that the callback could not take in, with the reason.
        self.unreadable: dict[str, None] = {}
        self.not_taken: dict[str, str] = {}
        self._problem = ""
        self._client = client
        self._on_batch = on_batch
        self._on_synced = on_synced
        self._canary = canary
        self._state = _State()
        self._listing: _State | None = None  # pages were told, the list is not accepted yet
        self._pages: _Pages | None = None  # of a list below an open watch, until events pass it
        self._cuts = 0  # compactions since a list was accepted
        self._timer: asyncio.Timeout | None = None  # while waiting for events
        self._again = False  # somebody asks for a new list
        self._held: set[str] = set()  # told to the caller, not in this store, no canary yet
        self._awaited: set[str] = set()  # canaries outside the prefix that are not there yet

    @property
    def problem(self) -> str:
        """Why nothing arrives, in words; empty while connected."""
        return self._problem or self._client.problem

    @property
    def held(self) -> frozenset[str]:
        """Keys that this store lacks and that are kept until their canary stands."""
        return frozenset(self._held)

    async def run(self) -> None:
        """Follow until cancelled."""
        pause = Pause()
        while True:
            revision = self._state.revision
            try:
                await self._session()
            except Compacted:
                self._state.revision = 0
                self._cuts += 1
                self.compactions, self.compacted = self.compactions + 1, time.monotonic()
            except (FutureRevision, Replaced) as error:
                self._note_replacement(error)
            except EtcdError as error:
                self._problem = str(error)
            except Exception as error:  # a mistake of ours: list, and begin anew
                log.exception("event=not_followed prefix=%s", self.prefix)
                self._problem = f"{self.prefix} is listed again after {error!r}"
                self._state.revision = 0
                await asyncio.sleep(AFTER_MISTAKE_S)
            if self._state.revision > revision:
                pause.reset()
            await asyncio.sleep(pause.next())

    def _note_replacement(self, error: EtcdError) -> None:
        log.warning("event=store_replaced prefix=%s reason=%s", self.prefix, error)
        self._state.revision = 0
        self.replacements += 1
        if self.on_replaced:
            self.on_replaced()

    def list_anew(self) -> None:
        """End the session, also one that waits for events, and list."""
        self._again = True
        if self._timer is not None:
            self._timer.reschedule(asyncio.get_running_loop().time())

    async def _session(self) -> None:
        """List if nothing can be resumed, then watch; ends by an EtcdError or to list anew."""
        if self._again:
            self._state.revision, self._again = 0, False
        try:
            if not self._state.revision and self._cuts >= CUTS:
                await self._list_below_watch()
                return
            fresh = None if self._state.revision else await self._list()
            await self._watch(fresh, fresh.revision if fresh else self._state.revision)
        except TimeoutError:
            if not self._again and await self._present(self._awaited, 0):
                self._state.revision = 0

    async def _list(self) -> _State:
        """Hand on all keys page by page. A list that is not accepted leaves its keys held."""
        fresh = self._begin_list()
        async with aclosing(self._client.pages(self.prefix)) as pages:
            async for page in pages:
                fresh.revision = page.revision
                self._tell_page(fresh, page)
        return fresh

    def _begin_list(self) -> _State:
        if self._listing is not None:
            self._held |= self._listing.keys - self._state.keys
        fresh = self._listing = _State()
        self._pages = None
        return fresh

    def _tell_page(self, fresh: _State, page: KeyList) -> None:
        entries = [entry_of(kv) for kv in page.kvs]
        for entry in entries:
            fresh.put(entry)
        if entries:
            self._hand_on(Batch(page.revision, entries, page=True))

    async def _list_below_watch(self) -> None:
        """List while a watch is open, then follow it; raises TimeoutError as ``_watch`` does.

        No revision holds the whole list, so it is accepted by canaries that stood before it.
        """
        async with (
            aclosing(self._client.watch(self.prefix)) as read,
            aclosing(ahead(read)) as watch,
        ):
            opened = await self._next(watch, None)
            fresh, pages = self._begin_list(), _Pages()
            fresh.revision = opened.revision
            fresh.stood = await self._standing_before()
            async with aclosing(self._client.loose_pages(self.prefix)) as parts:
                async for page in parts:
                    self._tell_page(fresh, page)
                    pages.add(page.kvs[-1].key if page.kvs else b"", page.revision)
            await self._accept(fresh)
            self._pages = pages
            await self._take_events(watch, None, self._look())

    async def _standing_before(self) -> set[str]:
        """Canaries of what we know that stand now."""
        known = self._state.keys | self._held
        return await self._present({self._canary(key) for key in (*known, self.prefix)}, 0)

    async def _watch(self, fresh: _State | None, start: int) -> None:
        """Take in events; raises TimeoutError when it is time to look for an awaited canary.

        Time counts from when the store is proven, however slow that is.
        """
        async with aclosing(self._client.watch(self.prefix, start + 1)) as watch:
            await self._take_events(watch, fresh, None)

    async def _take_events(
        self, watch: AsyncGenerator[Watched, None], fresh: _State | None, look: float | None
    ) -> None:
        while not self._again:
            seen = await self._next(watch, look)
            self._problem = ""
            if not seen.created:
                self._take(seen)
                continue
            if self._pages is not None:
                self._state.revision = 0  # no revision holds what we have: list anew
                return
            if fresh is None:
                await self._verify(self._state)
            else:
                await self._accept(fresh)
                fresh = None
                if self._awaited:
                    return
            look = self._look()

    def _look(self) -> float | None:
        """When to look for awaited canaries."""
        return asyncio.get_running_loop().time() + CANARY_S if self._awaited else None

    async def _next(self, watch: AsyncGenerator[Watched, None], look: float | None) -> Watched:
        async with asyncio.timeout_at(look) as timer:
            self._timer = timer
            try:
                return await anext(watch)
            finally:
                self._timer = None

    async def _verify(self, state: _State) -> None:
        """Raise Replaced unless the store's history at our revision is what we saw."""
        _, end = prefix_range(self.prefix)
        reply = await self._client.range(self.prefix, end, revision=state.revision, count_only=True)
        if reply.count != len(state.keys):
            raise Replaced(
                f"{self.prefix} had {len(state.keys)} keys at revision {state.revision}, "
                f"this store says {reply.count}"
            )
        for witness in state.witnesses():
            kv = await self._client.get(witness.key, state.revision)
            if kv is None or kv.mod_revision != witness.modified or kv.value != witness.value:
                raise Replaced(f"{witness.key} is not what it was at revision {state.revision}")

    async def _accept(self, fresh: _State) -> None:
        if fresh.stood is None:
            await self._verify(fresh)
        own = self._canary(self.prefix)
        missing = (self._state.keys | self._held) - fresh.keys
        wanted = {self._canary(key) for key in missing} | {own}
        outside = {key for key in wanted if not key.startswith(self.prefix)}
        complete = fresh.stood
        if complete is None:
            complete = (wanted & fresh.keys) | await self._present(outside, fresh.revision)
        same = await self._is_same(fresh)
        deleted = self._state.keys if same else frozenset[str]()
        gone = [key for key in missing if key in deleted or self._canary(key) in complete]
        self._state, self._listing, self._held = fresh, None, missing
        self._awaited = outside - complete
        self._cuts = 0
        self._hand_on(Batch(fresh.revision, (), self._released(gone), listed=True))
        self._sync(complete | {self.prefix})

    async def _is_same(self, fresh: _State) -> bool:
        """Whether ``fresh`` is of the store that we knew, so that what it lacks was deleted."""
        return self._state.is_store_of(fresh)

    def _released(self, gone: Iterable[str]) -> Sequence[str]:
        """Held keys that may be deleted now."""
        deletes = [key for key in gone if key in self._held]
        self._held.difference_update(deletes)
        return deletes

    async def _present(self, keys: Iterable[str], revision: int) -> set[str]:
        return {key for key in keys if await self._client.get(key, revision) is not None}

    def _take(self, seen: Watched) -> None:
        state, changes = self._state, _Changes()
        for event in seen.events:
            if self._pages is not None and self._pages.have(event.kv):
                continue
            entry = entry_of(event.kv)
            told = entry.key in state.keys or entry.key in self._held
            if event.type == pb.Event.EventType.DELETE:
                state.drop(entry.key)
                changes.delete(entry.key, told=told)
            else:
                state.put(entry)
                changes.put(entry, told=told)
        puts, deletes = changes.puts, changes.deletes
        state.revision = seen.events[-1].kv.mod_revision if seen.events else seen.revision
        if self._pages is not None and self._pages.end_at(state.revision):
            self._pages = None
        if not puts and not deletes:
            return
        self._note_puts(puts)
        self._held.difference_update(puts)
        deletes.update(dict.fromkeys(self._release(puts)))
        self._hand_on(Batch(state.revision, tuple(puts.values()), tuple(deletes)))
        self._sync(puts.keys())

    # --- What the callback gets ---------------------------------------------------------------

    def _hand_on(self, batch: Batch) -> None:
        """Call back with the keys that can be read; a key that raises is told apart."""
        told = self._readable(batch)
        try:
            self._on_batch(told)
        except Exception:  # of one key, whichever it is
            log.exception("event=batch_not_taken prefix=%s", self.prefix)
            self._hand_on_singly(told)
            return
        if self.not_taken:
            for key in (*told.deletes, *(entry.key for entry in told.puts)):
                self.not_taken.pop(key, None)

    def _readable(self, batch: Batch) -> Batch:
        puts = [entry for entry in batch.puts if is_readable(entry.key)]
        deletes = [key for key in batch.deletes if is_readable(key)]
        if len(puts) == len(batch.puts) and len(deletes) == len(batch.deletes):
            return batch
        self.unreadable |= {e.key: None for e in batch.puts if not is_readable(e.key)}
        for key in batch.deletes:
            self.unreadable.pop(key, None)
        return replace(batch, puts=puts, deletes=deletes)

    def _hand_on_singly(self, batch: Batch) -> None:
        """Each key in a batch of its own: the callbacks may be told the same twice."""
        for entry in batch.puts:
            self._hand_on_key(entry.key, replace(batch, puts=[entry], deletes=(), listed=False))
        for key in batch.deletes:
            self._hand_on_key(key, replace(batch, puts=(), deletes=[key], listed=False))
        if batch.listed:
            self._hand_on_key(self.prefix, replace(batch, puts=(), deletes=()))

    def _hand_on_key(self, key: str, batch: Batch) -> None:
        try:
            self._on_batch(batch)
        except Exception as error:  # noqa: BLE001 - becomes the finding of the key
            self.not_taken[key] = repr(error)
        else:
            self.not_taken.pop(key, None)

    def findings(self) -> Iterable[Finding]:
        """Keys that nobody gets to see, the first ones of them one by one."""
        for code, keys in ((NOT_UTF8, self.unreadable), (NOT_TAKEN, self.not_taken)):
            for key in islice(keys, _SHOWN):
                text = self.not_taken.get(key, "is no UTF-8: the key counts as absent")
                yield Finding(code, plain(shown(key)), "", plain(text))
            if len(keys) > _SHOWN:
                text = f"{len(keys) - _SHOWN} further keys"
                yield Finding(code, self.prefix, "", text)

    # --- Complete -----------------------------------------------------------------------------

    def _note_puts(self, puts: Mapping[str, Entry]) -> None:
        """Look at what was put, before it is handed on."""

    def _release(self, puts: Mapping[str, Entry]) -> Sequence[str]:
        """Held keys whose canary has just been put: their writer says that they are gone."""
        return self._released([key for key in self._held if self._canary(key) in puts])

    def _sync(self, present: Iterable[str]) -> None:
        if not self.synced and self._canary(self.prefix) in present:
            self.synced = True
            if self._on_synced:
                self._on_synced()


def entry_of(kv: pb.KeyValue) -> Entry:
    """A key-value of the wire; bytes that are no UTF-8 survive in the key."""
    return Entry(key_text(kv.key), kv.value, kv.create_revision, kv.mod_revision, kv.lease)
