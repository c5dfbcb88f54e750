"""The direct path of egress: which addresses want it, echoes, what their answers prove. Pure.

A node sends an echo with an egress address and a port of its own straight to each gateway of the
address, and a gateway answers over the overlay (``bpf/include/direct.h``). The fabric carries the
source when the answers come. Three in a row open the direct path, three that are missing close it.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from gateway.blocks import block_ports, size_of
from gateway.members import GatewayKey
from gateway.policy import EgressPolicy
from mesh.core.address import decode_address, encode_address, packed
from mesh.core.checksum import checksum
from mesh.core.feature import Entry
from mesh.core.model import IP, Node
from mesh.identity.addresses import tunnel_endpoint

MAP, ECHO_MAP = "mg_direct", "mg_direct_echo"
#: Seconds between echoes; from an echo to the look at its answer; for which the kernel has the
#: agent's word. A word outlives one look that comes late.
ROUND_S, ANSWER_S, WORD_S = 5.0, 1.0, 12.0
#: Answers in a row that open the direct path, and missing ones that close it.
GOOD, MISSED = 3, 3

#: Bytes of an echo behind the UDP header: it becomes an answer of a fixed size (``PROBE_SIZE``).
_BODY = 72
_V4, _V6, _UDP = (
    struct.Struct("!BBHHHBBH4s4s"),
    struct.Struct("!IHBB16s16s"),
    struct.Struct("!HHHH"),
)
_UDP_PROTOCOL, _TTL = 17, 64


@dataclass(frozen=True, slots=True)
class Proof:
    """What the echoes of an address to a gateway have shown."""

    good: int = 0
    missed: int = 0
    holds: bool = False

    def after(self, *, answered: bool) -> Proof:
        """With one more echo."""
        good, missed = (self.good + 1, 0) if answered else (0, self.missed + 1)
        holds = missed < MISSED if self.holds else good >= GOOD
        return Proof(good, missed, holds)


@dataclass(frozen=True, slots=True)
class DirectAsk:
    """Where the echoes of an address to a gateway go, and from which port of the node."""

    to: IP
    port: int


def wanted(policies: Iterable[EgressPolicy]) -> set[IP]:
    """The egress addresses of which all policies say ``outbound: direct``."""
    direct, others = set[IP](), set[IP]()
    for policy in policies:
        (direct if policy.outbound == "direct" else others).update(policy.addresses)
    return direct - others


def asks(
    addresses: Collection[IP],
    sets: Mapping[IP, tuple[IPv4Address, ...]],
    own_blocks: Mapping[IP, tuple[int, ...]],
    nodes: Iterable[Node],
    own: IPv4Address,
    block_size: int,
) -> dict[GatewayKey, DirectAsk]:
    """The echoes of a node: of each address of which it has ports and is no gateway.

    A gateway without an address of the family gets none, and proves nothing.
    """
    found: dict[GatewayKey, DirectAsk] = {}
    by_endpoint = {endpoint: node for node in nodes if (endpoint := tunnel_endpoint(node))}
    for address in sorted(addresses, key=str):
        gateways, numbers = sets.get(address, ()), own_blocks.get(address, ())
        if own in gateways or not numbers:
            continue
        for gateway in gateways:
            node = by_endpoint.get(gateway)
            to = _address_of(node, gateway, address.version) if node else None
            if to is not None:
                size = size_of(numbers[0], block_size)
                first, _ = block_ports(numbers[0] & 0xFFFF, size)
                found[GatewayKey(address, gateway)] = DirectAsk(to, first)
    return found


def _address_of(node: Node, endpoint: IPv4Address, family: int) -> IP | None:
    if family == 4:
        return endpoint
    return next((one for one in node.addresses if one.version == family), None)


def judged(
    asked: Iterable[GatewayKey],
    before: Mapping[GatewayKey, Proof],
    sent: Mapping[GatewayKey, int],
    answers: Mapping[GatewayKey, int],
) -> dict[GatewayKey, Proof]:
    """What is known after a round: ``sent`` and ``answers`` have the numbers of its echoes.

    A gateway to which no echo went in this round is as it was.
    """
    found = {}
    for key in asked:
        proof = before.get(key, Proof())
        if key in sent:
            proof = proof.after(answered=answers.get(key) == sent[key])
        found[key] = proof
    return found


def open_addresses(
    asked: Collection[GatewayKey], proofs: Mapping[GatewayKey, Proof], down: Collection[IPv4Address]
) -> set[IP]:
    """The addresses whose packets may go straight.

    All gateways that are up have to prove it. One that is down answers nothing, and is no reason.
    """
    up = [key for key in asked if key.node not in down]
    closed = {key.address for key in up if not proofs.get(key, Proof()).holds}
    return {key.address for key in up} - closed


def packet(source: IP, to: IP, ports: tuple[int, int], number: int) -> bytes:
    """An echo as an IP packet; the kernel completes the checksum of an IPv4 header."""
    body = struct.pack("!I", number).ljust(_BODY, b"\0")
    length = _UDP.size + len(body)
    udp = _UDP.pack(*ports, length, 0)
    if isinstance(source, IPv4Address):
        head = (0x45, 0, _V4.size + length, 0, 0x4000, _TTL, _UDP_PROTOCOL, 0)
        return _V4.pack(*head, source.packed, to.packed) + udp + body
    pseudo = source.packed + to.packed + struct.pack("!II", length, _UDP_PROTOCOL)
    check = checksum(pseudo + udp + body) or 0xFFFF  # RFC 8200 8.1: never 0
    udp = _UDP.pack(*ports, length, check)
    head6 = _V6.pack(6 << 28, length, _UDP_PROTOCOL, _TTL, source.packed, to.packed)
    return head6 + udp + body


# Rows of the maps


def encode_direct(address: IP, until_ns: int) -> Entry:
    """Entry of ``mg_direct``."""
    return packed(address), {"until": until_ns}


def decode_direct(key: Any, value: Any) -> tuple[IP, int]:
    """Inverse of ``encode_direct``."""
    return decode_address(key), int(value["until"])


def encode_echo(key: GatewayKey, number: int) -> Entry:
    """Entry of ``mg_direct_echo`` before the echo is sent."""
    return {"address": encode_address(key.address), "node": int(key.node)}, {"asked": number}


def decode_echo(key: Any, value: Any) -> tuple[GatewayKey, int]:
    """The number of the last echo."""
    name = GatewayKey(decode_address(key["address"]), IPv4Address(int(key["node"])))
    return name, int(value["asked"])


def decode_answer(key: Any, value: Any) -> tuple[GatewayKey, int]:
    """The number of the last echo if it has been answered, else 0."""
    name, number = decode_echo(key, value)
    return name, number if int(value["answered"]) else 0


def unproven(
    asked: Iterable[GatewayKey], proofs: Mapping[GatewayKey, Proof], down: Collection[IPv4Address]
) -> list[GatewayKey]:
    """Gateways that are up and have not answered the last three echoes of an address."""
    return [key for key in asked if key.node not in down and _is_closed(proofs.get(key, Proof()))]


def _is_closed(proof: Proof) -> bool:
    return not proof.holds and proof.missed >= MISSED
