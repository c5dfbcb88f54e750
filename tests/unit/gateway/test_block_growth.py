"""Blocks of a node: one more than it uses, up to the most that a node may have, and back."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from clustermesh.store.own import Own
from gateway.blocks import blocks_in_use
from gateway.claims import named_number
from gateway.controller import EgressController
from gateway.lending import LetGo
from gateway.policy import POLICIES, EgressPolicy
from gateway.settings import EgressSettings
from mesh.core.feature import Want
from mesh.core.model import Claim, ClaimKey, Node, NodeKey, Pod, PodSelector, Selector
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.kubernetes import NODES, PODS
from tests.fixtures.egress import objects

V4, V6 = ip_address("198.51.100.10"), ip_address("2001:db8:100::10")
NODE = Node("east", "east-1", (ip_address("10.99.0.11"),))
MOST = 32


class Blocks:
    """The controller's wants of blocks, over objects and what nodes say."""

    def __init__(self) -> None:
        policy = EgressPolicy("out", (PodSelector(Selector(), None),), (), (), (V4, V6), Selector())
        self.objects = objects([policy], [Pod("east", "shop", "a", "east-1")], nodes=[NODE])
        self.own = Own("east")
        self.controller = EgressController("east", EgressSettings(), self.objects, self.own)
        self.own.synced()
        self.loop = Loop()
        self.controller.derive(self.loop)
        self.loop.derive_all()

    def wants(self, address: object = V4) -> int:
        """How many blocks of an address the node wants; their places are the first ones."""
        self.loop.derive_all()
        table = self.controller.wants[0]
        places = {want.owner for want in table.rows if want.pool == str(address)}
        assert places == {f"east-1/{k}" for k in range(len(places))}
        return len(places)

    def say(self, used: dict[str, int]) -> None:
        self.own.demand.upsert({"east-1": {ip_address(a): n for a, n in used.items()}})

    def hold(self, count: int) -> None:
        """The address is claimed, so it drains when no policy wants it."""
        (want,) = (one for one in self.controller.wants[1].rows if one.owner.endswith(f"@{V4}"))
        number = named_number(want)
        assert number is not None
        claim = Claim(want.noun, want.pool, number, want.owner, 1)
        key = ClaimKey(want.noun, want.pool, number)
        self.own.claims[want.noun].held.upsert({key: claim})
        claims = [Claim("block", str(V4), 10 + k, f"east-1/{k}", 1) for k in range(count)]
        rows = {ClaimKey(one.noun, one.pool, one.number): one for one in claims}
        self.own.claims["block"].held.upsert(rows)


@pytest.fixture
def blocks() -> Blocks:
    return Blocks()


def test_a_node_with_a_covered_pod_has_one_block_and_a_spare(blocks: Blocks) -> None:
    assert (blocks.wants(V4), blocks.wants(V6)) == (2, 2)


@pytest.mark.parametrize(("used", "wanted"), [(0, 2), (1, 2), (2, 3), (31, 32), (32, 32), (99, 32)])
def test_a_node_gets_one_block_more_than_it_uses(blocks: Blocks, used: int, wanted: int) -> None:
    blocks.say({str(V4): used})
    assert (blocks.wants(V4), blocks.wants(V6)) == (wanted, 2)
    blocks.say({str(V4): 0})
    assert blocks.wants(V4) == 2


def test_blocks_in_use_stay_when_no_policy_wants_them(blocks: Blocks) -> None:
    """Their connections go on: the address drains, and keeps its blocks until it is free."""
    blocks.say({str(V4): 3})
    assert blocks.wants() == 4
    blocks.hold(4)
    blocks.objects[POLICIES].replace({})
    assert (blocks.wants(V4), blocks.wants(V6)) == (4, 0)
    blocks.say({str(V4): 1})
    assert blocks.wants() == 4


def test_a_node_gets_no_block_by_saying_that_it_uses_some(blocks: Blocks) -> None:
    blocks.objects[PODS].replace({})
    blocks.say({str(V4): 5, "198.51.100.99": 5})
    table = blocks.controller.wants[0]
    blocks.loop.derive_all()
    assert set(table.rows) == set[Want]()


def test_a_node_of_a_version_before_keeps_what_it_has(blocks: Blocks) -> None:
    """Its agent does not say what it uses; when it does, the rest goes back."""
    blocks.hold(16)
    assert blocks.wants() == 16
    blocks.say({str(V4): 4})
    assert blocks.wants() == 5


def test_the_blocks_of_a_node_without_an_object_are_released(blocks: Blocks) -> None:
    blocks.say({str(V4): 3})
    blocks.hold(4)
    assert blocks.wants() == 4
    blocks.objects[NODES].delete([NodeKey("east", "east-1")])
    assert blocks.wants() == 0


def test_blocks_are_in_use_up_to_the_last_one_with_a_lent_run() -> None:
    own = {V4: (7, 3, 9), V6: (1,)}
    assert blocks_in_use(own, lambda *_: False) == {V4: 0, V6: 0}
    assert blocks_in_use(own, lambda a, n: (a, n) in {(V4, 3), (V6, 1)}) == {V4: 2, V6: 1}


def test_a_released_block_is_free_when_its_node_has_let_it_go(blocks: Blocks) -> None:
    """The node says the epoch that it has read with the release, or keeps the block."""
    (block,) = (one for one in blocks.controller.claims if one.noun == "block")
    assert block.let_go
    claim = Claim("block", str(V4), 7, "east-1/0", 40)
    key, name = ClaimKey("block", str(V4), 7), f"block/{V4}/7"
    assert not block.let_go(key, claim)
    for said, free in (({}, False), ({name: 39}, False), ({name: 40}, True), ({name: 55}, True)):
        blocks.own.programmed.upsert({"east-1": said})
        assert block.let_go(key, claim) is free
    blocks.own.programmed.delete(["east-1"])
    blocks.objects[NODES].delete([NodeKey("east", "east-1")])
    assert block.let_go(key, claim), "the node is gone"


def test_a_node_lets_a_block_go_when_two_looks_find_it_unused() -> None:
    let_go, resting = LetGo("east-1"), Table[ClaimKey, Claim]("resting block claim")
    loop = Loop()
    loop.follow(resting, let_go.take)
    mine, other = ClaimKey("block", str(V4), 7), ClaimKey("block", str(V4), 8)
    resting.upsert(
        {
            mine: Claim("block", str(V4), 7, "east-1/0", 40),
            other: Claim("block", str(V4), 8, "east-2/0", 41),
        }
    )
    resting.mark_synced()
    loop.derive_all()
    used = {(V4, 7): True}
    for _ in range(3):
        let_go.look(lambda *block: used.get(block, False))
        assert let_go.told == {}
    used.clear()
    let_go.look(lambda *_: False)
    assert let_go.told == {}, "a program may have seen it before"
    let_go.look(lambda *_: False)
    assert let_go.told == {f"block/{V4}/7": 40}
    resting.delete([mine])
    loop.derive_all()
    let_go.look(lambda *_: False)
    assert let_go.told == {}
