"""Egress addresses on layer 2, on a gateway: the agent's part of ``bpf/include/layer2.h``.

    gateways, pools, claims of owners -> layer 2 -> mg_layer2, filter of the uplink
    etcd or a gateway that answers    -> until when the kernel may speak
    a take-over                       -> claims to the other gateways, ARP and NDP to the segment
    what the datapath sees of others  -> beats, by which controllers choose owners

The kernel speaks without this process, for ``layer2.WORD_S`` after its last word.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any, Protocol

from gateway import layer2, live
from gateway.findings import MAC_REFUSED, TWO_OWNERS, WORD_ENDED
from gateway.layer2 import Layer2Row, Layer2State
from gateway.live import LiveState
from gateway.members import GatewayKey, GatewayRow
from gateway.owners import on_layer2, owners
from gateway.pool import EgressPool
from gateway.witnesses import Witness
from mesh.core.address import packed
from mesh.core.feature import AgentFeature, Maps
from mesh.core.model import IP, Beat, Finding, Node, NodeKey
from mesh.core.reconcile import Errors, Loop
from mesh.core.sources import ClaimTables
from mesh.core.table import Source, Table
from mesh.identity.addresses import tunnel_endpoint

log = logging.getLogger(__name__)

#: Seconds between looks at which gateways answer, and at whether a row has reached its map.
WATCH_S, WRITTEN_S = 0.02, 0.002
#: Seconds for which a row may be on its way into its map.
PATIENCE_S = 1.0

NamedFrame = tuple[str, bytes]


class Says(Protocol):
    """Writes what this node says into the store; raises OSError."""

    async def __call__(self, beat: Beat) -> None: ...


class Filter(Protocol):
    """The filter of a device; each call raises OSError."""

    async def macs(self, ifindex: int) -> set[str]:
        """What it takes beside the device's own address."""

    async def add_mac(self, ifindex: int, mac: str) -> None:
        """Let a MAC address in; one that is there is no error."""

    async def delete_mac(self, ifindex: int, mac: str) -> None:
        """Let it in no more; an absent one is no error."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The uplink, the overlay's device, and this node on them."""

    uplink: str
    ifindex: int
    overlay: str
    endpoint: IPv4Address


