"""Service translation, with real sockets.

    one namespace, everything on its loopback       one cgroup: the test process is in it

    service  10.97.1.10, fd97:1::10   port 80       no route leads there
    backends 10.1.0.1 .2, fd01::1 ::2 port 8080

An IPv6 socket that asks for ::ffff:10.97.1.10 is a third family here, "mapped".
"""

import asyncio
import errno
import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from conftest import cgroup_mount, ip

from bpf import links, netns
from bpf.build import HERE, build
from bpf.maps import Map, RowTarget
from bpf.object import Object
from mesh.core.address import encode_address, packed, unpacked
from mesh.datapath.hooks import SOCKET_PROGRAMS
from mesh.services.backends import BackendAddress, ServiceAddress
from mesh.services.maps import decode_backend, decode_service, encode_backend, encode_service
from mesh.services.slots import Slots, recovered_slots

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
NUMBERS = {TCP: socket.IPPROTO_TCP, UDP: socket.IPPROTO_UDP}


@dataclass(frozen=True)
class Family:
    """Addresses as the client writes them, and as the servers bind them."""

    domain: socket.AddressFamily
    service: str
    other_service: str
    backends: tuple[str, str]

    def seen(self, address: str) -> str:
        """A backend's address as a client of this family would see it untranslated."""
        mapped = self.domain == socket.AF_INET6 and "." in address
        return f"::ffff:{address}" if mapped else address


V4 = Family(socket.AF_INET, "10.97.1.10", "10.97.1.11", ("10.1.0.1", "10.1.0.2"))
V6 = Family(socket.AF_INET6, "fd97:1::10", "fd97:1::11", ("fd01::1", "fd01::2"))
MAPPED = Family(socket.AF_INET6, "::ffff:10.97.1.10", "::ffff:10.97.1.11", ("10.1.0.1", "10.1.0.2"))
families = pytest.mark.parametrize("family", [V4, V6, MAPPED], ids=["v4", "v6", "mapped"])
kinds = pytest.mark.parametrize("kind", [TCP, UDP], ids=["tcp", "udp"])


def bytes_of(address: str) -> bytes:
    """The one form of both families, with ::ffff:a.b.c.d and a.b.c.d the same."""
    return packed(ip_address(address))


def words(address: str) -> dict[str, object]:
    return encode_address(ip_address(address))


class Bed:
    """Maps, programs and sockets of one test."""

    def __init__(self, namespace: Path, cgroup: Path, pins: Path, objects: Path) -> None:
        self.namespace = namespace
        self.cgroup = cgroup
        self.pins = pins
        self.objects = objects
        self.stack = ExitStack()
        self.attach()
        self.services = self.stack.enter_context(Map.open_pinned(pins / "mg_service_addr"))
        self.backends = self.stack.enter_context(Map.open_pinned(pins / "mg_backend_addr"))
        self.addresses = self.stack.enter_context(Map.open_pinned(pins / "mg_service_ip"))

    def attach(self) -> None:
        with Object.open(self.objects / "sock.o") as opened:
            opened.pin(self.pins)
            opened.load()
            for name, where in SOCKET_PROGRAMS.items():
                links.cgroup(opened.programs[name], self.cgroup, where, self.pins / name)

    def close(self) -> None:
        for name in SOCKET_PROGRAMS:
            links.detach(self.pins / name)
        self.stack.close()

    def service(self, kind: int, address: str, slots: range, port: int = 80) -> None:
        key = {"address": words(address), "port": port, "protocol": NUMBERS[kind]}
        self.services.update_one(key, {"first": slots.start, "count": len(slots)})

    def backend(self, slot: int, address: str, port: int = 8080) -> None:
        self.backends.update_one(slot, {"address": words(address), "port": port})

    def serve(self, kind: int, family: Family) -> None:
        """Both backends behind the service."""
        for slot, address in enumerate(family.backends):
            self.backend(slot, address)
        self.service(kind, family.service, range(2))

    def plain(self, domain: socket.AddressFamily, kind: int) -> socket.socket:
        with netns.enter(self.namespace):
            made = self.stack.enter_context(socket.socket(domain, kind))
        made.settimeout(5)
        return made

    def client(self, family: Family, kind: int) -> socket.socket:
        """A socket of a process in the cgroup."""
        return self.clients(family, kind, 1)[0]

    def clients(self, family: Family, kind: int, count: int) -> list[socket.socket]:
        """Several: changing the cgroup costs a grace period."""
        with inside(self.cgroup):
            return [self.plain(family.domain, kind) for _ in range(count)]

    def server(self, address: str, kind: int, port: int = 8080) -> socket.socket:
        domain = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = self.plain(domain, kind)
        made.bind((address, port))
        if kind == TCP:
            made.listen(64)
        return made

    def servers(self, family: Family, kind: int) -> dict[str, socket.socket]:
        return {address: self.server(address, kind) for address in family.backends}


@contextmanager
def inside(cgroup: Path) -> Iterator[None]:
    """The test process in ``cgroup``; a socket belongs to the cgroup that it was made in."""
    home = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip()
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (cgroup_mount() / home.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))


