"""Unreachable routes for what a node announces, so that nothing goes back where it came from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from mesh.core.model import Network
from mesh.core.reconcile import Errors
from mesh.kernel import Kernel


class DiscardRoutes:
    """Target: unreachable routes."""

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
