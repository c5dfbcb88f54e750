"""Sockets whose backend is gone, TCP and UDP, with real ones: see ``test_sock`` for the bed."""

import errno
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest
from conftest import ip
from test_sock import TCP, UDP, V4, V6, Bed, Family, families, inside, kinds

from bpf import netns
from bpf.build import HERE, build
from bpf.maps import RowTarget
from bpf.object import Object
from mesh.services.backends import BackendAddress
from mesh.services.ends import PROGRAMS, decode_gone, encode_gone, end_sockets


class Ends(Bed):
    """A bed with the iterator; everything is in one namespace, which the test enters."""

    def gone(self, *addresses: str, kind: int = UDP) -> None:
        """End the sockets of these backends, as the agent does."""
        protocol = {TCP: "TCP", UDP: "UDP"}[kind]
        uses = [(protocol, BackendAddress(ip_address(one), 8080)) for one in addresses]
        with Object.open(self.objects / "sock.o") as opened:
            opened.pin(self.pins)
            opened.load()
            target = RowTarget(opened.maps["mg_gone"], encode_gone, decode_gone)
            for use in uses:
                target.map.update_one(*encode_gone(use, 1))
            program = opened.programs[PROGRAMS[protocol]]
            end_sockets(program, [self.namespace, Path("/run/netns/none")])
            for use in uses:
                target.map.delete_one(encode_gone(use, 1)[0])


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
    """Whether its error says so; to read the error takes it away."""
    return made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNABORTED


def asked(bed: Ends, family: Family, slot: int, kind: int = UDP) -> socket.socket:
    """A socket that asked for the service and got this backend."""
    bed.backend(0, family.backends[slot])
    bed.service(kind, family.service, range(1))
    made = bed.client(family, kind)
    made.connect((family.service, 80))
    return made


@families
@kinds
def test_a_connected_socket_ends_with_its_backend(bed: Ends, family: Family, kind: int) -> None:
    servers = bed.servers(family, TCP) if kind == TCP else {}
    gone, stays = asked(bed, family, 0, kind), asked(bed, family, 1, kind)
    bed.gone(family.backends[0], kind=kind)
    assert (ended(gone), ended(stays)) == (True, False)
    assert stays.send(b"x") == 1
    fresh = asked(bed, family, 1, kind)
    assert fresh.send(b"x") == 1
    for server in servers.values():
        assert server.accept(), "what listens goes on"


@families
@kinds
def test_a_protocol_ends_alone(bed: Ends, family: Family, kind: int) -> None:
    servers = bed.servers(family, TCP)
    other = UDP if kind == TCP else TCP
    stays = asked(bed, family, 0, kind)
    bed.gone(family.backends[0], kind=other)
    assert not ended(stays)
    assert servers


@families
@kinds
def test_who_asked_for_the_backend_itself_goes_on(bed: Ends, family: Family, kind: int) -> None:
    servers = bed.servers(family, TCP)
    bed.serve(kind, family)
    direct = bed.client(family, kind)
    direct.connect((family.seen(family.backends[0]), 8080))
    bed.gone(*family.backends, kind=kind)
    assert not ended(direct)
    assert servers


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
def test_a_reader_hears_of_it_at_once(bed: Ends, family: Family) -> None:
    """It would not before its keep-alive, which is after two hours: it sends nothing."""
    servers = bed.servers(family, TCP)
    made = asked(bed, family, 0, TCP)
    accepted, _ = servers[family.backends[0]].accept()
    with accepted:
        bed.gone(family.backends[0], kind=TCP)
        with pytest.raises(ConnectionAbortedError):
            made.recv(1)


@families
@pytest.mark.parametrize("way", [socket.SHUT_WR, socket.SHUT_RD], ids=["sent", "read"])
def test_a_connection_that_is_half_closed_ends(bed: Ends, family: Family, way: int) -> None:
    servers = bed.servers(family, TCP)
    made = asked(bed, family, 0, TCP)
    accepted, _ = servers[family.backends[0]].accept()
    with accepted:
        (made if way == socket.SHUT_WR else accepted).shutdown(socket.SHUT_WR)
        bed.gone(family.backends[0], kind=TCP)
        assert ended(made)


@families
def test_a_connect_that_waits_for_an_answer_ends(bed: Ends, family: Family) -> None:
    """A drop on the loopback device stands for the host that is gone."""
    drop = "add chain inet t in { type filter hook input priority 0; }; "
    drop += "add rule inet t in tcp dport 8080 drop"
    netns_exec(bed.namespace, "nft", f"add table inet t; {drop}")
    bed.backend(0, family.backends[0])
    bed.service(TCP, family.service, range(1))
    made = bed.client(family, TCP)
    made.settimeout(0)
    assert made.connect_ex((family.service, 80)) == errno.EINPROGRESS
    bed.gone(family.backends[0], kind=TCP)
    assert ended(made)


def netns_exec(namespace: Path, *command: str) -> None:
    subprocess.run(["nsenter", f"--net={namespace}", *command], check=True)


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
