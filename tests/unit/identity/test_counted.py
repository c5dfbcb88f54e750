"""A node speaks for its own addresses, a controller for identities; of two holders the first."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest

from mesh.core.model import PodRef
from tests.fixtures.counted import Said

WEB, CLIENT = PodRef("east-1", "shop", "web-1"), PodRef("east-1", "shop", "client-1")
OTHER = PodRef("east-2", "shop", "web-2")
WEB_LABELS, CLIENT_LABELS = "k8s:app=web;", "k8s:app=client;"

#: A pod's address of each node, and one of nobody, in both families.
FAMILIES = pytest.mark.parametrize(
    ("mine", "theirs", "legacy"),
    [("10.1.1.5", "10.1.2.5", "192.0.2.10"), ("fd01:0:0:1::5", "fd01:0:0:2::5", "2001:db8::10")],
    ids=["IPv4", "IPv6"],
)

MINE = pytest.mark.parametrize("mine", ["10.1.1.5", "fd01:0:0:1::5"])


def said(*, confirms: bool = True) -> Said:
    """Two nodes with a pod CIDR of each family, and pods that a controller has confirmed."""
    it = Said(confirms=confirms)
    it.has("east-1", "10.1.1.0/24", "fd01:0:0:1::/64")
    it.has("east-2", "10.1.2.0/24", "fd01:0:0:2::/64")
    it.claim(65537, WEB_LABELS)
    it.claim(65538, CLIENT_LABELS)
    for ref, identity in ((WEB, 65537), (CLIENT, 65538), (OTHER, 65537)):
        it.confirm(ref, identity)
    return it


@FAMILIES
def test_one_node_takes_no_address_of_another_and_none_of_the_world(
    mine: str, theirs: str, legacy: str
) -> None:
    """The attack of issue 9: one put with a node's certificate redirected all of them."""
    it = said()
    it.say(OTHER, theirs)
    it.say(WEB, mine)
    it.settle()
    it.say(WEB, mine, theirs, legacy, "8.8.8.8")
    it.settle()
    assert it.held(WEB) == [mine]
    assert it.held(OTHER) == [theirs]
    assert it.found() == [
        ("M184", "east-1/shop/web-1", address) for address in sorted([theirs, legacy, "8.8.8.8"])
    ]
    it.entries.delete([WEB])
    it.settle()
    assert it.held(OTHER) == [theirs]
    assert it.counted.holder(next(iter(it.counted.table.rows[OTHER].addresses))) == OTHER
    assert it.found() == []


@FAMILIES
def test_who_spoke_first_has_nothing_of_it_outside_of_its_pod_cidrs(
    mine: str, theirs: str, legacy: str
) -> None:
    """The entry of the attacker was there before the pod: the pod has its row all the same."""
    it = said()
    it.say(WEB, mine, theirs, legacy)
    it.settle()
    it.say(OTHER, theirs)
    it.settle()
    assert (it.held(WEB), it.held(OTHER)) == ([mine], [theirs])


@MINE
def test_of_two_pods_of_a_node_the_first_keeps_the_address_until_it_goes(mine: str) -> None:
    it = said()
    it.say(WEB, mine)
    it.settle()
    it.say(CLIENT, mine, labels=CLIENT_LABELS)
    it.settle()
    assert (it.held(WEB), it.held(CLIENT)) == ([mine], [])
    assert it.found() == [("M185", "east-1/shop/client-1", mine)]
    it.say(WEB, mine, labels=CLIENT_LABELS)  # written anew it stays the first
    it.settle()
    assert it.held(CLIENT) == []
    it.entries.delete([WEB])
    it.settle()
    assert it.held(CLIENT) == [mine]
    assert it.found() == []


@MINE
def test_when_the_second_goes_the_first_has_its_row(mine: str) -> None:
    it = said()
    it.say(WEB, mine)
    it.settle()
    it.say(CLIENT, mine, labels=CLIENT_LABELS)
    it.settle()
    it.entries.delete([CLIENT])
    it.settle()
    assert it.held(WEB) == [mine]
    assert it.found() == []


def test_labels_of_another_pod_give_no_identity() -> None:
    """A node says that its web-1 is a client; the identity is the one that was confirmed."""
    it = said()
    it.say(WEB, "10.1.1.5", labels=CLIENT_LABELS)
    it.settle()
    row = it.counted.table.rows[WEB]
    assert (row.identity, row.labels) == (65537, WEB_LABELS)
    assert it.found() == [("M186", "east-1/shop/web-1", "labels")]
    it.say(WEB, "10.1.1.5")
    it.settle()
    assert it.found() == []


def test_a_pod_that_no_controller_has_confirmed_has_no_identity() -> None:
    """Labels of a claimed identity do not make a pod; a confirmation that comes later does."""
    it = said()
    invented = PodRef("east-1", "shop", "admin")
    it.say(invented, "10.1.1.9", labels=CLIENT_LABELS)
    it.settle()
    assert it.counted.table.rows[invented].identity == 0
    assert it.found() == [("M186", "east-1/shop/admin", "labels")]
    it.confirm(invented, 65538)
    it.settle()
    assert it.counted.table.rows[invented].identity == 65538
    assert it.found() == []
    it.confirmed.delete([invented])
    it.settle()
    assert it.counted.table.rows[invented].identity == 0


@MINE
def test_what_a_dead_node_has_left_behind_is_no_finding(mine: str) -> None:
    """Its pod was lost with it and is made anew elsewhere; whoever would say so is dead, too."""
    it = said()
    it.say(WEB, mine)
    it.settle()
    it.confirmed.delete([WEB])
    it.settle()
    assert (it.counted.table.rows[WEB].identity, it.found()) == (0, [])
    it.say(WEB, mine, labels=CLIENT_LABELS)  # somebody speaks in its name
    it.settle()
    assert it.found() == [("M186", "east-1/shop/web-1", "labels")]
    it.confirm(WEB, 65537)
    it.say(WEB, mine)
    it.settle()
    it.confirmed.delete([WEB])
    it.settle()
    assert it.found() == []


