"""Hubble's flow filters: each set field of a FlowFilter becomes one question about a flow.

Fields of a filter AND, values of a field OR, filters of a list OR. A filter that cannot be
answered is refused: a server that ignores an unknown field would return all flows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from ipaddress import ip_network
from typing import Any
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from mesh.core.model import IP
from mesh.observe import hubble_pb2 as pb
from mesh.observe.events import DROPPED, ICMP, TCP, End, Flow

Match = Callable[[Flow], bool]

#: Bits of a UUID that say how it was made: version 8, variant 2 (RFC 9562 section 4).
_UUID_FIXED = 0xF << 76 | 0x3 << 62
_UUID_V8 = 0x8 << 76 | 0x2 << 62

#: Where an event was seen: Hubble's event sub-type is the point, but 0 for TO_ENDPOINT.
TO_POD = 101
_INGRESS_POINTS = (TO_POD, 9, 10)
EVENT_DROP, EVENT_TRACE = 1, 4
FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
_PROTOCOLS = {
    "tcp": (6,),
    "udp": (17,),
    "icmp": ICMP,
    "icmpv4": (1,),
    "icmpv6": (58,),
    "sctp": (132,),
    "igmp": (2,),
    "vrrp": (112,),
    "dns": (),  # layer 7 is not seen here, so nothing matches
    "http": (),
    "kafka": (),
}
_TERM = re.compile(
    r"\s*(?P<not>!)?\s*(?P<key>[\w.:/-]+)\s*"
    r"(?:(?P<op>==|!=|=|\bin\b|\bnotin\b)\s*(?P<value>\([^()]*\)|[\w./:-]*))?\s*"
)


#: Fields of Hubble's FlowFilter that we cannot answer, by number: no event here holds them.
_UNANSWERED = {
    7: "source_fqdn",
    8: "destination_fqdn",
    9: "http_status_code",
    16: "source_service",
    17: "destination_service",
    18: "dns_query",
    21: "http_method",
    22: "http_path",
    26: "source_workload",
    27: "destination_workload",
    28: "trace_id",
    31: "http_url",
    32: "http_header",
    35: "interface",
    36: "node_labels",
    39: "ip_trace_id",
    40: "encrypted",
    999: "experimental",
}


class FilterError(ValueError):
    """A filter that this server cannot answer; the message names the field."""


def direction(flow: Flow) -> pb.TrafficDirection:
    """Hubble's TrafficDirection, seen from the pod."""
    return pb.INGRESS if flow.point in _INGRESS_POINTS else pb.EGRESS


def event_type(flow: Flow) -> tuple[int, int]:
    """Hubble's event type and sub-type."""
    if flow.verdict == DROPPED:
        return EVENT_DROP, flow.reason
    return EVENT_TRACE, 0 if flow.point == TO_POD else flow.point


def is_reply(flow: Flow) -> bool | None:
    """False for a new connection; a drop does not say."""
    return None if flow.verdict == DROPPED else False


def refuse_unknown(message: Message, name: str) -> None:
    """Raise FilterError when ``message`` holds a field that our .proto does not have."""
    fields = UnknownFieldSet(message)
    unknown = {fields[i].field_number for i in range(len(fields))}
    if unknown:
        known = _UNANSWERED if isinstance(message, pb.FlowFilter) else {}
        names = ", ".join(known.get(number, f"number {number}") for number in sorted(unknown))
        raise FilterError(f"{name}: field {names} is not supported by this server")
    for field, value in message.ListFields():
        if field.message_type and field.message_type.full_name.startswith("meshgate."):
            for item in [value] if isinstance(value, Message) else value:
                refuse_unknown(item, f"{name}.{field.name}")


def compile_filters(
    whitelist: Sequence[pb.FlowFilter], blacklist: Sequence[pb.FlowFilter], node: str
) -> Match:
    """One question: in the whitelist (or that is empty) and not in the blacklist.

    ``node`` is ``cluster/name`` of the node whose flows are asked. Raises FilterError.
    """
    wanted = [_compile(one, node) for one in whitelist]
    unwanted = [_compile(one, node) for one in blacklist]

    def match(flow: Flow) -> bool:
        if wanted and not any(one(flow) for one in wanted):
            return False
        return not any(one(flow) for one in unwanted)

    return match


def _compile(one: pb.FlowFilter, node: str) -> Match:
    questions = []
    for field, values in one.ListFields():
        ask = _FIELDS[field.name](list(values))
        questions.append(ask if field.name != "node_name" else partial(ask, node))
    return lambda flow: all(ask(flow) for ask in questions)


def _values(read: Callable[[Flow], object]) -> Callable[[list[object]], Match]:
    """A field whose values are compared as they are."""
    return lambda values: lambda flow: read(flow) in values


def _ends(make: Callable[[list[Any]], Callable[[End], bool]]) -> dict[str, Callable[..., Match]]:
    """The same question for the source and the destination."""

    def source(values: list[Any]) -> Match:
        ask = make(values)
        return lambda flow: ask(flow.source)

    def destination(values: list[Any]) -> Match:
        ask = make(values)
        return lambda flow: ask(flow.destination)

    return {"source": source, "destination": destination}


def _networks(values: list[str]) -> Callable[[IP], bool]:
    try:
        networks = [ip_network(value, strict=False) for value in values]
    except ValueError as error:
        raise FilterError(f"ip filter: {error}") from error
    return lambda address: any(address in network for network in networks)


def _ip(values: list[str]) -> Callable[[End], bool]:
    inside = _networks(values)
    return lambda end: inside(end.address)


