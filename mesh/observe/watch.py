"""Flows as the command line prints them, asked from the observers of all agents at once.

``kept`` gives the flows that the agents hold, ``live`` follows new ones. The agents filter.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import grpc
from google.protobuf.struct_pb2 import Struct

from mesh.core.noun import Row
from mesh.observe import hubble_pb2 as pb
from mesh.observe.asked import Following, with_services
from mesh.observe.tables import DEADLINE_S, Process, channel, failure

#: Flows that an agent keeps (``events.KEPT``, whose module costs the CLI 0.1 s of numpy).
KEPT = 16384

_GET_FLOWS = "/observer.Observer/GetFlows"
_NAMES = {"tcp": "TCP", "udp": "UDP", "sctp": "SCTP", "icmpv4": "ICMP", "icmpv6": "ICMPv6"}


#: Flows that an agent gives in a second, with a wide margin.
_FLOWS_PER_S = 1000


class FlowsError(Exception):
    """The question is wrong: every agent refuses it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which flows: the last ``number`` of each agent (0: all), of a verdict, of a pod.

    ``pod`` is a prefix: ``[[cluster/]namespace/]name``.
    """

    number: int = 0
    verdict: str = ""
    pod: str = ""


class _Stream(Protocol):
    def __iter__(self) -> Iterator[pb.GetFlowsResponse]: ...
    def cancel(self) -> bool: ...


def request(wanted: Wanted, *, follow: bool) -> pb.GetFlowsRequest:
    """The question in Hubble's terms: of one filter the fields AND, several filters OR."""
    sides = [pb.FlowFilter(verdict=[wanted.verdict] if wanted.verdict else [])]
    if wanted.pod:
        cluster, name = _pod_parts(wanted.pod)
        clusters = [cluster] if cluster else []
        sides.append(pb.FlowFilter(verdict=sides[0].verdict))
        sides[0].MergeFrom(pb.FlowFilter(source_pod=[name], source_cluster_name=clusters))
        sides[1].MergeFrom(pb.FlowFilter(destination_pod=[name], destination_cluster_name=clusters))
    filters = [side for side in sides if side.ListFields()]
    return pb.GetFlowsRequest(number=wanted.number, follow=follow, whitelist=filters)


def _pod_parts(pod: str) -> tuple[str, str]:
    parts = pod.split("/")
    if len(parts) == 1:
        return "", f"/{pod}"  # Hubble takes a bare name for one of namespace "default"
    return "/".join(parts[:-2]), "/".join(parts[-2:])


def kept(agents: Sequence[Process], wanted: Wanted) -> tuple[list[Row], dict[str, str]]:
    """Rows of all agents by time, and why an agent did not answer. Raises FlowsError.

    Takes two seconds, and longer only when many flows are wanted. A row has the keys of
    ``flow list``, and ``pod`` in source and destination besides.
    """
    question = request(wanted, follow=False)
    timeout_s = DEADLINE_S + (wanted.number or KEPT) / _FLOWS_PER_S
    streams = [(agent, _open(agent, question, timeout_s)) for agent in agents]
    rows: list[Row] = []
    failed: dict[str, str] = {}
    for agent, (link, stream) in streams:
        try:
            rows.extend(_row(message.flow) for message in stream if message.HasField("flow"))
        except grpc.RpcError as error:
            failed[agent.name] = _reason(agent, error, timeout_s)
        link.close()
    rows.sort(key=lambda row: str(row["time"]))
    return with_services(rows), failed


