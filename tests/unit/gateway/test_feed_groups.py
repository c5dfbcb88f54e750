"""Lists of groups: epochs, what leaves, what is never done."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from gateway.feed.groups import FeedGroup, advanced, forgotten, released
from mesh.core.model import IP

A, B, C = (ip_address(f"198.51.100.{n}") for n in (1, 2, 3))
SIX = ip_address("2001:db8::1")
NOW = "2026-01-01T00:00:00Z"


def changed(
    former: FeedGroup | None, *wanted: IP, draining: tuple[IP, ...] = (), exists: bool = True
) -> FeedGroup | None:
    return advanced(former, wanted, draining, exists=exists, now=NOW)


def after(
    former: FeedGroup | None, *wanted: IP, draining: tuple[IP, ...] = (), exists: bool = True
) -> FeedGroup:
    group = changed(former, *wanted, draining=draining, exists=exists)
    assert group is not None
    return group


def test_each_list_is_an_epoch_and_each_address_has_that_of_its_first() -> None:
    one = after(None, B, SIX)
    two = after(one, B, SIX, A)
    assert one == FeedGroup(1, NOW, ((B, 1), (SIX, 1)))
    assert two == FeedGroup(2, NOW, ((A, 2), (B, 1), (SIX, 1)))
    assert two.addresses == (A, B, SIX)


def test_the_same_addresses_are_the_same_epoch() -> None:
    one = after(None, A, B)
    assert advanced(one, (B, A), (), exists=True, now="later") is one


def test_what_leaves_is_known_until_every_firewall_has_fetched_that() -> None:
    two = after(after(None, A, B), B)
    assert (two.listed, two.left) == (((B, 1),), ((A, 2),))
    assert forgotten(two, lambda address, epoch: (address, epoch) != (A, 2)) is two
    assert forgotten(two, lambda *_: True).left == ()


def test_what_comes_back_is_new() -> None:
    three = after(after(after(None, A, B), B), A, B)
    assert (three.listed, three.left) == (((A, 3), (B, 1)), ())


def test_what_drains_stays_listed() -> None:
    one = after(None, A, B)
    assert after(one, B, draining=(A, C)) is one
    assert after(one, B, draining=(C,)).addresses == (B,)


def test_a_list_is_never_empty() -> None:
    one = after(None, A)
    assert changed(None) is None
    assert after(one) == one


@pytest.mark.parametrize("draining", [(), (A,)])
def test_a_group_goes_when_its_last_connection_has_gone(draining: tuple[IP, ...]) -> None:
    gone = after(after(None, A), exists=False, draining=draining)
    assert gone == FeedGroup(1, NOW, ((A, 1),), deleted=not draining)


def test_a_group_that_comes_back_has_new_addresses_only() -> None:
    gone = after(after(None, A, B), exists=False)
    back = after(gone, A)
    assert back == FeedGroup(2, NOW, ((A, 2),), ((B, 2),))


def test_a_release_gives_up_what_rests_and_nothing_else() -> None:
    one = after(after(None, A, B), B)
    assert released(one) == FeedGroup(2, NOW, ((B, 1),))
    gone = after(one, exists=False)
    assert gone.deleted
    assert released(gone) is None
