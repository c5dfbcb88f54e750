"""Pure parts of the etcd client: targets, errors in words, ranges, records, canaries."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import msgspec
import pytest

from clustermesh.certs import Authority, KeyPair, diagnose
from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.auth import CONTROLLER, NODE, SPEAKER, EtcdUser, user_grants
from clustermesh.etcd.channel import EtcdAddress, Secrets, host, problem, target
from clustermesh.etcd.client import Client, Watched, _next
from clustermesh.etcd.errors import (
    BadRequest,
    Compacted,
    Denied,
    FutureRevision,
    LeaseNotFound,
    StoreFull,
    Unavailable,
    classify,
)
from clustermesh.etcd.requests import TXN_BYTES, cut, prefix_end, put_op
from clustermesh.publish import PREFIXES
from clustermesh.store import claims as records
from clustermesh.store.allocator import Allocator
from clustermesh.store.claims import Record
from clustermesh.store.follow import Batch, Entry, canary_of
from clustermesh.store.keys import TXN_OPS, _chunks
from clustermesh.store.leader import Deposed, Fence
from mesh.core.journal import Journal
from mesh.core.model import Claim, ClaimKey
from mesh.identity.controller import numbers_of

CODE = grpc.StatusCode
CLAIMED = ("identity", "podcidr", "locator", "block")


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        (["10.0.0.1:2379"], {"ipv4:10.0.0.1:2379"}),
        (["https://10.0.0.1:2379", "10.0.0.2:1"], {
            "ipv4:10.0.0.1:2379,10.0.0.2:1", "ipv4:10.0.0.2:1,10.0.0.1:2379"}),
        (["[fd00::1]:2379"], {"ipv6:[fd00::1]:2379"}),
        (["https://etcd.test:2379"], {"dns:///etcd.test:2379"}),
        (["unix:/run/etcd.sock"], {"unix:/run/etcd.sock"}),
    ],
)  # fmt: skip
def test_endpoints_become_one_target(endpoints: list[str], expected: set[str]) -> None:
    assert target(endpoints) in expected


@pytest.mark.parametrize(
    "endpoints",
    [[], ["10.0.0.1"], ["10.0.0.1:x"], ["10.0.0.1:1", "[::1]:1"], ["a:1", "b:1"], [":2379"]],
)
def test_endpoints_of_several_kinds_are_refused_at_once(endpoints: list[str]) -> None:
    with pytest.raises(ValueError, match="etcd endpoint"):
        Client(EtcdAddress(endpoints))


def test_credentials_that_cannot_work_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="https needs a CA"):
        Client(EtcdAddress(["https://10.0.0.1:2379"]))
    with pytest.raises(ValueError, match="a certificate needs its key"):
        Client(EtcdAddress(["10.0.0.1:2379"], "/ca", "/cert"))


def test_the_host_of_an_endpoint_has_no_brackets() -> None:
    assert host("https://[fd00::1]:2379") == "fd00::1"
    assert host("10.0.0.1:2379") == "10.0.0.1"


@pytest.mark.parametrize(
    ("code", "details", "kind", "sent"),
    [
        (CODE.UNAVAILABLE, "failed to connect to all addresses", Unavailable, False),
        (CODE.UNAVAILABLE, "etcdserver: no leader", Unavailable, False),
        (CODE.UNAVAILABLE, "etcdserver: request timed out", Unavailable, True),
        (CODE.UNKNOWN, "context deadline exceeded", Unavailable, True),
        (CODE.DEADLINE_EXCEEDED, "Deadline Exceeded", Unavailable, True),
        (CODE.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", Unavailable, False),
        (CODE.PERMISSION_DENIED, "etcdserver: permission denied", Denied, None),
        (CODE.INVALID_ARGUMENT, "etcdserver: user name is empty", Denied, None),
        (CODE.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Compacted,
         None),
        (CODE.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision",
         FutureRevision, None),
        (CODE.NOT_FOUND, "etcdserver: requested lease not found", LeaseNotFound, None),
        (CODE.INVALID_ARGUMENT, "etcdserver: request is too large", BadRequest, None),
        (CODE.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", StoreFull, None),
    ],
)  # fmt: skip
def test_an_answer_of_etcd_is_one_kind_of_failure(
    code: grpc.StatusCode, details: str, kind: type[OSError], *, sent: bool | None
) -> None:
    failure = classify(code, details, pb.PutRequest(key=b"a/b", value=b"x"))
    assert type(failure) is kind
    assert isinstance(failure, OSError)
    if isinstance(failure, Unavailable):
        assert failure.sent is sent
    else:
        assert str(failure).startswith("put a/b (8 bytes): ")


def test_a_prefix_ends_before_the_next_one() -> None:
    assert prefix_end(b"a/") == b"a0"
    assert prefix_end(b"a\xff") == b"b"
    assert prefix_end(b"\xff\xff") == b"\0"
    assert prefix_end(b"") == b"\0"


def test_a_watch_resumes_after_the_last_event_not_after_the_header() -> None:
    """Catch-up batches carry the store's revision: 427, while events reach 247."""
    event = pb.Event(kv=pb.KeyValue(key=b"a", mod_revision=247))
    assert _next(10, Watched(427, [event])) == 248
    assert _next(10, Watched(427, created=True)) == 10
    assert _next(0, Watched(427, created=True)) == 428
    assert _next(10, Watched(427)) == 428


