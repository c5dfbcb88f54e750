"""Which nodes a Hubble relay is told, over mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from clustermesh.certs import Authority
from mesh.config import Hubble
from mesh.core.model import Node, NodeKey
from mesh.core.table import Table
from mesh.observe import hubble_pb2 as pb
from mesh.observe.findings import LISTENER_DOWN
from mesh.observe.hubble import Observer
from mesh.observe.relays import ADDED, DELETED, UPDATED, Listener, NodeNotices, added, changes
from tests.fixtures.flow_events import event, flows

EAST = Node("east", "east-1.example", (IPv4Address("10.99.0.11"),))
WEST = Node("west", "west-1", (IPv6Address("fd00::21"),))
MOVED = Node("west", "west-1", (IPv4Address("10.99.0.22"),))
NAME = "east-1-example.east.hubble-grpc.cilium.io"


def test_a_peer_has_the_name_of_its_certificate() -> None:
    """A dot in a node's name would be one more label of the server name."""
    told = added([EAST, WEST, Node("west", "bare", ())], 4244)
    assert {name: (one.address, one.tls.server_name) for name, one in told.items()} == {
        "east/east-1.example": ("10.99.0.11:4244", NAME),
        "west/west-1": ("[fd00::21]:4244", "west-1.west.hubble-grpc.cilium.io"),
    }


def test_changes_are_added_updated_and_deleted() -> None:
    """Only what differs from what this relay was told."""
    before, now = added([EAST, WEST], 4244), added([MOVED], 4244)
    assert [(one.name, one.type) for one in changes({}, before)] == [
        ("east/east-1.example", ADDED),
        ("west/west-1", ADDED),
    ]
    assert [(one.name, one.type) for one in changes(before, now)] == [
        ("west/west-1", UPDATED),
        ("east/east-1.example", DELETED),
    ]
    assert not list(changes(now, now))


class Place:
    """A node's files, and the agent's parts that a relay meets."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.authority = Authority.create()
        (place / "ca.crt").write_bytes(self.authority.pair.cert)
        self.issue("server", NAME)
        self.issue("relay", "relay")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.listen = f"127.0.0.1:{free.getsockname()[1]}"
        self.nodes: Table[NodeKey, Node] = Table("node")
        self.service = NodeNotices(self.nodes, 4244)
        names = {name: place / f"{name}" for name in ("ca.crt", "server.crt", "server.key")}
        self.settings = Hubble(
            listen=self.listen,
            ca=names["ca.crt"],
            cert=names["server.crt"],
            key=names["server.key"],
        )
        observer = Observer(flows(event()), address="10.99.0.11")
        self.listener = Listener(self.settings, "east-1", [observer, self.service])

    def issue(self, file: str, name: str, authority: Authority | None = None) -> None:
        ca, lifetime = authority or self.authority, timedelta(days=7)
        of_server = file == "server"
        pair = ca.issue_server(name, (), lifetime) if of_server else ca.issue_user(name, lifetime)
        (self.place / f"{file}.crt").write_bytes(pair.cert)
        (self.place / f"{file}.key").write_bytes(pair.key)

    def tell(self, *nodes: Node) -> None:
        self.nodes.replace({NodeKey(one.cluster, one.name): one for one in nodes})
        self.service.update()

    @contextlib.asynccontextmanager
    async def channel(self, *, certificate: bool = True) -> AsyncIterator[aio.Channel]:
        pair: dict[str, bytes] = {}
        if certificate:
            pair = {
                "private_key": (self.place / "relay.key").read_bytes(),
                "certificate_chain": (self.place / "relay.crt").read_bytes(),
            }
        trust = grpc.ssl_channel_credentials(self.authority.pair.cert, **pair)
        options = [("grpc.ssl_target_name_override", NAME)]
        async with aio.secure_channel(self.listen, trust, options=options) as channel:
            yield channel


def notified(channel: aio.Channel) -> Any:
    call = channel.unary_stream(
        "/peer.Peer/Notify", response_deserializer=pb.ChangeNotification.FromString
    )
    return call(pb.NotifyRequest().SerializeToString(), timeout=10, wait_for_ready=True)


async def status(channel: aio.Channel) -> int:
    call = channel.unary_unary(
        "/observer.Observer/ServerStatus",
        response_deserializer=pb.ServerStatusResponse.FromString,
    )
    answer = await call(b"", timeout=10, wait_for_ready=True)
    return int(answer.num_flows)


async def refused(place: Place, *, certificate: bool) -> bool:
    async with place.channel(certificate=certificate) as channel:
        call = channel.unary_unary("/observer.Observer/ServerStatus")
        try:
            await call(b"", timeout=10)
        except aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
        return False


def test_a_relay_is_told_all_nodes_and_each_change(tmp_path: Path) -> None:
    """On the same port it finds the flows."""

    async def run() -> None:
        place = Place(tmp_path)
        place.tell(EAST, WEST)
        serving = asyncio.create_task(place.listener.run())
        async with place.channel() as channel:
            stream = aiter(notified(channel))
            first = [await anext(stream), await anext(stream)]
            assert [(one.name, one.type) for one in first] == [
                ("east/east-1.example", ADDED),
                ("west/west-1", ADDED),
            ]
            place.tell(EAST, MOVED)
            one = await anext(stream)
            assert (one.name, one.type, one.address) == ("west/west-1", UPDATED, "10.99.0.22:4244")
            assert await status(channel) == 1
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    asyncio.run(run())


@pytest.mark.parametrize("stranger", ["no certificate", "another authority"])
def test_only_a_relay_of_our_authority_is_served(tmp_path: Path, stranger: str) -> None:
    """And a certificate that was issued anew counts without a restart."""

    async def run() -> None:
        place = Place(tmp_path)
        serving = asyncio.create_task(place.listener.run())
        async with place.channel() as channel:
            await status(channel)
        if stranger == "another authority":
            place.issue("relay", "relay", Authority.create("other"))
        assert await refused(place, certificate=stranger != "no certificate")
        place.issue("relay", "relay")
        place.issue("server", NAME)
        async with place.channel() as channel:
            assert await status(channel) == 1
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    asyncio.run(run())


def test_a_port_that_is_taken_is_a_finding(tmp_path: Path) -> None:
    """The agent goes on."""

    async def run() -> None:
        place = Place(tmp_path)
        host, _, port = place.listen.rpartition(":")
        with socket.create_server((host, int(port))):
            serving = asyncio.create_task(place.listener.run())
            async with asyncio.timeout(10):
                while not list(place.listener.findings()):
                    await asyncio.sleep(0)
            (finding,) = place.listener.findings()
            assert (finding.code, finding.field) == (LISTENER_DOWN, "hubble.listen")
            assert not serving.done()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    asyncio.run(run())
