"""Parts of etcd requests: operations and comparisons of a Txn, prefix ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.names import key_bytes

T = TypeVar("T")

#: Bytes of keys and values in one Txn of ours; etcd takes 1.5 MiB.
TXN_BYTES = 512 * 1024


def cut(
    items: Iterable[T], most: int, weight: Callable[[T], int], largest: int = TXN_BYTES
) -> Iterator[list[T]]:
    """Lists of at most ``most`` items and ``largest`` bytes; an item that is larger is alone."""
    part: list[T] = []
    size = 0
    for item in items:
        more = weight(item)
        if part and (len(part) == most or size + more > largest):
            yield part
            part, size = [], 0
        part.append(item)
        size += more
    if part:
        yield part


def prefix_range(prefix: str) -> tuple[bytes, bytes]:
    """First key of a prefix, and the first one after it."""
    first = key_bytes(prefix)
    return first, prefix_end(first)


def prefix_end(prefix: bytes) -> bytes:
    r"""First key after all that start with ``prefix``; ``\0`` (no end) where there is none."""
    head = prefix.rstrip(b"\xff")
    return head[:-1] + bytes([head[-1] + 1]) if head else b"\0"


def put_op(key: str, value: bytes, lease: int = 0) -> pb.RequestOp:
    """A put inside a Txn."""
    return pb.RequestOp(request_put=pb.PutRequest(key=key_bytes(key), value=value, lease=lease))


def delete_op(key: str) -> pb.RequestOp:
    """A deletion of one key inside a Txn."""
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key_bytes(key)))


def get_op(key: str) -> pb.RequestOp:
    """A read of one key inside a Txn."""
    return pb.RequestOp(request_range=pb.RangeRequest(key=key_bytes(key)))


def if_created(key: str, revision: int) -> pb.Compare:
    """The key was created at ``revision``; 0: it does not exist."""
    target = pb.Compare.CompareTarget.CREATE
    return pb.Compare(key=key_bytes(key), target=target, create_revision=revision)


def if_modified(key: str, revision: int) -> pb.Compare:
    """The key was last written at ``revision``; 0: it does not exist."""
    target = pb.Compare.CompareTarget.MOD
    return pb.Compare(key=key_bytes(key), target=target, mod_revision=revision)


def if_leased(key: str, lease: int) -> pb.Compare:
    """The key exists and hangs on ``lease``."""
    return pb.Compare(key=key_bytes(key), target=pb.Compare.CompareTarget.LEASE, lease=lease)


def read_kv(response: pb.ResponseOp) -> pb.KeyValue | None:
    """The entries that a ``get_op`` of a Txn has read."""
    kvs = response.response_range.kvs
    return kvs[0] if kvs else None
