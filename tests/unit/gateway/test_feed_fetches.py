"""Who has fetched what, and what addresses wait for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address

import pytest

from gateway.feed.fetches import (
    Fetch,
    FetchKey,
    Firewall,
    listed_rows,
    noted,
    settled,
    unfetched,
)
from gateway.feed.groups import FeedGroup
from mesh.core.model import IP, Listed

A, B = ip_address("198.51.100.1"), ip_address("198.51.100.2")
SIX = ip_address("2001:db8::1")
PAN, FORTI = Firewall("pan", ("erp",), 5), Firewall("forti", ("*",), 5)
ERP = FeedGroup(3, "", ((A, 1), (B, 3)))


def fetches(**of: tuple[int, int]) -> dict[FetchKey, Fetch]:
    return {
        FetchKey("erp", name, family): Fetch(*row[:1], "", row[1])
        for name, row in of.items()
        for family in (4, 6)
    }


@pytest.mark.parametrize(
    ("before", "epoch", "presented", "after"),
    [
        (None, 3, None, Fetch(3, "now", 0)),
        (None, 3, 3, Fetch(3, "now", 3)),  # 304: it has the list of this epoch
        (None, 3, 2, Fetch(3, "now", 0)),  # that it had epoch 2 nobody has noted
        (Fetch(2, "then", 0), 3, 2, Fetch(3, "now", 2)),  # the ETag of epoch 2: it has settled
        (Fetch(2, "then", 1), 3, None, Fetch(3, "now", 1)),
        (Fetch(3, "then", 0), 3, None, Fetch(3, "then", 0)),  # again, without the ETag
        (Fetch(3, "then", 0), 3, 3, Fetch(3, "then", 3)),
        (Fetch(3, "then", 3), 3, 1, Fetch(3, "then", 3)),
        (Fetch(1, "then", 0), 3, 2, Fetch(3, "now", 0)),
    ],
)
def test_a_fetch_is_noted(
    before: Fetch | None, epoch: int, presented: int | None, after: Fetch
) -> None:
    assert noted(before, epoch, presented, "now") == after


def test_a_list_settles_after_its_time() -> None:
    rows, walls = fetches(pan=(3, 0)), {"pan": PAN}
    seen = dict.fromkeys(rows, (3, 100.0))
    assert not settled(rows, seen, walls, 104.9)
    assert settled(rows, seen, walls, 105.0) == fetches(pan=(3, 3))
    assert not settled(rows, dict.fromkeys(rows, (2, 0.0)), walls, 105.0)
    assert not settled(fetches(pan=(3, 3)), seen, walls, 105.0)
    assert not settled(rows, seen, {}, 105.0)


def rows(
    group: FeedGroup = ERP,
    walls: Sequence[Firewall] = (PAN, FORTI),
    overrides: Mapping[IP, Sequence[str]] | None = None,
    before: Mapping[IP, Listed] | None = None,
    **of: tuple[int, int],
) -> dict[IP, Listed]:
    return listed_rows({"erp": group}, walls, fetches(**of), overrides or {}, before or {})


def test_an_address_waits_for_all_firewalls_of_its_group() -> None:
    assert rows(pan=(3, 3), forti=(3, 2)) == {
        A: Listed(("erp",), acknowledged=True),
        B: Listed(("erp",), waits=("forti",)),
    }
    assert rows(pan=(3, 3), forti=(3, 3))[B].acknowledged
    assert rows(pan=(3, 2), forti=(2, 2))[B].waits == ("forti", "pan")


def test_families_are_counted_apart() -> None:
    only = {key: row for key, row in fetches(pan=(1, 1)).items() if key.family == 4}
    both = FeedGroup(1, "", ((A, 1), (SIX, 1)))
    found = listed_rows({"erp": both}, (PAN,), only, {}, {})
    assert (found[A].acknowledged, found[SIX].acknowledged) == (True, False)


def test_what_is_acknowledged_stays_so_while_it_is_listed() -> None:
    before = {B: Listed(("erp",), acknowledged=True)}
    assert rows(before=before)[B] == Listed(("erp",), acknowledged=True)
    left = {B: Listed(("erp",), acknowledged=True, leaving=True)}
    assert not rows(before=left)[B].acknowledged


def test_nobody_acknowledges_where_no_firewall_is_registered() -> None:
    assert rows(walls=())[A] == Listed(("erp",))
    assert rows(walls=(), overrides={A: ()})[A] == Listed(("erp",), acknowledged=True)


def test_an_operator_need_not_wait() -> None:
    part = rows(overrides={B: ("pan",)}, pan=(3, 2), forti=(3, 2))[B]
    assert part == Listed(("erp",), waits=("forti",), without=("pan",))
    done = rows(overrides={B: ("pan",)}, pan=(3, 2), forti=(3, 3))[B]
    assert done == Listed(("erp",), acknowledged=True, without=("pan",))
    # The request has gone, what it did stays, and is told until the firewall has fetched.
    assert rows(before={B: done}, pan=(3, 2), forti=(3, 3))[B] == done
    assert rows(before={B: done}, pan=(3, 3), forti=(3, 3))[B].without == ()


def test_what_has_left_waits_for_those_that_may_have_it() -> None:
    left = FeedGroup(4, "", ((A, 1),), ((B, 4),))
    assert rows(left, pan=(4, 3), forti=(3, 3))[B] == Listed(
        ("erp",), waits=("forti",), leaving=True
    )
    assert unfetched(B, 4, "erp", (PAN, FORTI), fetches(pan=(4, 3))) == ["forti"]
    assert unfetched(B, 4, "other", (PAN,), {}) == []


def test_addresses_of_a_group_that_has_gone_rest() -> None:
    gone = FeedGroup(3, "", ((A, 1),), deleted=True)
    assert rows(gone, before={A: Listed(("erp",), acknowledged=True)}) == {
        A: Listed(("erp",), leaving=True)
    }


def test_an_address_of_two_groups_waits_for_the_firewalls_of_both() -> None:
    groups = {"erp": FeedGroup(1, "", ((A, 1),)), "crm": FeedGroup(1, "", ((A, 1),))}
    crm = Firewall("asa", ("crm",), 5)
    found = listed_rows(groups, (PAN, crm), fetches(pan=(1, 1)), {}, {})
    assert found == {A: Listed(("crm", "erp"), waits=("asa",))}
