"""Everything that Meshgate sets on a host, and what that implies. Pure.

``docs/host.md`` is written from this table, ``meshgate host list`` shows it with its values, and
``meshgate host restore`` undoes it. Whatever sets something on a host has a row here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Undo(Enum):
    """How a setting is taken back."""

    VALUE = "its former value is written back"
    DEVICE = "it goes with its device"
    REMOVED = "it is removed"


@dataclass(frozen=True, slots=True)
class Setting:
    """``name`` may have ``{device}``; ``where`` says on which devices, in words.

    ``why`` is what needs it, ``implies`` what else changes on the host and what is done about it.
    """

    name: str
    value: str
    where: str
    why: str
    implies: str
    undo: Undo


FORWARD_4 = "net/ipv4/conf/{device}/forwarding"
FORWARD_6 = "net/ipv6/conf/{device}/forwarding"
FORWARD_ALL_6 = "net/ipv6/conf/all/forwarding"
ACCEPT_RA = "net/ipv6/conf/{device}/accept_ra"
RP_FILTER = "net/ipv4/conf/{device}/rp_filter"
RESERVED_PORTS = "net/ipv4/ip_local_reserved_ports"

_OURS = "the uplink, mg_vxlan and the devices of pods"
_PODS = "the devices of pods"

SETTINGS: Final = (
    Setting(
        FORWARD_4,
        "1",
        _OURS,
        "the kernel forwards what pods send, and looks up routes for packets of these devices",
        "these devices route IPv4. net.ipv4.ip_forward and all other devices stay as they are",
        Undo.VALUE,
    ),
    Setting(
        FORWARD_ALL_6,
        "1",
        "the host",
        "Linux forwards IPv6 only when this is on, whatever the devices say",
        "Linux makes each device a router: it deletes default routes that it has learned from "
        "router advertisements, and ignores further ones, unless accept_ra is 2. So accept_ra "
        "becomes 2 first, where it was 1, and other devices are hosts again afterwards",
        Undo.VALUE,
    ),
    Setting(
        FORWARD_6,
        "1",
        _OURS,
        "the kernel looks up IPv6 routes for packets of these devices",
        "these devices are routers: they ignore router advertisements unless accept_ra is 2",
        Undo.VALUE,
    ),
    Setting(
        RESERVED_PORTS,
        "masquerade.ports beside what is there",
        "the host, with masquerade",
        "these ports of the node's address stand for its pods",
        "the kernel gives none of them to a socket of the host that asks for any port. A program "
        "that asks for one of them by its number gets it, and answers from a remote to which a pod "
        "has the same port go to the pod",
        Undo.VALUE,
    ),
    Setting(
        ACCEPT_RA,
        "2",
        "the uplink, where it was 1",
        "the default route and addresses that the uplink has learned from router advertisements "
        "stay, although it forwards",
        "whoever sends router advertisements on the uplink's link goes on setting the host's "
        "default route, as before",
        Undo.VALUE,
    ),
    Setting(
        ACCEPT_RA.replace("{device}", "{pod}"),
        "0",
        _PODS,
        "a pod must not give the host a default route",
        "none for other devices",
        Undo.DEVICE,
    ),
    Setting(
        RP_FILTER.replace("{device}", "{pod}"),
        "0",
        _PODS,
        "answers to a pod may come another way than its packets go",
        "the source of a pod's packets is checked by mg_from_pod instead. Where "
        "net.ipv4.conf.all.rp_filter is 1 or 2, that one counts",
        Undo.DEVICE,
    ),
    Setting(
        "link mg_vxlan",
        "up",
        "the host",
        "the kernel merges and splits UDP packets of the overlay, and fragments outer packets",
        "UDP port 8472 of the host (`overlayPort`; beside another CNI 8473) belongs to it: no "
        "other VXLAN device can use this port",
        Undo.REMOVED,
    ),
    Setting(
        "links mgp*",
        "up",
        "one for each pod",
        "the host's end of each pod's veth",
        "network managers must leave devices alone whose name begins with mgp",
        Undo.REMOVED,
    ),
    Setting(
        "routes proto 77",
        "present",
        "the host",
        "a route to each pod of this node, an unreachable route for each network that the node "
        "announces, and routes through the overlay",
        "routing daemons must not redistribute routes of protocol 77",
        Undo.REMOVED,
    ),
    Setting(
        "rules proto 77",
        "present",
        "the host; not beside another CNI",
        "fragments that come out of order are gathered by the kernel and go back to the datapath "
        "by mg_vxlan: one rule for each family, for packets with the mark 0x6d676672",
        "the kernel gathers all fragments that the host forwards (a netfilter link of BPF), as it "
        "does where connection tracking is on",
        Undo.REMOVED,
    ),
    Setting(
        "programs tcx",
        "attached",
        _OURS,
        "the datapath: mg_from_uplink, mg_to_uplink, mg_from_vxlan, mg_to_vxlan, mg_from_pod, "
        "mg_to_pod at tcx",
        "what they redirect is seen neither by netfilter nor by tcpdump on the device that it "
        "would have left through. No qdisc is added",
        Undo.REMOVED,
    ),
    Setting(
        "kernel rcu_expedited",
        "1, for a millisecond",
        "the host",
        "the kernel waits 12 ms after each program that comes to a device or goes, and lets nobody "
        "change a device meanwhile; a pod's start has two of these waits",
        "while a pod's programs are attached, and while its device goes, grace periods of the "
        "whole kernel interrupt all busy processors, as they do in other steps of a device's end. "
        "A host whose switch is on, or cannot be written, stays as it is",
        Undo.VALUE,
    ),
    Setting(
        "programs cgroup",
        "attached",
        "the cgroup of the agent's configuration",
        "sockets are connected to a backend in place of a service's address",
        "netstat shows the backend's address for sockets of processes below the cgroup",
        Undo.REMOVED,
    ),
    Setting(
        "pins bpffs",
        "present",
        "the directory of the agent's configuration",
        "maps, programs and links outlive the agent",
        "/sys/fs/bpf is mounted where it was not",
        Undo.REMOVED,
    ),
)


def why(name: str) -> str:
    """Why a setting of this name is made; a name has its device in it."""
    for one in SETTINGS:
        head, _, tail = one.name.partition("{")
        tail = tail.partition("}")[2]
        if name.startswith(head) and name.endswith(tail) and "{" in one.name:
            return one.why
        if name == one.name:
            return one.why
    return ""