def _ip_xlated(values: list[str]) -> Match:
    inside = _networks(values)
    return lambda flow: bool(flow.translated and inside(flow.translated[0]))


def _pod(values: list[str]) -> Callable[[End], bool]:
    """``namespace/prefix``, ``namespace/``, ``/prefix``, or ``prefix`` in namespace default."""
    if not all(values):
        raise FilterError("pod filter: the name must not be empty")
    wanted = [value.split("/", 1) if "/" in value else ["default", value] for value in values]

    def ask(end: End) -> bool:
        if not end.namespace and not end.pod:
            return False
        return any(ns in ("", end.namespace) and end.pod.startswith(name) for ns, name in wanted)

    return ask


def _cluster(values: list[str]) -> Callable[[End], bool]:
    return lambda end: end.cluster in values


def _identity(values: list[int]) -> Callable[[End], bool]:
    return lambda end: end.identity in values


def _port(values: list[str]) -> Callable[[End], bool]:
    if not all(value.isdecimal() and int(value) < 1 << 16 for value in values):
        raise FilterError(f"port filter: {', '.join(values)} is no port")
    ports = [int(value) for value in values]
    return lambda end: end.port in ports


def _label(values: list[str]) -> Callable[[End], bool]:
    selectors = [label_selector(value) for value in values]
    return lambda end: any(selects(end.labels) for selects in selectors)


def label_selector(text: str) -> Callable[[Iterable[str]], bool]:
    """A Kubernetes label selector; a key without a source (``k8s:``) is of any source.

    Raises FilterError.
    """
    terms = [_term(term, text) for term in re.split(r",(?![^(]*\))", text)]

    def selects(labels: Iterable[str]) -> bool:
        have: dict[str, str] = {}
        for label in labels:
            key, _, value = label.partition("=")
            have[key] = have[key.partition(":")[2]] = value
        return all(term(have) for term in terms)

    return selects


def _term(term: str, text: str) -> Callable[[dict[str, str]], bool]:
    parts = _TERM.fullmatch(term)
    if not parts or (parts["not"] and parts["op"]):
        raise FilterError(f"label filter: {text!r} is no label selector")
    key, operator = parts["key"], parts["op"]
    if not operator:
        present = not parts["not"]
        return lambda have: (key in have) is present
    values = [value.strip() for value in parts["value"].strip("()").split(",")]
    if operator in ("!=", "notin"):
        return lambda have: have.get(key) not in values
    return lambda have: have.get(key) in values


def _protocol(values: list[str]) -> Match:
    unknown = [value for value in values if value.lower() not in _PROTOCOLS]
    if unknown:
        raise FilterError(f"protocol filter: {', '.join(unknown)} is not known")
    numbers = {number for value in values for number in _PROTOCOLS[value.lower()]}
    return lambda flow: flow.protocol in numbers


def _event_type(values: list[pb.EventTypeFilter]) -> Match:
    def match(flow: Flow) -> bool:
        kind, sub = event_type(flow)
        return any(
            kind == one.type and (not one.match_sub_type or sub == one.sub_type) for one in values
        )

    return match


def flag_names(flow: Flow) -> list[str]:
    """The TCP flags that are set, as Hubble's fields are called."""
    return [name for bit, name in enumerate(FLAGS) if flow.tcp_flags >> bit & 1]


def _tcp_flags(values: list[pb.TCPFlags]) -> Match:
    wanted = [{field.name for field, _ in one.ListFields()} for one in values]
    return lambda flow: flow.protocol == TCP and any(w <= {*flag_names(flow)} for w in wanted)


def _node(values: list[str]) -> Callable[[str, Flow], bool]:
    """``cluster/name`` with wildcards; an absent part is any."""
    patterns = [value if "/" in value else f"*/{value}" for value in values]
    patterns = [pattern + "*" if pattern.endswith("/") else pattern for pattern in patterns]
    return lambda node, _flow: any(fnmatchcase(node, pattern) for pattern in patterns)


def _ip_version(values: list[int]) -> Match:
    wanted = [4 if value == pb.IPv4 else 6 for value in values]
    return lambda flow: flow.source.address.version in wanted


def _drop_reason(values: list[int]) -> Match:
    return lambda flow: flow.verdict == DROPPED and flow.reason in values


def _uuid(values: list[str]) -> Match:
    return lambda flow: uuid(flow) in values


def uuid(flow: Flow) -> str:
    """Names a flow among those of all nodes and all runs of their agents (RFC 9562, version 8)."""
    number = flow.run << 48 | flow.sequence & (1 << 48) - 1
    return str(UUID(int=number & ~_UUID_FIXED | _UUID_V8))


_FIELDS: dict[str, Callable[..., Callable[..., bool]]] = {
    "verdict": _values(lambda flow: flow.verdict),
    "event_type": _event_type,
    "protocol": _protocol,
    "reply": _values(is_reply),
    "tcp_flags": _tcp_flags,
    "node_name": _node,
    "ip_version": _ip_version,
    "uuid": _uuid,
    "traffic_direction": _values(direction),
    "drop_reason_desc": _drop_reason,
    "source_ip_xlated": _ip_xlated,
    **{f"{end}_ip": make for end, make in _ends(_ip).items()},
    **{f"{end}_pod": make for end, make in _ends(_pod).items()},
    **{f"{end}_label": make for end, make in _ends(_label).items()},
    **{f"{end}_port": make for end, make in _ends(_port).items()},
    **{f"{end}_identity": make for end, make in _ends(_identity).items()},
    **{f"{end}_cluster_name": make for end, make in _ends(_cluster).items()},
}
