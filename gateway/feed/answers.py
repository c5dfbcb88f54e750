"""What a firewall's request is answered. Pure, so that every rule is a table test.

    GET /feeds/<group>.<dialect>[.md5|.sha256|.sig]      both families
    GET /feeds/v4/<group>.<dialect>, /feeds/v6/…         one family

Rules: who is not registered learns nothing (401), a firewall gets its own groups (403). Before
everything is known, and for a group that never had an address, 503; for a group that has gone,
410. A list is never empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from gateway.feed.credentials import FeedSecret, presented_by
from gateway.feed.dialects import DIALECTS, DIGESTS, TEXT, Body, epoch_of, etag, written
from gateway.feed.fetches import FAMILIES, Firewall
from gateway.feed.groups import FeedGroup

PREFIX = "/feeds/"
SIGNATURE = "sig"
_METHODS = ("GET", "HEAD")
_BOTH: tuple[int, ...] = FAMILIES
_FAMILY: Mapping[str, tuple[int, ...]] = {"v4": (4,), "v6": (6,)}
#: Seconds after which a firewall that was told 503 may ask again.
RETRY_S = 5
#: Characters of a path; a group's name has at most 253.
_LONGEST = 512


@dataclass(frozen=True, slots=True)
class FeedRequest:
    """A request. ``certificate`` is the common name of a certificate that TLS has verified."""

    method: str
    path: str
    authorization: str = ""
    certificate: str = ""
    if_none_match: str = ""
    sender: str = ""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a firewall has once the answer has reached it.

    ``presented`` is the epoch of the ETag that came with the request.
    """

    firewall: str
    group: str
    families: tuple[int, ...]
    epoch: int
    presented: int | None


@dataclass(frozen=True, slots=True)
class FeedAnswer:
    """``fetched`` only with a list, or with 304 for one."""

    status: HTTPStatus
    body: bytes = b""
    content: str = TEXT
    headers: Mapping[str, str] = field(default_factory=dict)
    fetched: Fetched | None = None


@dataclass(frozen=True, slots=True)
class Shelf:
    """What there is to be served; ``groups`` is None before everything is known.

    ``exists`` has the groups that have an object, also without an address. ``sign`` makes a
    signature of bytes; None: there is no key for it.
    """

    cluster: str
    groups: Mapping[str, FeedGroup] | None
    exists: Callable[[str], bool]
    firewalls: Mapping[str, Firewall]
    secrets: Mapping[str, FeedSecret]
    sign: Callable[[bytes], bytes] | None = None


@dataclass(frozen=True, slots=True)
class FeedPath:
    """A path of ours, taken apart; ``form`` is empty for the list itself."""

    group: str
    dialect: str
    families: tuple[int, ...]
    form: str = ""


def place_of(path: str) -> FeedPath | None:
    """What a path names; None: nothing that there could be."""
    if not path.startswith(PREFIX) or len(path) > _LONGEST:
        return None
    rest, families = path.removeprefix(PREFIX), _BOTH
    head, slash, tail = rest.partition("/")
    if slash:
        if head not in _FAMILY or "/" in tail:
            return None
        rest, families = tail, _FAMILY[head]
    form = next((one for one in (*DIGESTS, SIGNATURE) if rest.endswith(f".{one}")), "")
    rest = rest.removesuffix(f".{form}") if form else rest
    for dialect in sorted(DIALECTS, key=len, reverse=True):
        group = rest.removesuffix(f".{dialect}")
        if group and group != rest:
            return FeedPath(group, dialect, families, form)
    return None


