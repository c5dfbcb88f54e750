"""What can go wrong with etcd, as types; and which type an answer of gRPC is.

All are OSError, so that the reconcile loop reports them and tries again. Called by ``client.py``;
others import the names from there.
"""

from __future__ import annotations

import grpc
from google.protobuf.message import Message

from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.names import key_text, shown


class EtcdError(OSError):
    """etcd answered, and the answer is no."""


class Unavailable(EtcdError):
    """No member answered in time; ``sent`` says that a write may have been done all the same."""

    def __init__(self, text: str, *, sent: bool) -> None:
        super().__init__(text)
        self.sent = sent


class OutcomeUnknown(Unavailable):
    """A Txn got no answer and must not be repeated blindly: read back what it wrote."""


class Denied(EtcdError):
    """Our user may not do that."""


class BadRequest(EtcdError):
    """The request itself is wrong: too big, too many operations, a key twice."""


class NoWrites(EtcdError):
    """An alarm stands in etcd: reads go on, and no write is taken until it is disarmed."""


class StoreFull(NoWrites):
    """The database has reached its quota (NOSPACE)."""


class StoreCorrupt(NoWrites):
    """Members of etcd disagree about their data (CORRUPT)."""


class LeaseNotFound(EtcdError):
    """The lease has expired, or this is another store."""


class Compacted(EtcdError):
    """The revision is gone: list again."""


class FutureRevision(EtcdError):
    """The revision is not there yet: this is another store, list again from nothing."""


class Replaced(EtcdError):
    """The store behind the address is another one than before."""


#: Codes after which nobody knows whether a write was done.
LOST = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
    }
)
#: Texts which say that the request was not carried out, and that another try may be.
NOT_DONE = (
    "failed to connect",
    "revision of auth store is old",
    "etcdserver: no leader",
    "too many requests",
)
#: etcd's texts for an answer of no, and what it is.
ANSWERS: tuple[tuple[str, type[EtcdError]], ...] = (
    ("permission denied", Denied),
    ("user name is empty", Denied),
    ("invalid auth token", Denied),
    ("required revision has been compacted", Compacted),
    ("required revision is a future revision", FutureRevision),
    ("requested lease not found", LeaseNotFound),
    ("database space exceeded", StoreFull),
    ("corrupt cluster", StoreCorrupt),
)


def classify(code: grpc.StatusCode, details: str, request: Message | None) -> EtcdError:
    """The failure's type; an Unavailable holds gRPC's text, others name the request."""
    if any(text in details for text in NOT_DONE):
        return Unavailable(details, sent=False)
    for text, kind in ANSWERS:
        if text in details:
            return kind(f"{_name(request)}: {_plain(details)}")
    if code in LOST:
        return Unavailable(details, sent=True)
    return BadRequest(f"{_name(request)}: {_plain(details)}")


def canceled(prefix: bytes, reason: str) -> EtcdError:
    """A watch that the server has ended."""
    kind = Denied if "permission denied" in reason else BadRequest
    return kind(f"watch of {_text(prefix)}: {reason.rpartition('desc = ')[2]}")


def _plain(details: str) -> str:
    words = details.removeprefix("etcdserver: ").removeprefix("mvcc: ")
    if words == "user name is empty":
        return "etcd knows users only, and we show no certificate"
    return words


def _name(request: Message | None) -> str:
    if isinstance(request, pb.TxnRequest):
        return f"Txn of {len(request.success)} operations ({_first(request)}, {_size(request)})"
    key = getattr(request, "key", b"")
    if isinstance(request, pb.PutRequest):
        return f"put {_text(key)} ({_size(request)})"
    name = type(request).__name__.removesuffix("Request")
    return f"{name} {_text(key)}" if key else name


def _first(request: pb.TxnRequest) -> str:
    for op in request.success:
        key = op.request_put.key or op.request_delete_range.key or op.request_range.key
        return f"first key {_text(key)}"
    return "none"


def _text(key: bytes) -> str:
    return shown(key_text(key))


def _size(request: Message) -> str:
    return f"{request.ByteSize()} bytes"
