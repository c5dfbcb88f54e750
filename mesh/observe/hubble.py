"""Hubble's Observer over the flows of this node, so that Hubble's CLI and UI work unchanged.

An agent registers ``Observer`` on its process socket. Flows are decoded in chunks, with the event
loop free in between. Field numbers and traps: ``reference/observability-cli-ui.md`` 2 and 3.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from ipaddress import IPv4Address
from typing import Any

import grpc
import numpy as np
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value
from grpc import aio

from mesh.observe import filters
from mesh.observe import hubble_pb2 as pb
from mesh.observe.events import DROPPED, FORWARDED, SCTP, TCP, UDP, End, Flow, Flows, Sequences

#: Flows decoded at a time; one chunk takes 2 ms of the event loop.
CHUNK = 64
#: Reasons from here on are our own: Hubble's CLI has no text for them.
OWN_REASONS = 220
#: The service whose health ``hubble status`` asks for first.
HEALTH_NAME = "hubble.server.Observer"
_SERVING = 1
_CONNECTED = 1
_LOST_IN_RING = 3
_ICMPV6 = 58
_TIME_LIMIT_NS = (1 << 63) - 1
#: Names of ICMP types, and of the codes of errors, by protocol (RFC 792, RFC 4443, RFC 4861).
_ICMP_TYPES = {
    (1, 0): "EchoReply",
    (1, 3): "DestinationUnreachable",
    (1, 5): "Redirect",
    (1, 8): "EchoRequest",
    (1, 11): "TimeExceeded",
    (1, 12): "ParameterProblem",
    (1, 13): "TimestampRequest",
    (1, 14): "TimestampReply",
    (58, 1): "DestinationUnreachable",
    (58, 2): "PacketTooBig",
    (58, 3): "TimeExceeded",
    (58, 4): "ParameterProblem",
    (58, 128): "EchoRequest",
    (58, 129): "EchoReply",
    (58, 133): "RouterSolicitation",
    (58, 134): "RouterAdvertisement",
    (58, 135): "NeighborSolicitation",
    (58, 136): "NeighborAdvertisement",
}
_ICMP_CODES = {
    (1, 3, 0): "Net",
    (1, 3, 1): "Host",
    (1, 3, 2): "Protocol",
    (1, 3, 3): "Port",
    (1, 3, 4): "FragmentationNeeded",
    (1, 3, 9): "NetAdminProhibited",
    (1, 3, 10): "HostAdminProhibited",
    (1, 3, 13): "AdminProhibited",
    (1, 11, 0): "TTLExceeded",
    (1, 11, 1): "FragmentReassembly",
    (58, 1, 0): "NoRoute",
    (58, 1, 1): "AdminProhibited",
    (58, 1, 3): "Address",
    (58, 1, 4): "Port",
    (58, 3, 0): "HopLimitExceeded",
    (58, 3, 1): "FragmentReassembly",
}

Context = aio.ServicerContext[Message, Message]


class Observer:
    """The services ``observer.Observer`` and ``grpc.health.v1.Health`` of one agent.

    ``namespaces`` gives (cluster, namespace) pairs; ``address`` is the node's own address.
    """

    def __init__(
        self,
        flows: Flows,
        namespaces: Callable[[], Iterable[tuple[str, str]]] = tuple,
        address: str = "",
    ) -> None:
        self.flows = flows
        self.node = f"{flows.cluster}/{flows.node}"
        self._namespaces = namespaces
        self._address = address
        self._started_ns = time.monotonic_ns()

    def handlers(self) -> Sequence[grpc.GenericRpcHandler]:
        """Both services, by path."""
        observer: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "ServerStatus": _unary(self._server_status, pb.ServerStatusRequest),
            "GetNodes": _unary(self._get_nodes, pb.GetNodesRequest),
            "GetNamespaces": _unary(self._get_namespaces, pb.GetNamespacesRequest),
            "GetFlows": grpc.unary_stream_rpc_method_handler(
                self._get_flows,
                request_deserializer=pb.GetFlowsRequest.FromString,
                response_serializer=_serialized,
            ),
        }
        health = {"Check": _unary(self._check, pb.HealthCheckRequest)}
        return (
            grpc.method_handlers_generic_handler("observer.Observer", observer),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
        )

    async def _check(self, request: pb.HealthCheckRequest, context: Context) -> Message:
        if request.service not in ("", HEALTH_NAME):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} here")
        return pb.HealthCheckResponse(status=_SERVING)

    async def _server_status(self, _: pb.ServerStatusRequest, _context: Context) -> Message:
        up_ns = time.monotonic_ns() - self._started_ns
        return pb.ServerStatusResponse(
            num_flows=self.flows.end - self.flows.begin,
            max_flows=self.flows.kept,
            seen_flows=self.flows.end,
            uptime_ns=up_ns,
            num_connected_nodes=UInt32Value(value=1),
            num_unavailable_nodes=UInt32Value(value=0),
            version=_version(),
            flows_rate=self.flows.end / max(up_ns / 1e9, 1),
        )

    async def _get_nodes(self, _: pb.GetNodesRequest, _context: Context) -> Message:
        node = pb.Node(
            name=self.node,
            version=_version(),
            address=self._address,
            state=_CONNECTED,
            tls=pb.TLS(enabled=False),
            uptime_ns=time.monotonic_ns() - self._started_ns,
            num_flows=self.flows.end - self.flows.begin,
            max_flows=self.flows.kept,
            seen_flows=self.flows.end,
        )
        return pb.GetNodesResponse(nodes=[node])

    async def _get_namespaces(self, _: pb.GetNamespacesRequest, _context: Context) -> Message:
        names = sorted(set(self._namespaces()))
        return pb.GetNamespacesResponse(
            namespaces=[pb.Namespace(cluster=cluster, namespace=name) for cluster, name in names]
        )

    async def _get_flows(
        self, request: pb.GetFlowsRequest, context: Context
    ) -> AsyncIterator[pb.GetFlowsResponse]:
        try:
            query = read_query(request, self.node)
        except filters.FilterError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        end = self.flows.end
        for flow in await self._kept(query):
            yield self._response(flow)
        if query.follow:
            async for message in self._live(query, end):
                yield message

    async def _kept(self, query: Query) -> list[Flow]:
        """Flows of the past, oldest first: all, or the first or last ``number`` that match."""
        if query.follow and not query.number and query.since_ns is None:
            return []
        sequences = self.flows.select(query.since_ns, query.until_ns)
        chunks = [sequences[at : at + CHUNK] for at in range(0, len(sequences), CHUNK)]
        batches: list[list[Flow]] = []
        left = query.number or len(sequences)
        for chunk in chunks if query.first else reversed(chunks):
            flows = [flow for flow in self.flows.decode(chunk) if query.match(flow)]
            batches.append(flows[:left] if query.first else flows[-left:])
            left -= len(batches[-1])
            if left <= 0:
                break
            await asyncio.sleep(0)
        return [flow for flows in (batches if query.first else reversed(batches)) for flow in flows]

    async def _live(self, query: Query, begin: int) -> AsyncIterator[pb.GetFlowsResponse]:
        """Flows from ``begin`` on, as they come; what was overwritten meanwhile is told."""
        while begin < self.flows.end or await self._grown(query.until_ns):
            oldest = self.flows.begin
            if begin < oldest:
                yield self._lost(oldest - begin)
                begin = oldest
                continue
            chunk = np.arange(begin, min(self.flows.end, begin + CHUNK), dtype=np.int64)
            begin += len(chunk)
            async for message in self._matching(query, chunk):
                yield message

    async def _matching(self, query: Query, chunk: Sequences) -> AsyncIterator[pb.GetFlowsResponse]:
        for flow in self.flows.decode(chunk):
            inside = query.until_ns is None or flow.time_ns <= query.until_ns
            if inside and query.match(flow):
                yield self._response(flow)

    async def _grown(self, until_ns: int | None) -> bool:
        left = None if until_ns is None else (until_ns - time.time_ns()) / 1e9
        try:
            async with asyncio.timeout(left):
                await self.flows.grown()
        except TimeoutError:
            return False
        return True

    def _response(self, flow: Flow) -> pb.GetFlowsResponse:
        at = _timestamp(flow.time_ns)
        message = hubble_flow(flow, self.node, self.flows.texts)
        return pb.GetFlowsResponse(flow=message, node_name=self.node, time=at)

    def _lost(self, count: int) -> pb.GetFlowsResponse:
        lost = pb.LostEvent(source=_LOST_IN_RING, num_events_lost=count)
        now = _timestamp(time.time_ns())
        return pb.GetFlowsResponse(lost_events=lost, node_name=self.node, time=now)


@dataclass(frozen=True, slots=True)
class Query:
    """A GetFlowsRequest, read and checked."""

    match: filters.Match
    number: int
    first: bool
    follow: bool
    since_ns: int | None
    until_ns: int | None


def read_query(request: pb.GetFlowsRequest, node: str) -> Query:
    """The question that ``request`` asks of ``node``. Raises FilterError."""
    filters.refuse_unknown(request, "request")
    return Query(
        match=filters.compile_filters(request.whitelist, request.blacklist, node),
        number=min(request.number, _TIME_LIMIT_NS),
        first=request.first,
        follow=request.follow,
        since_ns=_nanoseconds(request.since) if request.HasField("since") else None,
        until_ns=_nanoseconds(request.until) if request.HasField("until") else None,
    )


def hubble_flow(flow: Flow, node: str, texts: dict[int, str]) -> pb.Flow:
    """One flow as Hubble knows it. Source and destination stay as seen on the packet."""
    kind, sub = filters.event_type(flow)
    reply = filters.is_reply(flow)
    dropped = flow.verdict == DROPPED
    return pb.Flow(
        time=_timestamp(flow.time_ns),
        uuid=filters.uuid(flow),
        verdict=pb.DROPPED if dropped else pb.FORWARDED,
        drop_reason=flow.reason if dropped else 0,
        drop_reason_desc=flow.reason if dropped else 0,
        ip=pb.IP(
            source=str(flow.source.address),
            destination=str(flow.destination.address),
            version=pb.IPv4 if isinstance(flow.source.address, IPv4Address) else pb.IPv6,
            source_xlated=str(flow.translated[0]) if flow.translated else "",
        ),
        l4=_layer4(flow),
        source=_endpoint(flow.source),
        destination=_endpoint(flow.destination),
        type=pb.L3_L4,
        node_name=node,
        event_type=pb.CiliumEventType(type=kind, sub_type=sub),
        destination_service=_service(flow),
        traffic_direction=filters.direction(flow),
        trace_observation_point=0 if dropped else flow.point,
        is_reply=None if reply is None else BoolValue(value=reply),
        summary=_summary(flow, texts),
        extensions=_extensions(flow, texts),
    )


def _service(flow: Flow) -> pb.Service | None:
    asked = flow.service
    return pb.Service(name=asked.name, namespace=asked.namespace) if asked else None


def _endpoint(end: End) -> pb.Endpoint:
    return pb.Endpoint(
        identity=end.identity,
        namespace=end.namespace,
        labels=end.labels,
        pod_name=end.pod,
        cluster_name=end.cluster,
    )


def _layer4(flow: Flow) -> pb.Layer4 | None:
    ports = {
        "source_port": flow.source.port or 0,
        "destination_port": flow.destination.port or 0,
    }
    if flow.protocol == TCP:
        flags = pb.TCPFlags(**dict.fromkeys(filters.flag_names(flow), True))
        return pb.Layer4(tcp=pb.TCP(flags=flags, **ports))
    if flow.protocol == UDP:
        return pb.Layer4(udp=pb.UDP(**ports))
    if flow.protocol == SCTP:
        return pb.Layer4(sctp=pb.UDP(**ports))
    if flow.icmp is None:
        return None
    icmp = pb.ICMP(type=flow.icmp[0], code=flow.icmp[1])
    return pb.Layer4(icmpv6=icmp) if flow.protocol == _ICMPV6 else pb.Layer4(icmpv4=icmp)


def _summary(flow: Flow, texts: dict[int, str]) -> str:
    parts = []
    if flow.verdict == DROPPED and flow.reason >= OWN_REASONS:
        parts.append(texts.get(flow.reason, f"reason {flow.reason}"))
    if flow.icmp is not None:
        parts.append(icmp_text(flow.protocol, *flow.icmp))
    if flow.tcp_flags:
        parts.append("TCP Flags: " + ", ".join(name.upper() for name in filters.flag_names(flow)))
    if flow.translated:
        parts.append("source translated to {}, port {}".format(*flow.translated))
    if flow.sender and flow.verdict == DROPPED:
        parts.append(f"sent by node {flow.sender}")
    if flow.lost:
        parts.append(f"{flow.lost} more drops of this reason not shown")
    if flow.unshown:
        parts.append(f"{flow.unshown} more events of this sender not shown")
    return "; ".join(parts)


def icmp_text(protocol: int, kind: int, code: int) -> str:
    """An ICMP message in words, by the IANA registries of ICMPv4 and ICMPv6 types and codes."""
    family = "ICMPv6" if protocol == _ICMPV6 else "ICMPv4"
    name = _ICMP_TYPES.get((protocol, kind), f"type {kind}")
    detail = _ICMP_CODES.get((protocol, kind, code), f"code {code}" if code else "")
    return f"{family} {name} ({detail})" if detail else f"{family} {name}"


def _extensions(flow: Flow, texts: dict[int, str]) -> AnyMessage | None:
    facts = Struct()
    if flow.translated:
        facts["translatedPort"] = flow.translated[1]
    if flow.verdict != FORWARDED:
        facts["reason"] = texts.get(flow.reason, f"reason {flow.reason}")
    if flow.sender:
        facts["sender"] = str(flow.sender)
    if flow.icmp is None and flow.source.port is None:
        facts["protocol"] = flow.protocol
    if not facts.fields:
        return None
    packed = AnyMessage()
    packed.Pack(facts)
    return packed


def _timestamp(time_ns: int) -> Timestamp:
    return Timestamp(seconds=time_ns // 10**9, nanos=time_ns % 10**9)


def _nanoseconds(at: Timestamp) -> int:
    return max(-_TIME_LIMIT_NS, min(at.ToNanoseconds(), _TIME_LIMIT_NS))


def _unary(
    answer: Callable[..., object], request: type[Message]
) -> grpc.RpcMethodHandler[Message, Message]:
    return grpc.unary_unary_rpc_method_handler(
        answer, request_deserializer=request.FromString, response_serializer=_serialized
    )


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


def _version() -> str:
    try:
        return f"meshgate {version('meshgate')}"
    except PackageNotFoundError:
        return "meshgate"
