"""An address of ``mg_pod_addr`` changes hands only after its connections are forgotten."""

import asyncio
from collections.abc import Collection, Mapping
from ipaddress import ip_address

from mesh.core.model import IP
from mesh.pods.rows import LocalPod, PodRows

HERE, THERE = ip_address("10.1.0.2"), ip_address("10.1.0.3")


def pod(ifindex: int, identity: int = 65537, egress: int = 0) -> LocalPod:
    return LocalPod(ifindex, identity, egress, "0a:58:0a:01:00:02", "0e:58:0a:01:00:02")


class Rows:
    """The map, and a diary of it and of what was forgotten."""

    name = "mg_pod_addr"

    def __init__(self, rows: dict[IP, LocalPod]) -> None:
        self.rows = rows
        self.diary: list[str] = []

    async def read(self) -> Mapping[IP, LocalPod]:
        return dict(self.rows)

    async def upsert(self, rows: Mapping[IP, LocalPod]) -> Mapping[IP, Exception]:
        self.rows |= rows
        self.diary += [f"+{address}" for address in rows]
        return {}

    async def delete(self, keys: Collection[IP]) -> Mapping[IP, Exception]:
        for key in keys:
            self.rows.pop(key, None)
            self.diary.append(f"-{key}")
        return {}

    async def forget(self, addresses: Collection[IP]) -> None:
        assert not self.rows.keys() & set(addresses)
        self.diary += [f"forget {address}" for address in addresses]


def diary(rows: dict[IP, LocalPod], wanted: Mapping[IP, LocalPod]) -> list[str]:
    book = Rows(rows)
    assert asyncio.run(PodRows(book, book.forget).upsert(wanted)) == {}
    return book.diary


def test_another_pod_gets_the_address_without_a_row_in_between() -> None:
    wanted = [f"-{HERE}", f"forget {HERE}", f"+{HERE}"]
    assert diary({HERE: pod(7), THERE: pod(8)}, {HERE: pod(9)}) == wanted


def test_a_pod_that_is_new_inherits_nothing_from_before_a_crash() -> None:
    assert f"forget {HERE}" in diary({}, {HERE: pod(7)})


def test_a_pod_that_changes_identity_or_class_keeps_its_connections() -> None:
    assert diary({HERE: pod(7)}, {HERE: pod(7, 65538, 99)}) == [f"+{HERE}"]


def test_a_pod_that_goes_is_forgotten_at_once() -> None:
    book = Rows({HERE: pod(7)})
    asyncio.run(PodRows(book, book.forget).delete([HERE]))
    assert book.diary == [f"-{HERE}", f"forget {HERE}"]
