"""The last events of this node, kept as arrays, and decoded to flows at a question.

The agent drains the ring buffer into ``Flows.append``, which copies arrays and decodes nothing.
Every event keeps its sequence number, so a follower knows which events it has seen and which it
missed. Names are looked up at a question, by callables that the agent gives (``Names``).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import numpy as np
import numpy.typing as npt

from mesh.core.model import IP, PodKey, ServiceKey

Events = npt.NDArray[Any]
Sequences = npt.NDArray[np.int64]

#: Events kept: about 2 MB.
KEPT = 16384
#: A smaller step of the wall clock leaves times as they are: one event, one time.
_CLOCK_JITTER_NS = 1_000_000
FORWARDED, DROPPED = 1, 2
TCP, UDP, SCTP = 6, 17, 132
ICMP = (1, 58)
#: Protocols by the names that the CLI prints; others print their number.
PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
_WITH_PORTS = (TCP, UDP, SCTP)
_MAPPED = bytes(10) + b"\xff\xff"
_RESERVED = {
    1: "host",
    2: "world",
    3: "unmanaged",
    4: "health",
    5: "init",
    6: "remote-node",
    7: "kube-apiserver",
    8: "ingress",
    9: "world-ipv4",
    10: "world-ipv6",
}
_NAMESPACE_LABEL = "k8s:io.kubernetes.pod.namespace="
_SPELLING = {
    "ct": "CT",
    "fib": "FIB",
    "icmp": "ICMP",
    "id": "ID",
    "ip": "IP",
    "ipv4": "IPv4",
    "ipv6": "IPv6",
    "l3": "L3",
    "l4": "L4",
    "mtu": "MTU",
    "nat": "NAT",
    "sid": "SID",
    "srv6": "SRv6",
    "tcp": "TCP",
    "ttl": "TTL",
}


@dataclass(frozen=True, slots=True)
class Names:
    """Turns numbers into names.

    They are the labels of an identity in wire form, the pod of an address, the cluster of an
    identity by its upper bits, and the service of an address, port and protocol.
    """

    labels: Callable[[int], str] = lambda _identity: ""
    pod: Callable[[IP], PodKey | None] = lambda _address: None
    cluster: Callable[[int], str] = lambda _identity: ""
    service: Callable[[IP, int, str], ServiceKey | None] = lambda _address, _port, _protocol: None


@dataclass(frozen=True, slots=True)
class End:
    """One end of a flow; ``port`` is None where the protocol has none."""

    address: IP
    port: int | None
    identity: int
    labels: tuple[str, ...]
    cluster: str
    namespace: str
    pod: str


@dataclass(frozen=True, slots=True)
class Flow:
    """One event, decoded.

    ``translated`` is the source after egress translation, ``sender`` the node whose tunnel it came
    by, ``service`` the one that the sender's socket had asked for.

    ``lost`` are drops of its reason, ``unshown`` events of its sender, that were left out before
    it, since the last one.

    ``run`` is a random number of 80 bits, the same for all flows of a run of the agent.
    """

    run: int
    sequence: int
    time_ns: int
    source: End
    destination: End
    protocol: int
    verdict: int
    reason: int
    point: int
    tcp_flags: int
    icmp: tuple[int, int] | None
    translated: tuple[IP, int] | None
    lost: int
    sender: IPv4Address | None = None
    unshown: int = 0
    service: ServiceKey | None = None


def reason_texts(enum: Mapping[str, int]) -> dict[int, str]:
    """Text of each drop reason, from the names of BTF's ``enum drop_reason``."""
    return {number: _text(name) for name, number in enum.items()}


def _text(name: str) -> str:
    words = [_SPELLING.get(word, word) for word in name.removeprefix("DROP_").lower().split("_")]
    text = " ".join(words)
    return text[:1].upper() + text[1:]


