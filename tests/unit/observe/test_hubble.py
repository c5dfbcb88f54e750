"""Hubble's Observer over a real socket, asked by a client made from the same field numbers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from mesh.observe import hubble_pb2 as pb
from mesh.observe.events import Flows, Names
from mesh.observe.hubble import Observer, hubble_flow, icmp_text
from mesh.observe.tables import channel
from tests.fixtures.flow_events import (
    CLIENT_ID,
    EVENT,
    LEGACY,
    NAMES,
    REASONS,
    WEB,
    WEB_ID,
    WORLD,
    drop,
    event,
    flows,
    ping6,
    translated,
)
from tests.fixtures.serving import served

CONNECTION, TRANSLATED, DROP, PING, OWN_DROP = range(5)


class Client:
    """What the hubble command line does."""

    def __init__(self, path: Path, kept: Flows, loop: asyncio.AbstractEventLoop) -> None:
        self.flows = kept
        self.loop = loop
        self.channel = channel(path)

    def ask(self, method: str, request: Any, answer: Any) -> Any:
        call = self.channel.unary_unary(
            method, request_serializer=lambda r: r.SerializeToString(),
            response_deserializer=answer.FromString,
        )  # fmt: skip
        return call(request, timeout=5)

    def stream(self, raw: bytes, timeout: float = 5) -> Any:
        call = self.channel.unary_stream(
            "/observer.Observer/GetFlows", response_deserializer=pb.GetFlowsResponse.FromString
        )
        return call(raw, timeout=timeout)

    def get(self, request: pb.GetFlowsRequest) -> list[pb.Flow]:
        return [answer.flow for answer in self.stream(request.SerializeToString())]

    def which(self, **fields: Any) -> list[int]:
        """Indices of the flows that a filter with these fields lets through."""
        request = pb.GetFlowsRequest(whitelist=[pb.FlowFilter(**fields)])
        return [_sequence(flow.uuid) for flow in self.get(request)]

    def append(self, *events: Any) -> None:
        def add() -> None:
            for one in events:
                self.flows.append(one)

        self.loop.call_soon_threadsafe(add)


def _sequence(uuid: str) -> int:
    """The number of a flow among those of its agent's run."""
    return int(uuid[-12:], 16)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """A node that has seen one event of each kind."""
    kept = flows(event(), translated(unshown=7), drop(), ping6(), drop(reason=222, lost=4))
    observer = Observer(kept, lambda: [("east", "shop"), ("east", "shop")], "10.99.0.11")
    path = tmp_path / "agent.sock"
    with served(path, observer=observer) as loop:
        one = Client(path, kept, loop)
        yield one
        one.channel.close()


def test_a_connection_carries_both_ends(client: Client) -> None:
    """Addresses, ports, identities, labels, pod, cluster and node stand where Hubble looks."""
    flow = client.get(pb.GetFlowsRequest())[CONNECTION]
    assert (flow.ip.source, flow.ip.destination, flow.ip.version) == ("10.1.0.5", WEB, pb.IPv4)
    assert (flow.l4.tcp.source_port, flow.l4.tcp.destination_port) == (40000, 8080)
    assert flow.l4.tcp.flags.syn
    assert not flow.l4.tcp.flags.ack
    assert (flow.source.identity, flow.destination.identity) == (CLIENT_ID, WEB_ID)
    assert "k8s:app=client" in flow.source.labels
    assert (flow.source.cluster_name, flow.source.pod_name) == ("east", "client-1")
    assert (flow.destination.cluster_name, flow.destination.namespace) == ("west", "shop")
    assert flow.node_name == "east/east-1"
    assert abs(flow.time.ToNanoseconds() - time.time_ns()) < 60e9


def test_every_flow_has_an_event_type(client: Client) -> None:
    """The CLI prints the event from it: drop and reason, or trace and point (101 is 0)."""
    kinds = [
        (flow.event_type.type, flow.event_type.sub_type)
        for flow in client.get(pb.GetFlowsRequest())
    ]
    assert kinds == [(4, 5), (4, 11), (1, 167), (4, 0), (1, 222)]


