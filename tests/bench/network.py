"""Four namespaces of one measurement, and the kernel's ways through them.

    pod (p0) -- (a0) node a (a1) -- (b1) node b (b0) -- (x0) far end

``far end`` is a pod of node b, or the world behind it when b is a gateway.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bpf import netns
from mesh.kernel import set_sysctl
from mesh.lab.places import Lab

MACS = {
    "p0": "0a:58:00:00:01:02",
    "a0": "0e:58:00:00:01:02",
    "a1": "0e:58:00:00:09:01",
    "b1": "0e:58:00:00:09:02",
    "b0": "0e:58:00:00:02:02",
    "x0": "0a:58:00:00:02:02",
}
#: Addresses by family.
POD = {4: "10.66.1.2", 6: "fd66:1::2"}
#: Another pod, with addresses at the same device; the rows of its measurements are use.py's.
OTHER_POD = {4: "10.66.1.3", 6: "fd66:1::3"}
FAR_POD = {4: "10.66.2.2", 6: "fd66:2::2"}
NODE_A = {4: "10.66.9.1", 6: "fd66:9::1"}
NODE_B = {4: "10.66.9.2", 6: "fd66:9::2"}
WORLD = {4: "192.0.2.10", 6: "2001:db8:2::10"}
WORLD_SIDE = {4: "192.0.2.1", 6: "2001:db8:2::1"}
EGRESS = {4: "198.51.100.10", 6: "2001:db8:100::10"}
_SPACES = "pabx"
_PREFIX = {4: 24, 6: 64}


@dataclass(frozen=True, slots=True)
class Network:
    """The namespaces, made and connected."""

    lab: Lab

    def space(self, letter: str) -> Path:
        """The namespace file of ``p``, ``a``, ``b`` or ``x``."""
        return self.lab.host(letter).netns_path

    def ip(self, letter: str, *lines: str) -> None:
        """Lines for ``ip`` in one namespace."""
        _batch(lines, "-n", self.lab.host(letter).netns)

    def nft(self, letter: str, text: str) -> None:
        """A rule set for one namespace."""
        enter = ("nsenter", f"--net={self.space(letter)}", "nft", "-f", "-")
        subprocess.run(enter, input=text, text=True, check=True)


@contextmanager
def network(lab: Lab) -> Iterator[Network]:
    """Fresh namespaces, removed at the end."""
    names = [lab.host(letter).netns for letter in _SPACES]
    try:
        _batch([f"netns add {name}" for name in names])
        made = Network(lab)
        _connect(made)
        yield made
    finally:
        found = [name for name in names if (lab.host("a").netns_path.parent / name).exists()]
        _batch([f"netns del {name}" for name in found])


def _connect(net: Network) -> None:
    for left, right in (("p0", "a0"), ("a1", "b1"), ("b0", "x0")):
        near, far = net.lab.host(left[0]).netns, net.lab.host(right[0]).netns
        end = f"{left} netns {near} address {MACS[left]}"
        peer = f"{right} netns {far} address {MACS[right]}"
        _batch([f"link add {end} type veth peer name {peer}"])
    for letter in "ab":
        with netns.enter(net.space(letter)):
            for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                set_sysctl(f"net/{name}", "1")
            for device in ("all", f"{letter}0", f"{letter}1"):
                set_sysctl(f"net/ipv4/conf/{device}/rp_filter", "0")
    for letter, devices in (("p", "p0"), ("a", "a0 a1"), ("b", "b0 b1"), ("x", "x0")):
        net.ip(letter, "link set lo up", *(f"link set {d} up" for d in devices.split()))
    for version in (4, 6):
        _address(net, version)


def _address(net: Network, version: int) -> None:
    """Addresses, neighbours and default routes of one family; nothing is ever resolved."""
    flag = "nodad" if version == 6 else ""
    bits, host = _PREFIX[version], 32 if version == 4 else 128
    net.ip(
        "a",
        f"addr add {NODE_A[version]}/{bits} dev a1 {flag}",
        f"neigh replace {NODE_B[version]} lladdr {MACS['b1']} dev a1",
        f"route add {POD[version]}/{host} dev a0",
        f"neigh replace {POD[version]} lladdr {MACS['p0']} dev a0",
        f"route add default via {NODE_B[version]}",
    )
    net.ip(
        "b",
        f"addr add {NODE_B[version]}/{bits} dev b1 {flag}",
        f"addr add {WORLD_SIDE[version]}/{bits} dev b0 {flag}",
        f"neigh replace {NODE_A[version]} lladdr {MACS['a1']} dev b1",
        f"route add {FAR_POD[version]}/{host} dev b0",
        f"neigh replace {FAR_POD[version]} lladdr {MACS['x0']} dev b0",
        f"neigh replace {WORLD[version]} lladdr {MACS['x0']} dev b0",
        f"route add {POD[version]}/{host} via {NODE_A[version]}",
    )


#: The remote that never answers.
DEAD = {4: "192.0.2.99", 6: "2001:db8:2::99"}
#: Whom a stranger claims to be.
STRANGER = {4: "203.0.113.7", 6: "2001:db8:9::7"}
_NEAR = {4: "169.254.1.1", 6: "fe80::1"}


def sockets(net: Network) -> None:
    """Pod, other pod and far end get addresses and routes, for programs that use sockets."""
    for v, bits in ((4, 32), (6, 128)):
        flag = "nodad" if v == 6 else ""
        net.ip(
            "p",
            *(f"addr add {pod[v]}/{bits} dev p0 {flag}" for pod in (POD, OTHER_POD)),
            f"neigh replace {_NEAR[v]} lladdr {MACS['a0']} dev p0",
            *([] if v == 6 else [f"route add {_NEAR[v]} dev p0"]),
            f"route add default via {_NEAR[v]} dev p0",
        )
        net.ip(
            "a",
            f"route add {OTHER_POD[v]}/{bits} dev a0",
            f"neigh replace {OTHER_POD[v]} lladdr {MACS['p0']} dev a0",
        )
        net.ip(
            "b",
            f"route add {OTHER_POD[v]}/{bits} via {NODE_A[v]}",
            f"route add {EGRESS[v]}/{bits} via {NODE_A[v]}",
            f"route add blackhole {DEAD[v]}/{bits}",
            f"route add blackhole {STRANGER[v]}/{bits}",
        )
        net.ip(
            "x",
            f"addr add {WORLD[v]}/{_PREFIX[v]} dev x0 {flag}",
            f"neigh replace {WORLD_SIDE[v]} lladdr {MACS['b0']} dev x0",
            f"route add default via {WORLD_SIDE[v]}",
        )


def masquerade(net: Network, letter: str, device: str) -> None:
    """What leaves ``device`` gets its address, in both families."""
    rule = f'type nat hook postrouting priority 100; oifname "{device}" masquerade'
    net.nft(letter, f"table inet bench {{ chain out {{ {rule}\n}}\n}}\n")


def kernel_vxlan(net: Network) -> None:
    """The kernel's overlay: the route to the other node's pod leads through a VXLAN device."""
    for letter, own, other in (("a", NODE_A, NODE_B), ("b", NODE_B, NODE_A)):
        number = "1" if letter == "a" else "2"
        net.ip(
            letter,
            f"link add vx0 address 0e:58:00:00:08:0{number} type vxlan id 66 local {own[4]}"
            f" remote {other[4]} dstport 8472 dev {letter}1 noudpcsum nolearning",
            "link set vx0 up",
            f"addr add 10.66.8.{number}/24 dev vx0",
            f"addr add fd66:8::{number}/64 dev vx0 nodad",
        )
        with netns.enter(net.space(letter)):
            set_sysctl("net/ipv4/conf/vx0/rp_filter", "0")
    net.ip(
        "a",
        "neigh replace 10.66.8.2 lladdr 0e:58:00:00:08:02 dev vx0",
        "neigh replace fd66:8::2 lladdr 0e:58:00:00:08:02 dev vx0",
        f"route replace {FAR_POD[4]}/32 via 10.66.8.2",
        f"route replace {FAR_POD[6]}/128 via fd66:8::2",
    )


#: Locators of both nodes, and their SIDs for the pod behind each by family.
LOCATORS = {"a": "fcbb:bb00:1::/48", "b": "fcbb:bb00:2::/48"}
SIDS = {
    "a": {4: "fcbb:bb00:1:e004::", 6: "fcbb:bb00:1:e006::"},
    "b": {4: "fcbb:bb00:2:e004::", 6: "fcbb:bb00:2:e006::"},
}


def seg6_out(net: Network, letter: str = "a", mode: str = "encap.red") -> None:
    """A node's kernel sends what is for the other node's pod to its SIDs."""
    near = letter == "a"
    to, sids = (FAR_POD, SIDS["b"]) if near else (POD, SIDS["a"])
    own, other = (NODE_A, NODE_B) if near else (NODE_B, NODE_A)
    net.ip(
        letter,
        f"sr tunsrc set {own[6]}",
        f"route replace {LOCATORS['b' if near else 'a']} via {other[6]}",
        *(
            f"route replace {to[v]}/{bits} encap seg6 mode {mode} segs {sids[v]} dev {letter}1"
            for v, bits in ((4, 32), (6, 128))
        ),
    )


def seg6_in(net: Network) -> None:
    """Node b's kernel opens what is for its SIDs: End.DX4 and End.DX6."""
    net.ip(
        "b",
        *(
            f"route add {SIDS['b'][v]}/128"
            f" encap seg6local action End.DX{v} nh{v} {FAR_POD[v]} dev b0"
            for v in (4, 6)
        ),
    )


def tracked(net: Network) -> None:
    """Both kernels track connections, as our nodes do; of decapsulated packets, too."""
    rule = "type filter hook forward priority 0; ct state new,established,related accept"
    for letter in "ab":
        with netns.enter(net.space(letter)):
            set_sysctl("net/netfilter/nf_hooks_lwtunnel", "1")
        net.nft(letter, f"table inet bench {{ chain through {{ {rule}\n}}\n}}\n")


def _batch(lines: list[str] | tuple[str, ...], *options: str) -> None:
    subprocess.run(
        ["ip", *options, "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True
    )
