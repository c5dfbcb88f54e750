"""Which backends are gone: no service leads to them, and the mesh has nobody at their address."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_address
from itertools import count

import numpy as np
import pytest

from mesh.core.address import column
from mesh.core.model import IP, ServiceKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.identity.addresses import VALUE
from mesh.identity.agent import address_table
from mesh.services.backends import BackendAddress, ServiceAddress, Translation
from mesh.services.ends import SocketsAgent
from mesh.services.uses import Use, Uses

A, B = (BackendAddress(ip_address(text), 53) for text in ("10.1.0.7", "fd01::8"))
OWNER = ServiceKey("east", "shop", "web")
protocols = pytest.mark.parametrize("protocol", ["TCP", "UDP"])


def ask(protocol: str, port: int = 53) -> ServiceAddress:
    return ServiceAddress(ip_address("10.97.1.1"), port, protocol)


def to(*backends: BackendAddress) -> Translation:
    return Translation(OWNER, backends)


class Services:
    """A table of translations and its uses; ``here`` are the addresses that the mesh knows."""

    def __init__(self) -> None:
        self.table: Table[ServiceAddress, Translation] = Table("translation")
        self.uses = Uses(self.table)
        self.here: set[IP] = set()

    def lead(self, rows: Mapping[ServiceAddress, Translation]) -> None:
        self.table.replace(rows)
        self.uses.run()

    def gone(self, limit: int = 100) -> list[Use]:
        return self.uses.take_gone(self.here.__contains__, limit)


@protocols
def test_a_backend_that_drains_is_lost_and_not_gone(protocol: str) -> None:
    made = Services()
    made.here = {A.address, B.address}
    made.lead({ask(protocol): to(A, B)})
    made.lead({ask(protocol): to()})
    assert made.gone() == []
    made.here.remove(A.address)
    assert made.gone() == [(protocol, A)]
    assert made.gone() == [], "once"


def test_a_backend_that_is_used_again_is_not_lost() -> None:
    made = Services()
    made.lead({ask("UDP"): to(A)})
    made.lead({})
    made.lead({ask("UDP"): to(A)})
    assert made.gone() == []


def test_a_backend_of_two_services_is_lost_with_the_last_one() -> None:
    made = Services()
    made.lead({ask("TCP", 1): to(A), ask("TCP", 2): to(A, A)})
    made.lead({ask("TCP", 2): to(A)})
    assert made.gone() == []
    made.lead({ask("TCP", 2): to(B)})
    assert made.gone() == [("TCP", A)]


def test_a_protocol_of_a_backend_is_lost_alone() -> None:
    made = Services()
    made.lead({ask("TCP"): to(A), ask("UDP"): to(A)})
    made.lead({ask("UDP"): to(A)})
    assert made.gone() == [("TCP", A)]


def test_each_piece_looks_at_others() -> None:
    made = Services()
    made.here = {A.address}
    made.uses.recover([("TCP", A), ("TCP", B), ("UDP", A), ("UDP", B)])
    assert [made.gone(1) for _ in range(made.uses.lost)] == [[], [("TCP", B)], [], [("UDP", B)]]
    assert made.uses.lost == 2


def test_a_backend_that_moves_between_services_is_not_lost_in_the_middle() -> None:
    """A run has pieces: after the first ones nothing is whole."""
    made, ports = Services(), list(range(1, 200))
    made.lead({ask("TCP", port): to(A) for port in ports[:1]})
    assert made.uses.whole
    rows = {ask("TCP", port): to(B) for port in ports[:-1]}
    made.table.replace({**rows, ask("TCP", ports[-1]): to(A)})
    steps = made.uses.steps()
    pieces = [made.uses.whole for _ in steps]
    assert pieces
    assert not any(pieces)
    assert made.uses.whole
    assert made.gone() == []


class Noted(SocketsAgent):
    """Notes which backends' sockets it would end."""

    ends: list[Use]

    async def end(self, gone: Collection[Use]) -> None:
        self.ends += gone


def agent(recovered: Iterable[Use] = ()) -> tuple[Noted, Services, Loop]:
    services = Services()
    services.uses.recover(recovered)
    made = Noted(services.uses, address_table(), Table("netns"))
    made.ends = []
    loop = Loop()
    loop.work("uses", services.uses, [services.table])
    made.derive(loop)
    return made, services, loop


def put(made: SocketsAgent, backend: BackendAddress) -> None:
    row = np.array([(1 << 16 | 1, 1, 1, 1, 0)], VALUE)
    made._address.upsert(column([backend.address]), row)  # noqa: SLF001 - the test's own table


def settle(made: Noted, loop: Loop) -> list[Use]:
    loop.derive_all()
    asyncio.run(made.look())
    found, made.ends = made.ends, []
    return found


@protocols
def test_sockets_end_when_address_and_service_have_gone(protocol: str) -> None:
    made, services, loop = agent()
    address = made._address  # noqa: SLF001 - the test's own table
    put(made, A)
    address.mark_synced()
    services.table.replace({ask(protocol): to(A, B)})
    assert settle(made, loop) == []
    services.table.replace({})
    assert settle(made, loop) == [(protocol, B)], "of A the pod is there"
    address.delete(column([A.address]))
    assert settle(made, loop) == [(protocol, A)]


def test_nothing_is_gone_before_everything_is_known() -> None:
    made, services, loop = agent([("UDP", A)])
    services.table.upsert({ask("UDP"): to(A)})
    assert settle(made, loop) == []
    services.table.mark_synced()
    assert settle(made, loop) == []
    made._address.mark_synced()  # noqa: SLF001 - the test's own table
    assert settle(made, loop) == [], "a service leads to it"


def test_what_went_while_the_agent_was_dead_is_gone() -> None:
    made, services, loop = agent([("TCP", A), ("UDP", A), ("TCP", B)])
    made._address.mark_synced()  # noqa: SLF001 - the test's own table
    services.table.replace({ask("TCP"): to(B)})
    assert settle(made, loop) == [("TCP", A), ("UDP", A)]


class Full:
    """A map with room for so many rows."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.held: set[Use] = set()
        self.seen: list[set[Use]] = []

    async def upsert(self, rows: Mapping[Use, int]) -> dict[Use, Exception]:
        numbered = zip(rows, count(), strict=False)
        refused = {use: OSError() for use, number in numbered if number >= self.room}
        self.held |= {*rows} - {*refused}
        self.seen.append({*self.held})
        return refused

    async def delete(self, keys: Iterable[Use]) -> dict[Use, Exception]:
        self.held -= {*keys}
        return {}

    def rows(self, *_: object) -> Full:
        return self

    def program(self, _: str) -> int:
        return -1


def test_backends_without_room_in_the_map_come_with_the_next_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mesh.services.ends.end_sockets", lambda *_: None)
    services, full = Services(), Full(1)
    services.uses.recover([("TCP", A), ("TCP", B)])
    made = SocketsAgent(services.uses, address_table(), Table("netns"))
    made._address.mark_synced()  # noqa: SLF001 - the test's own table
    services.lead({})

    async def looks() -> None:
        await made.recover(full)  # type: ignore[arg-type]  # as much of it as is asked
        await made.look()
        await made.look()

    asyncio.run(looks())
    assert full.seen == [{("TCP", A)}, {("TCP", B)}]
    assert full.held == set()