@pytest.fixture(scope="module")
def objects() -> Path:
    build()
    return HERE / "obj"


@pytest.fixture
def bed(namespaces: Callable[[], Path], cgroup: Path, pins: Path, objects: Path) -> Iterator[Bed]:
    namespace = namespaces()
    for address in (*V4.backends, *V6.backends):
        words = ["addr", "add", address, "dev", "lo", *(["nodad"] if ":" in address else [])]
        ip("-n", namespace.name, *words)
    opened = Bed(namespace, cgroup, pins, objects)
    yield opened
    opened.close()


@families
def test_a_tcp_connection_reaches_a_backend_and_shows_the_service(bed: Bed, family: Family) -> None:
    servers = bed.servers(family, TCP)
    bed.serve(TCP, family)
    bed.backend(1, family.backends[0])
    client = bed.client(family, TCP)
    client.connect((family.service, 80))
    accepted, peer = servers[family.backends[0]].accept()
    with accepted:
        assert peer[1] == client.getsockname()[1]
        assert client.getpeername()[:2] == (family.service, 80)
        client.sendall(b"question")
        assert accepted.recv(100) == b"question"
        accepted.sendall(b"answer")
        assert client.recv(100) == b"answer"
        assert accepted.getsockname()[:2] == (family.backends[0], 8080)


@families
@kinds
def test_connections_are_spread_over_all_backends(bed: Bed, family: Family, kind: int) -> None:
    servers = bed.servers(family, kind)
    bed.serve(kind, family)
    got: list[str] = []
    for client in bed.clients(family, kind, 40):
        client.connect((family.service, 80))
        client.send(b"question")
        address, _, _ = question(servers, kind)
        got.append(address)
    assert set(got) == set(family.backends)
    assert min(got.count(address) for address in set(got)) > 5


def question(servers: dict[str, socket.socket], kind: int) -> tuple[str, socket.socket, Any]:
    """Which server has a question or a connection; what to answer it on, and whom."""
    ready = select.select(list(servers.values()), [], [], 5)[0]
    assert len(ready) == 1, "exactly one server is asked"
    address = next(name for name, server in servers.items() if server is ready[0])
    if kind == TCP:
        return address, *ready[0].accept()
    return address, ready[0], ready[0].recvfrom(100)[1]


@families
def test_a_connected_udp_socket_keeps_its_backend(bed: Bed, family: Family) -> None:
    servers = bed.servers(family, UDP)
    bed.serve(UDP, family)
    bed.backend(1, family.backends[0])
    client = bed.client(family, UDP)
    client.connect((family.service, 80))
    bed.backend(0, family.backends[1])
    bed.backend(1, family.backends[1])
    for number in range(20):
        client.send(str(number).encode())
        content, source = servers[family.backends[0]].recvfrom(100)
        assert content == str(number).encode()
        servers[family.backends[0]].sendto(b"answer", source)
        content, peer = client.recvfrom(100)
        assert (content, peer[:2]) == (b"answer", (family.service, 80))
    assert client.getpeername()[:2] == (family.service, 80)


@families
def test_an_unconnected_udp_socket_sees_answers_of_the_service(bed: Bed, family: Family) -> None:
    servers = bed.servers(family, UDP)
    bed.serve(UDP, family)
    client = bed.client(family, UDP)
    answered: set[str] = set()
    for number in range(40):
        client.sendto(b"question", (family.service, 80))
        address, server, source = question(servers, UDP)
        answered.add(address)
        server.sendto(str(number).encode(), source)
        content, peer = client.recvfrom(100)
        assert (content, peer[:2]) == (str(number).encode(), (family.service, 80))
    assert answered == set(family.backends)


@families
def test_two_services_of_one_socket_are_told_apart(bed: Bed, family: Family) -> None:
    servers = bed.servers(family, UDP)
    for slot, service in enumerate((family.service, family.other_service)):
        bed.backend(slot, family.backends[slot])
        bed.service(UDP, service, range(slot, slot + 1))
    client = bed.client(family, UDP)
    asked = list(zip((family.service, family.other_service), family.backends, strict=True))
    for service, _ in asked:
        client.sendto(b"question", (service, 80))
    for service, address in reversed(asked):
        _, source = servers[address].recvfrom(100)
        servers[address].sendto(b"answer", source)
        assert client.recvfrom(100)[1][:2] == (service, 80)


@families
def test_an_answer_of_somebody_else_keeps_its_address(bed: Bed, family: Family) -> None:
    bed.servers(family, UDP)
    stranger = bed.server(family.backends[1], UDP, port=9999)
    bed.serve(UDP, family)
    client = bed.client(family, UDP)
    client.sendto(b"question", (family.service, 80))
    target = family.backends[1], client.getsockname()[1]
    stranger.sendto(b"hello", target)
    content, peer = client.recvfrom(100)
    assert (content, peer[:2]) == (b"hello", (family.seen(family.backends[1]), 9999))


