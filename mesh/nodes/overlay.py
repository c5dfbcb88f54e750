"""The overlay's device, which the kernel's share of the overlay needs: it is there, and it is up.

Through it go what the kernel has to open or to fragment, and what this host sends to pods of other
nodes. Another program may set it down or delete it; then its routes and neighbours have gone, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol

from mesh.core.model import Finding
from mesh.netlink import Event, Group, LinkEvent, Lost
from mesh.nodes.findings import OVERLAY_RESTORED
from mesh.nodes.uplink import MovedError
from mesh.orders import Link

log = logging.getLogger(__name__)

#: Seconds for which it is shown that the device was restored.
SHOWN_S = 60.0
#: Seconds until the agent begins anew with another device: somebody may delete it again and again.
REST_S = 1.0


class Kernel(Protocol):
    """The part of ``mesh/kernel.py`` that is needed."""

    def events(self, *groups: Group) -> AsyncIterator[Event]:
        """Events for ever; ``Lost`` first and after every gap."""

    async def find(self, name: str) -> Link | None:
        """One device, None when there is none."""

    async def add_vxlan(self, name: str, port: int) -> Link:
        """Make it, unless it is there, and set it up."""


class OverlayDevice:
    """The device ``name``, which outlives the agents of a process."""

    def __init__(
        self, kernel: Kernel, name: str, port: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kernel, self._name, self._port, self._clock = kernel, name, port, clock
        self._ifindex = 0
        self._said, self._at = "", 0.0

    @property
    def ifindex(self) -> int:
        """Its number, once it is made."""
        return self._ifindex

    async def make(self) -> Link:
        """The device, up; raises OSError."""
        link = await self._kernel.add_vxlan(self._name, self._port)
        self._ifindex = link.ifindex
        return link

    async def run(self, recheck: Callable[[], None]) -> None:
        """Keep the device up until cancelled; ``recheck`` is called when its routes have gone.

        Raises:
            MovedError: it is another device by now; the datapath was loaded with the former one.

        """
        async for event in self._kernel.events(Group.LINK):
            if isinstance(event, Lost) or self._is_about(event):
                await self._look(recheck)

    def _is_about(self, event: Event) -> bool:
        return isinstance(event, LinkEvent) and (
            event.name == self._name or event.ifindex == self._ifindex
        )

    async def _look(self, recheck: Callable[[], None]) -> None:
        link = await self._kernel.find(self._name)
        if link is None or link.ifindex != self._ifindex:
            self._note("was deleted or renamed; the agent made it anew")
            await asyncio.sleep(REST_S)
            raise MovedError(f"{self._name} is gone")
        if not link.up:
            await self.make()
            self._note("was set down; the agent set it up")
            recheck()

    def _note(self, said: str) -> None:
        self._said, self._at = said, self._clock()
        log.warning("event=overlay_restored device=%s said=%s", self._name, said)

    def findings(self, node: str) -> Iterator[Finding]:
        """That the device was restored, for a minute."""
        if self._said and self._clock() < self._at + SHOWN_S:
            text = f"{self._name} {self._said}: in between, what this host sends to pods of other "
            text += (
                "nodes was lost, and so was UDP that a sender had merged; find the program that "
            )
            text += f"does it, and let it leave {self._name} alone"
            yield Finding(OVERLAY_RESTORED, f"{node}/{self._name}", "", text, (f"node/{node}",))
