"""Egress addresses on layer 2: MAC addresses, frames, rows of ``mg_layer2``, who speaks. Pure.

One node speaks for an address on the segment of the gateways' uplinks: the owner with the greatest
epoch (``claims.OWNER``). ``bpf/include/layer2.h`` judges each packet by these rows.

Times. A node says every ``BEAT_S`` that it is there, and each time after that gives its kernel a
word for ``WORD_S``. So the word of an owner that hangs ends at least ``WORD_S - BEAT_S - PUT_S`` =
8.2 s after its last beat. The controllers take another owner when they have heard no beat for
``STALE_S``, which they look at every ``LOOK_S``: 5.5 s after it. The new owner has 2.7 s to start
before the old one ends.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import numpy as np

from gateway.witnesses import witnesses
from mesh.core.address import decode_address, packed
from mesh.core.checksum import checksum
from mesh.core.feature import Entry
from mesh.core.model import IP, Claim, ClaimKey

MAP, SEEN_MAP = "mg_layer2", "mg_layer2_seen"
#: Seconds between beats, until one counts as lost, and for which the kernel has the agent's word.
BEAT_S, PUT_S, WORD_S = 1.0, 0.8, 10.0
#: Seconds without a beat, after which a node is not there, and between looks at it.
STALE_S, LOOK_S = 5.0, 0.5
#: Seconds without a beat from which on a gateway was away; it then is no witness for ``UNSURE_S``.
AWAY_S = 2.5
#: Seconds in which a gateway has answered, when it counts as one that answers.
ANSWERED_S = 3.0
#: Seconds for which frames for the virtual MAC address are taken after another has become owner.
LEFT_S = 120.0
#: Seconds after a take-over in which it is announced, and between announcements from then on.
ANNOUNCED_S = (0.0, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0)
ANNOUNCE_S, CLAIM_S = 60.0, 5.0

_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_CLAIM = struct.Struct("=B7xI4x")
_ALL, _NODES_MAC = b"\xff" * 6, bytes.fromhex("333300000001")
_NODES = IPv6Address("ff02::1")
#: Bytes behind the inner Ethernet header of a claim (``PROBE_SIZE``).
_CLAIM_SIZE = 100
_LOCAL = b"\x02\0"


class Layer2State(IntEnum):
    """``enum layer2_state``."""

    STANDS_BY = 0
    OWNS = 1
    LEFT = 2


@dataclass(frozen=True, slots=True)
class Layer2Row:
    """Value of ``mg_layer2``; ``until_ns`` is CLOCK_MONOTONIC, ``before`` the owner before."""

    state: Layer2State
    epoch: int = 0
    before: IPv4Address | None = None
    until_ns: int = 0


@dataclass(frozen=True, slots=True)
class SegmentOwner:
    """The owner of an address as the claims say it; ``before`` is who was it before, if known."""

    node: str
    epoch: int
    before: str = ""


def virtual_mac(address: IP) -> bytes:
    """The MAC address of an egress address: the same on each gateway, locally administered."""
    return b"\x02" + sha256(b"meshgate " + address.packed).digest()[:5]


def mac_text(mac: bytes) -> str:
    """As ``ip link`` prints it."""
    return mac.hex(":")


def solicited_mac(address: IPv6Address) -> bytes:
    """Where questions for an address go on Ethernet; Source: RFC 4291 2.7.1, RFC 2464 7."""
    return b"\x33\x33\xff" + address.packed[13:]


def filter_macs(addresses: Iterable[IP]) -> dict[str, None]:
    """What an uplink has to let in for its addresses on layer 2."""
    macs: dict[str, None] = {}
    for address in addresses:
        macs[mac_text(virtual_mac(address))] = None
        if isinstance(address, IPv6Address):
            macs[mac_text(solicited_mac(address))] = None
    return macs


def pause_s(due_s: Collection[float], now_s: float) -> float | None:
    """Seconds until the next announcement; None: none is due until an address is taken over."""
    return max(0.0, min(due_s) - now_s) if due_s else None


# Frames


def announcements(address: IP) -> tuple[bytes, ...]:
    """What tells a segment whose MAC address an egress address has.

    For IPv4 a gratuitous ARP in both forms (RFC 5227 3, RFC 5944 4.6), for IPv6 an unsolicited
    advertisement with the override flag (RFC 4861 7.2.6).
    """
    mac = virtual_mac(address)
    if isinstance(address, IPv6Address):
        return (_advertisement(address, mac),)
    own = address.packed
    head = _ETHERNET.pack(_ALL, mac, 0x0806)
    return tuple(
        head + _ARP.pack(1, 0x0800, 6, 4, operation, mac, own, target, own) + bytes(18)
        for operation, target in ((1, bytes(6)), (2, mac))
    )


def _advertisement(address: IPv6Address, mac: bytes) -> bytes:
    body = bytes([136, 0, 0, 0, 0x20, 0, 0, 0]) + address.packed + b"\x02\x01" + mac
    pseudo = address.packed + _NODES.packed + struct.pack("!II", len(body), 58)
    check = checksum(pseudo + body)
    body = body[:2] + check.to_bytes(2, "big") + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), 58, 255)
    ethernet = _ETHERNET.pack(_NODES_MAC, mac, 0x86DD)
    return ethernet + header + address.packed + _NODES.packed + body


def claim_frame(gateway: IPv4Address, address: IP, epoch: int, protocol: int, kind: int) -> bytes:
    """What the overlay's device sends to a gateway as the claim of an address."""
    body = _CLAIM.pack(kind, epoch & 0xFFFFFFFF) + packed(address)
    ethernet = _ETHERNET.pack(_LOCAL + gateway.packed, _LOCAL * 3, protocol)
    return ethernet + body.ljust(_CLAIM_SIZE, b"\0")


