"""Egress addresses on layer 2: who owns one, when it changes hands, what is said on the segment."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

import numpy as np
import pytest

from bpf.build import HERE, build
from bpf.object import Object
from clustermesh.store.follow import Batch, Entry
from clustermesh.store.own import Own, beat_key, beat_value
from gateway import claims, layer2
from gateway.layer2 import Layer2Row, Layer2State, SegmentOwner
from gateway.members import GatewayKey, GatewayRow
from gateway.owners import Owners, owners
from gateway.pool import EgressPool
from gateway.speaking import Layer2Agent, Segment, UplinkFilter
from gateway.witnesses import UNSURE_S, Witness
from mesh.core.model import IP, Beat, Claim, ClaimKey, Node, NodeKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table

OBJECT = HERE / "obj" / "uplink.o"
V4, V6 = ip_address("10.99.0.129"), ip_address("fd99::81")
POOL = EgressPool("l2", (ip_network("10.99.0.128/30"), ip_network("fd99::80/126")), announce="L2")
ENDPOINTS = {name: IPv4Address(f"10.99.0.1{n}") for n, name in enumerate("abc", 1)}


def node(name: str) -> Node:
    return Node(cluster="east", name=name, addresses=(ENDPOINTS[name],))


def claim(address: IP, owner: str, number: int, epoch: int) -> tuple[ClaimKey, Claim]:
    key = ClaimKey(claims.OWNER, str(address), number)
    return key, Claim(claims.OWNER, str(address), number, owner, epoch)


# Times and choices


def test_the_successor_starts_before_the_owners_word_ends() -> None:
    earliest_end = layer2.WORD_S - layer2.BEAT_S - layer2.PUT_S
    latest_choice = layer2.STALE_S + layer2.LOOK_S
    assert earliest_end - latest_choice >= 2.5
    assert layer2.STALE_S > 2 * (layer2.BEAT_S + layer2.PUT_S), "a beat may be lost"
    assert layer2.WORD_S > 5, "an agent may stand still for five seconds"


def test_an_owner_stays_while_it_lives_and_is_a_gateway() -> None:
    gateways = ["a", "b", "c"]
    for current in gateways:
        assert layer2.chosen(V4, gateways, current, gateways) == current
    first, second, third = layer2.preferred(V4, gateways)
    assert layer2.chosen(V4, gateways, "", gateways) == first
    assert layer2.chosen(V4, gateways, first, {second, third}) == second
    assert layer2.chosen(V4, [second, third], first, gateways) == second, "it was drained"
    assert layer2.chosen(V4, gateways, first, {second, third}, {second}) == third
    assert layer2.chosen(V4, gateways, first, ()) == first, "nobody is better"
    assert layer2.chosen(V4, gateways, "", ()) == ""
    assert layer2.chosen(V4, [second], first, ()) == ""


def test_addresses_are_spread_over_gateways() -> None:
    found = [
        layer2.chosen(ip_address(f"198.51.100.{n}"), list("abc"), "", "abc") for n in range(60)
    ]  # fmt: skip
    assert min(found.count(one) for one in "abc") > 8


def test_a_gateway_that_is_cut_off_is_no_witness() -> None:
    assert layer2.down_nodes({}) == set()
    assert layer2.down_nodes({"a": {"b"}}) == {"a"}
    assert layer2.down_nodes({"a": {"b", "c"}, "b": {"a"}, "c": {"a"}}) == {"a"}


def test_the_greatest_epoch_owns() -> None:
    assert layer2.owner_of((), ()) is None
    (_, first), (_, second) = claim(V4, "a", 0, 7), claim(V4, "b", 1, 9)
    assert layer2.owner_of([first], ()) == SegmentOwner("a", 7)
    assert layer2.owner_of([first, second], ()) == SegmentOwner("b", 9, "a")
    assert layer2.owner_of([second], [first]) == SegmentOwner("b", 9, "a")
    assert owners(dict([claim(V4, "a", 0, 7), claim(V6, "b", 0, 8)]), {}) == {
        V4: SegmentOwner("a", 7),
        V6: SegmentOwner("b", 8),
    }


@pytest.mark.parametrize(
    ("one", "other", "later"),
    [(8, 7, True), (7, 7, False), (6, 7, False), (3, 0xFFFFFFFE, True), (0xFFFFFFFE, 3, False)],
)
def test_epochs_go_round(one: int, other: int, later: bool) -> None:  # noqa: FBT001
    assert layer2.is_later(one, other) is later


# Frames


def test_virtual_macs_are_unicast_and_locally_administered() -> None:
    macs = {layer2.virtual_mac(ip_address(f"198.51.100.{n}")) for n in range(256)}
    assert len(macs) == 256
    assert all(mac[0] == 2 and len(mac) == 6 for mac in macs)
    assert layer2.virtual_mac(V4) == layer2.virtual_mac(V4)


def test_a_gratuitous_arp_says_it_in_both_forms() -> None:
    mac, own = layer2.virtual_mac(V4), V4.packed
    request, answer = layer2.announcements(V4)
    for frame, operation in ((request, 1), (answer, 2)):
        assert frame[:14] == b"\xff" * 6 + mac + b"\x08\x06"
        assert struct.unpack("!HHBBH", frame[14:22]) == (1, 0x0800, 6, 4, operation)
        assert (frame[22:28], frame[28:32], frame[38:42]) == (mac, own, own)
        assert len(frame) == 60


def test_an_unsolicited_advertisement_overrides_what_neighbours_know() -> None:
    mac, (frame,) = layer2.virtual_mac(V6), layer2.announcements(V6)
    assert frame[:14] == bytes.fromhex("333300000001") + mac + b"\x86\xdd"
    assert (frame[20], frame[21]) == (58, 255)
    assert frame[22:38] == V6.packed
    assert (frame[54], frame[58], frame[62:78]) == (136, 0x20, V6.packed)
    assert frame[78:] == b"\x02\x01" + mac
    pseudo = frame[22:54] + struct.pack("!II", len(frame) - 54, 58)
    words = struct.unpack(f"!{(len(pseudo) + len(frame) - 54) // 2}H", pseudo + frame[54:])
    assert sum(words) % 0xFFFF == 0, "the checksum is right"


def test_the_filter_has_the_macs_and_the_groups_of_ipv6() -> None:
    found = layer2.filter_macs([V4, V6])
    assert set(found) == {
        layer2.mac_text(layer2.virtual_mac(V4)),
        layer2.mac_text(layer2.virtual_mac(V6)),
        "33:33:ff:00:00:81",
    }


def test_a_claim_and_the_rows_are_what_the_datapath_reads() -> None:
    build()
    with Object.open(OBJECT) as opened:
        row, form = opened.specs["mg_layer2"].value, opened.btf.struct("claim")
        rows = Layer2Row(Layer2State.OWNS, 7, ENDPOINTS["a"], 123)
        _, fields = layer2.encode_row(V6, rows)
        value = np.zeros((), row)
        for name, cell in fields.items():  # type: ignore[attr-defined]
            value[name] = cell
        key = np.frombuffer(V6.packed, np.uint8)
        assert layer2.decode_row(key, value) == (V6, rows)
        kind = opened.btf.enum("echo_kind")["ECHO_CLAIM"]
        states = opened.btf.enum("layer2_state")
    assert {f"LAYER2_{one.name}": one.value for one in Layer2State} == states
    frame = layer2.claim_frame(ENDPOINTS["b"], V6, 7, 0x88B5, kind)
    assert frame[2:6] == ENDPOINTS["b"].packed
    found = np.frombuffer(frame[14 : 14 + form.itemsize], form)[0]
    assert (int(found["kind"]), int(found["epoch"])) == (kind, 7)
    assert found["address"]["w"].tobytes() == V6.packed


# The controller


class Cluster:
    """Owners of one pool with three gateways; claims are granted when they are asked for."""

    def __init__(self) -> None:
        self.own, self.loop = Own("east"), Loop()
        self.pools: Table[str, EgressPool] = Table("pools")
        self.of_address: Table[IP, tuple[Node, ...]] = Table("gateways")
        self.tables = self.own.claims_of(claims.OWNER)
        self.owners = Owners(self.pools, self.of_address, self.own.beats, self.tables)
        self.own.synced()
        self.pools.replace({"l2": POOL})
        self.of_address.replace({V4: tuple(map(node, "abc"))})
        self.owners.derive(self.loop)
        self._number = self._epoch = 0
        self.settle()

    def settle(self) -> None:
        """The allocator makes before it gives back."""
        for _ in range(3):
            self.loop.derive_all()
            held = self.tables.held
            wanted = {want.owner for want in self.owners.wants.rows}
            for name in wanted - {one.owner for one in held.rows.values()}:
                self._epoch += 1
                held.upsert(dict([claim(V4, name, self._epoch, self._epoch)]))
            held.delete([key for key, one in held.rows.items() if one.owner not in wanted])

    def beat(self, *names: str, silent: Iterable[str] = ()) -> None:
        self._number += 1
        endpoints = tuple(ENDPOINTS[name] for name in silent)
        puts = [
            Entry(beat_key("east", name), beat_value(Beat(self._number, endpoints)), 1, 1, 0)
            for name in names
        ]
        self.own.take(Batch(puts=puts, deletes=(), revision=1))
        self.settle()

    def passes(self, seconds: float, *beating: str) -> None:
        for step in range(int(seconds / layer2.LOOK_S)):
            self.owners.look()
            if beating and step % 2:
                self.beat(*beating)
            self.settle()

    @property
    def owner(self) -> str:
        found = self.owners.owners().get(V4)
        return found.node if found else ""

    @property
    def epoch(self) -> int:
        found = self.owners.owners().get(V4)
        return found.epoch if found else 0


def test_nobody_owns_an_address_before_a_gateway_is_there() -> None:
    it = Cluster()
    assert it.owner == ""
    assert [one.code for one in it.owners.findings()] == ["M260"]
    it.beat("b")
    assert it.owner == "b"
    assert list(it.owners.findings()) == []
    it.beat("a", "b", "c")
    assert it.owner == "b", "it stays"


def test_an_owner_whose_beats_end_is_replaced_in_time_with_a_greater_epoch() -> None:
    it = Cluster()
    it.beat(*"abc")
    first, epoch = it.owner, it.epoch
    others = [one for one in "abc" if one != first]
    it.passes(layer2.STALE_S - layer2.LOOK_S, *others)
    assert it.owner == first
    it.passes(2 * layer2.LOOK_S, *others)
    assert it.owner in others
    assert it.epoch > epoch


def test_an_owner_that_does_not_answer_is_replaced_at_once() -> None:
    it = Cluster()
    it.beat(*"abc")
    first = it.owner
    witness = next(one for one in "abc" if one != first)
    it.beat(witness, silent=[first])
    assert it.owner != first
    second, epoch = it.owner, it.epoch
    it.beat(*"abc")
    assert (it.owner, it.epoch) == (second, epoch), "one that comes back takes nothing"


def test_a_gateway_that_comes_back_is_no_witness_at_first() -> None:
    it = Cluster()
    it.beat(*"abc")
    first = it.owner
    others = [one for one in "abc" if one != first]
    for name in others:
        it.beat(name, silent=[first])
    second = it.owner
    assert second in others
    it.passes(4.0, *others)
    it.beat(*others)
    it.beat(first, silent=others)
    assert it.owner == second, "it was cut off, and has not heard the others yet"
    it.passes(layer2.AWAY_S + UNSURE_S, *"abc")
    third = next(one for one in others if one != second)
    it.beat(first, third, silent=[second])
    assert it.owner != second, "by now it is a witness like others"


def test_a_node_that_is_no_gateway_is_a_witness_however_long_it_had_nothing_to_say() -> None:
    """Gateways beat all the time. Another node beats when a gateway does not answer it."""
    it = Cluster()
    it.beat(*"abc")
    first = it.owner
    it.beat("pods", silent=[first])
    second = it.owner
    assert second != first
    it.beat("pods")
    it.passes(60.0, *"abc")
    assert it.owner == second
    it.beat("pods", silent=[second])
    assert it.owner != second


def test_a_controller_that_stands_still_takes_nothing_away() -> None:
    it = Cluster()
    it.beat(*"abc")
    first = it.owner
    it.passes(60.0)
    assert it.owner == first, "nobody is heard, so nobody is better"


def test_an_address_that_leaves_layer_2_has_no_owner() -> None:
    it = Cluster()
    it.beat(*"abc")
    it.pools.replace({"l2": replace(POOL, announce="BGP")})
    it.settle()
    assert it.owner == ""


# A gateway


class Filter:
    """A device's filter in memory: a fake, because the uplink of the machine is left alone."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.refuses = False

    async def macs(self, _: int) -> set[str]:
        return self.there

    async def add_mac(self, _: int, mac: str) -> None:
        if self.refuses:
            raise OSError(95, "Operation not supported")
        self.there.add(mac)

    async def delete_mac(self, _: int, mac: str) -> None:
        self.there.discard(mac)


