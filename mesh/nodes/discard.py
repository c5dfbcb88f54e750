"""Unreachable routes for what a node announces, so that nothing goes back where it came from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from mesh.core.feature import AgentFeature
from mesh.core.model import Network
from mesh.core.reconcile import Errors, Loop
from mesh.core.table import Table
from mesh.kernel import Kernel


class DiscardAgent(AgentFeature):
    """``announced`` are the networks that the features of this node attract.

    An announced network without a more specific route of its own would loop between router and
    node until the TTL ends (``reference/egress.md`` 10.4).
    """

    def __init__(self, kernel: Kernel, announced: Iterable[Table[Network, None]]) -> None:
        self.table: Table[Network, None] = Table("discard route")
        self._kernel, self._announced = kernel, tuple(announced)

    def derive(self, loop: Loop) -> None:
        loop.derive(self._announced, self._union)

    def apply_routes(self, loop: Loop) -> None:
        loop.apply(self.table, DiscardRoutes(self._kernel))

    def _union(self) -> None:
        self.table.replace(dict.fromkeys(one for table in self._announced for one in table.rows))


class DiscardRoutes:
    """Target: unreachable routes."""

    name = "discard routes"

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    async def read(self) -> dict[Network, None]:
        return dict.fromkeys(await self._kernel.discard_routes())

    async def upsert(self, rows: Iterable[Network]) -> Errors[Network]:
        return await _each(self._kernel.add_discard_route, rows)

    async def delete(self, keys: Iterable[Network]) -> Errors[Network]:
        return await _each(self._kernel.delete_discard_route, keys)


async def _each(
    act: Callable[[Network], Awaitable[None]], prefixes: Iterable[Network]
) -> Errors[Network]:
    errors: dict[Network, Exception] = {}
    for prefix in prefixes:
        try:
            await act(prefix)
        except OSError as error:
            errors[prefix] = error
    return errors