def test_batches_are_cut_by_number_and_by_bytes() -> None:
    """An item that is larger than a batch stands alone, and all come in order."""
    sizes = [1, 1, 1, 1, 9, 20, 1, 9, 2]
    parts = list(cut(sizes, 3, lambda size: size, 10))
    assert parts == [[1, 1, 1], [1, 9], [20], [1, 9], [2]]
    assert list(cut([], 3, lambda size: size)) == []


def test_grants_of_a_cluster_never_reach_a_longer_name() -> None:
    """Every writable key of east ends in a slash or is one exact key."""
    for role in (NODE, SPEAKER, CONTROLLER):
        grants = user_grants(EtcdUser("east", role, "n1"), PREFIXES)
        writable = {grant.key for grant in grants if grant.write}
        exact = {"cilium/cluster-config/east", "cilium/.heartbeat"}
        exact |= {"meshgate/v1/east/programmed/n1", "meshgate/v1/east/demand/n1"}
        assert {key for key in writable if not key.endswith("/")} <= exact
        own = writable - {"cilium/.heartbeat"}  # which all clusters put
        assert all("/east/" in key or key.endswith("/east") for key in own)


@pytest.mark.parametrize(
    ("key", "canary"),
    [
        ("meshgate/v1/east/block/::10/number/3", "meshgate/v1/east/synced"),
        ("meshgate/v1/east/", "meshgate/v1/east/synced"),
        ("meshgate/v1/east/pod/n1/shop/web-1", "meshgate/v1/east/pod/n1/synced"),
        ("cilium/cache/ip/v1/west/10.2.0.1", "cilium/synced/west/cilium/cache/ip/v1"),
        ("cilium/cache/identities/v1/west/id/7", "cilium/synced/west/cilium/cache/identities/v1"),
        ("cilium/cluster-config/west", "cilium/cluster-config/west"),
        ("cilium/", "cilium/"),
    ],
)
def test_each_key_has_its_writers_canary(key: str, canary: str) -> None:
    assert canary_of(key) == canary


