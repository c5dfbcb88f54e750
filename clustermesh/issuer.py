"""Certificates of etcd for processes in pods: who runs on a node gets those of that node.

A process shows the token of its service account, bound to its pod (``Reviewed``: the API server
says whose it is, and on which node). It sends a public key and gets a certificate for it, so no
private key leaves a node. The issuer has the CA's key, and root of etcd, with which it makes the
user of the process (``users.py``). It runs beside the controller, in a container of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import msgspec

from clustermesh.asking import METHOD, NAME, SERVICE, Answered, Asked, RefusedError, write_files
from clustermesh.certs import Authority, is_spent, new_key, validity_of
from clustermesh.etcd.auth import (
    CONTROLLER,
    FEED,
    NODE,
    SPEAKER,
    EtcdUser,
    add_user,
    bootstrap_auth,
)
from clustermesh.etcd.auth import user_grants as grants_of
from clustermesh.etcd.channel import EtcdAddress
from clustermesh.etcd.client import Client
from clustermesh.etcd.errors import EtcdError
from clustermesh.founding import authority_of
from clustermesh.publish import PREFIXES
from clustermesh.store.own import revoked_key

log = logging.getLogger(__name__)

#: What the token of a service account must be made for, so that no other token is of use here.
AUDIENCE = "meshgate-issuer"
#: Who asks, by the name of the service account.
ROLES = {"meshgate-agent": NODE, "meshgate-speaker": SPEAKER, "meshgate-feed": FEED}


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose token it is: role in etcd, and node of the pod."""

    role: str
    node: str


#: Says whose token this is. Raises RefusedError.
Reviewed = Callable[[str], Caller]


class Issuer:
    """Issues certificates of one cluster. ``pki`` has ``ca.crt``, ``ca.key`` and root's pair."""

    def __init__(
        self, cluster: str, pki: Path, endpoints: Sequence[str], lifetime: timedelta
    ) -> None:
        self._cluster, self._pki, self._endpoints = cluster, pki, endpoints
        self._lifetime = lifetime

    def found_users(self) -> None:
        """Make root, and switch authentication on; may be repeated. Raises EtcdError, OSError."""
        self._as_root(lambda client: bootstrap_auth(client, (), PREFIXES))

    def certify(self, caller: Caller, public: bytes) -> bytes:
        """A certificate of this process's user, which is made in etcd if it is not there.

        Raises RefusedError for a revoked user and a wrong key; EtcdError, OSError.
        """
        user = EtcdUser(self._cluster, caller.role, caller.node)
        try:
            cert = self._authority().certify_user(user.cn, public, self._lifetime)
        except ValueError as error:
            raise RefusedError(str(error)) from error
        self._as_root(lambda client: self._enter(client, user))
        log.info("event=issued user=%s hours=%.0f", user.cn, self._lifetime.total_seconds() / 3600)
        return cert

    def own(self, instance: str, into: Path) -> None:
        """Files of this cluster's controller: a new pair once half of the former is over."""
        cert = into / "tls.crt"
        if cert.exists() and not is_spent(validity_of(cert.read_bytes()), datetime.now(UTC)):
            return
        private, public = new_key()
        issued = self.certify(Caller(CONTROLLER, instance), public)
        write_files(into, private, issued)

    def server(self, listen: str, reviewed: Reviewed) -> grpc.Server:
        """A server that answers at ``host:port``; the caller starts it. Raises OSError."""
        pair = self._authority().issue_server(NAME)
        credentials = grpc.ssl_server_credentials([(pair.key, pair.cert)])
        server = grpc.server(ThreadPoolExecutor(4))
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._answer(request, context, reviewed)
        )
        named = grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})
        server.add_generic_rpc_handlers((named,))
        try:
            server.add_secure_port(listen, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {listen}: {error}") from error
        return server

    def _answer(self, request: bytes, context: grpc.ServicerContext, reviewed: Reviewed) -> bytes:
        try:
            asked = msgspec.json.decode(request, type=Asked)
            cert = self.certify(reviewed(asked.token), asked.public.encode())
        except (RefusedError, msgspec.MsgspecError) as error:
            log.warning("event=refused peer=%s error=%s", context.peer(), error)
            context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except (EtcdError, OSError) as error:
            log.warning("event=not_issued peer=%s error=%s", context.peer(), error)
            context.abort(grpc.StatusCode.UNAVAILABLE, f"etcd: {error}")
        return msgspec.json.encode(Answered(cert.decode()))

    async def _enter(self, client: Client, user: EtcdUser) -> None:
        # A node's mark is one for its agent and its speaker (``users.py``).
        role = NODE if user.role == SPEAKER else user.role
        if await client.get(revoked_key(user.cluster, role, user.name)):
            text = f"{user.cn} was revoked; `meshgate cluster {role} {user.name} --issue` ends that"
            raise RefusedError(text)
        await add_user(client, user.cn, grants_of(user, PREFIXES))

    def _authority(self) -> Authority:
        return authority_of(
            {name: (self._pki / name).read_bytes() for name in ("ca.crt", "ca.key")}
        )

    def _as_root(self, act: Callable[[Client], object]) -> None:
        place = EtcdAddress(
            self._endpoints, self._pki / "ca.crt", self._pki / "root.crt", self._pki / "root.key"
        )

        async def run() -> None:
            client = Client(place)
            try:
                await act(client)  # type: ignore[misc]
            finally:
                await client.aclose()

        asyncio.run(run())
