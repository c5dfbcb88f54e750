"""Groups of the feed and the firewalls that fetch them, as ``meshgate feed list`` prints them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mesh.core.noun import Row, noun

if TYPE_CHECKING:
    from gateway.feed.fetches import Fetch, FetchKey, Firewall
    from gateway.feed.groups import FeedGroup

FEED = noun(
    "feed",
    "groups of egress addresses for firewalls, and who has fetched which epoch",
    "cluster group state epoch addresses firewall family fetched settled at",
    "cluster group firewall family",
)


def feed_rows(
    cluster: str,
    groups: Mapping[str, FeedGroup],
    firewalls: Iterable[Firewall],
    fetches: Mapping[FetchKey, Fetch],
) -> list[Row]:
    """A row for each group, firewall and family; a group of no firewall has one without."""
    from gateway.feed.fetches import FAMILIES, FetchKey, readers  # noqa: PLC0415 - columns need none

    known = tuple(firewalls)
    rows: list[Row] = []
    for name, group in sorted(groups.items()):
        lists = {f: [str(a) for a in group.addresses if a.version == f] for f in FAMILIES}
        state = "deleted" if group.deleted else "served"
        names: list[str | None] = [*readers(known, name)]
        for firewall in names or [None]:
            for family in (one for one in FAMILIES if lists[one]):
                fetch = fetches.get(FetchKey(name, firewall, family)) if firewall else None
                rows.append(
                    {
                        "cluster": cluster,
                        "group": name,
                        "state": state,
                        "epoch": group.epoch,
                        "addresses": lists[family],
                        "firewall": firewall,
                        "family": f"IPv{family}",
                        "fetched": fetch.epoch if fetch else None,
                        "settled": fetch.settled if fetch else None,
                        "at": fetch.at if fetch else None,
                    }
                )
    return rows
