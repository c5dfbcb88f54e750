"""The direct path of egress: who wants it, echoes, and what proves it."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import pytest

from gateway import direct
from gateway.direct import GOOD, MISSED, DirectAsk, Proof
from gateway.directing import DirectAgent
from gateway.members import GatewayKey
from gateway.policy import EgressPolicy, Outbound
from mesh.core.model import IP, Node, NodeKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table

V4, V6, OTHER = (ip_address(t) for t in ("198.51.100.10", "2001:db8:100::10", "198.51.100.11"))
OWN, ONE, TWO = (IPv4Address(f"10.99.0.{number}") for number in (11, 12, 13))
ONE_V6 = ip_address("fd99::12")
NODES = (Node("east", "east-2", (ONE, ONE_V6)), Node("east", "east-3", (TWO,)))
SIZE = 256


def policy(name: str, outbound: Outbound, *addresses: IP) -> EgressPolicy:
    return EgressPolicy(name, (), (), (), addresses, gateways=(), outbound=outbound)  # type: ignore[arg-type] # nobody selects


def test_an_address_goes_straight_when_all_its_policies_say_so() -> None:
    both = [policy("one", "direct", V4, V6), policy("two", "gateway", V4)]
    assert direct.wanted(both) == {V6}
    assert direct.wanted([]) == set()


def asked(addresses: set[IP], gateways: tuple[IPv4Address, ...], *blocks: int) -> object:
    sets = dict.fromkeys(addresses, gateways)
    own = dict.fromkeys(addresses, blocks) if blocks else {}
    return direct.asks(addresses, sets, own, NODES, OWN, SIZE)


def test_each_gateway_is_asked_from_the_first_own_port() -> None:
    assert asked({V4}, (ONE, TWO), 3, 4) == {
        GatewayKey(V4, ONE): DirectAsk(ONE, 1024 + 3 * SIZE),
        GatewayKey(V4, TWO): DirectAsk(TWO, 1024 + 3 * SIZE),
    }
    sized = 64 << 16 | 5
    assert asked({V4}, (ONE,), sized) == {GatewayKey(V4, ONE): DirectAsk(ONE, 1024 + 5 * 64)}


def test_of_the_family_of_the_address() -> None:
    assert asked({V6}, (ONE, TWO), 0) == {GatewayKey(V6, ONE): DirectAsk(ONE_V6, 1024)}


@pytest.mark.parametrize(
    ("gateways", "blocks"),
    [((ONE, OWN), (0,)), ((ONE,), ()), ((), (0,)), ((IPv4Address("10.99.0.99"),), (0,))],
)
def test_who_asks_nobody(gateways: tuple[IPv4Address, ...], blocks: tuple[int, ...]) -> None:
    """A gateway itself, a node without ports; an address without gateways, one of nobody's."""
    assert asked({V4}, gateways, *blocks) == {}


def history(said: str) -> list[bool]:
    """``+`` an answer, ``-`` a missing one: whether it holds after each."""
    proof, found = Proof(), list[bool]()
    for one in said:
        proof = proof.after(answered=one == "+")
        found.append(proof.holds)
    return found


def test_three_answers_open_it_and_three_missing_ones_close_it() -> None:
    assert (GOOD, MISSED) == (3, 3)
    assert history("++-+++") == [False] * 5 + [True]
    assert history("+++--+---") == [False, False, *[True] * 6, False]
    assert history("+++---++-+++")[-4:] == [False, False, False, True]


def test_all_gateways_that_are_up_have_to_prove_it() -> None:
    one, two, other = GatewayKey(V4, ONE), GatewayKey(V4, TWO), GatewayKey(OTHER, ONE)
    holds = Proof(3, 0, holds=True)
    assert direct.open_addresses([one, two], {one: holds}, ()) == set()
    assert direct.open_addresses([one, two], {one: holds}, (TWO,)) == {V4}
    assert direct.open_addresses([one, two], {one: holds, two: holds}, ()) == {V4}
    assert direct.open_addresses([one, other], {other: holds}, ()) == {OTHER}
    assert direct.open_addresses([one], {one: holds}, (ONE,)) == set(), "nobody brings answers back"