def live(agents: Sequence[Process], wanted: Wanted) -> Iterator[Row | str]:
    """Rows as they happen, and a sentence for each agent that goes away or has lost flows.

    A row comes half a second late, so that it names the service (``asked.py``). Ends when no agent
    is left. Raises FlowsError.
    """
    found: queue.SimpleQueue[Row | str | FlowsError | None] = queue.SimpleQueue()
    question = request(wanted, follow=True)
    for agent in agents:
        threading.Thread(target=_follow, args=(agent, question, found), daemon=True).start()
    running, following = len(agents), Following()
    while running or following.rest_s(0.0) is not None:
        with suppress(queue.Empty):
            item = found.get(timeout=following.rest_s(time.monotonic()))
            if item is None:
                running -= 1
            elif isinstance(item, FlowsError):
                raise item
            elif isinstance(item, str):
                yield item
            else:
                following.put(item, time.monotonic())
        yield from following.due(time.monotonic())


def _follow(
    agent: Process,
    question: pb.GetFlowsRequest,
    found: queue.SimpleQueue[Row | str | FlowsError | None],
) -> None:
    link, stream = _open(agent, question, None)
    try:
        for message in stream:
            if message.HasField("flow"):
                found.put(_row(message.flow))
            else:
                found.put(f"{agent.name}: {message.lost_events.num_events_lost} flows lost")
    except grpc.RpcError as error:
        try:
            found.put(f"{agent.name}: {_reason(agent, error)}")
        except FlowsError as refused:
            found.put(refused)
    finally:
        found.put(None)
        link.close()


def _open(
    agent: Process, question: pb.GetFlowsRequest, timeout_s: float | None
) -> tuple[grpc.Channel, _Stream]:
    link = channel(agent.path)
    call: grpc.UnaryStreamMultiCallable[pb.GetFlowsRequest, pb.GetFlowsResponse]
    call = link.unary_stream(
        _GET_FLOWS,
        request_serializer=pb.GetFlowsRequest.SerializeToString,
        response_deserializer=pb.GetFlowsResponse.FromString,
    )
    return link, call(question, timeout=timeout_s)


def _reason(agent: Process, error: grpc.RpcError, timeout_s: float = 0.0) -> str:
    code = getattr(error, "code", lambda: grpc.StatusCode.UNKNOWN)()
    details = str(getattr(error, "details", lambda: error)())
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        raise FlowsError(details) from error
    return failure(agent, code, details, timeout_s)


def _row(flow: pb.Flow) -> Row:
    packed = Struct()
    flow.extensions.Unpack(packed)
    facts = dict(packed.items())
    kind = flow.l4.WhichOneof("protocol")
    return {
        "time": _time(flow),
        "node": flow.node_name.rpartition("/")[2],
        "source": _end(flow, "source"),
        "destination": _end(flow, "destination"),
        "protocol": _NAMES[kind] if kind else str(_number(facts, "protocol")),
        "verdict": pb.Verdict.Name(flow.verdict),
        "reason": facts.get("reason"),
        "translated": {"address": flow.ip.source_xlated, "port": _number(facts, "translatedPort")}
        if flow.ip.source_xlated
        else None,
        "service": _service(flow.destination_service),
    }


def _number(facts: Mapping[str, Any], name: str) -> int:
    return int(facts.get(name, 0))  # a Struct holds floats only


def _time(flow: pb.Flow) -> str:
    at = datetime.fromtimestamp(flow.time.seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{at}.{flow.time.nanos:09d}Z"


def _end(flow: pb.Flow, side: str) -> Row:
    end: pb.Endpoint = getattr(flow, side)
    kind = flow.l4.WhichOneof("protocol")
    ports = getattr(flow.l4, kind) if kind in ("tcp", "udp", "sctp") else None
    return {
        "address": getattr(flow.ip, side),
        "port": getattr(ports, f"{side}_port") if ports else None,
        "identity": end.identity,
        "labels": list(end.labels),
        "pod": _pod(end),
    }


def _service(asked: pb.Service) -> str | None:
    return f"{asked.namespace}/{asked.name}" if asked.name else None


def _pod(end: pb.Endpoint) -> str | None:
    return f"{end.cluster_name}/{end.namespace}/{end.pod_name}" if end.pod_name else None
