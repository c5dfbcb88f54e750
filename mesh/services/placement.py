"""From translations to the rows of both maps, in pieces: the derivation around ``Slots``.

It runs when translations change and when entries of ``mg_service_addr`` were written so that slots
are free. Rows are written some at a time, backends first: each row of a service is right by itself,
and a first run has tens of thousands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from mesh.core.passes import Sliced
from mesh.core.table import Changes, Table
from mesh.services.backends import BackendAddress, ServiceAddress, Translation
from mesh.services.maps import Released
from mesh.services.slots import SlotRange, Slots

#: Before ``take_over`` there is no map whose size counts: as many as a key of 32 bits tells apart.
_UNBOUNDED = 1 << 32
#: Service addresses after which rows are written: about 2 ms.
_BATCH = 256


class Placement(Sliced):
    """``services`` and ``backends`` are the tables that become the two maps.

    Its own inputs cannot overtake it: a service address that changes is looked at once more.
    """

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
        self._translations = translations
        self._revision = -1  # of the translations that were seen
        self._todo: dict[ServiceAddress, Translation | None] = {}
        self._order: deque[ServiceAddress] = deque()  # of those in ``_todo``, first come first

    def take_over(self, slots: Slots) -> None:
        """Go on with the slots that a former process has given.

        Their backends become rows as service addresses are placed.
        """
        self.slots = slots
        self._services.upsert(slots.rows)

    def run(self) -> None:
        """All pieces at once."""
        for _ in self.steps():
            pass

    def steps(self) -> Iterator[None]:
        """One run in pieces."""
        self.groups = self.rows = 0
        self.slots.free()
        self._look()
        while self._order:
            ask = self._order.popleft()
            if ask not in self._todo:
                continue  # it changed twice, and was placed already
            self._place(ask, self._todo.pop(ask))
            if self.groups % _BATCH == 0:
                self._write()
            yield
        while self.slots.retry():
            yield
        self._write()
        self._backends.mark_synced()
        self._services.mark_synced()
        if self.slots.due:
            self.released.tell()

    def again(self) -> None:
        """Translations may have changed between two pieces."""
        self._look()

    def _look(self) -> None:
        """Note what changed; after a gap in the table's log that is everything."""
        table, since = self._translations, self._revision
        changes = table.changes(since) if since >= 0 else None
        self._revision = table.revision
        if changes is None:
            gone = [ask for ask in self.slots.asks if ask not in table.rows]
            changes = Changes(table.rows, frozenset(gone))
        self._todo.update(dict.fromkeys(changes.delete))
        self._todo.update(changes.upsert)
        self._order.extend((*changes.delete, *changes.upsert))

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
        self.rows += self._backends.upsert(writes.backends)
        self.rows += self._services.upsert(writes.services)
        self.rows += self._services.delete(writes.gone)
        self.rows += self._backends.delete(writes.freed)
