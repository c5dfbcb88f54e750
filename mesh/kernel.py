"""The one door to RTNETLINK: links, addresses, routes and neighbours of this host and its pods.

One pyroute2 socket per network namespace, on the agent's loop, no threads (bpf-loading.md 11.2):
the socket of a pod's namespace is created inside it and lives for one configuration. Three things
have sockets of their own, without pyroute2: what a pod's runtime waits for (``mesh/orders.py``),
events and questions for next hops (``mesh/netlink.py``).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from bpf import netns
from mesh import orders
from mesh.core.model import IP, Network
from mesh.netlink import (
    PROTOCOL,
    Event,
    Group,
    Lost,
    dump_question,
    events,
    match_question,
    matches,
    next_hops,
    private_routes,
    question,
    route_mtus,
)
from mesh.orders import Link, VethEnd

log = logging.getLogger(__name__)

T = TypeVar("T")
A = TypeVar("A")

GATEWAY_V4 = IPv4Address("169.254.1.1")
GATEWAY_V6 = IPv6Address("fe80::1")
#: Table for fragments that the kernel has gathered (``bpf/include/order.h``), and where its rule
#: stands: behind that of local addresses.
GATHERING = 28_007
_FIRST = 9

_SCOPE_LINK = 253
#: Environment: a writable /proc/sys/net of the host.
_SYSCTLS = "MESHGATE_PROC_SYS_NET"
_STATIC = 4  # RTPROT_STATIC
_RTNH_F_ONLINK = 4
_IFA_F_NODAD = 0x02
_UNREACHABLE = 7  # RTN_UNREACHABLE
_UNICAST = 1  # RTN_UNICAST
_NUD_FAILED = 0x20
#: Metric of the routes into the overlay: every other route to the same prefix comes first.
_LAST = 1 << 20
#: Any unicast address will do: the overlay has none of its own.
_OVERLAY_MAC = "02:02:02:02:02:02"
_IFF_UP = 1
#: Addresses that nobody has (RFC 5737, RFC 3849): no route of a host is about them alone.
_WORLD = {4: "203.0.113.254", 6: "2001:db8:ffff:ffff::1"}

_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SO_RCVBUFFORCE = 33
#: Bytes of events that may wait; the kernel counts about 1,000 for each.
EVENT_BUFFER = 1 << 20
#: A datagram of RTNETLINK is at most half as long.
_DATAGRAM = 1 << 16
#: Events between two turns of the loop: each takes 10 to 30 µs.
_TURN = 100
#: Answers wait in the socket's buffer until all of a batch were asked; it holds 256 by default.
_QUESTIONS = 32
#: Seconds until a failed socket of events is opened again.
_REOPEN_S = 1.0


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """Where what is for the world goes; without a gateway the world is on the link."""

    ifindex: int
    gateway: str

    def __str__(self) -> str:
        return self.gateway or f"device {self.ifindex}"


class Kernel:
    """Links, routes and neighbours of the namespace in which it was opened."""

    def __init__(self, ipr: Any, make: Callable[[], socket.socket], orders: socket.socket) -> None:
        self._ipr = ipr  # or what makes it when it is needed
        self._one = asyncio.Lock()  # a second dump on a socket is refused with EBUSY
        self._make = make
        self._orders = orders

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Kernel]:
        """A door to the calling thread's network namespace."""
        async with AsyncIPRoute() as ipr:
            with _socket() as orders:
                yield cls(ipr, _socket, orders)

    @classmethod
    @asynccontextmanager
    async def open_in(cls, path: str) -> AsyncIterator[Kernel]:
        """A door to the namespace at ``path``."""

        def make() -> socket.socket:
            with netns.enter(Path(path)):
                return _socket()

        async with AsyncExitStack() as stack:

            async def ipr() -> Any:
                return await stack.enter_async_context(AsyncIPRoute(use_socket=make()))

            yield cls(ipr, make, stack.enter_context(make()))

    async def links(self) -> dict[str, Link]:
        """Devices by name."""
        found = [_link(message) for message in await self._ask("get_links")]
        return {link.name: link for link in found}

    async def link(self, name: str) -> Link:
        """One device; OSError ENODEV when there is none."""
        link = await self.find(name)
        if link is None:
            raise OSError(errno.ENODEV, f"no network device {name}")
        return link

    async def find(self, name: str) -> Link | None:
        """One device, None when there is none."""
        try:
            return orders.link(self._order(orders.get_link(name), f"link get {name}"))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    async def add_veth(self, host: VethEnd, pod: VethEnd, path: str, mtu: int) -> Link:
        """Make a veth pair, ``pod`` inside the namespace at ``path``; both ends are down."""
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._order(orders.add_veth(host, pod, there, mtu), f"link add {host.name} (veth)")
        finally:
            os.close(there)
        return await self.link(host.name)

    async def add_vxlan(self, name: str, port: int) -> Link:
        """Make, unless it is there, a VXLAN device in collect-metadata mode, and set it up.

        One that sits on another port is made anew: the kernel changes no device's port.
        """
        there = await self.find(name)
        if there and there.port not in (0, port):
            await self.delete_link(name)
            there = None
        if there is None:
            await self._ask(
                "link", "add", ifname=name, kind="vxlan", vxlan_collect_metadata=True,
                vxlan_port=port, vxlan_learning=False, vxlan_udp_csum=False,
            )  # fmt: skip
        link = await self.link(name)
        if not link.up:
            await self._ask("link", "set", index=link.ifindex, state="up")
        return link

    async def set_up(self, ifindex: int) -> None:
        """Set a device up."""
        self._order(orders.set_up(ifindex), f"link set {ifindex} up")

    async def set_mtu(self, ifindex: int, mtu: int) -> None:
        """Give a device another L3 MTU; its addresses, routes and connections stay."""
        self._order(orders.set_mtu(ifindex, mtu), f"link set {ifindex} mtu {mtu}")

    async def set_alias(self, ifindex: int, alias: str) -> None:
        """Name what a device is for (``ip link`` shows it)."""
        self._order(orders.set_alias(ifindex, alias), f"link set {ifindex} alias {alias}")

    async def add_names(self, ifindex: int, names: Sequence[str]) -> None:
        """Give a device further names, each of at most 127 characters without a slash."""
        await self._ask("link", "property_add", index=ifindex, altname=list(names))

    async def delete_link(self, name: str) -> None:
        """Remove a device; an absent one is no error."""
        link = await self.find(name)
        if link:
            self._order(orders.delete_link(link.ifindex), f"link del {name}")

    async def host_addresses(self) -> dict[int, list[IPv4Address]]:
        """IPv4 addresses of global scope by ifindex of their device, in the kernel's order."""
        found: dict[int, list[IPv4Address]] = {}
        for message in await self._ask("get_addr", family=socket.AF_INET):
            if message["scope"] == 0:
                address = message.get("local") or message.get("address")
                found.setdefault(message["index"], []).append(IPv4Address(address))
        return found

    async def addresses(self, ifindex: int) -> tuple[IP, ...]:
        """Addresses of global scope of a device, of both families."""
        return tuple(
            [
                ip_address(message.get("local") or message.get("address"))
                for message in await self._ask("get_addr", index=ifindex)
                if message["index"] == ifindex and message["scope"] == 0
            ]
        )

    async def add_address(self, ifindex: int, address: IP, *, further: bool = False) -> None:
        """Give a device a host address, IPv6 without duplicate address detection (2 s).

        A ``further`` one is the source of those packets alone whose route or socket says so: of
        IPv6 addresses the kernel would choose by their bits. Of IPv4 addresses the first counts.
        """
        flags = _IFA_F_NODAD if address.version == 6 else 0
        deprecated = further and address.version == 6
        order = orders.put_address(ifindex, address, flags, deprecated=deprecated)
        self._order(order, f"addr {address} dev {ifindex}")

    async def delete_address(self, ifindex: int, address: IP) -> None:
        """Take a host address from a device; an absent one is no error."""
        try:
            await self._ask(
                "addr", "del", index=ifindex, address=str(address), prefixlen=address.max_prefixlen
            )
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise

    async def add_source_route(self, ifindex: int, prefix: Network, source: IP) -> None:
        """A route of a pod to a destination for which it has a further address."""
        gateway = GATEWAY_V4 if prefix.version == 4 else GATEWAY_V6
        await self._ask(
            "route", "replace", dst=str(prefix), gateway=str(gateway), oif=ifindex,
            prefsrc=str(source), proto=PROTOCOL, flags=_RTNH_F_ONLINK,
            family=_family(prefix.version),
        )  # fmt: skip

    async def source_routes(self, ifindex: int) -> dict[Network, IP]:
        """These routes of a device: source by destination."""
        return {key: source for key, (source, _) in (await self.overlay_routes(ifindex)).items()}

    async def delete_source_route(self, ifindex: int, prefix: Network) -> None:
        """Remove one of these routes; an absent one is no error."""
        try:
            await self._ask(
                "route", "del", dst=str(prefix), oif=ifindex, proto=PROTOCOL,
                family=_family(prefix.version),
            )  # fmt: skip
        except OSError as error:
            if error.errno not in (errno.ESRCH, errno.ENOENT):
                raise

    async def add_neighbour(self, ifindex: int, address: IP, mac: str) -> None:
        """A permanent neighbour, so that nothing ever has to be resolved."""
        order = orders.put_neighbour(ifindex, address, mac)
        self._order(order, f"neigh {address} lladdr {mac} dev {ifindex}")

    async def macs(self, ifindex: int) -> set[str]:
        """MAC addresses that a device takes beside its own (``bridge fdb show self``)."""
        found = await self._ask("fdb", "dump")
        return {m.get("lladdr") for m in found if m["ifindex"] == ifindex and m.get("lladdr")}

    async def add_mac(self, ifindex: int, mac: str) -> None:
        """Let a MAC address through a device's filter; one that is there is no error."""
        try:
            await self._ask("fdb", "add", ifindex=ifindex, lladdr=mac)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise

    async def delete_mac(self, ifindex: int, mac: str) -> None:
        """Take a MAC address out of a device's filter; an absent one is no error."""
        try:
            await self._ask("fdb", "del", ifindex=ifindex, lladdr=mac)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    async def add_default_routes(self, ifindex: int, versions: Iterable[int]) -> None:
        """Default routes of a pod: through link-local gateways that exist only as neighbours."""
        for version in versions:
            gateway = GATEWAY_V4 if version == 4 else GATEWAY_V6
            order = orders.put_default_route(gateway, ifindex, _STATIC)
            self._order(order, f"route default via {gateway} dev {ifindex}")

    async def add_host_route(self, ifindex: int, address: IP) -> None:
        """A route to one address straight out of a device."""
        scope = _SCOPE_LINK if address.version == 4 else 0
        order = orders.put_route(ip_network(address), ifindex, PROTOCOL, scope)
        self._order(order, f"route {address} dev {ifindex}")

    async def host_routes(self) -> dict[int, list[IP]]:
        """Addresses of our own host routes by ifindex of their device."""
        found: dict[int, list[IP]] = {}
        for message in await self._routes():
            oif, prefix = message.get("oif"), _prefix(message)
            if message["type"] != _UNREACHABLE and oif and prefix.num_addresses == 1:
                found.setdefault(oif, []).append(prefix.network_address)
        return found

    async def discard_routes(self) -> set[Network]:
        """Our own unreachable routes."""
        return {_prefix(m) for m in await self._routes() if m["type"] == _UNREACHABLE}

    async def add_discard_route(self, prefix: Network) -> None:
        """Answer unreachable for what we announce and nobody owns (RFC 792 type 3, RFC 4443).

        A route for exactly this prefix that is there, a connected network's, stays in its place.
        """
        try:
            await self._ask(
                "route", "add", dst=str(prefix), type="unreachable", proto=PROTOCOL,
                family=_family(prefix.version),
            )  # fmt: skip
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise

    async def delete_discard_route(self, prefix: Network) -> None:
        """Remove one of our unreachable routes; an absent one is no error."""
        try:
            await self._ask(
                "route", "del", dst=str(prefix), type="unreachable", proto=PROTOCOL,
                family=_family(prefix.version),
            )  # fmt: skip
        except OSError as error:
            if error.errno not in (errno.ESRCH, errno.ENOENT):
                raise

    async def overlay_routes(self, ifindex: int) -> dict[Network, tuple[IP, int]]:
        """Our own routes out of the device: source address and MTU of each."""
        found: dict[Network, tuple[IP, int]] = {}
        for message in await self._routes():
            source, metrics = message.get("prefsrc"), message.get("metrics")
            if message.get("oif") == ifindex and message["type"] != _UNREACHABLE and source:
                mtu = metrics.get("mtu") if metrics else None
                found[_prefix(message)] = ip_address(source), int(mtu or 0)
        return found

    async def add_overlay_gateways(self, ifindex: int) -> None:
        """What the routes of the overlay lead to: neighbours that nobody has to resolve."""
        for gateway in (GATEWAY_V4, GATEWAY_V6):
            await self.add_neighbour(ifindex, gateway, _OVERLAY_MAC)

    async def add_gathering(self, ifindex: int, mark: int) -> None:
        """A table for what is marked so, which leads out of the device; with its neighbours."""
        await self.add_overlay_gateways(ifindex)
        for version, gateway in ((4, GATEWAY_V4), (6, GATEWAY_V6)):
            family = _family(version)
            await self._ask(
                "route", "replace", dst="default", gateway=str(gateway), oif=ifindex,
                table=GATHERING, proto=PROTOCOL, flags=_RTNH_F_ONLINK, family=family,
            )  # fmt: skip
            try:
                await self._ask(
                    "rule", "add", fwmark=mark, table=GATHERING, priority=_FIRST,
                    protocol=PROTOCOL, family=family,
                )  # fmt: skip
            except OSError as error:
                if error.errno != errno.EEXIST:
                    raise

    async def delete_gathering(self) -> int:
        """Remove these rules, whatever their marks; how many there were."""
        gone = 0
        for version in (4, 6):
            family = _family(version)
            for message in await self._ask("get_rules", family=family):
                if message.get("protocol") == PROTOCOL and message.get("table") == GATHERING:
                    await self._ask("rule", "del", priority=_FIRST, table=GATHERING, family=family)
                    gone += 1
        return gone

    async def add_overlay_route(self, ifindex: int, prefix: Network, source: IP, mtu: int) -> None:
        """A route out of the device, behind any other route to the same prefix."""
        gateway = GATEWAY_V4 if prefix.version == 4 else GATEWAY_V6
        await self._ask(
            "route", "replace", dst=str(prefix), gateway=str(gateway), oif=ifindex,
            prefsrc=str(source), priority=_LAST, proto=PROTOCOL, flags=_RTNH_F_ONLINK,
            metrics={"mtu": mtu}, family=_family(prefix.version),
        )  # fmt: skip

    async def delete_overlay_route(self, ifindex: int, prefix: Network) -> None:
        """Remove one of these routes; an absent one is no error."""
        try:
            await self._ask(
                "route", "del", dst=str(prefix), oif=ifindex, priority=_LAST, proto=PROTOCOL,
                family=_family(prefix.version),
            )  # fmt: skip
        except OSError as error:
            if error.errno not in (errno.ESRCH, errno.ENOENT):
                raise

    async def next_hops(
        self, addresses: Collection[IPv4Address]
    ) -> dict[IPv4Address, IPv4Address | OSError]:
        """The neighbour through which each address is reached, or why none is.

        An address on the link is its own next hop. Addresses without an answer (the kernel had no
        memory for one) are left out: the caller has to ask again. Each batch is one step of the
        loop.
        """
        return await self._answers(addresses, question, next_hops)

    async def is_on_link(self, address: IP) -> bool:
        """Whether an address is a neighbour's, behind no router. Raises OSError without a route."""
        version = address.version
        found = await self._ask("route", "get", dst=str(address), family=_family(version))
        return not any(one.get("gateway") or one.get("via") for one in found)

    async def natively_routed(
        self, prefixes: Collection[Network], ifindex: int
    ) -> dict[Network, bool]:
        """Whether a route out of the device, more specific than a default route, leads to each.

        Prefixes without an answer are left out, as with ``next_hops``.
        """

        def about(prefix: Network, number: int) -> bytes:
            return match_question(prefix, ifindex, number)

        return await self._answers(prefixes, about, matches)

    async def route_mtus(self, addresses: Collection[IPv4Address]) -> dict[IPv4Address, int]:
        """The MTU that the route to each address was given, 0 for none.

        Addresses without an answer are left out, as with ``next_hops``.
        """
        hosts: list[Network] = [IPv4Network(address) for address in addresses]

        def about(host: Network, number: int) -> bytes:
            return match_question(host, 0, number)

        found = await self._answers(hosts, about, route_mtus)
        return {IPv4Address(int(host.network_address)): mtu for host, mtu in found.items()}

    async def private_routes(self, version: int, ours: str) -> frozenset[Network]:
        """Prefixes of this host's routes, as far as they meet private or unique-local space.

        Default routes and our own are left out, and those out of devices whose name starts with
        ``ours``. Raises OSError.
        """
        links = await self.links()
        devices = {link.ifindex for link in links.values() if link.name.startswith(ours)}
        found: dict[Network, None] = {}
        with self._make() as sock:
            sock.send(dump_question(version))
            done = False
            while not done:  # the kernel makes each part when it is asked for
                some, done = private_routes(sock.recv(_DATAGRAM), devices)
                found |= some
                await asyncio.sleep(0)
        return frozenset(found)

    async def _answers(
        self,
        things: Collection[T],
        ask: Callable[[T, int], bytes],
        read: Callable[[bytes, Mapping[int, T]], dict[T, A]],
    ) -> dict[T, A]:
        found: dict[T, A] = {}
        with self._make() as sock:
            questions = list(enumerate(things))
            for at in range(0, len(questions), _QUESTIONS):
                asked = dict(questions[at : at + _QUESTIONS])
                texts = [ask(thing, number) for number, thing in asked.items()]
                for datagram in _replies(sock, texts):
                    found |= read(datagram, asked)
                await asyncio.sleep(0)
        return found

    async def events(
        self, *groups: Group, buffer: int = EVENT_BUFFER, own: bool = False
    ) -> AsyncIterator[Event]:
        """What changes from now on, for ever; ``Lost`` comes first and after every gap.

        ``buffer`` is the number of bytes that may wait; ``own``: routes of ours that go, too.
        """
        while True:
            try:
                with self._make() as sock:
                    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
                    sock.bind((0, 0))
                    for group in groups:
                        sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
                    yield Lost()
                    listener = _Listener(sock, ipv6=Group.ROUTE_V6 in groups, own=own)
                    async for event in listener.events():
                        yield event
            except OSError as error:
                log.warning("event=no_netlink_events reason=%s; opened again", error)
            await asyncio.sleep(_REOPEN_S)

    async def default_route(self, version: int) -> DefaultRoute | None:
        """Where the kernel sends what is for the world; None: nowhere.

        It is asked about one address: a host may have 100,000 routes.
        """
        try:
            found = await self._ask("route", "get", dst=_WORLD[version], family=_family(version))
        except OSError:
            return None
        oif = found[0].get("oif") if found else None
        if not oif or found[0]["type"] != _UNICAST:
            return None
        return DefaultRoute(oif, found[0].get("gateway") or "")

    async def is_silent(self, route: DefaultRoute) -> bool:
        """Whether the next hop does not answer on its link (RFC 4861 7.3.3, ARP likewise)."""
        if not route.gateway:
            return False
        try:
            found = await self._ask(
                "neigh", "get", dst=route.gateway, ifindex=route.ifindex,
                family=_family(ip_address(route.gateway).version),
            )  # fmt: skip
        except OSError:
            return False  # nobody has asked for it yet
        return bool(found) and bool(found[0]["state"] & _NUD_FAILED)

    async def _routes(self) -> list[Any]:
        found = []
        for family in (socket.AF_INET, socket.AF_INET6):
            dump = await self._ask("get_routes", family=family)
            found += [m for m in dump if m["proto"] == PROTOCOL and m.get("dst")]
        return found

    def _order(self, order: bytes, words: str) -> bytes:
        """The kernel's answer, which is there when ``send`` returns. Raises OSError."""
        self._orders.send(order)
        answer = self._orders.recv(_DATAGRAM)
        if code := orders.failure(answer):
            raise OSError(code, f"{words}: {os.strerror(code)}")
        return answer

    async def _ask(self, *words: str, **fields: object) -> list[Any]:
        name, *rest = words
        try:
            async with self._one:
                if callable(self._ipr):
                    self._ipr = await self._ipr()
                answer = await getattr(self._ipr, name)(*rest, **fields)
                return (
                    list(answer) if isinstance(answer, list | tuple) else [m async for m in answer]
                )
        except NetlinkError as error:
            text = " ".join(f"{k}={v}" for k, v in fields.items() if k != "peer")
            said = f"{' '.join(words)} {text}: {os.strerror(error.code)}"
            raise OSError(error.code, said) from None