def test_a_drop_says_which_node_sent_the_packet(client: Client) -> None:
    client.append(drop(sender=int(IPv4Address("10.99.0.21"))))
    *_, before, flow = client.get(pb.GetFlowsRequest())
    facts = Struct()
    assert flow.extensions.Unpack(facts)
    assert facts["sender"] == "10.99.0.21"
    assert "sent by node 10.99.0.21" in flow.summary
    assert "sent by" not in before.summary


def test_a_flow_names_the_service_that_was_asked_for(client: Client) -> None:
    """The packet has the backend's address; a service that has gone since has no name."""
    client.append(*(event(service=f"10.97.1.{n}", service_port=80) for n in (10, 11)))
    *_, asked, gone = client.get(pb.GetFlowsRequest())
    assert (asked.destination_service.namespace, asked.destination_service.name) == ("shop", "web")
    assert asked.ip.destination == WEB
    assert not gone.HasField("destination_service")


def test_a_translated_flow_shows_the_address_outside(client: Client) -> None:
    """Source stays as on the packet; the translation stands in source_xlated and in words."""
    flow = client.get(pb.GetFlowsRequest())[TRANSLATED]
    facts = Struct()
    assert (flow.ip.source, flow.ip.source_xlated) == ("10.1.0.5", "198.51.100.10")
    assert "translated to 198.51.100.10, port 1030" in flow.summary
    assert flow.extensions.Unpack(facts)
    assert facts["translatedPort"] == 1030
    assert flow.destination.labels == ["reserved:world"]


def test_a_drop_says_its_reason(client: Client) -> None:
    """Hubble's own numbers need no text; ours come with one, and with what was suppressed."""
    known, own = client.which(verdict=[pb.DROPPED]), client.get(pb.GetFlowsRequest())[OWN_DROP]
    assert known == [DROP, OWN_DROP]
    assert (own.drop_reason, own.drop_reason_desc) == (222, 222)
    assert own.summary == "No block; 4 more drops of this reason not shown"


def test_a_flow_says_how_many_of_its_sender_are_missing(client: Client) -> None:
    flow = client.get(pb.GetFlowsRequest())[TRANSLATED]
    assert flow.summary.endswith("; 7 more events of this sender not shown")


def test_only_a_new_connection_says_that_it_is_no_reply(client: Client) -> None:
    """A drop leaves is_reply out: nobody knows."""
    said = [flow.HasField("is_reply") for flow in client.get(pb.GetFlowsRequest())]
    assert said == [True, True, False, True, False]


ICMP_TEXTS = [
    (1, 8, 0, "ICMPv4 EchoRequest"),
    (1, 3, 3, "ICMPv4 DestinationUnreachable (Port)"),
    (58, 3, 0, "ICMPv6 TimeExceeded (HopLimitExceeded)"),
    (58, 200, 7, "ICMPv6 type 200 (code 7)"),
]


@pytest.mark.parametrize(("protocol", "kind", "code", "text"), ICMP_TEXTS)
def test_an_icmp_message_is_named(protocol: int, kind: int, code: int, text: str) -> None:
    """By the registries of IANA; a number that we do not know stays one."""
    assert icmp_text(protocol, kind, code) == text


def test_an_echo_request_has_type_and_no_ports(client: Client) -> None:
    """ICMPv6 of a pod to another one."""
    flow = client.get(pb.GetFlowsRequest())[PING]
    assert flow.summary == "ICMPv6 EchoRequest"
    assert (flow.l4.icmpv6.type, flow.l4.icmpv6.code) == (128, 0)
    assert (flow.ip.version, flow.traffic_direction) == (pb.IPv6, pb.INGRESS)


