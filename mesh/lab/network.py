"""The lab's namespaces, links, addresses, routes and the firewall's rules.

::

    east-1 ─┐
    east-2 ─┤
    west-1 ─┼─ br0 (router) ─ transit ─ firewall ─ legacy network ─ legacy
    west-2 ─┤   FRR             nft: only egress addresses pass, the rest is refused and counted
    etcd   ─┘

Every host's device is called ``uplink``; the other end, in the router or the firewall, is called
like the host. Nodes carry no firewall rule.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator

from mesh.core.model import IP, Network
from mesh.lab.fabric import FIXED_HOSTS, Fabric
from mesh.lab.places import NETNS, Lab, Place

BRIDGE = "br0"
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
#: Whoever refuses says so each time, so that refusals can be counted.
_EVERY_ERROR = {"net.ipv4.icmp_ratelimit": 0, "net.ipv6.icmp.ratelimit": 0}
_SERVER = {"net.core.somaxconn": 4096, "net.ipv4.tcp_max_syn_backlog": 4096}


def hosts(topology: Fabric) -> list[str]:
    """All host names, nodes first."""
    return [*(node.name for _, node in topology.members), *FIXED_HOSTS]


def build(lab: Lab, topology: Fabric) -> None:
    """Make all namespaces and connect them.

    Raises:
        subprocess.CalledProcessError: a command failed; its words are in the error.

    """
    names = hosts(topology)
    _ip(f"netns add {lab.host(name).netns}" for name in names)
    for name in names:
        set_sysctls(lab.host(name), _sysctls(name))
    _ip(_links(lab, topology))
    for name, lines in _settings(topology).items():
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
    """The firewall's nft rules: egress addresses in, legacy's own connections out, count all."""
    allowed = [address for cluster in topology.sites for address in cluster.egress]
    return f"""table inet firewall {{
  counter admitted {{ }}
  counter answered {{ }}
  counter from_legacy {{ }}
  counter refused {{ }}
  set egress4 {{ type ipv4_addr; {_elements(allowed, 4)} }}
  set egress6 {{ type ipv6_addr; {_elements(allowed, 6)} }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state established,related counter name answered accept
    iifname "legacy" counter name from_legacy accept
    ip saddr @egress4 counter name admitted accept
    ip6 saddr @egress6 counter name admitted accept
    counter name refused
    meta l4proto tcp reject with tcp reset
    reject with icmpx admin-prohibited
  }}
}}
"""


def _sysctls(host: str) -> dict[str, int]:
    if host == "etcd":
        return _SYSCTLS
    if host == "legacy":
        return _SYSCTLS | _SERVER
    refuses = _EVERY_ERROR if host in ("router", "firewall") else {}
    return _SYSCTLS | _FORWARDING | refuses


def _links(lab: Lab, topology: Fabric) -> Iterator[str]:
    router, firewall = lab.host("router").netns, lab.host("firewall").netns
    for host in hosts(topology):
        if host == "router":
            continue
        peer = firewall if host == "legacy" else router
        yield (
            f"link add uplink netns {lab.host(host).netns} type veth peer name {host} netns {peer}"
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
            networks = topology.legacy.networks
            yield host, addresses, networks, tuple(net[1] for net in networks)
        elif host == "firewall":
            yield host, addresses, topology.transit, tuple(net[1] for net in topology.transit)
        elif host != "router":
            yield host, addresses, topology.fabric, topology.router.addresses


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
    text = "".join(f"{line}\n" for line in lines)
    if text:
        _run(["ip", "-batch", "-"], text, place)


def _run(command: list[str], text: str, place: Place | None = None) -> None:
    inside = ["nsenter", f"--net={place.netns_path}", "--"] if place else []
    subprocess.run([*inside, *command], input=text, text=True, check=True, capture_output=True)
