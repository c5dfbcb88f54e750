"""What a feed writes down in etcd: keys and values, both ways. Pure.

``meshgate/v1/<cluster>/feed/group/<group>`` has the list of a group with its epochs,
``…/feed/fetched/<group>/<firewall>/<4|6>`` which epoch a firewall has. What agents and controllers
read stands below ``…/feed/address/`` (``clustermesh/store/own.py``). An operator asks by keys, too:
``…/feed/override/<address>`` and ``…/feed/release/<group>``, which the feed takes away when it is
done.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import TypeVar

import msgspec

from gateway.feed.fetches import FAMILIES, Fetch, FetchKey
from gateway.feed.groups import FeedGroup, address_order
from mesh.core.model import IP

T = TypeVar("T")

#: Below the feed's own prefix.
GROUP, FETCHED, ADDRESS = "group/", "fetched/", "address/"
OVERRIDE, RELEASE = "override/", "release/"


class _GroupValue(msgspec.Struct, frozen=True, omit_defaults=True):
    epoch: int
    generated: str
    listed: dict[str, int]
    left: dict[str, int] = {}
    deleted: bool = False


class _FetchedValue(msgspec.Struct, frozen=True):
    epoch: int
    at: str
    settled: int


class _OverrideValue(msgspec.Struct, frozen=True):
    without: list[str]


def prefix(cluster: str) -> str:
    """What all keys of the feed of a cluster begin with."""
    return f"meshgate/v1/{cluster}/feed/"


def group_row(group: FeedGroup) -> bytes:
    """Value of a group's key."""
    listed, left = ({str(a): e for a, e in some} for some in (group.listed, group.left))
    value = _GroupValue(group.epoch, group.generated, listed, left, group.deleted)
    return msgspec.json.encode(value)


def group_of(value: bytes) -> FeedGroup:
    """The group of a value. Raises ValueError."""
    row = _decode(value, _GroupValue)
    listed, left = _epochs(row.listed), _epochs(row.left)
    if not listed or row.epoch < 1:
        raise ValueError("a group has an epoch and a list that is not empty")
    return FeedGroup(row.epoch, row.generated, listed, left, row.deleted)


def _epochs(rows: Mapping[str, int]) -> tuple[tuple[IP, int], ...]:
    found = [(ip_address(text), epoch) for text, epoch in rows.items()]
    return tuple(sorted(found, key=lambda row: address_order(row[0])))


def fetch_name(key: FetchKey) -> str:
    """The end of a fetch's key."""
    return f"{FETCHED}{key.group}/{key.firewall}/{key.family}"


def fetch_key(name: str) -> FetchKey:
    """The fetch that a key is about. Raises ValueError."""
    group, firewall, family = name.removeprefix(FETCHED).split("/")
    if int(family) not in FAMILIES:
        raise ValueError(f"{family} is no family")
    return FetchKey(group, firewall, int(family))


def fetch_row(fetch: Fetch) -> bytes:
    """Value of a fetch's key."""
    return msgspec.json.encode(_FetchedValue(fetch.epoch, fetch.at, fetch.settled))


def fetch_of(value: bytes) -> Fetch:
    """The fetch of a value. Raises ValueError."""
    row = _decode(value, _FetchedValue)
    return Fetch(row.epoch, row.at, row.settled)


def override_row(without: list[str]) -> bytes:
    """Value of the key by which an operator waits no longer for these firewalls."""
    return msgspec.json.encode(_OverrideValue(without))


def override_of(value: bytes) -> tuple[str, ...]:
    """The firewalls of a value. Raises ValueError."""
    return tuple(_decode(value, _OverrideValue).without)


def _decode(value: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