def test_a_short_oddity_is_no_finding() -> None:
    """Entry, claim and confirmation come by several watches."""
    it = said()
    it.confirmed.delete([WEB])
    it.say(WEB, "10.1.1.5")
    it.settle()
    it.now += 1
    assert list(it.counted.findings()) == []
    it.confirm(WEB, 65537)
    it.settle()
    assert it.found() == []


def test_a_confirmation_that_comes_before_its_identity_counts_and_is_no_finding() -> None:
    it = said()
    it.confirm(WEB, 65539)
    it.say(WEB, "10.1.1.5", labels="k8s:app=new;")
    it.settle()
    assert it.counted.table.rows[WEB].identity == 65539
    it.claim(65539, "k8s:app=new;")
    it.settle()
    assert it.found() == []


def test_an_address_of_another_cni_counts_when_a_controller_confirms_it_from_the_pod() -> None:
    it = said()
    it.say(WEB, "100.64.1.5")
    it.settle()
    assert it.held(WEB) == []
    it.confirm(WEB, 65537, "100.64.1.5")
    it.settle()
    assert it.held(WEB) == ["100.64.1.5"]
    it.say(OTHER, "100.64.1.5")
    it.settle()
    assert it.held(OTHER) == []
    it.confirm(WEB, 65537)
    it.settle()
    assert it.held(WEB) == []


def test_a_claim_that_comes_later_lets_the_address_count() -> None:
    it = said()
    new = PodRef("east-3", "shop", "web-3")
    it.confirm(new, 65537)
    it.say(new, "10.1.3.5")
    it.settle()
    assert it.held(new) == []
    assert it.found() == []  # nothing is known of the node yet
    it.has("east-3")
    it.settle()
    assert it.found() == [("M184", "east-3/shop/web-3", "10.1.3.5")]
    it.has("east-3", "10.1.3.0/24")
    it.settle()
    assert it.held(new) == ["10.1.3.5"]
    assert it.found() == []


def test_without_a_controller_that_confirms_pods_labels_count() -> None:
    """A controller of the former version leads; then one that confirms."""
    it = said(confirms=False)
    it.confirmed.delete([WEB, CLIENT])
    it.say(WEB, "10.1.1.5")
    it.say(CLIENT, "10.1.1.6", labels="k8s:app=late;")
    it.settle()
    rows = it.counted.table.rows
    assert (rows[WEB].identity, rows[CLIENT].identity) == (65537, 0)
    it.claim(65540, "k8s:app=late;")
    it.settle()
    assert rows[CLIENT].identity == 65540
    it.confirm(WEB, 65537)
    it.confirms.upsert({"east": None})
    it.settle()
    assert (rows[WEB].identity, rows[CLIENT].identity) == (65537, 0)


def test_a_node_cannot_flood_the_others_with_addresses_or_findings() -> None:
    """As many as fit into a value, and many entries: the first few count, the rest is one line."""
    it = said()
    many = [f"10.1.1.{host}" for host in range(1, 250)] * 40
    it.say(WEB, *many)
    for number in range(300):
        it.say(PodRef("east-1", "shop", f"x-{number}"), "10.1.1.1", "8.8.8.8")
    it.settle()
    assert it.held(WEB) == many[:16]
    assert ("M184", "east-1/shop/web-1", "addresses") in it.found()
    assert len(it.found()) < 300
    assert ("M184", "", "") in it.found()
    for number in range(299, -1, -1):
        it.entries.delete([PodRef("east-1", "shop", f"x-{number}")])
    it.settle()
    it.entries.delete([WEB])
    it.settle()
    assert it.counted.holder(ip_address("10.1.1.1")) is None


REFS = [WEB, CLIENT, OTHER, PodRef("east-2", "shop", "client-2")]
POOL = [f"10.1.{node}.{host}" for node in (1, 2) for host in (1, 2)] + ["100.64.0.1"]


def change(it: Said, chance: random.Random) -> None:
    """Something happens to a pod or to a node."""
    ref = chance.choice(REFS)
    acts = {
        0: lambda: it.entries.delete([ref]),
        1: lambda: it.has(
            ref.node, *chance.sample(["10.1.1.0/24", "10.1.2.0/24"], chance.randrange(2))
        ),
        2: lambda: it.confirm(ref, 65537, *chance.sample(POOL, chance.randrange(2))),
        3: lambda: it.confirmed.delete([ref]),
    }
    say = lambda: it.say(ref, *chance.sample(POOL, chance.randrange(1, 4)))  # noqa: E731
    acts.get(chance.randrange(6), say)()
    if chance.randrange(3):
        it.settle()


@pytest.mark.parametrize("seed", range(20))
def test_any_history_ends_where_its_last_state_leads(seed: int) -> None:
    """But for who came first: each address that several may have is held by one of them."""
    chance, it, fresh = random.Random(seed), said(), Said()
    for _ in range(200):
        change(it, chance)
    it.settle()
    for name in ("node", "confirmed", "entries", "identity", "number"):
        getattr(fresh, name).upsert(getattr(it, name).rows)
    fresh.settle()
    mine, theirs = it.counted.table.rows, fresh.counted.table.rows
    numbers = {ref: row.identity for ref, row in mine.items()}
    assert numbers == {ref: row.identity for ref, row in theirs.items()}
    for address in POOL:
        holders = [ref for ref in REFS if address in it.held(ref)]
        assert len(holders) == len([ref for ref in REFS if address in fresh.held(ref)])
        assert len(holders) <= 1