ALL = [CONNECTION, TRANSLATED, DROP, PING, OWN_DROP]
FILTERS: list[tuple[dict[str, Any], list[int]]] = [
    ({"source_ip": ["10.1.0.5"]}, [0, 1, 2, 4]),
    ({"source_ip": ["fd01::/16", "192.0.2.1"]}, [PING]),
    ({"destination_ip": ["192.0.2.0/24"]}, [TRANSLATED, DROP, OWN_DROP]),
    ({"source_ip_xlated": ["198.51.100.0/24"]}, [TRANSLATED]),
    ({"source_pod": ["shop/client"]}, [0, 1, 2, 4]),
    ({"source_pod": ["/client-1"]}, [0, 1, 2, 4]),
    ({"source_pod": ["client-1"]}, []),  # a bare name is one of namespace "default"
    ({"destination_pod": ["shop/"]}, [CONNECTION, PING]),
    ({"source_label": ["app=client"]}, ALL),
    ({"source_label": ["k8s:app in (web, client), !missing"]}, ALL),
    ({"source_label": ["app notin (client)", "app!=client"]}, []),
    ({"destination_label": ["reserved:world"]}, [TRANSLATED, DROP, OWN_DROP]),
    ({"destination_label": ["app=web", "app=db"]}, [CONNECTION, PING]),
    ({"source_port": ["40000"]}, [0, 1, 2, 4]),
    ({"destination_port": ["53", "80"]}, [TRANSLATED, DROP, OWN_DROP]),
    ({"source_identity": [CLIENT_ID]}, ALL),
    ({"destination_identity": [WORLD]}, [TRANSLATED, DROP, OWN_DROP]),
    ({"source_cluster_name": ["west"]}, []),
    ({"destination_cluster_name": ["west"]}, [CONNECTION, PING]),
    ({"verdict": [pb.FORWARDED]}, [CONNECTION, TRANSLATED, PING]),
    ({"event_type": [pb.EventTypeFilter(type=1)]}, [DROP, OWN_DROP]),
    ({"event_type": [pb.EventTypeFilter(type=4, match_sub_type=True)]}, [PING]),
    ({"protocol": ["udp"]}, [DROP, OWN_DROP]),
    ({"protocol": ["ICMP"]}, [PING]),
    ({"protocol": ["http"]}, []),
    ({"reply": [False]}, [CONNECTION, TRANSLATED, PING]),
    ({"reply": [True]}, []),
    ({"tcp_flags": [pb.TCPFlags(syn=True)]}, [CONNECTION, TRANSLATED]),
    ({"tcp_flags": [pb.TCPFlags(syn=True, ack=True)]}, []),
    ({"node_name": ["east-1"]}, ALL),
    ({"node_name": ["east/"]}, ALL),
    ({"node_name": ["west/*", "*-2"]}, []),
    ({"ip_version": [pb.IPv6]}, [PING]),
    ({"traffic_direction": [pb.INGRESS]}, [PING]),
    ({"drop_reason_desc": [222]}, [OWN_DROP]),
    ({"protocol": ["udp"], "drop_reason_desc": [167]}, [DROP]),  # fields AND
]


@pytest.mark.parametrize(("fields", "expected"), FILTERS)
def test_a_filter_lets_through(client: Client, fields: dict[str, Any], expected: list[int]) -> None:
    """Each supported field, by what it selects."""
    assert client.which(**fields) == expected


def test_every_field_of_the_filter_is_tested() -> None:
    """A field that is added to the .proto gets a line above."""
    tested = {name for fields, _ in FILTERS for name in fields} | {"uuid"}
    assert tested == {field.name for field in pb.FlowFilter.DESCRIPTOR.fields}


def test_a_uuid_names_one_flow_of_one_run_of_one_agent(client: Client) -> None:
    """The second flow here and the second flow of another agent have different ones."""
    uuids = [flow.uuid for flow in client.get(pb.GetFlowsRequest())]
    assert client.which(uuid=[uuids[TRANSLATED]]) == [TRANSLATED]
    assert [uuid[14] + uuid[19] for uuid in uuids if uuid[19] in "89ab"] == [
        "8" + uuid[19] for uuid in uuids
    ]
    other = flows(event(), translated())
    made = {hubble_flow(flow, "west/west-1", {}).uuid for flow in other.decode(other.select())}
    assert made.isdisjoint(uuids)


def test_filters_of_a_list_add_up_and_the_blacklist_takes_away(client: Client) -> None:
    """Whitelist minus blacklist."""
    request = pb.GetFlowsRequest(
        whitelist=[pb.FlowFilter(protocol=["udp"]), pb.FlowFilter(protocol=["icmp"])],
        blacklist=[pb.FlowFilter(drop_reason_desc=[222])],
    )
    assert [_sequence(flow.uuid) for flow in client.get(request)] == [DROP, PING]