# Owners


def owner_of(held: Collection[Claim], resting: Collection[Claim]) -> SegmentOwner | None:
    """The owner by the claims of one address: the greatest epoch among those that are held."""
    if not held:
        return None
    last = max(held, key=lambda claim: claim.epoch)
    others = [claim for claim in (*held, *resting) if claim.owner != last.owner]
    before = max(others, key=lambda claim: claim.epoch, default=None)
    return SegmentOwner(last.owner, last.epoch, before.owner if before else "")


def preferred(address: IP, nodes: Iterable[str]) -> list[str]:
    """Nodes in the order in which they become owner: addresses are spread over them."""
    return sorted(nodes, key=lambda n: sha256(address.packed + n.encode()).digest())


def chosen(
    address: IP,
    gateways: Collection[str],
    current: str,
    alive: Collection[str],
    barred: Collection[str] = (),
) -> str:
    """Who is to own the address; empty: nobody can.

    An owner stays as long as it lives and is a gateway. ``alive`` are the nodes that say that they
    are there and that answer. ``barred`` are those that still hold an older claim of the address:
    they would come back with an epoch that is not the greatest.
    """
    if current in gateways and current in alive:
        return current
    able = [one for one in gateways if one in alive and one not in barred]
    if able:
        return preferred(address, able)[0]
    return current if current in gateways else ""


def down_nodes(silent_to: Mapping[str, Collection[str]]) -> set[str]:
    """Nodes that do not answer, by which nodes get no answer from each."""
    return {node for node in silent_to if witnesses(node, silent_to)}


# Rows of the maps


def encode_row(address: IP, row: Layer2Row) -> Entry:
    """Entry of ``mg_layer2``."""
    return packed(address), {
        "until": row.until_ns,
        "epoch": row.epoch & 0xFFFFFFFF,
        "before": int(row.before) if row.before else 0,
        "mac": list(virtual_mac(address)),
        "state": int(row.state),
    }


def decode_row(key: Any, value: Any) -> tuple[IP, Layer2Row]:
    """Inverse of ``encode_row``."""
    before = int(value["before"])
    return decode_address(key), Layer2Row(
        Layer2State(int(value["state"])),
        int(value["epoch"]),
        IPv4Address(before) if before else None,
        int(value["until"]),
    )


def encode_new(address: IP, _: None) -> Entry:
    """A new entry of ``mg_layer2_seen``; what stands in one is the datapath's alone."""
    return packed(address), np.uint32(0).tobytes()


def decode_key(key: Any, _: Any) -> tuple[IP, None]:
    """Whether there is an entry, whatever it says."""
    return decode_address(key), None


def decode_seen(key: Any, value: Any) -> tuple[IP, int]:
    """The greatest epoch that another gateway has shown; 0: none has shown any."""
    return decode_address(key), int(value)


def is_later(epoch: int, other: int) -> bool:
    """Whether an epoch is greater than another one, as the datapath compares them."""
    return 0 < (epoch - other) & 0xFFFFFFFF < 1 << 31


def address_of_claim(key: ClaimKey) -> IP | None:
    """The address of an owner's claim; None when the claim is none."""
    try:
        return ip_address(key.pool)
    except ValueError:
        return None
