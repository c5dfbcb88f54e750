"""Several prefixes of one store, followed together: a process watches only what it needs.

Each prefix has a list and a watch of its own. What makes them one store is its marker, the key
``meshgate/v1/<cluster>/synced`` with a random id (ARCHITECTURE.md D8):

Rule 1: when one prefix sees another store, or another marker, all prefixes are listed anew.
Rule 2: keys that a list lacks are deleted only when every prefix was listed while one and the same
        marker stood. Until then they are held, as ``Follow`` holds them.
Rule 3: every new connection also checks that the marker is what it was.

Events of different prefixes come in no order. So a canary frees what its own prefix holds at once,
and what other prefixes hold by a new list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from clustermesh.etcd.client import Client, EtcdError, Replaced
from clustermesh.store.follow import Batch, Entry, Follow, _State, canary_of
from mesh.core.model import Finding

OnBatch = Callable[[Batch], None]


class StoreView:
    """Prefixes with their callbacks; each callback gets the batches of its prefix in order.

    ``marker`` is the key of the store's id. ``on_synced`` is called once, when every prefix was
    listed while the marker stood.
    """

    def __init__(
        self,
        client: Client,
        marker: str,
        prefixes: Mapping[str, OnBatch],
        *,
        canary: Callable[[str], str] = canary_of,
        on_synced: Callable[[], None] | None = None,
    ) -> None:
        self.synced = False
        #: Called when another store was found: the keys that we wrote into the old one are gone.
        self.on_replaced: Callable[[], None] | None = None
        self._client = client
        self._marker = marker
        self._canary = canary
        self._on_synced = on_synced
        self._parts: dict[str, _Part] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self.follow({marker: lambda _: None, **prefixes})

    @property
    def problem(self) -> str:
        """Why nothing arrives, in words; empty while connected."""
        return next((part.problem for part in self._parts.values() if part.problem), "")

    def findings(self) -> Iterable[Finding]:
        """Keys that are handed to no callback."""
        for part in self._parts.values():
            yield from part.findings()

    @property
    def prefixes(self) -> Sequence[str]:
        """The prefixes that are followed."""
        return tuple(self._parts)

    @property
    def held(self) -> frozenset[str]:
        """Keys that the store lacks and that are kept until it is known that they were deleted."""
        return frozenset().union(*(part.held for part in self._parts.values()))

    @property
    def replacements(self) -> int:
        """How many times a prefix has found another store behind the address."""
        return sum(part.replacements for part in self._parts.values())

    @property
    def compactions(self) -> int:
        """How many times history that was not read yet was compacted."""
        return sum(part.compactions for part in self._parts.values())

    @property
    def compacted(self) -> float:
        """When that was the last time, by ``time.monotonic``."""
        return max(part.compacted for part in self._parts.values())

    def told(self, prefix: str) -> Iterable[str]:
        """The keys of which the prefix's callback knows."""
        part = self._parts.get(prefix)
        return part.told if part else ()

    def follow(self, prefixes: Mapping[str, OnBatch]) -> None:
        """Follow more prefixes; those that are followed already go on as they are."""
        for prefix, on_batch in prefixes.items():
            if prefix not in self._parts:
                self._parts[prefix] = _Part(self, self._client, prefix, on_batch)
                self._start(prefix)

    def release(self, is_given_up: Callable[[str], bool]) -> None:
        """These keys are given up: those that are held are gone."""
        for part in self._parts.values():
            part.release(is_given_up)

    def leave(self, prefixes: Iterable[str]) -> None:
        """Follow these no longer; their callbacks are told that each key has gone."""
        for prefix in prefixes:
            part = self._parts.pop(prefix, None)
            task = self._tasks.pop(prefix, None)
            if task is not None:
                task.cancel()
            if part is not None:
                part.tell_all_gone()
        self.settle()

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            for prefix in self._parts:
                self._start(prefix)
            await asyncio.get_running_loop().create_future()  # until cancelled

    def _start(self, prefix: str) -> None:
        if self._group is not None:
            job = self._parts[prefix].run()
            self._tasks[prefix] = self._group.create_task(job, name=f"follow {prefix}")

    # --- For the parts ------------------------------------------------------------------------

    @property
    def marker(self) -> str:
        """The key of the store's id."""
        return self._marker

    def canary(self, key: str) -> str:
        """The key that stands when everything of the key's group does."""
        return self._canary(key)

    @property
    def is_agreed(self) -> bool:
        """Whether every prefix was listed while one and the same marker stood."""
        markers = {part.marker for part in self._parts.values()}
        return None not in markers and len(markers) == 1

    def settle(self) -> None:
        """After a list: delete keys that were held until every prefix had seen this store."""
        if not self.is_agreed:
            self._list_older()
            return
        for part in tuple(self._parts.values()):
            part.tell_gone()
        if not self.synced:
            self.synced = True
            if self._on_synced:
                self._on_synced()

    def _list_older(self) -> None:
        """List the prefixes again that were listed beside another marker than stands now.

        A marker that was put after the list of one prefix and before the list of the marker itself
        comes with no event: nothing else would ever list the former again.
        """
        now = self._parts[self._marker].marker
        for part in self._parts.values():
            if now is not None and part.is_listed and part.marker != now:
                part.list_anew()

    def note_replaced(self) -> None:
        """One prefix has found another store."""
        self.list_anew()
        if self.on_replaced:
            self.on_replaced()

    def list_anew(self) -> None:
        """List every prefix again; nothing is deleted before all have seen one marker."""
        for part in self._parts.values():
            part.list_anew()


