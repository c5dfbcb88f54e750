"""The calls of a thread that has no event loop: renew one lease, read one key, one Txn.

The thread has a channel of its own, so that nothing which the event loop does can delay it. After
a failed call, and when the certificate was renewed, the channel is closed: the next call connects
anew, and reads certificates anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import grpc

from clustermesh.etcd import channel
from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.channel import EtcdAddress
from clustermesh.etcd.errors import EtcdError, Unavailable, classify
from clustermesh.etcd.names import key_bytes

A = TypeVar("A")

#: A member without a quorum refuses the stream instead of being silent.
_HAS_LEADER = (("hasleader", "true"),)


class BlockingClient:
    """One etcd. All calls are made from one thread; ``close`` may come from another."""

    def __init__(self, endpoint: EtcdAddress) -> None:
        self._endpoint = endpoint
        self._channel: grpc.Channel | None = None
        self._stamp: tuple[int, ...] = ()

    def close(self) -> None:
        """End the call that is under way."""
        opened, self._channel = self._channel, None
        if opened is not None:
            opened.close()

    def renew(self, lease: int, within_s: float) -> int:
        """Remaining seconds of the lease after renewing it; 0 if it is gone. Raises EtcdError."""
        request = pb.LeaseKeepAliveRequest(ID=lease)

        def ask(opened: grpc.Channel) -> int:
            stream = opened.stream_stream(
                "/etcdserverpb.Lease/LeaseKeepAlive",
                pb.LeaseKeepAliveRequest.SerializeToString,
                pb.LeaseKeepAliveResponse.FromString,
            )(iter([request]), timeout=within_s, metadata=_HAS_LEADER)
            answer = next(stream, None)
            if answer is None:
                raise Unavailable("the server has ended the stream", sent=True)
            return int(answer.TTL)

        return self._asked(ask)

    def get(self, key: str, within_s: float) -> pb.KeyValue | None:
        """One key, or None. Raises EtcdError."""
        request = pb.RangeRequest(key=key_bytes(key))

        def ask(opened: grpc.Channel) -> pb.KeyValue | None:
            call = opened.unary_unary(
                "/etcdserverpb.KV/Range",
                pb.RangeRequest.SerializeToString,
                pb.RangeResponse.FromString,
            )
            kvs = call(request, timeout=within_s).kvs
            return kvs[0] if kvs else None

        return self._asked(ask)

    def txn(self, request: pb.TxnRequest, within_s: float) -> pb.TxnResponse:
        """One Txn, which may be repeated. Raises EtcdError."""

        def ask(opened: grpc.Channel) -> pb.TxnResponse:
            call = opened.unary_unary(
                "/etcdserverpb.KV/Txn",
                pb.TxnRequest.SerializeToString,
                pb.TxnResponse.FromString,
            )
            return call(request, timeout=within_s)

        return self._asked(ask)

    def _asked(self, ask: Callable[[grpc.Channel], A]) -> A:
        try:
            now = channel.stamp(self._endpoint)
            if now != self._stamp and self._channel and channel.is_usable(self._endpoint):
                self.close()
            if self._channel is None:
                self._stamp = now
                secrets = channel.read_secrets(self._endpoint)
                self._channel = channel.open_blocking_channel(self._endpoint, secrets)
            return ask(self._channel)
        except EtcdError:
            self.close()
            raise
        except grpc.RpcError as error:
            self.close()
            raise _failure(error) from error
        except (OSError, ValueError) as error:  # unreadable certificates; a channel that was closed
            self.close()
            raise Unavailable(str(error), sent=True) from error


def _failure(error: grpc.RpcError) -> EtcdError:
    """Grpcio's errors are calls as well, but their type does not say so."""
    code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNAVAILABLE
    details = error.details() if isinstance(error, grpc.Call) else str(error)
    return classify(code, details or "", None)