class _Listener:
    """Reads events from a socket.

    A socket that overflows says ENOBUFS once and then gets nothing more until it is empty. So the
    gap ends, and ``Lost`` is said, when the socket is empty and not with the error.
    """

    def __init__(self, sock: socket.socket, *, ipv6: bool, own: bool) -> None:
        self._sock, self._wanted = sock, {"ipv6": ipv6, "own": own}
        self._gap = False

    async def events(self) -> AsyncIterator[Event]:
        """Rows for ever; raises OSError."""
        while True:
            found, empty = self._drain()
            for event in found:
                yield event
            await (_readable(self._sock) if empty else asyncio.sleep(0))

    def _drain(self) -> tuple[list[Event], bool]:
        """What waits, at most a turn's; and whether the socket is empty now."""
        found: list[Event] = []
        for _ in range(_TURN):
            try:
                datagram = self._sock.recv(_DATAGRAM)
            except BlockingIOError:
                found += [Lost()] * self._gap
                self._gap = False
                return found, True
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._gap = True
            else:
                found += events(datagram, **self._wanted) if not self._gap else ()
        return found, False


async def _readable(sock: socket.socket) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


def _replies(sock: socket.socket, questions: Sequence[bytes]) -> Iterator[bytes]:
    """Ask and collect: when ``send`` returns, the kernel has answered everything."""
    sock.send(b"".join(questions))
    while True:
        try:
            yield sock.recv(_DATAGRAM)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise


