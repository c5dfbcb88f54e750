"""From translations to the rows of both maps, in pieces: the derivation around ``Slots``.

It runs when translations change and when entries of ``mg_service_addr`` were written so that slots
are free. The pieces compute; the last one writes both tables.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh.core.groups import Followed
from mesh.core.table import Changes, Table
from mesh.services.backends import BackendAddress, ServiceAddress, Translation
from mesh.services.maps import Released
from mesh.services.slots import SlotRange, Slots

#: Before ``take_over`` there is no map whose size counts: as many as a key of 32 bits tells apart.
_UNBOUNDED = 1 << 32


class Placement:
    """``services`` and ``backends`` are the tables that become the two maps."""

    #: Service addresses that the last run has looked at, and rows that it has written.
    groups = 0
    rows = 0
    #: Its own inputs cannot overtake it: a service address that changes is looked at once more.
    doublings = 0

    def __init__(
        self,
        translations: Table[ServiceAddress, Translation],
        services: Table[ServiceAddress, SlotRange],
        backends: Table[int, BackendAddress],
    ) -> None:
        self.slots = Slots(_UNBOUNDED)
        self.released = Released("released slots")
        self.released.mark_synced()
        #: Translations that several services claim.
        self.contested: dict[ServiceAddress, Translation] = {}
        self._services, self._backends = services, backends
        self._followed = Followed(translations, self._note)
        self._todo: dict[ServiceAddress, Translation | None] = {}

    def take_over(self, slots: Slots) -> None:
        """Go on with the slots that a former process has given."""
        self.slots = slots
        self._backends.upsert(slots.backends)
        self._services.upsert(slots.rows)
        self._todo = dict.fromkeys(slots.rows)

    def run(self) -> None:
        """All pieces at once."""
        for _ in self.steps():
            pass

    def steps(self) -> Iterator[None]:
        """One run in pieces; the last one writes."""
        self.groups = 0
        self.slots.free()
        self._followed.run()
        while self._todo:
            ask = next(iter(self._todo))
            self._place(ask, self._todo.pop(ask))
            yield
        while self.slots.retry():
            yield
        self._write()

    def again(self) -> None:
        """Translations may have changed between two pieces."""
        self._followed.run()

    def _note(self, changes: Changes[ServiceAddress, Translation]) -> None:
        self._todo.update(dict.fromkeys(changes.delete))
        self._todo.update(changes.upsert)

    def _place(self, ask: ServiceAddress, row: Translation | None) -> None:
        self.groups += 1
        self.contested.pop(ask, None)
        if row is None:
            self.slots.remove(ask)
            return
        self.slots.place(ask, row.backends)
        if row.refused:
            self.contested[ask] = row

    def _write(self) -> None:
        writes = self.slots.take_writes()
        self.rows = self._backends.upsert(writes.backends)
        self.rows += self._services.upsert(writes.services)
        self.rows += self._services.delete(writes.gone)
        self.rows += self._backends.delete(writes.freed)
        self._backends.mark_synced()
        self._services.mark_synced()
        if self.slots.due:
            self.released.tell()