class _Part(Follow):
    """One prefix of a view."""

    def __init__(self, view: StoreView, client: Client, prefix: str, on_batch: OnBatch) -> None:
        super().__init__(client, prefix, on_batch, canary=view.canary)
        #: The marker as it stood when the prefix was last listed.
        self.marker: tuple[bytes, int] | None = None
        #: Whether it was listed since a new list was last asked for.
        self.is_listed = False
        self._view = view
        self._before: tuple[bytes, int] | None = None  # the marker of what ``_state`` holds
        self._early: tuple[bytes, int] | None = None  # the marker before a list below a watch
        self._gone: set[str] = set()  # held, and deleted if this is the store that all see

    def list_anew(self) -> None:
        self.marker = None
        self.is_listed = False
        super().list_anew()

    def tell_gone(self) -> None:
        """Hand on the deletion of keys that were held for the view's sake."""
        gone, self._gone = self._gone, set()
        deletes = [key for key in gone if key in self._held]
        if deletes:
            self._held.difference_update(deletes)
            self._hand_on(Batch(self._state.revision, (), deletes))

    def release(self, is_given_up: Callable[[str], bool]) -> None:
        """Hand on the deletion of held keys that are given up."""
        gone = [key for key in self._held if is_given_up(key)]
        if gone:
            self._held.difference_update(gone)
            self._hand_on(Batch(self._state.revision, (), gone))

    @property
    def told(self) -> set[str]:
        """All keys that were handed on and not deleted since."""
        return self._state.keys | self._held | (self._listing.keys if self._listing else set())

    def tell_all_gone(self) -> None:
        """Hand on the deletion of everything that was told."""
        self._hand_on(Batch(self._state.revision, (), sorted(self.told)))

    async def _verify(self, state: _State) -> None:
        await super()._verify(state)
        if state is not self._state or self._before is None:
            return
        if await self._marker_at(state.revision) != self._before:
            raise Replaced(f"{self._view.marker} is not what it was: another store")

    async def _standing_before(self) -> set[str]:
        self._early = await self._marker_at(0)
        return await super()._standing_before()

    async def _is_same(self, fresh: _State) -> bool:
        early = fresh.stood is not None
        now = self._early if early else await self._marker_at(fresh.revision)
        same = now is not None and now == self._before
        self.marker = self._before = now
        self.is_listed = not self._again
        return same

    async def _marker_at(self, revision: int) -> tuple[bytes, int] | None:
        kv = await self._client.get(self._view.marker, revision)
        return None if kv is None else (kv.value, kv.mod_revision)

    async def _accept(self, fresh: _State) -> None:
        await super()._accept(fresh)
        self._view.settle()

    def _released(self, gone: Iterable[str]) -> Sequence[str]:
        if self._view.is_agreed:
            return super()._released(gone)
        self._gone.update(gone)
        return ()

    def _note_replacement(self, error: EtcdError) -> None:
        super()._note_replacement(error)
        self._view.note_replaced()

    def _note_puts(self, puts: Mapping[str, Entry]) -> None:
        marker = puts.get(self._view.marker)
        if marker is not None and (marker.value, marker.modified) != self._before:
            self._view.list_anew()
