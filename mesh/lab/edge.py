"""The provider edge of an SRv6 L3VPN: an option of the topology.

::

    br0 ─ pe ─┬─ pe-blue ─ blue       VRF blue:  10.50.0.0/24, fd50::/64
              └─ pe-green ─ green     VRF green: the same addresses

This machine's kernel has no VRF device, so a VRF is a namespace, which ``zebra -n`` takes for one
(bgp-exabgp.md 13). zebra finds namespaces in /run/netns, so FRR gets a mount namespace of its own
where the tenants' VRFs alone are to be seen. A packet of a tenant's host is encapsulated in the
VRF, with an address of the edge as outer source; a rule of the VRF lets packets with that source to
the edge, and no others: a VRF leads nowhere but into the VPN. In the other direction the edge hands
the inner packet over the link to the VRF.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from bgp.routers.frr_vpn import RouterVRF, edge_config, locator_config
from bgp.routers.side import UNICAST, VPN, Neighbor
from mesh.core.model import IP
from mesh.lab.fabric import Edge, Fabric, vrf_host
from mesh.lab.places import NETNS, Lab

#: Devices in a VRF: to the edge, and to the tenant's host.
TO_EDGE, TO_HOST = "pe", "host"
#: The number that a VRF's device to the edge and the edge's uplink share: FRR names the uplink in
#: routes of the VRF, where only the number counts.
UPLINK_INDEX = 77
#: The table of a VRF that leads encapsulated packets to the edge, and where the fake's routes are.
OUTER_TABLE, FAKE_TABLE = 100, 60
_HOPS_V4 = IPv4Address("169.254.65.1")
_LINKS_V4, _LINKS_V6 = int(IPv4Address("169.254.64.0")), int(IPv6Address("fdfe::"))
_PER_LINK = 4

#: Arguments: a directory, the prefix of the VRFs' namespaces, the VRFs, ``--``, the command.
_WITH_VRFS = """
dir=$1 prefix=$2; shift 2; names=
while [ "$1" != -- ]; do names="$names $1"; shift; done; shift
for name in $names; do : >"$dir/$name"; mount --bind "$prefix$name" "$dir/$name"; done
mount -t tmpfs none /run/netns
for name in $names; do : >"/run/netns/$name"; mount --bind "$dir/$name" "/run/netns/$name"; done
exec "$@"
"""


def ends(number: int) -> tuple[tuple[IPv4Address, IPv6Address], tuple[IPv4Address, IPv6Address]]:
    """The addresses of the link of a tenant by its number: the edge's, and the VRF's."""
    v4, v6 = _LINKS_V4 + number * _PER_LINK, _LINKS_V6 + number * _PER_LINK
    first, second = ((IPv4Address(v4 + n), IPv6Address(v6 + n)) for n in (1, 2))
    return first, second


def hops(number: int) -> tuple[IPv4Address, IPv6Address]:
    """The next hops of End.DX4 and End.DX6 for a tenant.

    The kernel asks by ARP for the inner destination, unless the next hop lies behind a gateway. So
    that of IPv4 is an address of nobody, to which the VRF's end of the link leads.
    """
    return _HOPS_V4 + number, ends(number)[1][1]


def links(lab: Lab, edge: Edge) -> Iterator[str]:
    """``ip -batch`` lines: the devices behind the edge."""
    at = lab.host("pe").netns
    for tenant in edge.tenants:
        vrf, host = lab.host(vrf_host(tenant.name)).netns, lab.host(tenant.name).netns
        yield (
            f"link add {TO_EDGE} index {UPLINK_INDEX} netns {vrf} type veth "
            f"peer name {tenant.name} netns {at}"
        )
        yield f"link add uplink netns {host} type veth peer name {TO_HOST} netns {vrf}"


def settings(edge: Edge) -> dict[str, list[str]]:
    """``ip -batch`` lines of the edge and of what is behind it; ``-6``: those of ``ip -6``."""
    found: dict[str, list[str]] = {"pe": _first_rule()}
    for number, tenant in enumerate(edge.tenants):
        outer, inner = ends(number)
        found["pe"] += [f"link set {tenant.name} up", *_link(tenant.name, outer)]
        found["pe"].append(f"route add {hops(number)[0]} via {inner[0]}")
        found[vrf_host(tenant.name)] = [
            "link set lo up",
            f"link set {TO_EDGE} up",
            f"link set {TO_HOST} up",
            *_link(TO_EDGE, inner),
            *(f"address add {one} dev {TO_HOST}{_nodad(one)}" for one in _gateways(edge)),
            *_first_rule(),
            f"sr tunsrc set {source(edge)}",
            f"-6 rule add pref 50 from {source(edge)} lookup {OUTER_TABLE}",
            f"-6 route add default via {outer[1]} dev {TO_EDGE} table {OUTER_TABLE}",
        ]
        found[tenant.name] = [
            "link set lo up",
            "link set uplink up",
            *(
                f"address add {address}/{network.prefixlen} dev uplink{_nodad(str(address))}"
                for address, network in zip(edge.hosts, edge.networks, strict=True)
            ),
            *(f"route add default via {network[1]}" for network in edge.networks),
        ]
    return found


def addresses(edge: Edge) -> dict[str, tuple[IP, ...]]:
    """The addresses of what is behind the edge."""
    found: dict[str, tuple[IP, ...]] = {}
    for tenant in edge.tenants:
        found[tenant.name] = edge.hosts
        found[vrf_host(tenant.name)] = tuple(network[1] for network in edge.networks)
    return found


def source(edge: Edge) -> IPv6Address:
    """The outer source of what the edge encapsulates."""
    return next(one for one in edge.addresses if isinstance(one, IPv6Address))


def neighbor(edge: Edge) -> Neighbor:
    """The edge as the router sees it."""
    return Neighbor(source(edge), edge.asn, name="pe", families=(*UNICAST, *VPN), dials=False)


def bgpd_config(topology: Fabric, edge: Edge) -> str:
    """The edge's bgpd.conf: a session with the router, and the tenants' VRFs."""
    router = next(one for one in topology.router.addresses if isinstance(one, IPv6Address))
    identifier = next(one for one in edge.addresses if isinstance(one, IPv4Address))
    families = (*UNICAST, *VPN)
    peers = [Neighbor(router, topology.router.asn, name="router", families=families, dials=False)]
    vrfs = [
        RouterVRF(tenant.name, f"{identifier}:{number}", (tenant.target,), edge.networks)
        for number, tenant in enumerate(edge.tenants, 1)
    ]
    return edge_config(edge.asn, identifier, peers, (edge.prefix, source(edge)), vrfs)


def zebra_config(edge: Edge) -> str:
    """The edge's zebra.conf."""
    return locator_config(edge.prefix)