class Gateway:
    """The agent of node a."""

    def __init__(self) -> None:
        self.said: list[Beat] = []
        self.own, self.loop, self.stands = Own("east"), Loop(), True
        self.pools: Table[str, EgressPool] = Table("pools")
        self.members: Table[GatewayKey, GatewayRow] = Table("gateway")
        self.of_address: Table[IP, tuple[Node, ...]] = Table("gateways")
        self.tables = self.own.claims_of(claims.OWNER)
        self.own.synced()
        segment = Segment("uplink", 2, "mg_vxlan", ENDPOINTS["a"])
        self.agent = Layer2Agent(
            NodeKey("east", "a"), segment, Filter(), self.pools, self.members, self.of_address,
            self.tables, self._say,
        )  # fmt: skip
        self.pools.replace({"l2": POOL})
        row = GatewayRow(sends=True, accepts=True)
        self.members.replace({GatewayKey(V4, ENDPOINTS[name]): row for name in "ab"})
        self.of_address.replace({V4: tuple(map(node, "ab"))})
        self.agent.derive(self.loop)

    async def _say(self, beat: Beat) -> None:
        if not self.stands:
            raise OSError("etcd is away")
        self.said.append(beat)

    def claims(self, **epochs: int) -> Layer2Row:
        self.tables.held.replace(dict(claim(V4, name, n, n) for name, n in epochs.items()))
        self.loop.derive_all()
        return self.agent.rows.rows[V4]


