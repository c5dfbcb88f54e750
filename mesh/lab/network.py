"""The lab's namespaces, links, addresses, routes and the firewall's rules.

::

    east-1 ─┐
    east-2 ─┤  (gateway)
    east-3 ─┤  (gateway)
    west-1 ─┼─ br0 (router) ─ transit ─ firewall ─ legacy network ─ legacy
    west-2 ─┤   FRR             nft: only egress addresses pass, the rest is refused and counted
    west-3 ─┤  (gateways)
    etcd   ─┤
    second ─┤   (option) BIRD
    pe     ─┘   (option) FRR as provider edge; what is behind it stands in edge.py

Every host's device is called ``uplink``; the other end, in the router or the firewall, is called
like the host. Nodes carry no firewall rule.
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterable, Iterator
from typing import TypeVar

from mesh.core.model import IP, Network
from mesh.lab import edge
from mesh.lab.fabric import FIXED_HOSTS, Fabric, edge_hosts
from mesh.lab.places import NETNS, Lab, Place

T = TypeVar("T", IP, Network)

BRIDGE = "br0"
#: Begins lines that are for ``ip -6``.
_SIX = "-6 "
IPV6 = 6

#: Set in every namespace before its links exist: links copy the defaults.
_SYSCTLS = {
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv6.conf.all.disable_ipv6": 0,
    "net.ipv6.conf.default.disable_ipv6": 0,
    "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv6.conf.all.accept_ra": 0,
    "net.ipv6.conf.default.accept_ra": 0,
}
_FORWARDING = {
    "net.ipv4.ip_forward": 1,
    "net.ipv6.conf.all.forwarding": 1,
    "net.ipv6.conf.default.forwarding": 1,
    "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.default.send_redirects": 0,
}
#: The router spreads flows over its next hops by ports, too, as routers of hardware do.
_SPREADING = {
    "net.ipv4.fib_multipath_hash_policy": 1,
    "net.ipv6.fib_multipath_hash_policy": 1,
}
#: Whoever refuses says so each time, so that refusals can be counted.
_EVERY_ERROR = {"net.ipv4.icmp_ratelimit": 0, "net.ipv6.icmp.ratelimit": 0}
_SERVER = {"net.core.somaxconn": 4096, "net.ipv4.tcp_max_syn_backlog": 4096}


def hosts(topology: Fabric) -> list[str]:
    """All host names, nodes first."""
    options = ["second"] if topology.second else []
    options += edge_hosts(topology.pe)
    return [*(node.name for _, node in topology.members), *FIXED_HOSTS, *options]


def build(lab: Lab, topology: Fabric) -> None:
    """Make all namespaces and connect them.

    Raises:
        subprocess.CalledProcessError: a command failed; its words are in the error.

    """
    names = hosts(topology)
    _ip(f"netns add {lab.host(name).netns}" for name in names)
    tenants = [tenant.name for tenant in topology.pe.tenants] if topology.pe else []
    for name in names:
        set_sysctls(lab.host(name), _sysctls(name, tenants))
    _ip(_links(lab, topology))
    for name, lines in _settings(topology).items():
        _ip(lines, lab.host(name))
    if topology.pe is not None:
        _ip(edge.links(lab, topology.pe))
        for name, lines in edge.settings(topology.pe).items():
            _ip(lines, lab.host(name))
    _run(["nft", "-f", "-"], firewall_rules(topology), lab.host("firewall"))


def rebuild(lab: Lab, topology: Fabric, host: str) -> None:
    """Make the namespace of a host on the fabric anew, as a reboot would; its link goes with it.

    Raises:
        subprocess.CalledProcessError: a command failed; its words are in the error.

    """
    place, router = lab.host(host), lab.host("router")
    # The kernel takes a namespace's devices away some time after its name has gone; the name of
    # this one is needed at once.
    forget = ["ip", "-n", router.netns, "link", "del", host]
    subprocess.run(forget, capture_output=True, check=False)
    remove([place.netns])
    _ip([f"netns add {place.netns}"])
    set_sysctls(place, _sysctls(host))
    _ip([f"link add uplink netns {place.netns} type veth peer name {host} netns {router.netns}"])
    _ip(_settings(topology)[host], place)
    _ip([f"link set {host} master {BRIDGE} up"], router)


def add_routes(place: Place, lines: Iterable[str]) -> None:
    """Give a host the routes of these ``ip -batch`` lines."""
    _ip(lines, place)


def add_pod(place: Place, sysctls: dict[str, int]) -> None:
    """Make a pod's namespace, with loopback up and without a link; an existing one is kept."""
    if place.netns_path.exists():
        return
    _ip([f"netns add {place.netns}"])
    set_sysctls(place, sysctls)
    _ip(["link set lo up"], place)


def remove(names: Iterable[str]) -> None:
    """Delete network namespaces; absent ones are no error."""
    _ip(f"netns del {name}" for name in names if (NETNS / name).exists())


def set_sysctls(place: Place, values: dict[str, int]) -> None:
    """Write kernel settings of a namespace; those that the kernel lacks are left out."""
    lines = "".join(f"{name} = {value}\n" for name, value in values.items())
    _run(["sysctl", "-q", "-e", "-p", "-"], lines, place)