def with_vrfs(lab: Lab, edge: Edge, command: Sequence[str]) -> tuple[str, ...]:
    """A command of the edge that sees the tenants' VRFs in /run/netns, and no other namespaces."""
    names = [tenant.name for tenant in edge.tenants]
    folder, prefix = vrf_folder(lab), NETNS / f"{lab.name}-{vrf_host('')}"
    words = ("unshare", "-m", "--propagation", "private", "sh", "-ec", _WITH_VRFS, "vrfs")
    return (*words, str(folder), str(prefix), *names, "--", *command)


def vrf_folder(lab: Lab) -> Path:
    """Where files stand on which the VRFs' namespaces are mounted."""
    return lab.host_run("pe") / "vrfs"


def _gateways(edge: Edge) -> list[str]:
    return [f"{network[1]}/{network.prefixlen}" for network in edge.networks]


def _link(device: str, addresses: tuple[IPv4Address, IPv6Address]) -> list[str]:
    v4, v6 = addresses
    return [f"address add {v4}/30 dev {device}", f"address add {v6}/126 dev {device} nodad"]


def _first_rule() -> list[str]:
    """The table of ``fake_pe`` is looked up before the main one."""
    return [f"{family}rule add pref 60 lookup {FAKE_TABLE}" for family in ("", "-6 ")]


def _nodad(address: str) -> str:
    return " nodad" if ":" in address else ""