#: Wire form of filters with a field that we do not serve: by number, and what the CLI calls it.
UNKNOWN = {
    "http_status_code": b"\x4a\x03200",
    "destination_service": b"\x8a\x01\x08shop/web",
    "encrypted": b"\xc2\x02\x01\x01",
    "experimental": b"\xba\x3e\x06\x0a\x04true",
    "inside tcp_flags": b"\xba\x01\x02\x50\x01",
}


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize("tag", [b"\x2a", b"\x32"], ids=["blacklist", "whitelist"])
def test_an_unknown_filter_field_is_refused(client: Client, tag: bytes, name: str) -> None:
    """Ignoring it would answer with all flows."""
    raw = tag + bytes([len(UNKNOWN[name])]) + UNKNOWN[name]
    with pytest.raises(grpc.RpcError) as refused:
        list(client.stream(raw))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    said = "number 10" if name.startswith("inside") else name
    assert f"{said} is not supported by this server" in refused.value.details()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"source_ip": ["10.1.0.300"]}, "10.1.0.300"),
        ({"source_port": ["70000"]}, "70000"),
        ({"protocol": ["tpc"]}, "tpc"),
        ({"source_label": ["app=(web"]}, "label selector"),
        ({"source_pod": [""]}, "must not be empty"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(
    client: Client, fields: dict[str, Any], text: str
) -> None:
    """By name, and not answered with nothing."""
    with pytest.raises(grpc.RpcError) as refused:
        client.which(**fields)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in refused.value.details()


def test_the_clis_field_mask_is_accepted(client: Client) -> None:
    """Hubble's CLI sends one with every question; whole flows answer it."""
    mask = FieldMask(paths=["time", "IP.source", "l7.dns"])
    assert len(client.get(pb.GetFlowsRequest(field_mask=mask))) == 5


def test_number_counts_from_the_end_or_from_the_start(client: Client) -> None:
    """Of what matches, oldest first either way."""
    udp = [pb.FlowFilter(verdict=[pb.FORWARDED])]
    last = client.get(pb.GetFlowsRequest(number=2, whitelist=udp))
    first = client.get(pb.GetFlowsRequest(number=2, whitelist=udp, first=True))
    assert [_sequence(flow.uuid) for flow in last] == [TRANSLATED, PING]
    assert [_sequence(flow.uuid) for flow in first] == [CONNECTION, TRANSLATED]
    assert len(client.get(pb.GetFlowsRequest(number=(1 << 64) - 1))) == 5


def test_since_and_until_bound_the_time(client: Client) -> None:
    """Inclusive, in wall-clock time."""
    times = [flow.time for flow in client.get(pb.GetFlowsRequest())]
    got = client.get(pb.GetFlowsRequest(since=times[1], until=times[3]))
    assert [_sequence(flow.uuid) for flow in got] == [TRANSLATED, DROP, PING]
    assert client.get(pb.GetFlowsRequest(since=Timestamp(seconds=1 << 33))) == []


def test_follow_gives_what_happens_from_now_on(client: Client) -> None:
    """Nothing old without being asked for; new flows as they come, filtered."""
    request = pb.GetFlowsRequest(follow=True, whitelist=[pb.FlowFilter(protocol=["tcp"])])
    stream = client.stream(request.SerializeToString())
    seen: list[int] = []
    threading.Thread(
        target=lambda: seen.extend(m.flow.l4.tcp.source_port for m in _until_end(stream))
    ).start()
    deadline = time.monotonic() + 5
    while not seen and time.monotonic() < deadline:  # until the stream has begun
        client.append(drop(), event(source_port=1))
        time.sleep(0.01)
    client.append(drop(), event(source_port=2))
    while 2 not in seen and time.monotonic() < deadline:
        time.sleep(0.01)
    stream.cancel()
    assert set(seen) == {1, 2}


def _until_end(stream: Any) -> Iterator[pb.GetFlowsResponse]:
    try:
        yield from stream
    except grpc.RpcError:
        return


def test_follow_with_a_number_begins_in_the_past(client: Client) -> None:
    """And goes on without a gap."""
    request = pb.GetFlowsRequest(follow=True, number=2)
    stream = client.stream(request.SerializeToString())
    got = [_sequence(next(stream).flow.uuid) for _ in range(2)]
    client.append(event())
    got.append(_sequence(next(stream).flow.uuid))
    stream.cancel()
    assert got == [3, 4, 5]


def test_follow_ends_at_until(client: Client) -> None:
    """Even when nothing happens any more."""
    until = Timestamp()
    until.FromNanoseconds(time.time_ns() + 50_000_000)
    assert client.get(pb.GetFlowsRequest(follow=True, until=until)) == []


def test_a_slow_follower_is_told_what_it_has_lost(client: Client) -> None:
    """The ring holds 64: of 100 at once, 36 are gone when the follower looks."""
    stream = client.stream(pb.GetFlowsRequest(follow=True, number=1).SerializeToString())
    next(stream)
    client.append(np.concatenate([event() for _ in range(100)], dtype=EVENT))
    lost = next(stream)
    stream.cancel()
    assert (lost.lost_events.source, lost.lost_events.num_events_lost) == (3, 36)


def test_the_ring_forgets_the_oldest() -> None:
    """What is kept is decoded right across the seam."""
    kept = flows(kept=4)
    for port in range(1, 7):
        kept.append(event(source_port=port))
    assert [flow.source.port for flow in kept.decode(kept.select())] == [3, 4, 5, 6]
    assert kept.decode(np.arange(0, 2)) == []
    assert (kept.begin, kept.end) == (2, 6)


def test_status_nodes_and_namespaces(client: Client) -> None:
    """What `hubble status`, `list nodes` and `list namespaces` ask."""
    status = client.ask(
        "/observer.Observer/ServerStatus", pb.ServerStatusRequest(), pb.ServerStatusResponse
    )
    nodes = client.ask("/observer.Observer/GetNodes", pb.GetNodesRequest(), pb.GetNodesResponse)
    spaces = client.ask(
        "/observer.Observer/GetNamespaces", pb.GetNamespacesRequest(), pb.GetNamespacesResponse
    )
    assert (status.num_flows, status.max_flows, status.seen_flows) == (5, 64, 5)
    assert status.num_connected_nodes.value == 1
    assert [(node.name, node.address, node.state) for node in nodes.nodes] == [
        ("east/east-1", "10.99.0.11", 1)
    ]
    assert [(one.cluster, one.namespace) for one in spaces.namespaces] == [("east", "shop")]


def test_health_knows_hubbles_name(client: Client) -> None:
    """`hubble status` asks for it first and gives up without it; other names are not served."""
    check = "/grpc.health.v1.Health/Check"
    asked = pb.HealthCheckRequest(service="hubble.server.Observer")
    assert client.ask(check, asked, pb.HealthCheckResponse).status == 1
    with pytest.raises(grpc.RpcError) as refused:
        client.ask(check, pb.HealthCheckRequest(service="x"), pb.HealthCheckResponse)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_an_unknown_protocol_keeps_its_number() -> None:
    """GRE has no ports and no layer 4 of Hubble's."""
    kept = flows(event(protocol=47, source_port=0, destination_port=0, tcp_flags=0))
    (flow,) = kept.decode(kept.select())
    assert (flow.protocol, flow.source.port, flow.icmp) == (47, None, None)
    assert flow.source.address == ip_address("10.1.0.5")
    assert str(flow.destination.address) != LEGACY


def test_the_cluster_of_a_flow_is_that_of_the_number_whatever_the_labels_say() -> None:
    """A peer's text that names us twice, or us instead of itself, moves no flow to our cluster."""
    names = Names(lambda _: "k8s:io.cilium.k8s.policy.cluster=east;", cluster=NAMES.cluster)
    flows = Flows("east", "east-1", REASONS, names)
    flows.append(event())
    (flow,) = flows.decode(flows.select())
    assert (flow.source.cluster, flow.destination.cluster) == ("east", "west")
