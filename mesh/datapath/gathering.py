"""Fragments out of order: the kernel gathers them, and brings them back (``bpf/include/order.h``).

It needs no process of ours: links are pinned, rules and routes are the kernel's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from bpf.gather import gather
from mesh.core.model import Finding
from mesh.datapath.findings import NOT_GATHERED

log = logging.getLogger(__name__)


class Kernel(Protocol):
    """The part of ``mesh/kernel.py`` that is needed."""

    async def add_gathering(self, ifindex: int, mark: int) -> None:
        """Lead what is marked so to a device."""


#: ``enum order_mark``: what is on its way to be gathered.
MARK = 0x6D676672


class Gathering:
    """What the host needs for it; ``folder`` is where links are pinned."""

    def __init__(self, node: str, kernel: Kernel, folder: Path) -> None:
        self._node, self._kernel, self._folder = node, kernel, folder
        self._refused = ""
        self._task: asyncio.Task[bool] | None = None

    def again(self, ifindex: int) -> None:
        """Make it soon: the routes out of the device have gone."""
        self._task = asyncio.get_running_loop().create_task(self.make(ifindex))

    async def make(self, ifindex: int) -> bool:
        """Whether the kernel does it; what is not there is made.

        The overlay's device has ``ifindex``.
        """
        self._refused = ""
        try:
            await self._kernel.add_gathering(ifindex, MARK)
            gather(self._folder)
        except OSError as error:
            self._refused = str(error)
            log.warning("event=not_gathered error=%s", error)
        return not self._refused

    def findings(self) -> Iterable[Finding]:
        """That fragments out of order are lost."""
        if self._refused:
            name = f"node/{self._node}"
            text = f"fragments that come out of order are dropped: {self._refused}"
            yield Finding(NOT_GATHERED, self._node, "", text, (name,))
