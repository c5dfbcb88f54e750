"""Sockets whose backend is gone, with real ones: see ``test_sock`` for the bed."""

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest
from conftest import ip
from test_sock import TCP, UDP, V4, V6, Bed, Family, families, inside

from bpf import netns
from bpf.build import HERE, build
from bpf.maps import RowTarget
from bpf.object import Object
from mesh.services.backends import BackendAddress
from mesh.services.ends import decode_gone, encode_gone, end_sockets


class Ends(Bed):
    """A bed with the iterator; everything is in one namespace, which the test enters."""

    def gone(self, *addresses: str) -> None:
        """End the sockets of these backends, as the agent does."""
        backends = [BackendAddress(ip_address(one), 8080) for one in addresses]
        with Object.open(self.objects / "sock.o") as opened:
            opened.pin(self.pins)
            opened.load()
            target = RowTarget(opened.maps["mg_gone"], encode_gone, decode_gone)
            for backend in backends:
                target.map.update_one(*encode_gone(backend, 1))
            end_sockets(opened.programs["mg_end_udp"], [self.namespace, Path("/run/netns/none")])
            for backend in backends:
                target.map.delete_one(encode_gone(backend, 1)[0])


@pytest.fixture
def bed(namespaces: Callable[[], Path], cgroup: Path, pins: Path) -> Iterator[Ends]:
    build()
    namespace = namespaces()
    for address in (*V4.backends, *V6.backends):
        words = ["addr", "add", address, "dev", "lo", *(["nodad"] if ":" in address else [])]
        ip("-n", namespace.name, *words)
    opened = Ends(namespace, cgroup, pins, HERE / "obj")
    yield opened
    opened.close()


def ended(made: socket.socket) -> bool:
    return made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNABORTED


def asked(bed: Ends, family: Family, slot: int, kind: int = UDP) -> socket.socket:
    """A socket that asked for the service and got this backend."""
    bed.backend(0, family.backends[slot])
    bed.service(kind, family.service, range(1))
    made = bed.client(family, kind)
    made.connect((family.service, 80))
    return made


@families
def test_a_connected_socket_ends_with_its_backend(bed: Ends, family: Family) -> None:
    gone, stays = asked(bed, family, 0), asked(bed, family, 1)
    bed.gone(family.backends[0])
    assert (ended(gone), ended(stays)) == (True, False)
    assert stays.send(b"x") == 1
    fresh = asked(bed, family, 1)
    assert fresh.send(b"x") == 1


@families
def test_who_asked_for_the_backend_itself_goes_on(bed: Ends, family: Family) -> None:
    bed.serve(UDP, family)
    direct = bed.client(family, UDP)
    direct.connect((family.seen(family.backends[0]), 8080))
    bed.gone(*family.backends)
    assert not ended(direct)


@families
def test_a_socket_that_is_not_connected_gets_another_backend(bed: Ends, family: Family) -> None:
    server = bed.server(family.backends[1], UDP)
    bed.backend(0, family.backends[0])
    bed.service(UDP, family.service, range(1))
    client = bed.client(family, UDP)
    with inside(bed.cgroup):
        client.sendto(b"x", (family.service, 80))
        bed.gone(family.backends[0])
        bed.backend(0, family.backends[1])
        assert not ended(client)
        client.sendto(b"y", (family.service, 80))
    assert server.recv(10) == b"y"


@families
def test_a_tcp_connection_is_left_to_its_ends(bed: Ends, family: Family) -> None:
    servers = bed.servers(family, TCP)
    made = asked(bed, family, 0, TCP)
    bed.gone(family.backends[0])
    assert not ended(made)
    assert servers[family.backends[0]].accept()


def test_sockets_of_other_namespaces_are_not_seen(bed: Ends) -> None:
    """The agent goes through all of them; a run sees those of one."""
    made = asked(bed, V4, 0)
    other = bed.namespace
    bed.namespace = Path("/run/netns/none")
    bed.gone(V4.backends[0])
    assert not ended(made)
    with ExitStack() as stack:
        stack.enter_context(netns.enter(other))
        bed.gone(V4.backends[0])
    assert ended(made)
