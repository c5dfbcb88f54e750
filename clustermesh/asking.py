"""A certificate from the issuer of the cluster (``issuer.py``), for a process in a pod.

The call is ``/meshgate.Issuer/Issue`` of gRPC with JSON in both directions, over TLS that the
mesh's CA vouches for; it is no part of what clusters speak with each other. A pod on each node has
this file loaded for good, so it needs little.
"""

from __future__ import annotations

from pathlib import Path

import grpc
import msgspec

from mesh.core.files import replace_file

#: The name in the issuer's own certificate, whatever its address.
NAME = "meshgate-issuer"
SERVICE, METHOD = "meshgate.Issuer", "Issue"
_ANSWER_S = 30.0


class RefusedError(Exception):
    """No certificate; the text says why, for the log of the process that has asked."""


class Asked(msgspec.Struct, frozen=True):
    """What a process sends: the token of its pod, and a public key as PEM."""

    token: str
    public: str


class Answered(msgspec.Struct, frozen=True):
    """What it gets: a certificate as PEM."""

    cert: str


def write_files(into: Path, private: bytes, cert: bytes) -> None:
    """The pair of a process, the key first: who meets the new key alone keeps what it has."""
    replace_file(into / "tls.key", private, mode=0o600)
    replace_file(into / "tls.crt", cert, mode=0o644)


def ask(address: str, ca: bytes, token: str, public: bytes) -> bytes:
    """A certificate from the issuer at ``host:port``. Raises RefusedError, OSError."""
    options = [("grpc.ssl_target_name_override", NAME), ("grpc.enable_http_proxy", 0)]
    credentials = grpc.ssl_channel_credentials(ca)
    with grpc.secure_channel(address, credentials, options) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            f"/{SERVICE}/{METHOD}"
        )
        request = msgspec.json.encode(Asked(token, public.decode()))
        try:
            answer = call(request, timeout=_ANSWER_S)
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else None
            text = (error.details() if isinstance(error, grpc.Call) else "") or str(error)
            if code is grpc.StatusCode.PERMISSION_DENIED:
                raise RefusedError(text) from error
            raise OSError(f"issuer {address}: {text}") from error
    return msgspec.json.decode(answer, type=Answered).cert.encode()
