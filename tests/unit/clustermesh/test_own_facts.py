"""What is ours is the union of what features say, and changes cost what changed."""

from __future__ import annotations

import random
from ipaddress import ip_address, ip_network

import pytest

from clustermesh.remote.holdings import (
    Holder,
    Holdings,
    Ledger,
    NotAccepted,
    OwnFacts,
    OwnNetworks,
    span,
)

POOL, SERVICE, INSIDE = map(ip_network, ("10.1.0.0/16", "10.96.0.1/32", "10.1.3.0/24"))


def test_features_say_what_is_ours_and_each_network_counts_once() -> None:
    facts = OwnFacts.union("east", 1, [[POOL], [], [SERVICE, POOL]], [[ip_address("10.99.0.1")]])
    assert facts == OwnFacts("east", 1, (POOL, SERVICE), frozenset({ip_address("10.99.0.1")}))


def test_a_network_inside_another_stays_when_the_other_goes() -> None:
    ledger = Ledger(OwnFacts("east", 1, (POOL, INSIDE)))
    west, claimed = Holder("west", "n1"), Holdings((("IPv4AllocCIDR", INSIDE),))
    with pytest.raises(NotAccepted, match=r"overlaps 10\.1\.0\.0/16 of our cluster east"):
        ledger.take(west, claimed)
    ledger.update_own(OwnFacts("east", 1, (INSIDE,)))
    with pytest.raises(NotAccepted, match=r"overlaps 10\.1\.3\.0/24 of our cluster east"):
        ledger.take(west, claimed)
    ledger.update_own(OwnFacts("east", 1))
    ledger.take(west, claimed)


def test_only_those_are_named_whose_claims_meet_what_is_new() -> None:
    ledger = Ledger(OwnFacts("east", 1))
    holders = [Holder("west", f"n{number}") for number in range(4)]
    for number, holder in enumerate(holders):
        networks = (("IPv4AllocCIDR", ip_network(f"10.2.{number}.0/24")),)
        addresses = (("IPAddresses", ip_address(f"10.99.0.{number}")),)
        ledger.take(holder, Holdings(networks, addresses))
    ours = OwnFacts("east", 1, (ip_network("10.2.1.128/25"), SERVICE))
    assert ledger.update_own(ours) == {holders[1]}
    more = OwnFacts("east", 1, ours.networks, frozenset({ip_address("10.99.0.2")}))
    assert ledger.update_own(more) == {holders[2]}
    assert ledger.update_own(OwnFacts("east", 1, (ip_network("10.99.0.3/32"),))) == {holders[3]}
    assert ledger.update_own(OwnFacts("east", 1)) == set()


@pytest.mark.parametrize("seed", range(10))
def test_meeting_is_what_a_look_at_every_network_says(seed: int) -> None:
    chance, ours = random.Random(seed), OwnNetworks()
    some = [
        ip_network(
            (chance.randrange(1 << 8) << 24 | chance.randrange(1 << 4) << 20, length), strict=False
        )
        for length in (6, 8, 8, 10, 12, 12, 14, 16)
        for _ in range(4)
    ]
    for _ in range(200):
        network = chance.choice(some)
        (ours.remove if network in ours.all else ours.add)(network)
        asked = chance.choice(some)
        hits = {one for one in ours.all if one.overlaps(asked)}
        hit = ours.meeting(*span(asked))
        assert (hit in hits) if hits else (hit is None)
