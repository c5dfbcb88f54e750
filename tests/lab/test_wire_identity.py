"""What is on the wire: the sender's identity for every pair of pods, and never a covered pod."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from running import Lab, wait
from wiretap import FAMILIES, opened, taps

NODES = ("east-1", "east-2", "east-3", "west-1", "west-2", "west-3")
COVERED = ("east/shop/client-1", "east/shop/client-2")  # on a node, and on the gateway itself
UNTRANSLATABLE = {"GRE": 47, "ESP": 50, "SCTP": 132, "IPIP": 4, "UDP-Lite": 136}


@pytest.fixture(scope="module")
def pods(lab: Lab) -> dict[str, dict[str, Any]]:
    return {f"{r['cluster']}/{r['namespace']}/{r['name']}": r for r in lab.table("pod")}


def addresses(pod: dict[str, Any]) -> list[IPv4Address | IPv6Address]:
    return [ip_address(text) for text in pod["addresses"]]


def send_everywhere(lab: Lab, pods: dict[str, dict[str, Any]], name: str) -> None:
    """A datagram from a pod to every other one, in both families; each arrives."""
    for at, family in enumerate(FAMILIES):
        with opened(lab, name, family, socket.SOCK_DGRAM) as sender:
            for other in pods.keys() - {name}:
                target = (pods[other]["addresses"][at], 9555)
                with opened(lab, other, family, socket.SOCK_DGRAM) as receiver:
                    receiver.bind(target)
                    sender.sendto(b"x", target)
                    assert receiver.recvfrom(10)[1][0] == pods[name]["addresses"][at]


def test_the_vni_is_the_senders_identity_for_all_132_pairs(
    lab: Lab, pods: dict[str, dict[str, Any]]
) -> None:
    """Pairs on one node never show up; no pod's packet is on the wire without the overlay."""
    assert len(pods) == 12
    rows = {address: row for row in pods.values() for address in addresses(row)}
    endpoints = {row["name"]: ip_address(row["addresses"][0]) for row in lab.table("node")}
    with taps(lab, *NODES, device="uplink") as made:
        for name in pods:
            send_everywhere(lab, pods, name)
        seen = [packet for tap in made.values() for packet in tap.packets()]
    mine = [packet for packet in seen if packet.source in rows and packet.destination in rows]
    for packet in mine:
        row = rows[packet.source]
        assert (packet.vni, packet.sender) == (row["identity"], endpoints[row["node"]]), packet
    wanted = {
        (a, b)
        for a, one in rows.items()
        for b, other in rows.items()
        if a.version == b.version and one["node"] != other["node"]
    }
    assert {(packet.source, packet.destination) for packet in mine} == wanted


@pytest.mark.parametrize("pod", COVERED)
def test_what_cannot_be_translated_is_dropped_and_counted(lab: Lab, pod: str) -> None:
    """In both families, whole and in fragments."""
    sent, before = 0, dropped(lab, 168)
    legacy = [ip_address(address) for address in lab.shown["legacy"]["addresses"]]
    with taps(lab, "router") as made:
        for protocol in UNTRANSLATABLE.values():
            for family, address in zip(FAMILIES, legacy, strict=True):
                with opened(lab, pod, family, socket.SOCK_RAW, protocol) as raw:
                    for size in (40, 3000):
                        raw.sendto(os.urandom(size), (str(address), 0))
                        sent += 1
        wait(lambda: dropped(lab, 168) >= before + sent, 5, "they are counted")
        leaked = [p for p in made["router"].packets() if p.destination in legacy]
    assert not [packet for packet in leaked if packet.protocol in UNTRANSLATABLE.values()]


def dropped(lab: Lab, number: int) -> int:
    """Packets dropped for one reason, over all nodes."""
    return sum(row["packets"] for row in lab.table("drop") if row["number"] == number)


@pytest.mark.parametrize("pod", COVERED)
def test_a_packet_of_legacy_to_the_pods_own_address_opens_no_way_out(
    lab: Lab, pods: dict[str, dict[str, Any]], pod: str
) -> None:
    """The pod's flow is translated before and after; the stranger does not get in."""
    legacy, own = lab.shown["legacy"], pods[pod]["addresses"][0]
    remote = (legacy["addresses"][0], legacy["udp"])
    body = b"\x1b\x5f" * 4  # any payload
    with (
        opened(lab, pod, socket.AF_INET, socket.SOCK_DGRAM) as flow,
        opened(lab, "legacy", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as stranger,
        taps(lab, "router") as made,
    ):
        flow.bind((own, 9200))
        flow.sendto(b"one", remote)
        assert flow.recv(10) == b"one"
        head = remote[1].to_bytes(2, "big") + (9200).to_bytes(2, "big") + b"\0\x10\0\0"
        stranger.sendto(head + body, (own, 0))
        flow.sendto(b"two", remote)
        assert flow.recv(10) == b"two"
        seen = [p for p in made["router"].packets() if p.vni is None]
    assert ip_address(own) not in {packet.source for packet in seen}
