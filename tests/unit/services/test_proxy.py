"""A kube-proxy on the node: how it is found, and which services stay its own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from mesh.core.strict import Wrong, convert
from mesh.objects.fields import FieldServer
from mesh.services.backends import Owner
from mesh.services.kinds import SERVICES, SLICES
from mesh.services.proxy import Proxy, found_in
from mesh.services.settings import ServicesSettings
from tests.unit.services.room import FakeMaps, Room
from tests.unit.services.test_service_agent import ask, part, service


def chain(family: str, table: str, name: str) -> dict[str, Any]:
    return {"chain": {"family": family, "table": table, "name": name}}


OTHERS = [
    {"metainfo": {"version": "1.0.6"}},
    chain("ip", "nat", "POSTROUTING"),
    chain("ip", "nat", "KUBE-KUBELET-CANARY"),  # of a kubelet, wherever there is one
]


@pytest.mark.parametrize(
    ("rows", "place"),
    [
        (OTHERS, ""),
        ([*OTHERS, chain("ip6", "kube-proxy", "services")], "table ip6 kube-proxy"),
        (
            [*OTHERS, chain("ip", "nat", "KUBE-SERVICES")],
            "chain KUBE-SERVICES of table ip nat",
        ),
    ],
)
def test_a_kube_proxy_is_known_by_its_rules(rows: list[Any], place: str) -> None:
    assert found_in(rows) == place


@pytest.mark.parametrize("value", [True, False, "auto"])
def test_the_configuration_names_the_owner(value: Any) -> None:
    assert convert({"kubeProxy": value}, ServicesSettings).kube_proxy == value


def test_another_word_is_refused() -> None:
    with pytest.raises(Wrong, match="kubeProxy"):
        convert({"kubeProxy": "maybe"}, ServicesSettings)


def answers(*places: str | None) -> Any:
    left = list(places)

    async def look() -> str:
        place = left.pop(0)
        if place is None:
            raise OSError("nft gives no answer")
        return place

    return look


def test_auto_follows_what_is_found_and_keeps_it_without_an_answer() -> None:
    proxy = Proxy(ServicesSettings(), answers("", "table ip kube-proxy", None, ""))
    assert not proxy.table.synced
    owns = []
    for _ in range(4):
        asyncio.run(proxy.look())
        owns.append(proxy.owns)
    assert owns == [False, True, True, False]
    assert proxy.table.synced


@pytest.mark.parametrize("value", [True, False, "auto"])
def test_beside_another_cni_the_clusters_own_services_have_an_owner(value: Any) -> None:
    proxy = Proxy(convert({"kubeProxy": value}, ServicesSettings), answers(""), beside=True)
    assert (proxy.owns, proxy.table.synced) == (True, True)
    asyncio.run(proxy.look())
    assert (proxy.owns, proxy.place) == (True, None)


def room_with(proxy: Any, **changes: Any) -> Room:
    """Service 1 is global, service 2 is not; each has a backend."""
    room = Room(proxy=proxy)
    for number in (1, 2):
        key, row = service(number)
        room.objects[SERVICES].upsert({key: replace(row, is_global=number == 1, **changes)})
        room.objects[SLICES].upsert(dict([part(number, number)]))
    asyncio.run(room.connect(FakeMaps()))
    room.settle()
    return room


def test_without_a_kube_proxy_every_service_is_ours() -> None:
    room = room_with(proxy=False)
    assert set(room.translations()) == {ask(1), ask(2)}
    assert room.agent.address.rows == {ask(n).address: Owner.OURS for n in (1, 2)}


def test_beside_a_kube_proxy_global_services_alone_are_ours() -> None:
    """Their addresses are the proxy's, for what is no socket of this node."""
    room = room_with(proxy=True)
    assert set(room.translations()) == {ask(1)}
    assert room.agent.address.rows == {ask(n).address: Owner.PROXIED for n in (1, 2)}
    assert list(room.agent.findings()) == []


def test_a_global_service_of_which_the_proxy_honours_more_stays_its_own() -> None:
    room = room_with(proxy=True, proxy_only="spec.sessionAffinity")
    assert room.translations() == {}
    (finding,) = room.agent.findings()
    key = service(1)[0]
    assert (finding.code, finding.object, finding.field) == (
        "M227", f"Service/{key.namespace}/{key.name}", "spec.sessionAffinity",
    )  # fmt: skip


def test_a_kube_proxy_that_comes_takes_its_services_and_gives_them_back() -> None:
    room = room_with(proxy=False)
    room.proxy.table.upsert({"kube-proxy": True})
    room.settle()
    assert set(room.translations()) == {ask(1)}
    room.proxy.table.delete(["kube-proxy"])
    room.settle()
    assert set(room.translations()) == {ask(1), ask(2)}


@pytest.mark.parametrize(
    ("said", "place", "told"),
    [
        (True, "", True),
        (False, "port 10256", True),
        (True, "port 10256", False),
        (False, "", False),
        ("auto", "port 10256", False),
    ],
)
def test_a_value_that_contradicts_the_node_is_a_finding(
    said: Any, place: str, *, told: bool
) -> None:
    room = Room(proxy=said)
    room.proxy.place = place
    assert [f.code for f in room.agent.findings()] == ["M226"] * told


def test_what_a_proxy_serves_is_known_after_the_first_look() -> None:
    """Nobody is told that fields go unserved while that is only not known yet."""
    room = Room(proxy="auto", ask=answers("", "table ip kube-proxy", None))
    said = [list(room.agent.served())]
    for _ in range(3):
        asyncio.run(room.proxy.look())
        said.append(list(room.agent.served()))
    owned = [FieldServer.PROXY]
    assert said == [owned, [], owned, owned]


def test_a_look_that_gets_no_answer_is_one() -> None:
    proxy = Proxy(ServicesSettings(), answers(None))
    asyncio.run(proxy.look())
    assert (proxy.looked, proxy.owns) == (True, False)