def _socket() -> socket.socket:
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    return socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)


def set_sysctl(name: str, value: str) -> None:
    """Write one sysctl of the calling thread's network namespace, unless it has the value."""
    path = Path("/proc/sys") / name
    if path.read_text().strip() != value:
        writable_sysctl(name).write_text(value)


def writable_sysctl(name: str) -> Path:
    """Where a sysctl of the network is written.

    ``/proc/sys`` of a container without privileges is read-only, and runtimes mount nothing there.
    So a pod gets the host's ``/proc/sys/net`` at another place, which ``MESHGATE_PROC_SYS_NET``
    names. It shows the network namespace of whoever opens it, as ``/proc/sys/net`` does.
    """
    place, below = os.environ.get(_SYSCTLS), name.removeprefix("net/")
    return Path(place) / below if place and below != name else Path("/proc/sys") / name


def get_sysctl(name: str) -> str:
    """One sysctl of the calling thread's network namespace; empty when there is none."""
    try:
        return (Path("/proc/sys") / name).read_text().strip()
    except OSError:
        return ""


def _other_names(message: Any) -> tuple[str, ...]:
    """Names that a device has beside its own (``ip link property``)."""
    listed = message.get("prop_list")
    return tuple(value for _, value in listed["attrs"]) if listed else ()


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _prefix(message: Any) -> Network:
    return ip_network(f"{message.get('dst')}/{message['dst_len']}")


def _vxlan_port(message: Any) -> int:
    """UDP port of a VXLAN device; 0 of all others."""
    about = message.get("linkinfo")
    if about is None or about.get("kind") != "vxlan":
        return 0
    return int(about.get("data").get("vxlan_port") or 0)


def _other_end(message: Any) -> int:
    """The other end of a veth, in another namespace; 0 of all other devices."""
    about = message.get("linkinfo")
    if not about or about.get("kind") != "veth" or message.get("link_netnsid") is None:
        return 0
    return int(message.get("link") or 0)


def _link(message: Any) -> Link:
    return Link(
        name=message.get("ifname"),
        ifindex=message["index"],
        mtu=message.get("mtu"),
        mac=message.get("address") or "",
        up=bool(message["flags"] & _IFF_UP),
        alias=message.get("ifalias") or "",
        other_names=_other_names(message),
        port=_vxlan_port(message),
        other=_other_end(message),
    )