def test_a_gateway_takes_over_stands_by_and_leaves() -> None:
    it = Gateway()
    assert it.claims(b=5).state is Layer2State.STANDS_BY
    row = it.claims(a=7, b=5)
    assert (row.state, row.epoch, row.before) == (Layer2State.OWNS, 7, ENDPOINTS["b"])
    assert row.until_ns, "the kernel may speak at once"
    left = it.claims(b=9)
    assert (left.state, left.epoch) == (Layer2State.LEFT, 9)
    assert set(it.agent.macs.rows) == {layer2.mac_text(layer2.virtual_mac(V4))}


def test_the_kernel_has_a_word_while_the_store_or_a_gateway_answers() -> None:
    it = Gateway()
    first = it.claims(a=7)
    asyncio.run(it.agent.beat())
    fed = it.agent.rows.rows[V4]
    assert fed.until_ns > first.until_ns
    it.stands = False
    asyncio.run(it.agent.beat())
    assert it.agent.rows.rows[V4] == fed, "no other gateway answers either"
    it.members.delete([GatewayKey(V4, ENDPOINTS["b"])])
    it.loop.derive_all()
    asyncio.run(it.agent.beat())
    assert it.agent.rows.rows[V4].until_ns > fed.until_ns, "there is no other gateway"
    assert [one.silent for one in it.said] == [()]


