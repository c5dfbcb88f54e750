"""``peer.Peer`` of Hubble: a relay asks one agent which nodes there are, and then connects to all.

The service stands on a listener with mutual TLS, beside the flows of this node. Field numbers and
the form of a server name: ``reference/observability-cli-ui.md`` 2.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv6Address
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc import aio

from mesh.config import Hubble
from mesh.core.model import Finding, Node, NodeKey
from mesh.core.table import Table
from mesh.observe import hubble_pb2 as pb
from mesh.observe.findings import LISTENER_DOWN
from mesh.observe.tables import Registered

log = logging.getLogger(__name__)

ADDED, DELETED, UPDATED = 1, 2, 3
#: The ending that a relay appends to a node and its cluster to find the name in a certificate.
DOMAIN = "hubble-grpc.cilium.io"
#: Seconds between tries to listen, when the port is taken or a file cannot be read.
RETRY_S = 5.0

Context = aio.ServicerContext[Message, Message]
#: The nodes that a relay knows, by name.
Told = Mapping[str, pb.ChangeNotification]


def server_name(node: NodeKey) -> str:
    """The name that a node's certificate must have. A dot in a part would be another label."""
    name, cluster = (part.replace(".", "-") for part in (node.name, node.cluster))
    return f"{name}.{cluster}.{DOMAIN}"


def added(nodes: Iterable[Node], port: int) -> Told:
    """A notification by name for each node with an address: that it has been added."""
    told = [_added(node, port) for node in nodes if node.addresses]
    return {one.name: one for one in told}


def _added(node: Node, port: int) -> pb.ChangeNotification:
    address = node.addresses[0]
    host = f"[{address}]" if isinstance(address, IPv6Address) else str(address)
    return pb.ChangeNotification(
        name=f"{node.cluster}/{node.name}",
        address=f"{host}:{port}",
        type=ADDED,
        tls=pb.PeerTLS(server_name=server_name(NodeKey(node.cluster, node.name))),
    )


def changes(before: Told, now: Told) -> Iterator[pb.ChangeNotification]:
    """What a relay that was told ``before`` has to be told; added ones first."""
    for name, one in now.items():
        if name not in before:
            yield one
        elif one != before[name]:
            yield _typed(one, UPDATED)
    for name, one in before.items():
        if name not in now:
            yield _typed(one, DELETED)


def _typed(one: pb.ChangeNotification, kind: int) -> pb.ChangeNotification:
    other = pb.ChangeNotification()
    other.CopyFrom(one)
    other.type = kind
    return other


class NodeNotices:
    """``peer.Peer`` from the table of all nodes, own and other clusters'."""

    def __init__(self, nodes: Table[NodeKey, Node], port: int) -> None:
        self._nodes, self._port = nodes, port
        self._now: Told = {}
        self._moved = asyncio.Event()

    def update(self) -> None:
        """The table of nodes has changed."""
        self._now = added(self._nodes.rows.values(), self._port)
        self._moved.set()
        self._moved = asyncio.Event()

    def handlers(self) -> Sequence[grpc.GenericRpcHandler]:
        """The service, by path."""
        notify: grpc.RpcMethodHandler[Any, Any] = grpc.unary_stream_rpc_method_handler(
            self._notify,
            request_deserializer=pb.NotifyRequest.FromString,
            response_serializer=pb.ChangeNotification.SerializeToString,
        )
        return (grpc.method_handlers_generic_handler("peer.Peer", {"Notify": notify}),)

    async def _notify(
        self, _: pb.NotifyRequest, _context: Context
    ) -> AsyncIterator[pb.ChangeNotification]:
        told: Told = {}
        while True:
            now, moved = self._now, self._moved
            for one in changes(told, now):
                yield one
            told = now
            await moved.wait()


class Listener:
    """The services of an agent on TCP with mutual TLS."""

    def __init__(self, settings: Hubble, node: str, services: Iterable[Registered]) -> None:
        self._settings, self._node, self._services = settings, node, tuple(services)
        self._problem = ""

    async def run(self) -> None:
        """Serve until cancelled; a port that is taken, or a wrong file, is a finding meanwhile."""
        while True:
            server = aio.server(options=(("grpc.so_reuseport", 0),))
            for service in self._services:
                server.add_generic_rpc_handlers(tuple(service.handlers()))
            try:
                server.add_secure_port(self._settings.listen, self._credentials())
                await server.start()
            except (RuntimeError, OSError, ValueError) as error:
                self._note(str(error))
                await asyncio.sleep(RETRY_S)
                continue
            self._problem = ""
            try:
                await server.wait_for_termination()
            finally:
                await server.stop(None)

    def _note(self, problem: str) -> None:
        if problem != self._problem:
            log.warning("event=hubble_listener listen=%s error=%s", self._settings.listen, problem)
        self._problem = problem

    def _credentials(self) -> grpc.ServerCredentials:
        """Files are read for each new connection: a renewed certificate needs no restart."""
        last = self._configuration()

        def renewed() -> grpc.ServerCertificateConfiguration:
            nonlocal last
            with suppress(OSError):  # a file is missing while it is replaced
                last = self._configuration()
            return last

        return grpc.dynamic_ssl_server_credentials(
            last, renewed, require_client_authentication=True
        )

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        one = self._settings
        pair = (one.key.read_bytes(), one.cert.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], one.ca.read_bytes())

    def findings(self) -> Iterator[Finding]:
        """A finding that no relay is served."""
        if self._problem:
            text = (
                f"cannot listen on {self._settings.listen}: {self._problem}; no relay sees the "
                "flows of this node, the unix socket goes on"
            )
            yield Finding(LISTENER_DOWN, self._node, "hubble.listen", text, (f"node/{self._node}",))