class Flows:
    """The last ``kept`` events of one node. Written and read on the agent's event loop."""

    def __init__(
        self, cluster: str, node: str, reasons: Mapping[str, int], names: Names, kept: int = KEPT
    ) -> None:
        self.cluster = cluster
        self.node = node
        self.kept = kept
        self.texts = reason_texts(reasons)
        self.end = 0  # sequence number of the next event
        self._names = names
        self._ring: Events | None = None
        self._grown = asyncio.Event()
        self._boot_ns = 0
        self._run = secrets.randbits(80)

    @property
    def begin(self) -> int:
        """Sequence number of the oldest event kept."""
        return max(0, self.end - self.kept)

    def append(self, events: Events) -> None:
        """Keep events of the ring buffer, in its order."""
        if not len(events):
            return
        if self._ring is None:
            self._ring = np.zeros(self.kept, events.dtype)
        self.end += len(events)
        last = events[-self.kept :]
        self._ring[np.arange(self.end - len(last), self.end) % self.kept] = last
        self._grown.set()
        self._grown = asyncio.Event()

    async def grown(self) -> None:
        """Wait for the next events."""
        await self._grown.wait()

    def select(self, since_ns: int | None = None, until_ns: int | None = None) -> Sequences:
        """Sequence numbers of the kept events between two wall-clock times, oldest first."""
        sequences = np.arange(self.begin, self.end, dtype=np.int64)
        if self._ring is None or (since_ns is None and until_ns is None):
            return sequences
        times = self._ring["time"][sequences % self.kept].astype(np.int64) + self._wall_ns()
        inside = np.ones(len(sequences), bool)
        if since_ns is not None:
            inside &= times >= since_ns
        if until_ns is not None:
            inside &= times <= until_ns
        return sequences[inside]

    def decode(self, sequences: Sequences) -> list[Flow]:
        """The flows of these events; those no longer kept are left out."""
        kept = sequences[sequences >= self.begin]
        if self._ring is None or not len(kept):
            return []
        events = self._ring[kept % self.kept]
        return _decode(self._run, kept, events, self._names, self._wall_ns())

    def _wall_ns(self) -> int:
        """Nanoseconds from CLOCK_MONOTONIC to the wall clock.

        They change only when the wall clock is set.
        """
        now = time.time_ns() - time.monotonic_ns()
        if abs(now - self._boot_ns) > _CLOCK_JITTER_NS:
            self._boot_ns = now
        return self._boot_ns


def _decode(
    run: int, sequences: Sequences, events: Events, names: Names, boot_ns: int
) -> list[Flow]:
    end = cache(_end(names))
    names_of = [name for name in events.dtype.names or () if not name.startswith("pad")]
    column = {name: events[name].tolist() for name in names_of}
    sources, destinations = _addresses(events["source"]), _addresses(events["destination"])
    translated = _addresses(events["translated"])
    none = [0] * len(sequences)  # of builds before
    senders, unshown = column.get("sender", none), column.get("unshown", none)
    ports_asked = column.get("service_port", none)
    asked = _addresses(events["service"]) if "service" in column else ()
    service = cache(names.service)
    flows = []
    for i, sequence in enumerate(sequences.tolist()):
        protocol, first = column["protocol"][i], column["source_port"][i]
        icmp = divmod(first, 256) if protocol in ICMP else None
        ports = protocol in _WITH_PORTS
        flows.append(
            Flow(
                run=run,
                sequence=sequence,
                time_ns=column["time"][i] + boot_ns,
                source=end(sources[i], first if ports else None, column["source_identity"][i]),
                destination=end(
                    destinations[i],
                    column["destination_port"][i] if ports else None,
                    column["destination_identity"][i],
                ),
                protocol=protocol,
                verdict=column["verdict"][i],
                reason=column["reason"][i],
                point=column["point"][i],
                tcp_flags=column["tcp_flags"][i] if protocol == TCP else 0,
                icmp=icmp,
                translated=(translated[i], column["translated_port"][i])
                if int(translated[i])
                else None,
                lost=column["lost"][i],
                sender=IPv4Address(senders[i]) if senders[i] else None,
                unshown=unshown[i],
                service=service(asked[i], ports_asked[i], PROTOCOLS.get(protocol, ""))
                if ports_asked[i]
                else None,
            )
        )
    return flows


def _addresses(column: Events) -> list[IP]:
    raw = np.ascontiguousarray(column).tobytes()
    return [_address(raw[at : at + 16]) for at in range(0, len(raw), 16)]


def _address(raw: bytes) -> IP:
    return IPv4Address(raw[12:]) if raw.startswith(_MAPPED) else IPv6Address(raw)


def _end(names: Names) -> Callable[[IP, int | None, int], End]:
    labels = cache(lambda identity: _labels(names, identity))
    pod, cluster = cache(names.pod), cache(names.cluster)

    def end(address: IP, port: int | None, identity: int) -> End:
        own, key = labels(identity), pod(address)
        whose = cluster(identity)  # whatever the labels say: the number was checked
        if key:
            where = (whose or key.cluster, key.namespace, key.name)
        else:
            where = (whose, _value(own, _NAMESPACE_LABEL), "")
        return End(address, port, identity, own, *where)

    return end


def _labels(names: Names, identity: int) -> tuple[str, ...]:
    wire = names.labels(identity)
    if not wire and identity in _RESERVED:
        return (f"reserved:{_RESERVED[identity]}",)
    return tuple(label.removesuffix("=") for label in wire.split(";") if label)


def _value(labels: tuple[str, ...], prefix: str) -> str:
    return next((label[len(prefix) :] for label in labels if label.startswith(prefix)), "")