def test_a_node_that_hears_no_gateway_at_all_is_no_witness_until_it_has_heard_them_a_while() -> (
    None
):
    witness, both = Witness(), [ENDPOINTS["b"], ENDPOINTS["c"]]

    def says(silent: str, now_s: float) -> str:
        found = witness.says(tuple(ENDPOINTS[name] for name in silent), both, now_s)
        return "".join(name for name in "bc" if ENDPOINTS[name] in found)

    assert says("b", 100.0) == "b"
    assert says("bc", 101.0) == ""
    assert says("c", 101.1) == "", "it was cut off, and has not heard the other yet"
    assert says("c", 101.0 + UNSURE_S) == "c"
    alone = Witness().says((ENDPOINTS["b"],), [ENDPOINTS["b"]], 100.0)
    assert alone == (ENDPOINTS["b"],), "of one gateway nothing follows for the node"


def test_the_filter_of_the_uplink_keeps_what_is_not_ours() -> None:
    device = Filter()
    device.there = {"02:00:00:00:00:01"}
    target = UplinkFilter(device, 2)
    mac = layer2.mac_text(layer2.virtual_mac(V4))
    assert asyncio.run(target.upsert({mac: None})) == {}
    assert asyncio.run(target.read()) == {mac: None}
    assert asyncio.run(target.delete([mac])) == {}
    assert device.there == {"02:00:00:00:00:01"}
    device.refuses = True
    assert set(asyncio.run(target.upsert({mac: None}))) == {mac}
    assert set(target.refused) == {mac}


def test_an_owner_rests_until_the_next_announcement_and_others_for_good() -> None:
    """Whatever the clock says: CLOCK_MONOTONIC begins with the machine."""
    assert layer2.pause_s((), 20_900.0) is None
    assert layer2.pause_s((20_960.0, 20_901.5), 20_900.0) == 1.5
    assert layer2.pause_s((20_899.0,), 20_900.0) == 0.0
