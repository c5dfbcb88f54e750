"""What firewalls are answered: every rule of ``reference/egress.md`` 14.2."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from ipaddress import ip_address

import pytest

from gateway.feed.answers import FeedAnswer, FeedPath, FeedRequest, Fetched, Shelf, answer, place_of
from gateway.feed.credentials import FeedSecret
from gateway.feed.dialects import Body, etag, written
from gateway.feed.fetches import Firewall
from gateway.feed.groups import FeedGroup

ADDRESSES = (ip_address("198.51.100.10"), ip_address("2001:db8:1::10"))
ERP = FeedGroup(42, "2026-01-01T00:00:00Z", tuple((one, 42) for one in ADDRESSES))
BODY = Body("east", "erp", 42, ERP.generated, ADDRESSES)
SECRETS = {
    "pan": FeedSecret(basic=b"pan:word"),
    "forti": FeedSecret(token=b"token"),
    "cp": FeedSecret(certificate="cp.example"),
    "none": FeedSecret(),
}
GROUPS = {
    "erp": ERP,
    "gone": FeedGroup(2, "", ((ADDRESSES[0], 1),), deleted=True),
    "four": FeedGroup(1, "", ((ADDRESSES[0], 1),)),
}
PAN = f"Basic {base64.b64encode(b'pan:word').decode()}"


def asked(
    path: str,
    groups: Mapping[str, FeedGroup] | None = GROUPS,
    *,
    method: str = "GET",
    authorization: str = PAN,
    certificate: str = "",
    tag: str = "",
) -> FeedAnswer:
    walls = {name: Firewall(name, ("*",), 0) for name in SECRETS} | {
        "forti": Firewall("forti", ("erp",), 0)
    }
    shelf = Shelf("east", groups, {"new"}.__contains__, walls, SECRETS, lambda data: data[:4])
    return answer(FeedRequest(method, path, authorization, certificate, tag), shelf)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/feeds/erp.txt", 200),
        ("/feeds/erp.cpgdc.json", 200),
        ("/feeds/v4/erp.pan", 200),
        ("/feeds/erp.cisco.md5", 200),
        ("/feeds/new.txt", 503),  # a policy without an address yet
        ("/feeds/gone.txt", 410),
        ("/feeds/gone.txt.md5", 410),
        ("/feeds/other.txt", 404),
        ("/feeds/v6/four.txt", 404),
        ("/feeds/erp.xml", 404),
        ("/feeds/erp", 404),
        ("/feeds/.txt", 404),
        ("/feeds/v5/erp.txt", 404),
        ("/feeds/v4/x/erp.txt", 404),
        ("/", 404),
        ("/feeds/" + "a" * 600 + ".txt", 404),
    ],
)
def test_statuses(path: str, status: int) -> None:
    got = asked(path)
    assert got.status == status
    assert got.body


@pytest.mark.parametrize("path", ["/feeds/erp.txt", "/feeds/other.txt", "/feeds/gone.pan"])
def test_before_everything_is_known_there_is_no_list(path: str) -> None:
    got = asked(path, None)
    assert (got.status, got.headers["Retry-After"]) == (503, "5")
    assert got.fetched is None


def test_a_list_comes_with_its_bytes_and_etag() -> None:
    got = asked("/feeds/erp.forti")
    assert got.body == written("forti", BODY)
    assert got.headers["ETag"] == etag("forti", BODY)
    assert got.content == "text/plain; charset=utf-8"
    assert got.fetched == Fetched("pan", "erp", (4, 6), 42, None)
    assert asked("/feeds/erp.cp.json").content == "application/json"


def test_families_apart() -> None:
    four, six = asked("/feeds/v4/erp.txt"), asked("/feeds/v6/erp.txt")
    assert (four.body, six.body) == (b"198.51.100.10\n", b"2001:db8:1::10\n")
    assert six.fetched == Fetched("pan", "erp", (6,), 42, None)


def test_who_has_the_list_is_told_so() -> None:
    tag = etag("txt", BODY)
    for given in (tag, f"W/{tag}", f'"other", {tag}'):
        got = asked("/feeds/erp.txt", tag=given)
        assert (got.status, got.body, got.headers["ETag"]) == (304, b"", tag)
        assert got.fetched == Fetched("pan", "erp", (4, 6), 42, 42)


def test_the_etag_of_another_list_is_no_list() -> None:
    former = asked("/feeds/erp.txt", tag='"41-0"')
    assert (former.status, former.fetched) == (200, Fetched("pan", "erp", (4, 6), 42, 41))
    # That of one family, or of another form, says nothing about this list.
    other = asked("/feeds/erp.txt", tag=etag("pan", BODY))
    assert (other.status, other.fetched) == (200, Fetched("pan", "erp", (4, 6), 42, None))
    any_ = asked("/feeds/erp.txt", tag="*")
    assert (any_.status, any_.fetched) == (304, None)


def test_nothing_but_the_list_counts_as_fetched() -> None:
    for path in ("/feeds/erp.cisco.md5", "/feeds/erp.txt.sha256", "/feeds/erp.txt.sig"):
        assert asked(path).fetched is None
    head = asked("/feeds/erp.txt", method="HEAD")
    assert (head.status, head.fetched) == (200, None)
    assert asked("/feeds/erp.txt", method="HEAD", tag=etag("txt", BODY)).fetched is None


def test_digests_and_signature_are_of_the_bytes() -> None:
    assert asked("/feeds/erp.cisco.md5").body == b"9c1f76992155ee792f08188356486363\n"
    assert len(asked("/feeds/erp.cp.json.sha256").body) == 65
    assert asked("/feeds/erp.txt.sig").body == b"198."


@pytest.mark.parametrize(
    ("authorization", "certificate", "status"),
    [
        (PAN, "", 200),
        ("Bearer token", "", 200),
        ("bearer token", "", 200),
        ("", "cp.example", 200),
        ("", "", 401),
        ("Basic !", "", 401),
        ("Basic " + base64.b64encode(b"pan:wrong").decode(), "", 401),
        ("Basic " + base64.b64encode(b"").decode(), "", 401),  # that of a firewall without secrets
        ("Bearer ", "", 401),
        ("Digest token", "", 401),
        ("Bearer wrong", "cp.example", 401),  # wrong credentials are wrong
        ("", "other.example", 401),
    ],
)
def test_who_may_fetch(authorization: str, certificate: str, status: int) -> None:
    got = asked("/feeds/erp.txt", authorization=authorization, certificate=certificate)
    assert got.status == status
    assert ("WWW-Authenticate" in got.headers) == (status == 401)


def test_who_is_not_known_learns_nothing() -> None:
    answers = {
        asked(path, authorization="", method=method).body
        for path in ("/feeds/erp.txt", "/feeds/other.txt", "/")
        for method in ("GET", "POST")
    }
    assert answers == {b"unknown credentials\n"}


def test_a_firewall_gets_its_own_groups() -> None:
    assert asked("/feeds/four.txt", authorization="Bearer token").status == 403
    assert asked("/feeds/other.txt", authorization="Bearer token").status == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_feeds_are_only_read(method: str) -> None:
    got = asked("/feeds/erp.txt", method=method)
    assert (got.status, got.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/feeds/a.b.cp.json", FeedPath("a.b", "cp.json", (4, 6))),
        ("/feeds/a.txt.cpgdc.json.md5", FeedPath("a.txt", "cpgdc.json", (4, 6), "md5")),
        ("/feeds/v4/v6.txt", FeedPath("v6", "txt", (4,))),
    ],
)
def test_names_may_have_dots(path: str, place: FeedPath) -> None:
    assert place_of(path) == place