class Layer2Agent(AgentFeature):
    """``members`` are the gateways of each address with this node's part, ``of_address`` by name.

    ``says`` writes a beat.
    """

    def __init__(
        self,
        own: NodeKey,
        segment: Segment,
        filter_: Filter,
        pools: Table[str, EgressPool],
        members: Table[GatewayKey, GatewayRow],
        of_address: Table[IP, tuple[Node, ...]],
        owned: ClaimTables,
        says: Says,
    ) -> None:
        self._own, self._segment = own, segment
        self._pools, self._members, self._of_address = pools, members, of_address
        self._owned, self._says = owned, says
        self.rows: Table[IP, Layer2Row] = Table("layer 2")
        self.seen: Table[IP, None] = Table("epochs seen on layer 2")
        self.macs: Table[str, None] = Table("virtual MAC address")
        self._filter = UplinkFilter(filter_, segment.ifindex)
        self._left: dict[IP, float] = {}
        #: The other gateways of addresses on layer 2.
        self._gateways: list[IPv4Address] = []
        self._beaten = 0
        self._silent: tuple[IPv4Address, ...] = ()
        self._witness = Witness()
        self._maps: Maps | None = None
        self._numbers: Mapping[str, int] = {}
        self._taken = asyncio.Event()
        self._announced: dict[IP, _Announcing] = {}

    async def recover(self, maps: Maps) -> None:
        self._maps = maps
        self._numbers = {**maps.enum("echo_number"), **maps.enum("echo_kind")}
        recovered = await maps.rows(layer2.MAP, layer2.encode_row, layer2.decode_row).read()
        self.rows.upsert(recovered)
        self._filter.known.update(layer2.filter_macs(recovered))

    def derive(self, loop: Loop) -> None:
        inputs: list[Source] = [self._pools, self._members, self._owned.held]
        loop.derive(inputs, self._judge, [self._of_address], name="layer 2")

    def apply(self, loop: Loop, maps: Maps) -> None:
        capacity = maps.capacity(layer2.MAP)
        seen = maps.rows(layer2.SEEN_MAP, layer2.encode_new, layer2.decode_key)
        first = loop.apply(self.seen, seen, capacity=capacity)
        rows = maps.rows(layer2.MAP, layer2.encode_row, layer2.decode_row)
        loop.apply(self.rows, rows, [first], capacity=capacity)

    def apply_routes(self, loop: Loop) -> None:
        loop.apply(self.macs, self._filter)

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self._beat_for_ever, self._announce_for_ever)

    # What this node is to each address

    def _judge(self) -> None:
        """Of all addresses on layer 2 of which this node takes packets."""
        now_s, now_ns = time.monotonic(), time.monotonic_ns()
        found = owners(self._owned.held.rows, self._owned.resting.rows)
        endpoints = self._endpoints()
        named = on_layer2(self._pools.rows.values(), self._of_address.rows)
        names = {name for some in named.values() for name in some} - {self._own.name}
        self._gateways = sorted(endpoints[name] for name in names if name in endpoints)
        rows: dict[IP, Layer2Row] = {}
        for address in self._mine():
            owner, row = found.get(address), self.rows.rows.get(address)
            if owner and owner.node == self._own.name:
                rows[address] = self._owned_row(row, owner, endpoints, now_ns)
                self._left.pop(address, None)
                continue
            if row and row.state is Layer2State.OWNS:
                self._left[address] = now_s
            left = now_s - self._left.get(address, -layer2.LEFT_S) < layer2.LEFT_S
            epoch = owner.epoch if owner else row.epoch if row else 0
            rows[address] = Layer2Row(
                Layer2State.LEFT if left else Layer2State.STANDS_BY, epoch & 0xFFFFFFFF
            )
        for address in self._left.keys() - rows.keys():
            del self._left[address]
        self.seen.replace(dict.fromkeys(rows))
        self.rows.replace(rows)
        self.macs.replace(layer2.filter_macs(rows))
        self._taken.set()

    def _owned_row(
        self,
        row: Layer2Row | None,
        owner: layer2.SegmentOwner,
        endpoints: Mapping[str, IPv4Address],
        now_ns: int,
    ) -> Layer2Row:
        epoch, before = owner.epoch & 0xFFFFFFFF, endpoints.get(owner.before)
        if row and row.state is Layer2State.OWNS and row.epoch == epoch:
            return replace(row, before=before)
        return Layer2Row(Layer2State.OWNS, epoch, before, now_ns + int(layer2.WORD_S * 1e9))

    def _mine(self) -> list[IP]:
        """Addresses on layer 2 of which this node takes packets."""
        cidrs = [
            cidr for pool in self._pools.rows.values() if pool.announce == "L2"
            for cidr in pool.cidrs
        ]  # fmt: skip
        mine = [
            key.address
            for key, row in self._members.rows.items()
            if row.accepts and key.node == self._segment.endpoint
        ]
        return [address for address in mine if any(address in cidr for cidr in cidrs)]

    def _endpoints(self) -> dict[str, IPv4Address]:
        """Tunnel endpoints of gateways by name."""
        nodes = {node.name: node for some in self._of_address.rows.values() for node in some}
        found = {name: tunnel_endpoint(node) for name, node in nodes.items()}
        return {name: endpoint for name, endpoint in found.items() if endpoint}

    # Beats

    async def _beat_for_ever(self) -> None:
        while True:
            if self._has_something_to_say():
                await self.beat()
            await self._watch(layer2.BEAT_S)

    def _has_something_to_say(self) -> bool:
        return bool(self.rows.rows or self._silent or self._silent_now())

    async def beat(self) -> None:
        """Say that this node is there, and give the kernel a word for what has answered."""
        silent = self._silent_now()
        if silent != self._silent:
            log.info("event=silent_gateways gateways=%s", " ".join(map(str, silent)) or "none")
        self._silent = silent
        said = self._witness.says(silent, self._gateways, time.monotonic())
        self._beaten = max(self._beaten + 1, int(time.time() * 1000))
        stands = True
        try:
            async with asyncio.timeout(layer2.PUT_S):
                await self._says(Beat(self._beaten, said))
        except (OSError, TimeoutError) as error:
            log.debug("event=no_beat reason=%s", error)
            stands = False
        if self.rows.synced:
            self._judge()
        self._feed(stands=stands)

    def _feed(self, *, stands: bool) -> None:
        """``stands``: the store has answered."""
        until = time.monotonic_ns() + int(layer2.WORD_S * 1e9)
        self.rows.upsert(
            {
                address: replace(row, until_ns=until)
                for address, row in self.rows.rows.items()
                if row.state is Layer2State.OWNS and (stands or self._is_with_others(address))
            }
        )

    def _is_with_others(self, address: IP) -> bool:
        """Whether another gateway of the address has answered lately, or there is no other."""
        others = self._others(address)
        since = time.monotonic_ns() - int(layer2.ANSWERED_S * 1e9)
        return not others or any(self._heard_ns(one) > since for one in others)

    def _others(self, address: IP) -> list[IPv4Address]:
        return [
            key.node
            for key, row in self._members.rows.items()
            if key.address == address and row.sends and key.node != self._segment.endpoint
        ]

    def _live(self, gateway: IPv4Address) -> Any:
        return self._maps.lookup(live.MAP, int(gateway)) if self._maps else None

    def _heard_ns(self, gateway: IPv4Address) -> int:
        value = self._live(gateway)
        return int(value["heard"]) if value is not None else 0

    def _silent_now(self) -> tuple[IPv4Address, ...]:
        """Gateways of addresses on layer 2 that do not answer this node."""
        values = {gateway: self._live(gateway) for gateway in self._gateways}
        return tuple(
            gateway
            for gateway, value in values.items()
            if value is not None and int(value["state"]) == LiveState.DOWN
        )

    async def _watch(self, time_s: float) -> None:
        """Wait, but no longer than until other gateways answer than before."""
        end = time.monotonic() + time_s
        while time.monotonic() < end:
            await asyncio.sleep(WATCH_S if self._gateways else time_s)
            if self._silent_now() != self._silent:
                return

    # Announcements

    async def _announce_for_ever(self) -> None:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            while True:
                self._taken.clear()
                await self._announce(raw)
                due = [one.next_s for one in self._announced.values()]
                with suppress(TimeoutError):
                    async with asyncio.timeout(layer2.pause_s(due, time.monotonic())):
                        await self._taken.wait()
        finally:
            raw.close()

    async def _announce(self, raw: socket.socket) -> None:
        """Send what is due; what has just been taken over, once the kernel has its row."""
        owned = {a: row for a, row in self.rows.rows.items() if row.state is Layer2State.OWNS}
        for address in self._announced.keys() - owned.keys():
            del self._announced[address]
        for address, row in owned.items():
            known = self._announced.get(address)
            if known is None or known.epoch != row.epoch:
                await self._written(address, row.epoch)
                log.info("event=owner_of_address address=%s epoch=%d", address, row.epoch)
                known = self._announced[address] = _Announcing(row.epoch, time.monotonic())
            if known.next_s <= time.monotonic():
                self._send(raw, address, row.epoch, whole=known.advance(time.monotonic()))

    async def _written(self, address: IP, epoch: int) -> None:
        """Wait until the kernel speaks: the new owner starts first."""
        end = time.monotonic() + PATIENCE_S
        while self._maps and time.monotonic() < end:
            value = self._maps.lookup(layer2.MAP, packed(address))
            if value is not None and (int(value["state"]), int(value["epoch"])) == (1, epoch):
                return
            await asyncio.sleep(WRITTEN_S)

    def _send(self, raw: socket.socket, address: IP, epoch: int, *, whole: bool) -> None:
        """Claims to the other gateways; ``whole``: to the segment, too."""
        protocol, kind = self._numbers["ECHO_PROTOCOL"], self._numbers["ECHO_CLAIM"]
        frames: list[NamedFrame] = [
            (self._segment.overlay, layer2.claim_frame(one, address, epoch, protocol, kind))
            for one in self._others(address)
        ]
        if whole:
            frames += [(self._segment.uplink, one) for one in layer2.announcements(address)]
        for device, frame in frames:
            try:
                raw.sendto(frame, (device, int.from_bytes(frame[12:14], "big")))
            except OSError as error:
                log.debug("event=not_announced address=%s reason=%s", address, error)

    # What others see

    def findings(self) -> Iterator[Finding]:
        """Owners that are silent, and MAC addresses that the uplink refuses."""
        place, about = f"{self._own.name}/agent", (f"node/{self._own.name}",)
        for address, row in self.rows.rows.items():
            if row.state is not Layer2State.OWNS or self._maps is None:
                continue
            seen = self._maps.lookup(layer2.SEEN_MAP, packed(address))
            if seen is not None and int(seen) and layer2.is_later(int(seen), row.epoch):
                text = (
                    f"{self._own.name} owns {address} with epoch {row.epoch}, and another gateway "
                    f"has shown {int(seen)}: this node is silent"
                )
                yield Finding(TWO_OWNERS, place, str(address), text, about)
            elif row.until_ns < time.monotonic_ns():
                text = (
                    f"neither etcd nor another gateway of {address} answers {self._own.name}, "
                    "which owns it: its kernel is silent"
                )
                yield Finding(WORD_ENDED, place, str(address), text, about)
        for mac, error in self._filter.refused.items():
            text = f"{self._segment.uplink} does not take {mac}: {error}"
            yield Finding(MAC_REFUSED, place, self._segment.uplink, text, about)