def test_who_has_closed_it() -> None:
    one, two = GatewayKey(V4, ONE), GatewayKey(V4, TWO)
    closed, fresh = Proof(0, 3), Proof(0, 2)
    assert direct.unproven([one, two], {one: closed, two: fresh}, ()) == [one]
    assert direct.unproven([one], {one: closed}, (ONE,)) == []
    assert direct.unproven([one], {}, ()) == []


def test_an_echo_is_a_whole_packet() -> None:
    four = direct.packet(V4, ONE, (1024, 8474), 7)
    assert (len(four), four[0], four[9]) == (100, 0x45, 17)
    assert (four[12:16], four[16:20]) == (V4.packed, ONE.packed)
    assert four[28:32] == (7).to_bytes(4, "big")
    six = direct.packet(V6, ONE_V6, (1024, 8474), 7)
    assert (len(six), six[0], six[6]) == (120, 0x60, 17)
    assert (six[8:24], six[24:40]) == (V6.packed, ONE_V6.packed)
    assert six[46:48] != b"\0\0", "UDP over IPv6 has a checksum"


class Tables:
    """An agent on east-1 with ports of an address that wants the direct path."""

    def __init__(self) -> None:
        self.policies: Table[str, EgressPolicy] = Table("policy")
        self.sets: Table[IP, tuple[IPv4Address, ...]] = Table("egress address")
        self.own_block: Table[IP, tuple[int, ...]] = Table("own block")
        self.node: Table[NodeKey, Node] = Table("node")
        self.policies.replace({"erp": policy("erp", "direct", V4)})
        self.sets.replace({V4: (ONE, TWO)})
        self.own_block.replace({V4: (0,)})
        self.node.replace({NodeKey("east", node.name): node for node in NODES})
        own = NodeKey("east", "east-1")
        tables = self.policies, self.sets, self.own_block, self.node
        self.agent = DirectAgent(own, OWN, SIZE, *tables, down=lambda: ())
        self.loop = Loop()
        self.agent.derive(self.loop)
        self.loop.derive_all()


def test_a_closed_path_is_a_finding_that_names_node_address_and_gateway() -> None:
    it = Tables()
    it.agent.proofs = {
        GatewayKey(V4, ONE): Proof(0, MISSED),
        GatewayKey(V4, TWO): Proof(9, 0, holds=True),
    }
    (row,) = it.agent.rows()
    assert (row["address"], row["path"], row["silent"]) == (str(V4), "gateway", ["east-2"])
    (found,) = it.agent.findings()
    assert "east-2 (10.99.0.12) has not answered the last 3 echoes that east-1" in found.text
    assert found.field == f"direct {V4}"


def test_an_address_that_wants_it_no_more_loses_the_kernels_word_at_once() -> None:
    it = Tables()
    it.agent.until.replace({V4: 1 << 62})
    assert [row["path"] for row in it.agent.rows()] == ["direct"]
    it.policies.upsert({"erp": policy("erp", "gateway", V4)})
    it.loop.derive_all()
    assert not it.agent.until.rows
    assert it.agent.rows() == []


def test_a_round_without_an_echo_changes_nothing() -> None:
    """The row of its number was late, or the map had no room."""
    one, two = GatewayKey(V4, ONE), GatewayKey(V4, TWO)
    before = {one: Proof(5, 0, holds=True), two: Proof(5, 0, holds=True)}
    found = direct.judged([one, two], before, {two: 7}, {two: 7})
    assert found == {one: before[one], two: Proof(6, 0, holds=True)}
    assert direct.judged([one], before, {one: 7}, {one: 6})[one] == Proof(0, 1, holds=True)
    assert direct.judged([], before, {one: 7}, {}) == {}