def firewall_rules(topology: Fabric) -> str:
    """The firewall's nft rules: egress addresses in, legacy's own connections out, count all.

    The sets ``feed4`` and ``feed6`` are filled from a feed (``firewall_sync.py``).
    """
    fed = topology.fed
    every = [address for cluster in topology.sites for address in cluster.egress]
    allowed = [address for address in every if address not in fed]
    return f"""table inet firewall {{
  counter admitted {{ }}
  counter answered {{ }}
  counter from_legacy {{ }}
  counter refused {{ }}
  set egress4 {{ type ipv4_addr; {_elements(allowed, 4)} }}
  set egress6 {{ type ipv6_addr; {_elements(allowed, 6)} }}
  set feed4 {{ type ipv4_addr; {_elements(fed, 4)} }}
  set feed6 {{ type ipv6_addr; {_elements(fed, 6)} }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state established,related counter name answered accept
    iifname "legacy" counter name from_legacy accept
    ip saddr @egress4 counter name admitted accept
    ip6 saddr @egress6 counter name admitted accept
    ip saddr @feed4 counter name admitted accept
    ip6 saddr @feed6 counter name admitted accept
    counter name refused
    meta l4proto tcp reject with tcp reset
    reject with icmpx admin-prohibited
  }}
}}
"""


def _sysctls(host: str, tenants: Collection[str] = ()) -> dict[str, int]:
    if host == "etcd":
        return _SYSCTLS
    if host == "legacy" or host in tenants:
        return _SYSCTLS | _SERVER
    refuses = _EVERY_ERROR if host in ("router", "firewall") else {}
    spreads = _SPREADING if host == "router" else {}
    return _SYSCTLS | _FORWARDING | refuses | spreads


def _links(lab: Lab, topology: Fabric) -> Iterator[str]:
    router, firewall = lab.host("router").netns, lab.host("firewall").netns
    for host in topology.addresses:
        if host == "router":
            continue
        peer = firewall if host == "legacy" else router
        index = f" index {edge.UPLINK_INDEX}" if host == "pe" else ""
        yield (
            f"link add uplink{index} netns {lab.host(host).netns} type veth "
            f"peer name {host} netns {peer}"
        )


def _settings(topology: Fabric) -> dict[str, list[str]]:
    """``ip -batch`` lines of each host."""
    on_fabric = [name for name in topology.addresses if name not in ("router", "legacy")]
    settings = {
        host: [*_uplink(addresses, networks), *_default(via)]
        for host, addresses, networks, via in _edges(topology)
    }
    settings["firewall"] += [
        "link set legacy up",
        *_assign("legacy", [net[1] for net in topology.legacy.networks], topology.legacy.networks),
    ]
    settings["router"] = [
        "link set lo up",
        f"link add {BRIDGE} type bridge forward_delay 0",
        f"link set {BRIDGE} up",
        *(f"link set {host} master {BRIDGE} up" for host in on_fabric if host != "firewall"),
        *_assign(BRIDGE, topology.router.addresses, topology.fabric),
        "link set firewall up",
        *_assign("firewall", [net[1] for net in topology.transit], topology.transit),
        *(
            f"route add {net} via {transit[2]}"
            for net, transit in zip(topology.legacy.networks, topology.transit, strict=True)
        ),
    ]
    return settings


def _edges(
    topology: Fabric,
) -> Iterator[tuple[str, tuple[IP, ...], tuple[Network, ...], tuple[IP, ...]]]:
    """(host, its addresses, their networks, default routes) of all hosts but the router."""
    for host, addresses in topology.addresses.items():
        if host == "legacy":
            networks, further = topology.legacy.networks, topology.legacy.further
            given = [*addresses, *further]
            # It speaks from the IPv4 address that came first, and from the IPv6 one that came last.
            given = [*_of(4, given), *reversed(_of(6, given))]
            nets = tuple(_of(one.version, networks)[0] for one in given)
            yield host, tuple(given), nets, tuple(net[1] for net in networks)
        elif host == "firewall":
            yield host, addresses, topology.transit, tuple(net[1] for net in topology.transit)
        elif host != "router":
            yield host, addresses, topology.fabric, topology.router.addresses


def _of(version: int, rows: Iterable[T]) -> list[T]:
    """The addresses, or networks, of one family."""
    return [row for row in rows if row.version == version]


def _uplink(addresses: Iterable[IP], networks: Iterable[Network]) -> list[str]:
    return ["link set lo up", "link set uplink up", *_assign("uplink", addresses, networks)]


def _assign(device: str, addresses: Iterable[IP], networks: Iterable[Network]) -> list[str]:
    return [
        f"address add {address}/{network.prefixlen} dev {device}"
        + (" nodad" if address.version == IPV6 else "")
        for address, network in zip(addresses, networks, strict=True)
    ]


def _default(via: Iterable[IP]) -> list[str]:
    return [f"route add default via {address}" for address in via]


def _elements(addresses: Iterable[IP], version: int) -> str:
    chosen = ", ".join(str(address) for address in addresses if address.version == version)
    return f"elements = {{ {chosen} }}" if chosen else ""


def _ip(lines: Iterable[str], place: Place | None = None) -> None:
    """Run lines in one batch, and then those of ``ip -6``: a batch has one family for rules."""
    given = list(lines)
    batches = {
        ("ip",): [line for line in given if not line.startswith(_SIX)],
        ("ip", "-6"): [line.removeprefix(_SIX) for line in given if line.startswith(_SIX)],
    }
    for command, part in batches.items():
        if part:
            _run([*command, "-batch", "-"], "\n".join([*part, ""]), place)


def _run(command: list[str], text: str, place: Place | None = None) -> None:
    inside = ["nsenter", f"--net={place.netns_path}", "--"] if place else []
    subprocess.run([*inside, *command], input=text, text=True, check=True, capture_output=True)
