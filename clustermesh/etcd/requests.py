"""Parts of etcd requests: operations and comparisons of a Txn, prefix ranges."""

from __future__ import annotations

from clustermesh.etcd import etcd_pb2 as pb


def prefix_end(prefix: bytes) -> bytes:
    r"""First key after all that start with ``prefix``; ``\0`` (no end) where there is none."""
    head = prefix.rstrip(b"\xff")
    return head[:-1] + bytes([head[-1] + 1]) if head else b"\0"


def put_op(key: str, value: bytes, lease: int = 0) -> pb.RequestOp:
    """A put inside a Txn."""
    return pb.RequestOp(request_put=pb.PutRequest(key=key.encode(), value=value, lease=lease))


def delete_op(key: str) -> pb.RequestOp:
    """A deletion of one key inside a Txn."""
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key.encode()))


def get_op(key: str) -> pb.RequestOp:
    """A read of one key inside a Txn."""
    return pb.RequestOp(request_range=pb.RangeRequest(key=key.encode()))


def if_created(key: str, revision: int) -> pb.Compare:
    """The key was created at ``revision``; 0: it does not exist."""
    target = pb.Compare.CompareTarget.CREATE
    return pb.Compare(key=key.encode(), target=target, create_revision=revision)


def if_modified(key: str, revision: int) -> pb.Compare:
    """The key was last written at ``revision``; 0: it does not exist."""
    target = pb.Compare.CompareTarget.MOD
    return pb.Compare(key=key.encode(), target=target, mod_revision=revision)


def if_leased(key: str, lease: int) -> pb.Compare:
    """The key exists and hangs on ``lease``."""
    return pb.Compare(key=key.encode(), target=pb.Compare.CompareTarget.LEASE, lease=lease)


def read_kv(response: pb.ResponseOp) -> pb.KeyValue | None:
    """What a ``get_op`` of a Txn has read."""
    kvs = response.response_range.kvs
    return kvs[0] if kvs else None
