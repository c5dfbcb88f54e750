"""Which backends are gone: no service leads to them, and the mesh has nobody at their address."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from ipaddress import ip_address

import numpy as np

from mesh.core.address import column
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.identity.addresses import VALUE
from mesh.identity.agent import address_table
from mesh.services.backends import BackendAddress
from mesh.services.ends import Lost, SocketsAgent

A, B = (BackendAddress(ip_address(text), 53) for text in ("10.1.0.7", "fd01::8"))


def test_a_backend_that_drains_is_lost_and_not_gone() -> None:
    alive = {A, B}
    lost = Lost(alive.__contains__)
    lost.take((), [A, B])
    assert lost.take_gone() == []
    alive.remove(A)
    assert lost.take_gone() == [A]
    assert lost.take_gone() == [], "once"


def test_a_backend_that_is_used_again_is_not_lost() -> None:
    lost = Lost(lambda _: False)
    lost.take((), [A])
    lost.take([A], ())
    assert lost.take_gone() == []


class Noted(SocketsAgent):
    """Notes which backends' sockets it would end."""

    ends: list[BackendAddress]

    async def end(self, backends: Collection[BackendAddress]) -> None:
        self.ends += backends


class Maps:
    """What the last process left behind stands in the table already."""

    def rows(self, *_: object) -> Mapping[object, object]:
        return {}

    def program(self, _: str) -> int:
        return -1


def agent(recovered: Collection[BackendAddress] = ()) -> tuple[Noted, Loop]:
    used: Table[BackendAddress, bool] = Table("used")
    address = address_table()
    made = Noted(used, address, Table("netns"))
    made.ends = []
    used.upsert(dict.fromkeys(recovered, True))
    asyncio.run(made.recover(Maps()))  # type: ignore[arg-type]  # as much of it as is asked
    loop = Loop()
    made.derive(loop)
    return made, loop


def put(made: SocketsAgent, backend: BackendAddress) -> None:
    row = np.array([(1 << 16 | 1, 1, 1, 1, 0)], VALUE)
    made._address.upsert(column([backend.address]), row)  # noqa: SLF001 - the test's own table


def settle(made: Noted, loop: Loop) -> list[BackendAddress]:
    loop.derive_all()
    asyncio.run(made.look())
    found, made.ends = made.ends, []
    return found


def test_sockets_end_when_address_and_service_have_gone() -> None:
    made, loop = agent()
    used, address = made._used, made._address  # noqa: SLF001 - the test's own tables
    put(made, A)
    address.mark_synced()
    used.replace({A: True, B: True})
    assert settle(made, loop) == []
    used.delete([A, B])
    assert settle(made, loop) == [B], "of A the pod is there"
    address.delete(column([A.address]))
    assert settle(made, loop) == [A]


def test_nothing_is_gone_before_everything_is_known() -> None:
    made, loop = agent([A])
    assert settle(made, loop) == []
    made._used.mark_synced()  # noqa: SLF001 - the test's own tables
    assert settle(made, loop) == []
    made._address.mark_synced()  # noqa: SLF001 - the test's own tables
    assert settle(made, loop) == [], "a service leads to it"


def test_what_went_while_the_agent_was_dead_is_gone() -> None:
    made, loop = agent([A, B])
    made._address.mark_synced()  # noqa: SLF001 - the test's own tables
    made._used.replace({B: True})  # noqa: SLF001 - the test's own tables
    assert settle(made, loop) == [A]