class _Announcing:
    """What is said of an address that this node owns, and when next."""

    def __init__(self, epoch: int, now_s: float) -> None:
        self.epoch, self.next_s = epoch, now_s
        self._since, self._said, self._whole = now_s, 0, now_s

    def advance(self, now_s: float) -> bool:
        """Go on to the next time; whether the segment hears it, too."""
        self._said += 1
        if self._said < len(layer2.ANNOUNCED_S):
            self.next_s = self._since + layer2.ANNOUNCED_S[self._said]
            self._whole = now_s
            return True
        self.next_s = now_s + layer2.CLAIM_S
        whole = self._said == len(layer2.ANNOUNCED_S) or now_s - self._whole >= layer2.ANNOUNCE_S
        if whole:
            self._whole = now_s
        return whole


class UplinkFilter:
    """Target: MAC addresses that the uplink lets in. Those of others are left alone."""

    name = "MAC addresses of the uplink"

    def __init__(self, filter_: Filter, ifindex: int) -> None:
        self._filter, self._ifindex = filter_, ifindex
        #: MAC addresses that are ours, also those of a former process.
        self.known: dict[str, None] = {}
        #: Those that the device refuses, with the reason.
        self.refused: dict[str, OSError] = {}

    async def read(self) -> dict[str, None]:
        """Ours that are there."""
        there = await self._filter.macs(self._ifindex)
        return {mac: None for mac in self.known if mac in there}

    async def upsert(self, rows: Mapping[str, None]) -> Errors[str]:
        """Let them in."""
        errors: dict[str, Exception] = {}
        for mac in rows:
            self.known[mac] = None
            try:
                await self._filter.add_mac(self._ifindex, mac)
                self.refused.pop(mac, None)
            except OSError as error:
                errors[mac] = self.refused[mac] = error
        return errors

    async def delete(self, keys: Iterable[str]) -> Errors[str]:
        """Let them in no more; multicast ones stay, since the host may have joined the group."""
        errors: dict[str, Exception] = {}
        for mac in keys:
            self.known.pop(mac, None)
            self.refused.pop(mac, None)
            try:
                if not int(mac[:2], 16) & 1:
                    await self._filter.delete_mac(self._ifindex, mac)
            except OSError as error:
                errors[mac] = error
        return errors