@families
@kinds
def test_a_service_without_backends_is_refused_at_once(bed: Bed, family: Family, kind: int) -> None:
    bed.service(kind, family.service, range(0))
    with pytest.raises(ConnectionRefusedError):
        bed.client(family, kind).connect((family.service, 80))
    if kind == UDP:
        with pytest.raises(ConnectionRefusedError):
            bed.client(family, kind).sendto(b"question", (family.service, 80))


@families
@kinds
def test_a_port_that_the_service_does_not_have_is_refused(
    bed: Bed, family: Family, kind: int
) -> None:
    """No route leads to the address, and none that does has anybody who answers."""
    bed.servers(family, kind)
    bed.serve(kind, family)
    bed.addresses.update_one({"w": words(family.service)["w"]}, 1)
    for asked, port in ((TCP if kind == UDP else UDP, 80), (kind, 81)):
        with pytest.raises(ConnectionRefusedError):
            bed.client(family, asked).connect((family.service, port))
    with pytest.raises(ConnectionRefusedError):
        bed.client(family, UDP).sendto(b"question", (family.service, 81))
    bed.client(family, kind).connect((family.service, 80))


@families
def test_a_service_that_points_to_an_empty_slot_is_refused(bed: Bed, family: Family) -> None:
    bed.service(TCP, family.service, range(7, 8))
    with pytest.raises(ConnectionRefusedError):
        bed.client(family, TCP).connect((family.service, 80))


@families
@kinds
def test_a_port_that_the_service_of_a_proxy_does_not_have_is_the_proxy_only(
    bed: Bed, family: Family, kind: int
) -> None:
    """Nothing translates here, and no route leads there."""
    bed.servers(family, kind)
    bed.serve(kind, family)
    bed.addresses.update_one({"w": words(family.service)["w"]}, 2)  # SERVICE_PROXIED
    for asked, port in ((TCP if kind == UDP else UDP, 80), (kind, 81)):
        with pytest.raises(OSError, match=os.strerror(errno.ENETUNREACH)):
            bed.client(family, asked).connect((family.service, port))
    bed.client(family, kind).connect((family.service, 80))


@families
@kinds
def test_another_protocol_or_port_is_no_service(bed: Bed, family: Family, kind: int) -> None:
    bed.servers(family, kind)
    bed.serve(kind, family)
    for asked, port in ((TCP if kind == UDP else UDP, 80), (kind, 81)):
        with pytest.raises(OSError, match=os.strerror(errno.ENETUNREACH)) as caught:
            bed.client(family, asked).connect((family.service, port))
        assert caught.value.errno == errno.ENETUNREACH


@families
def test_a_socket_that_asks_for_a_backend_itself_is_left_alone(bed: Bed, family: Family) -> None:
    bed.servers(family, TCP)
    bed.serve(TCP, family)
    client = bed.client(family, TCP)
    place = family.seen(family.backends[1]), 8080
    client.connect(place)
    assert client.getpeername()[:2] == place


@families
def test_a_socket_of_another_cgroup_is_left_alone(bed: Bed, family: Family) -> None:
    bed.servers(family, TCP)
    bed.serve(TCP, family)
    with pytest.raises(OSError, match=os.strerror(errno.ENETUNREACH)):
        bed.plain(family.domain, TCP).connect((family.service, 80))


@families
def test_connections_live_on_when_programs_and_backends_change(bed: Bed, family: Family) -> None:
    servers = bed.servers(family, TCP)
    bed.serve(TCP, family)
    bed.backend(1, family.backends[0])
    client = bed.client(family, TCP)
    client.connect((family.service, 80))
    accepted, _ = servers[family.backends[0]].accept()
    bed.service(TCP, family.service, range(0))
    bed.backends.delete_one(0)
    bed.attach()
    with accepted:
        client.sendall(b"question")
        assert accepted.recv(100) == b"question"
        assert client.getpeername()[:2] == (family.service, 80)


@families
def test_rows_of_services_reach_the_programs_and_are_read_back(bed: Bed, family: Family) -> None:
    servers = bed.servers(family, TCP)
    service = unpacked(bytes_of(family.service))
    ask = ServiceAddress(service, 80, "TCP")
    slots = Slots(bed.backends.max_entries)
    slots.place(ask, tuple(BackendAddress(ip_address(a), 8080) for a in family.backends[:1]))
    backends = RowTarget(bed.backends, encode_backend, decode_backend)
    services = RowTarget(bed.services, encode_service, decode_service)
    assert asyncio.run(backends.upsert(slots.backends)) == {}
    assert asyncio.run(services.upsert(slots.rows)) == {}
    stored = asyncio.run(services.read()), asyncio.run(backends.read())
    assert stored == (slots.rows, slots.backends)
    again = recovered_slots(*stored, bed.backends.max_entries)
    assert (again.rows, again.backends) == stored
    client = bed.client(family, TCP)
    client.connect((family.service, 80))
    address, accepted, _ = question(servers, TCP)
    accepted.close()
    assert address == family.backends[0]
