"""The bodies of feeds, byte for byte (``reference/egress.md`` 14.3)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from ipaddress import ip_address

import pytest

from gateway.feed.dialects import DIALECTS, DIGESTS, Body, epoch_of, etag, near_limits, written

ERP = Body(
    "east",
    "erp",
    42,
    "2026-01-01T00:00:00Z",
    (ip_address("198.51.100.10"), ip_address("2001:db8:1::10")),
)
GOLDEN = {
    "txt": "198.51.100.10\n2001:db8:1::10\n",
    "pan": "198.51.100.10 erp epoch 42\n2001:db8:1::10 erp epoch 42\n",
    "forti": (
        "# group=erp epoch=42 generated=2026-01-01T00:00:00Z\n198.51.100.10\n2001:db8:1::10\n"
    ),
    "cisco": (
        "# group=erp epoch=42 generated=2026-01-01T00:00:00Z\n198.51.100.10\n2001:db8:1::10\n"
    ),
    "cp.json": '{"epoch":42,"objects":[{"ip":"198.51.100.10"},{"ip":"2001:db8:1::10"}]}\n',
    "cpgdc.json": (
        '{"version":"1.0","description":"meshgate erp","objects":[{"name":"erp",'
        '"id":"13d87c08-d765-5cb1-8de4-e189136d288e","description":"epoch 42",'
        '"ranges":["198.51.100.10","2001:db8:1::10"]}]}\n'
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_body_is_golden(dialect: str) -> None:
    assert written(dialect, ERP) == GOLDEN[dialect].encode()


def test_a_digest_is_of_exactly_these_bytes() -> None:
    data = GOLDEN["cisco"].encode()
    assert DIGESTS["md5"](written("cisco", ERP)) == hashlib.md5(data).hexdigest()  # noqa: S324
    assert DIGESTS["sha256"](written("cisco", ERP)) == hashlib.sha256(data).hexdigest()


def test_the_id_of_check_point_stays_and_is_of_one_cluster() -> None:
    def identity(body: Body) -> str:
        return str(json.loads(written("cpgdc.json", body))["objects"][0]["id"])

    assert identity(ERP) == identity(replace(ERP, epoch=43, addresses=ERP.addresses[:1]))
    assert identity(ERP) != identity(replace(ERP, cluster="west"))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_etag_changes_with_the_list_and_not_with_the_time(dialect: str) -> None:
    assert etag(dialect, ERP) == etag(dialect, replace(ERP, generated="2030-01-01T00:00:00Z"))
    assert etag(dialect, ERP) != etag(dialect, replace(ERP, epoch=43))
    assert etag(dialect, ERP) != etag(dialect, replace(ERP, addresses=ERP.addresses[:1]))
    assert etag(dialect, ERP)[0] == etag(dialect, ERP)[-1] == '"'


def test_etags_of_dialects_differ() -> None:
    assert len({etag(dialect, ERP) for dialect in DIALECTS} | {""}) == len(DIALECTS)


@pytest.mark.parametrize(
    ("tag", "epoch"),
    [('"42-abc"', 42), ('W/"42-abc"', 42), ('"x-1"', None), ('"42"', None), ("", None)],
)
def test_an_etag_says_its_epoch(tag: str, epoch: int | None) -> None:
    assert epoch_of(tag) == epoch


def test_eighty_percent_of_a_limit_warns() -> None:
    many = tuple(ip_address(number) for number in range(1 << 24, (1 << 24) + 40_000))
    assert near_limits(replace(ERP, addresses=many)) == [
        "pan: 40000 of 50000 entries that Palo Alto takes"
    ]
    assert not near_limits(replace(ERP, addresses=many[:-1]))