def answer(asked: FeedRequest, shelf: Shelf) -> FeedAnswer:
    """The answer to a request."""
    firewall = presented_by(shelf.secrets, asked.authorization, asked.certificate)
    if firewall is None:
        challenge = {"WWW-Authenticate": f'Basic realm="{shelf.cluster} feeds", charset="UTF-8"'}
        return _text(HTTPStatus.UNAUTHORIZED, "unknown credentials", challenge)
    if asked.method not in _METHODS:
        allowed = {"Allow": ", ".join(_METHODS)}
        return _text(HTTPStatus.METHOD_NOT_ALLOWED, "feeds are only read", allowed)
    place = place_of(asked.path)
    if place is None:
        forms = ", ".join(DIALECTS)
        return _text(HTTPStatus.NOT_FOUND, f"expected {PREFIX}GROUP.FORM with FORM of {forms}")
    if not shelf.firewalls[firewall].reads(place.group):
        text = f"firewall {firewall} is not registered for group {place.group}"
        return _text(HTTPStatus.FORBIDDEN, text)
    return _of_group(asked, shelf, place, firewall)


def _of_group(asked: FeedRequest, shelf: Shelf, place: FeedPath, firewall: str) -> FeedAnswer:
    group = shelf.groups.get(place.group) if shelf.groups is not None else None
    if group is None or group.deleted:
        return _without(shelf, place)
    addresses = tuple(one for one in group.addresses if one.version in place.families)
    if not addresses:
        text = f"group {place.group} has no IPv{place.families[0]} address"
        return _text(HTTPStatus.NOT_FOUND, text)
    body = Body(shelf.cluster, place.group, group.epoch, group.generated, addresses)
    return _about(shelf, place, body) if place.form else _list(asked, place, body, firewall)


def _without(shelf: Shelf, place: FeedPath) -> FeedAnswer:
    """Why there is no list of a group."""
    retry = {"Retry-After": str(RETRY_S)}
    if shelf.groups is None:
        text = "the feed has not read everything yet: keep the list that you have"
        return _text(HTTPStatus.SERVICE_UNAVAILABLE, text, retry)
    if place.group in shelf.groups:
        text = f"group {place.group} was deleted; its last addresses rest until they are released"
        return _text(HTTPStatus.GONE, text)
    if shelf.exists(place.group):
        text = f"group {place.group} has no list yet"
        return _text(HTTPStatus.SERVICE_UNAVAILABLE, text, retry)
    return _text(HTTPStatus.NOT_FOUND, f"no group is called {place.group}")


def _list(asked: FeedRequest, place: FeedPath, body: Body, firewall: str) -> FeedAnswer:
    tag = etag(place.dialect, body)
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    presented = {one.removeprefix("W/") for one in _tags(asked.if_none_match)}
    if presented & {"*", tag}:
        known = _fetched(asked, place, body, firewall, body.epoch) if tag in presented else None
        return FeedAnswer(HTTPStatus.NOT_MODIFIED, headers=headers, fetched=known)
    # The ETag of this epoch in another form says nothing about this list.
    former = [one for one in map(epoch_of, presented) if one is not None and one < body.epoch]
    fetched = _fetched(asked, place, body, firewall, max(former, default=None))
    content = DIALECTS[place.dialect].content
    return FeedAnswer(HTTPStatus.OK, written(place.dialect, body), content, headers, fetched)


def _fetched(
    asked: FeedRequest, place: FeedPath, body: Body, firewall: str, presented: int | None
) -> Fetched | None:
    """What the firewall has by this answer; after HEAD it has nothing."""
    if asked.method == "HEAD":
        return None
    return Fetched(firewall, body.group, place.families, body.epoch, presented)


def _about(shelf: Shelf, place: FeedPath, body: Body) -> FeedAnswer:
    """A digest or the signature of a list; who fetches that has not fetched the list."""
    data = written(place.dialect, body)
    headers = {"Cache-Control": "no-cache"}
    if place.form == SIGNATURE:
        if shelf.sign is None:
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, "the feed has no key to sign with")
        return FeedAnswer(HTTPStatus.OK, shelf.sign(data), "application/octet-stream", headers)
    return FeedAnswer(HTTPStatus.OK, f"{DIGESTS[place.form](data)}\n".encode(), TEXT, headers)


def _tags(header: str) -> tuple[str, ...]:
    return tuple(filter(None, (one.strip() for one in header.split(","))))


def _text(status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> FeedAnswer:
    return FeedAnswer(status, f"{text}\n".encode(), headers=headers or {})