def test_chunks_stay_within_etcds_limits() -> None:
    small = {f"k{n}": put_op(f"k{n}", b"") for n in range(250)}
    assert [len(chunk) for chunk in _chunks(small)] == [TXN_OPS, TXN_OPS, 50]
    big = {f"k{n}": put_op(f"k{n}", b"x" * (TXN_BYTES // 2)) for n in range(3)}
    assert [len(chunk) for chunk in _chunks(big)] == [1, 1, 1]
    assert not list(_chunks({}))


def number(name: str, value: bytes, modified: int = 7) -> Entry:
    return Entry(f"meshgate/v1/east/{name}", value, modified, modified, 0)


class StandsBy:
    def current(self) -> Fence:
        raise Deposed("stands by")


def test_claims_are_rows_of_their_number_keys() -> None:
    """Held, released, deleted and unreadable ones; owners' keys and pods are none."""
    rows = records.rows(
        "east",
        CLAIMED,
        [
            number("identity/labels/number/65537", b'{"owner":"k8s:a=b;","released":0}'),
            number("block/198.51.100.10/number/3", b'{"owner":"n/0","released":0,"epoch":99}'),
            number("locator/fcbb:bb01::_32_48/number/1", b'{"owner":"n","released":1700000000}'),
            number("podcidr/10.1.0.0_16_24/number/2", b'{"owner":1}'),
            number("block/198.51.100.10/owner/n/0", b'{"number":3}'),
            number("pod/n/number/1", b"{}"),
            number("leader", b"one"),
        ],
        ["meshgate/v1/east/block/::10/number/4", "meshgate/v1/east/pod/n/number/9"],
    )
    identity = ClaimKey("identity", "labels", 65537)
    block = ClaimKey("block", "198.51.100.10", 3)
    assert rows.held == {
        identity: Claim("identity", "labels", 65537, "k8s:a=b;", 7),
        block: Claim("block", "198.51.100.10", 3, "n/0", 99),
    }
    resting = ClaimKey("locator", "fcbb:bb01::_32_48", 1)
    assert set(rows.gone) == {ClaimKey("block", "::10", 4), resting}
    assert {key: claim.owner for key, claim in rows.resting.items()} == {resting: "n"}
    [(key, reason)] = rows.unreadable.items()
    assert key == "meshgate/v1/east/podcidr/10.1.0.0_16_24/number/2"
    assert "$.owner" in reason


def test_values_are_as_the_contract_writes_them() -> None:
    assert records.encode_number("n/0") == b'{"owner":"n/0","released":0}'
    assert records.encode_number("n", released=5, epoch=6) == (
        b'{"owner":"n","released":5,"epoch":6}'
    )
    assert records.encode_owner(3) == b'{"number":3}'
    with pytest.raises(ValueError, match="number"):
        records.decode_owner(b"{}")


def test_a_snapshot_is_read_back_and_a_broken_one_is_named(tmp_path: Path) -> None:
    kept = [
        Record(ClaimKey("block", "::10", 3), "n/0", 17),
        Record(ClaimKey("x", "p", 0), "", 2, 9),
    ]
    file = tmp_path / "state" / "claims.journal"
    assert records.load(file) == []
    Journal(file).replace({records.snapshot_key(r.key): records.snapshot_value(r) for r in kept})
    assert records.load(file) == kept
    file.write_bytes(b"[{")
    with pytest.raises(ValueError, match=r"claims\.journal"):
        records.load(file)


def test_the_snapshot_of_an_earlier_version_is_read_once_and_converted(tmp_path: Path) -> None:
    """The JSON file goes only after the journal has been written."""
    kept = [Record(ClaimKey("block", "::10", 3), "n/0", 17, 0, 17)]
    former, file = tmp_path / "claims.json", tmp_path / "claims.journal"
    former.write_bytes(msgspec.json.encode(kept))
    client = Client(EtcdAddress(["127.0.0.1:1"]))
    allocator = Allocator(client, "east", CLAIMED, StandsBy(), file)
    asyncio.run(allocator.save())
    assert not former.exists()
    again = Allocator(client, "east", CLAIMED, StandsBy(), file)
    assert again.claims == allocator.claims == {kept[0].key: kept[0].claim}


def test_a_standby_appends_what_changed_and_nothing_else(tmp_path: Path) -> None:
    """Claims, a release and an owner that went arrive in the file; an equal list writes nothing."""
    file = tmp_path / "claims.journal"
    client = Client(EtcdAddress(["127.0.0.1:1"]))
    allocator = Allocator(client, "east", CLAIMED, StandsBy(), file)
    held = [number(f"block/::10/number/{n}", b'{"owner":"n/%d"}' % n) for n in range(100)]

    def size() -> int:
        asyncio.run(allocator.save())
        again = Allocator(client, "east", CLAIMED, StandsBy(), file)
        assert (again.claims, len(again.records)) == (allocator.claims, len(allocator.records))
        return file.stat().st_size

    allocator.observe(Batch(7, held, listed=True))
    whole = size()
    allocator.observe(Batch(8, held, listed=True))
    assert size() == whole
    resting = number("block/::10/number/3", b'{"owner":"n/3","released":9}')
    allocator.observe(Batch(9, [resting], ["meshgate/v1/east/block/::10/number/4"]))
    assert 0 < size() - whole < 200


def test_identities_carry_the_cluster_id_on_top() -> None:
    numbers = numbers_of(2)
    assert (numbers[0], numbers[-1]) == (0x20001, 0x2FFFF)


def test_a_standby_follows_claims_through_claim_release_and_a_new_store() -> None:
    """Batches of Follow: the last word counts, revisions of another store may be smaller."""
    allocator = Allocator(Client(EtcdAddress(["127.0.0.1:1"])), "east", CLAIMED, StandsBy())
    one = number("block/::10/number/3", b'{"owner":"n/0","released":0}', 500)
    allocator.observe(Batch(500, [one], listed=True))
    assert [claim.owner for claim in allocator.claims.values()] == ["n/0"]
    allocator.observe(Batch(7, [number("block/::10/number/3", b'{"owner":"n/0","released":9}')]))
    assert allocator.claims == {}
    assert [record.released for record in allocator.records] == [9]
    allocator.observe(Batch(8, [], ["meshgate/v1/east/block/::10/number/3"]))
    assert allocator.records == []


def test_a_faulty_certificate_is_described() -> None:
    authority, other = Authority.create(), Authority.create("other")
    ca, good = authority.pair.cert, authority.issue_user("agent")
    now = datetime.now(UTC)
    assert diagnose(ca, good.cert, good.key) == ""
    assert "not yet valid" in diagnose(ca, good.cert, good.key, now - timedelta(hours=2))
    assert "has expired" in diagnose(ca, good.cert, good.key, now + timedelta(days=400))
    assert "not signed" in diagnose(other.pair.cert, good.cert, good.key)
    assert "not signed" not in diagnose(other.pair.cert + ca, good.cert, good.key)
    assert "does not belong" in diagnose(ca, good.cert, authority.issue_user("agent").key)
    assert "no readable PEM" in diagnose(ca, b"nonsense", good.key)


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ("CERTIFICATE_VERIFY_FAILED: unable to get", "not signed by the CA in /ca"),
        ("Hostname Verification Check failed", "does not hold the name 10.0.0.1"),
        ("Unwrap failed (TSI_DATA_CORRUPTED)", "seems to refuse our certificate /cert"),
        ("connect: Connection refused (111)", "connection refused"),
        ("Deadline Exceeded", "no answer in time"),
        ("", "no answer in time"),
    ],
)
def test_a_lost_connection_is_described(details: str, expected: str) -> None:
    authority = Authority.create()
    pair: KeyPair = authority.issue_user("agent")
    endpoint = EtcdAddress(["10.0.0.1:2379"], "/ca", "/cert", "/key")
    said = problem(endpoint, Secrets(authority.pair.cert, pair.cert, pair.key), details)
    assert said.startswith("etcd at 10.0.0.1:2379")
    assert expected in said
