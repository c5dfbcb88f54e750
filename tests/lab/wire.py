"""Two nodes, a router and a legacy host, wired by hand, with the programs attached and no agent.

    pod web, client -- node a --+
                                +-- br0, router -- legacy
    pod web, client -- node g --+   (g is the gateway of the egress addresses)

Rows are those of ``tests.packet.nodes``. It shows what a test run cannot: redirects that really
send, GSO, kernel fragmentation, the kernel's own VXLAN device.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from bpf import links, netns
from bpf.build import build
from bpf.object import mount_bpffs
from tests.packet.nodes import EGRESS, LEGACY, PLANS, ROUTER, Node, Pod, pinned_in

T = TypeVar("T")
POD_MAC, HOST_MAC = "0a:00:00:00:00:01", "0a:00:00:00:00:02"
PREFIX = f"dpw{os.getpid()}"
SPACES = ("r", "l", "a", "g", "a-web", "a-client", "g-web", "g-client")


def batch(space: str, lines: str) -> None:
    """Lines of ``ip -batch`` in a namespace; ``-6`` in front of those that are IPv6."""
    for family in ("", "-6"):
        mine = [line.strip() for line in lines.splitlines() if line.strip()]
        mine = [line for line in mine if line.startswith("-6 ") == bool(family)]
        text = "\n".join(line.removeprefix("-6 ") for line in mine)
        command = ["ip", *([family] if family else []), "-n", f"{PREFIX}-{space}", "-batch", "-"]
        subprocess.run(command, input=text, text=True, check=True)


def at(space: str) -> Path:
    return Path("/run/netns") / f"{PREFIX}-{space}"


def sysctl(space: str, *settings: str) -> None:
    subprocess.run(["nsenter", f"--net={at(space)}", "sysctl", "-qw", *settings], check=True)


def inside(space: str, act: Callable[[], T]) -> T:
    """The result of ``act`` in a namespace; sockets made there stay there."""
    with netns.enter(at(space)):
        return act()


def make_socket(space: str, family: int, kind: socket.SocketKind) -> socket.socket:
    made = inside(space, lambda: socket.socket(af(family), kind))
    made.settimeout(5)
    return made


def af(family: int) -> socket.AddressFamily:
    return socket.AF_INET if family == 4 else socket.AF_INET6


class Wire:
    """The lab: nodes by name, addresses by family."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self.nodes = nodes

    def pod(self, name: str, family: int) -> str:
        """Address of ``a-web`` and the like, which is also the namespace's name."""
        node, _, role = name.partition("-")
        return PLANS[node].pods[role][family]

    def address(self, space: str, family: int) -> str:
        return LEGACY[family] if space == "l" else self.pod(space, family)

    def listen(self, space: str, family: int, port: int) -> socket.socket:
        server = make_socket(space, family, socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((self.address(space, family), port))
        server.listen(1024)
        return server

    def udp(self, space: str, family: int, port: int = 0) -> socket.socket:
        made = make_socket(space, family, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        made.bind((self.address(space, family), port))
        return made

    def counter(self, space: str, name: str) -> int:
        """A counter of nstat, since the namespace was made."""
        command = ["nsenter", f"--net={at(space)}", "nstat", "-asz", name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return int(text.split(name)[1].split()[0])


def _router() -> None:
    batch(
        "r",
        f"""
        link add br0 type bridge
        link set br0 up
        addr add {ROUTER[4]}/24 dev br0
        -6 addr add {ROUTER[6]}/64 dev br0 nodad
        link add out type veth peer name eth0 netns {PREFIX}-l
        link set out up
        addr add 192.0.2.1/24 dev out
        -6 addr add 2001:db8:2::1/48 dev out nodad
        route add {EGRESS[4]} via 10.99.0.13
        -6 route add {EGRESS[6]} via fd99::13
        """,
    )
    sysctl("r", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    batch(
        "l",
        f"""
        link set eth0 up
        addr add {LEGACY[4]}/24 dev eth0
        -6 addr add {LEGACY[6]}/48 dev eth0 nodad
        route add default via 192.0.2.1
        -6 route add default via 2001:db8:2::1
        """,
    )


def _node(name: str) -> None:
    last = PLANS[name].endpoint.rpartition(".")[2]
    batch(
        name,
        f"""
        link add dpwup type veth peer name {name} netns {PREFIX}-r
        link set dpwup up
        addr add 10.99.0.{last}/24 dev dpwup
        -6 addr add fd99::{last}/64 dev dpwup nodad
        route add default via {ROUTER[4]}
        -6 route add default via {ROUTER[6]}
        link add mg_vxlan type vxlan external dstport 8472 nolearning
        link set mg_vxlan up
        """,
    )
    batch("r", f"link set dev {name} master br0\nlink set dev {name} up")
    forward = ("ip_forward=1", "conf.all.rp_filter=0", "conf.default.rp_filter=0")
    sysctl(name, *(f"net.ipv4.{key}" for key in forward), "net.ipv6.conf.all.forwarding=1")
    for role, pod in PLANS[name].pods.items():
        _pod(name, f"{name}-{role}", pod)


def _pod(node: str, space: str, pod: Pod) -> None:
    batch(
        node,
        f"""
        link add dev {pod.device} address {HOST_MAC} type veth peer name eth0 netns {PREFIX}-{space}
        link set {pod.device} up
        route add {pod[4]} dev {pod.device}
        neigh add {pod[4]} lladdr {POD_MAC} dev {pod.device}
        -6 route add {pod[6]} dev {pod.device}
        -6 neigh add {pod[6]} lladdr {POD_MAC} dev {pod.device}
        """,
    )
    batch(
        space,
        f"""
        link set lo up
        link set eth0 address {POD_MAC} mtu 1450 up
        addr add {pod[4]}/32 dev eth0
        -6 addr add {pod[6]}/128 dev eth0 nodad
        neigh add 169.254.1.1 lladdr {HOST_MAC} dev eth0
        -6 neigh add fe80::1 lladdr {HOST_MAC} dev eth0
        route add 169.254.1.1 dev eth0
        route add default via 169.254.1.1
        -6 route add default via fe80::1 dev eth0
        """,
    )


def _attach(node: Node, name: str) -> None:
    with netns.enter(at(name)):
        for pod in PLANS[name].pods.values():
            for program, ingress in (("mg_from_pod", True), ("mg_to_pod", False)):
                pin = node.directory / f"{program}_{pod.device}"
                links.tcx(node.programs[program], pod.device, pin, ingress=ingress)
        for program, device, ingress in (
            ("mg_from_uplink", "dpwup", True),
            ("mg_from_vxlan", "mg_vxlan", True),
            ("mg_to_vxlan", "mg_vxlan", False),
            ("mg_to_uplink", "dpwup", False),
        ):
            links.tcx(node.programs[program], device, node.directory / program, ingress=ingress)


@contextmanager
def spaces() -> Iterator[None]:
    """The namespaces, empty."""
    try:
        for space in SPACES:
            subprocess.run(["ip", "netns", "add", f"{PREFIX}-{space}"], check=True)
        yield
    finally:
        for space in SPACES:
            subprocess.run(["ip", "netns", "del", f"{PREFIX}-{space}"], check=False)


@contextmanager
def wired() -> Iterator[Wire]:
    """The lab, up; everything of it is gone afterwards."""
    build()
    mount_bpffs()
    nodes: dict[str, Node] = {}
    with ExitStack() as stack:
        stack.enter_context(spaces())
        _router()
        for name in ("a", "g"):
            _node(name)
            vxlan = inside(name, lambda: socket.if_nametoindex("mg_vxlan"))
            directory = stack.enter_context(pinned_in(f"{PREFIX}-{name}"))
            nodes[name] = Node(PLANS[name], at(name), directory, vxlan=vxlan)
            stack.callback(nodes[name].close)
            _attach(nodes[name], name)
        yield Wire(nodes)
